"""Names of the network's layers: "conv1", "conv2", ... as many as the model has, then "fc"."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable


def conv_names(depth: int) -> tuple[str, ...]:
    """The names of the convolutions of a model that has so many, first to last. A circuit has channels in these."""
    return tuple(f"conv{i}" for i in range(1, depth + 1))


def conv_layers(names: Iterable[Hashable]) -> tuple[str, ...]:
    """The convolutions of a model or of a result, first to last: those that have kernels, masks or scores.

    names: of the model's parameters ("conv1_kernel"; PyTorch's "conv1.weight"), or of the result's variables, which a
    Dataset gives itself.
    """
    found = (re.fullmatch(r"(?:mask_|score_)?conv([1-9]\d*)(?:_kernel|\.weight)?", str(name)) for name in names)
    return tuple(f"conv{number}" for number in sorted({int(match[1]) for match in found if match}))


def is_weight(name: str) -> bool:
    """Whether the array of a model with this name is a layer's weights, which are pruned, and not its biases."""
    return name.endswith("_kernel")


CONV_LAYERS = conv_names(3)
"""The paper's."""

"""Names of the network's layers: "conv1", "conv2", ... as many as the model has, then "fc"."""

from __future__ import annotations

from collections.abc import Iterable


def conv_names(depth: int) -> tuple[str, ...]:
    """The names of the convolutions of a model that has so many, first to last. A circuit has channels in these."""
    return tuple(f"conv{i}" for i in range(1, depth + 1))


def conv_layers(params: Iterable[str]) -> tuple[str, ...]:
    """The convolutions of a model, first to last, from the names of its parameters ("conv1_bias", ...)."""
    return conv_names(sum(name.startswith("conv") and name.endswith("bias") for name in params))


CONV_LAYERS = conv_names(3)
"""The paper's."""

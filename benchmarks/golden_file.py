"""Golden files: a run of the authors' code in double precision, recorded; weights in this package's layout.

Axes: R rounds, K clients.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedmi_jax.errors import FedmiError
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.network.model import Params

REQUIRED = {
    "config", "train_plan", "discovery_plan", "discovery_classes", "test_index", "gates/conv1", "metrics",
    "global_accuracy", "init/conv1.weight",
}  # fmt: skip
"""What a file must hold to be one; edge counts are compared where it has them."""


@dataclass(frozen=True, eq=False)
class Golden:
    """A golden file; arrays as in the file, weights in this package's layout."""

    arrays: Mapping[str, np.ndarray]

    @cached_property
    def config(self) -> dict[str, Any]:
        return json.loads(str(self.arrays["config"]))

    @cached_property
    def rounds(self) -> int:
        return self.arrays["gates/conv1"].shape[0]

    @cached_property
    def clients(self) -> int:
        return self.arrays["train_plan"].shape[1]

    def params(self, model: str) -> Params:
        """The model of this name ("init", "round1/client0", "round1/global"), float64."""
        channels = len(self.arrays[f"{model}/conv3.bias"])
        layers = (*CONV_LAYERS, "fc")
        parts = (self.arrays[f"{model}/{k}.{kind}"] for k in layers for kind in ("weight", "bias"))
        read = {k: from_torch(k, next(parts), next(parts), channels) for k in layers}
        return {name: jnp.asarray(value) for part in read.values() for name, value in part.items()}

    def stacked(self, names: list[str]) -> Params:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(self.params, names))

    def locals_(self, round_: int) -> list[str]:
        return [f"round{round_}/client{k}" for k in range(self.clients)]


def from_torch(layer: str, weight: np.ndarray, bias: np.ndarray, channels: int) -> dict[str, np.ndarray]:
    """PyTorch's layouts to this package's: (out, in, 3, 3) to (3, 3, in, out); the linear layer's columns, channel
    slowest, to rows, channel fastest. channels: of the last convolution."""
    if weight.ndim == 4:
        kernel = weight.transpose(2, 3, 1, 0)
    else:
        kernel = weight.reshape(weight.shape[0], channels, -1).transpose(2, 1, 0).reshape(-1, weight.shape[0])
    return {f"{layer}_kernel": kernel.astype(np.float64), f"{layer}_bias": bias.astype(np.float64)}


def read(path: Path) -> Golden:
    """The golden file at `path`. Raises FedmiError, one line, for anything else."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            golden = Golden({key: file[key] for key in file.files})
        missing = REQUIRED - set(golden.arrays)
    except Exception as error:  # on damaged archives and headers zipfile and numpy raise nearly anything
        raise FedmiError(f"{path}: not a readable golden file: {' '.join(str(error).split())}") from None
    if missing:
        raise FedmiError(f"{path}: not a golden file: lacks {', '.join(sorted(missing))}")
    return golden

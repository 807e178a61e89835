"""What every contestant is to do, in one file. Standard library and numpy alone: peers read it too.

Axes: K clients, N images of a client, H x W pixels, I image channels.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

LAYERS = ("conv1", "conv2", "conv3", "fc")


@dataclass(frozen=True, eq=False)
class Work:
    """One federation: its data, its first global model, how its clients train."""

    settings: dict[str, Any]
    """batch_size (divides N), epochs, learning_rate; and how peers lay it out: fedjax_backend, flower_cpus."""
    images: np.ndarray
    """uint8 (K, N, H, W, I)."""
    labels: np.ndarray
    """int32 (K, N)."""
    test_images: np.ndarray
    """uint8 (N', H, W, I)."""
    test_labels: np.ndarray
    """int32 (N',)."""
    mean: np.ndarray
    """float32 (I,), of pixel / 255."""
    std: np.ndarray
    """float32 (I,)."""
    params: dict[str, np.ndarray]
    """{"conv1_kernel": (3, 3, I, O), "conv1_bias": (O,), ..., "fc_kernel": (h * w * O_3, Y), "fc_bias": (Y,)}."""

    def normalised(self, pixels: np.ndarray) -> np.ndarray:
        """What the network sees, float32."""
        return (pixels.astype(np.float32) / 255 - self.mean) / self.std


ARRAYS = ("images", "labels", "test_images", "test_labels", "mean", "std")


def write(work: Work, path: Path) -> None:
    arrays = {name: getattr(work, name) for name in ARRAYS}
    params = {f"params/{name}": value for name, value in work.params.items()}
    named: dict[str, Any] = {"settings": json.dumps(work.settings), **arrays, **params}
    np.savez(path, **named)


def read(path: Path) -> Work:
    with np.load(path) as file:
        arrays = {name: file[name] for name in ARRAYS}
        params = {key.split("/")[1]: file[key] for key in file.files if key.startswith("params/")}
        return Work(json.loads(str(file["settings"])), **arrays, params=params)

"""Random sets of channels, as large as those that a study looks at. Every draw is keyed (`fedmi_jax.keys`).

Axes: N random sets, O_l channels of convolution l.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np

from fedmi_jax import keys

Channels = Mapping[str, np.ndarray]
"""{"conv1": bool (O_1,), ...}: a set of channels of every convolution."""


def generator(seed: int, study: str, round_: int, sample: int, *key: int) -> np.random.Generator:
    """Of the n-th random set; key: of what it is, as a class or a pair of classes."""
    return keys.generator(seed, keys.STUDY, zlib.crc32(study.encode()), round_, sample, *key)


def like(channels: Channels, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """As many channels of every convolution, any of them with the same chance."""
    return {layer: of_size(len(own), int(own.sum()), rng) for layer, own in channels.items()}


def of_size(channels: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """bool (channels,), of which `size` are True."""
    drawn = np.zeros(channels, bool)
    drawn[rng.permutation(channels)[:size]] = True
    return drawn

"""A split of the user's own, given from Python: which it is, and who holds what.

A result and an unfinished run name it by its name and its fingerprint, as they name images of the user's own.

Axes: N training images, K clients.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from fedmi_jax.config import Experiment, Split, replace
from fedmi_jax.data.partition import Partition
from fedmi_jax.errors import ConfigError
from fedmi_jax.keys import PARTITION, generator

OwnSplit: TypeAlias = Sequence[Any] | Callable[[np.ndarray, np.random.Generator], Sequence[Any]]
"""The indices of every client's training images, a sequence of K integer arrays, the same for every seed. Or a function
that returns such a sequence: it is given the labels, int (N,), and a generator whose draws depend on the seed alone."""


def settle(experiment: Experiment, labels: np.ndarray, split: OwnSplit | None) -> Experiment:
    """The experiment whose settings name the split that is given; as it is where there is none.

    A function is told from another one by what it draws for seed 0. Raises ConfigError for a split that is none, and
    where the settings name a split of one's own that is not given.
    """
    if split is None:
        if experiment.split.kind == "own":
            raise ConfigError(
                f'split.kind: "own" is a split that is given from Python{_called(experiment.split)}; give it, as in '
                "run(experiment, split=...), resume(folder, split=...) or search_again(result, split=...)"
            )
        return experiment
    held = draw(labels, split, 0)
    name = getattr(split, "__name__", type(split).__name__) if callable(split) else "indices"
    own = f"{name} (SHA-256 {_fingerprint(held)[:16]}...)"
    return replace(experiment, split=Split(kind="own", clients=len(held), own=own))


def draw(labels: np.ndarray, split: OwnSplit, seed: int, clients: int | None = None) -> Partition:
    """The indices that each client holds, K arrays of int32, ascending. clients: how many there must be. Raises
    ConfigError for what is no split."""
    found = split(np.array(labels), generator(seed, PARTITION)) if callable(split) else split
    if isinstance(found, (str, bytes)) or not hasattr(found, "__len__") or not hasattr(found, "__iter__"):
        raise ConfigError(f"split: give the indices of every client's images, one array each; got {_kind(found)}")
    held = [_indices(client, given, len(labels)) for client, given in enumerate(found)]
    if not held:
        raise ConfigError("split: there is no client; give one array of indices for each")
    if clients not in (None, len(held)):
        raise ConfigError(f"split: it has {len(held)} clients with seed {seed} and {clients} with seed 0; give as many")
    return held


def _indices(client: int, given: Any, images: int) -> np.ndarray:
    try:
        indices = np.asarray(given)
    except ValueError:  # rows of unequal lengths
        indices = np.asarray(None)
    if indices.ndim != 1 or not len(indices):
        raise ConfigError(
            f"split: client {client} needs the indices of its training images, one or more in a row; got "
            f"{_kind(given) if indices.ndim == 0 else f'an array of the shape {indices.shape}'}"
        )
    if not np.issubdtype(indices.dtype, np.integer):
        remedy = "; numpy.flatnonzero makes indices of it" if indices.dtype == bool else ""
        raise ConfigError(f"split: client {client} needs indices, whole numbers; got {indices.dtype}{remedy}")
    if indices.min() < 0 or indices.max() >= images:
        wrong = indices[(indices < 0) | (indices >= images)][0]
        raise ConfigError(f"split: training images are 0 .. {images - 1}; client {client} asks for {wrong}")
    ascending = np.unique(indices).astype(np.int32)
    if len(ascending) < len(indices):
        raise ConfigError(f"split: client {client} holds an image more than once; give each index once")
    return ascending


def _fingerprint(held: Partition) -> str:
    found = hashlib.sha256()
    for indices in held:
        found.update(f"{len(indices)}:".encode())
        found.update(indices.astype("<i4").tobytes())
    return found.hexdigest()


def _called(split: Split) -> str:
    return f", here {split.own}" if split.own else ""


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"a value of type {type(value).__name__}"

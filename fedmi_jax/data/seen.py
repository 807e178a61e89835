"""The images that a server may see: a few of each class, drawn once with the seed.

Axes: K clients, Y classes, n images of a class, N = Y * n places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from fedmi_jax.errors import ConfigError
from fedmi_jax.keys import SEEN, generator

Whose = Literal["clients", "nobody"]


def draw(
    labels: np.ndarray, classes: int, held: Sequence[np.ndarray], each: int, whose: Whose, seed: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Indices (N,) of training images, class by class, and their labels (N,), -1 in the place of one that there is not.

    Args: held, the clients' images (K arrays of indices); each: images of every class that a client holds, or as many
    as there are; whose: "clients", out of held, or "nobody", out of the others. Raises ConfigError where there is none
    of a class that a client holds: it would drop out of what the server compares.
    """
    everyone, rng = np.unique(np.concatenate(held)), generator(seed, SEEN)
    theirs = np.zeros(len(labels), bool)
    theirs[everyone] = True
    index, found = np.zeros((classes, each), np.int32), np.full((classes, each), -1, np.int32)
    for label in np.unique(labels[everyone]):
        own = np.flatnonzero((labels == label) & (theirs == (whose == "clients")))
        some = rng.permutation(own)[:each]
        if not len(some):
            raise ConfigError(
                f"aggregation: the server is to see images that no client holds (images nobody), but the clients hold "
                f"every image of class {label} (seed {seed}); let it see theirs (images clients), or give them fewer "
                "(data.images_per_client)"
            )
        index[label, : len(some)], found[label, : len(some)] = some, label
    return index.ravel(), found.ravel()

"""Every random draw of a run, keyed by integers: (seed, purpose, then e.g. round, client, class).

Equal integers, equal draws: no result depends on how the work is laid out, in which order, or where a run stopped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

INIT, PARTITION, LIMIT, TRAIN, DISCOVER_LOCAL, DISCOVER_GLOBAL, PARTICIPATE = range(7)
REDISCOVER_LOCAL, REDISCOVER_GLOBAL, RANDOM_MASK_LOCAL, RANDOM_MASK_GLOBAL = range(7, 11)
PROBE, DECIDE_LOCAL, DECIDE_GLOBAL, REDECIDE_LOCAL, REDECIDE_GLOBAL, LIVE_MASK_LOCAL, LIVE_MASK_GLOBAL = range(11, 18)
UNTRAINED, PERMUTED, SHUFFLED, HALF_LOCAL, HALF_GLOBAL = range(18, 23)
ORDER_LOCAL, ORDER_GLOBAL, ATTRIBUTE_LOCAL, ATTRIBUTE_GLOBAL = range(23, 27)
PERMUTE = 27  # weights; what is searched in such models is drawn with PERMUTED
SEEN = 50  # by a method's server
HELD_OUT = 51  # for testing, of images that come without a test set; no draw of a run
STUDY = 100  # of a stored run: no draw of a run has this purpose
DISCOVER = (DISCOVER_LOCAL, DISCOVER_GLOBAL)
REDISCOVER = (REDISCOVER_LOCAL, REDISCOVER_GLOBAL)
DECIDE = (DECIDE_LOCAL, DECIDE_GLOBAL)
REDECIDE = (REDECIDE_LOCAL, REDECIDE_GLOBAL)
HALF = (HALF_LOCAL, HALF_GLOBAL)
ORDER = (ORDER_LOCAL, ORDER_GLOBAL)
ATTRIBUTE = (ATTRIBUTE_LOCAL, ATTRIBUTE_GLOBAL)
LIVE_MASK = (LIVE_MASK_LOCAL, LIVE_MASK_GLOBAL)
RANDOM_MASK = (RANDOM_MASK_LOCAL, RANDOM_MASK_GLOBAL)
"""For circuits of local models, and of global ones."""


def generator(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """The generator of these integers. As a spawn key they are kept apart by their number too; as plain entropy numpy
    would pad them with zeros, and (seed, 1) would be (seed, 1, 0)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *key)))


def jax_key(seed: int, purpose: int) -> Any:
    """JAX's random key of these integers, for draws within a compiled program. seed: in 0 .. 2^64 - 1.

    Made of the seed's 64 bits, as `jax.random.key` makes it of small ones. That function itself would also read which
    generator, and which offset of all seeds, the environment asks for; and in single precision it drops 32 bits.
    """
    import jax  # here: a result's readers draw too, without JAX

    bits: Any = np.array([seed >> 32, seed & 0xFFFFFFFF], np.uint32)
    return jax.random.fold_in(jax.random.wrap_key_data(bits, impl="threefry2x32"), purpose)


@contextlib.contextmanager
def same_draws() -> Iterator[None]:
    """Within it JAX and flax draw the same numbers from a key, whatever the environment says: as they do by default."""
    import jax
    from flax.configurations import config

    with jax.threefry_partitionable(True), config.temp_flip_flag("fix_rng_separator", False):
        yield

"""Every random draw of a run, keyed by integers: (seed, purpose, then e.g. round, client, class).

Equal integers, equal draws: no result depends on how the work is laid out, in which order, or where a run stopped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

INIT, PARTITION, LIMIT, TRAIN, DISCOVER_LOCAL, DISCOVER_GLOBAL, PARTICIPATE = range(7)
REDISCOVER_LOCAL, REDISCOVER_GLOBAL, RANDOM_MASK_LOCAL, RANDOM_MASK_GLOBAL = range(7, 11)
PROBE, DECIDE_LOCAL, DECIDE_GLOBAL, REDECIDE_LOCAL, REDECIDE_GLOBAL, LIVE_MASK_LOCAL, LIVE_MASK_GLOBAL = range(11, 18)
HALF_LOCAL, HALF_GLOBAL, UNTRAINED, PERMUTED, SHUFFLED, ORDERS_LOCAL, ORDERS_GLOBAL = range(18, 25)
SEEN = 100
DISCOVER = (DISCOVER_LOCAL, DISCOVER_GLOBAL)
REDISCOVER = (REDISCOVER_LOCAL, REDISCOVER_GLOBAL)
DECIDE = (DECIDE_LOCAL, DECIDE_GLOBAL)
REDECIDE = (REDECIDE_LOCAL, REDECIDE_GLOBAL)
LIVE_MASK = (LIVE_MASK_LOCAL, LIVE_MASK_GLOBAL)
RANDOM_MASK = (RANDOM_MASK_LOCAL, RANDOM_MASK_GLOBAL)
"""For circuits of local models, and of global ones."""


def generator(seed: int, purpose: int, *key: int) -> np.random.Generator:
    """The generator of these integers. As a spawn key they are kept apart by their number too; as plain entropy numpy
    would pad them with zeros, and (seed, 1) would be (seed, 1, 0)."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(purpose, *key)))


def jax_key(seed: int, purpose: int) -> Any:
    """JAX's random key of these integers, for draws within a compiled program."""
    import jax  # here: a result's readers draw too, without JAX

    return jax.random.fold_in(jax.random.key(seed), purpose)

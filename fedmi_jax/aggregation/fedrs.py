"""FedRS (Li & Zhan 2021): FedAvg whose clients hold back on the classes that they have few images of."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Method, with_hooks
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.config import METHODS


def fedrs(alpha: float, weighting: Weighting = "uniform") -> Method:
    """FedAvg with `restricted` on every client."""
    plain = fedavg(weighting)._replace(name="fedrs", summary=METHODS["fedrs"], source="Li & Zhan 2021, KDD, FedRS")
    return with_hooks(plain, logits=restricted(alpha))


def restricted(alpha: float) -> Callable[[Array, Array], Array]:
    """For `Method.logits`: logits times alpha + (1 - alpha) * count_c / max count, as in the authors' code."""

    def restrict(logits: Array, counts: Array) -> Array:
        return logits * (alpha + (1 - alpha) * counts / jnp.max(counts))

    return restrict

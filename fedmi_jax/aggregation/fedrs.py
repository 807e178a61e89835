"""FedRS (Li & Zhan 2021): FedAvg whose clients hold back on the classes that they have few images of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Method, with_hooks
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.methods import METHODS

Form = Literal["proportional", "binary"]


def fedrs(alpha: float, form: Form = "proportional", weighting: Weighting = "uniform") -> Method:
    """FedAvg with `restricted` on every client."""
    plain = fedavg(weighting)._replace(name="fedrs", summary=METHODS["fedrs"], source="Li & Zhan 2021, KDD, FedRS")
    return with_hooks(plain, logits=restricted(alpha, form))


def restricted(alpha: float, form: Form = "proportional") -> Callable[[Array, Array], Array]:
    """For `Method.logits`: logits times alpha + (1 - alpha) * share of the class. The share is count_c / max count, as
    in the authors' code, or, "binary", 1 for a class that the client holds and 0 for another."""

    def restrict(logits: Array, counts: Array) -> Array:
        share = counts / jnp.max(counts) if form == "proportional" else counts > 0
        return logits * (alpha + (1 - alpha) * share)

    return restrict

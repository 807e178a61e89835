"""FedLC (Zhang et al. 2022): FedAvg whose clients calibrate their logits by how many images of a class they have.

Axes: N images, Y classes.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from fedmi_jax.aggregation.base import Method, with_hooks
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.methods import METHODS


def fedlc(tau: float, weighting: Weighting = "uniform") -> Method:
    """FedAvg with `calibrated` on every client. Refuses clients of one class: over one class the softmax is always 1,
    its gradient 0, and nothing is learnt."""

    def problem(counts: np.ndarray) -> str:
        alone = np.flatnonzero((counts > 0).sum(1) < 2)
        if not len(alone):
            return ""
        return (
            f"aggregation.kind: with fedlc a client of one class learns nothing, and of {len(counts)} clients here "
            f"{len(alone)} {'has' if len(alone) == 1 else 'have'} one class; take fedrs, or a split with more classes "
            "for each client"
        )

    plain = fedavg(weighting)._replace(
        name="fedlc", problem=problem, summary=METHODS["fedlc"], source="Zhang et al. 2022, FedLC, arXiv 2209.00189"
    )
    return with_hooks(plain, logits=calibrated(tau))


def calibrated(tau: float) -> Callable[[Array, Array], Array]:
    """For `Method.logits`: logits - tau * count_c^(-1/4). For a class that the client does not hold this is minus
    infinity: the softmax goes over the held classes, here by a number that is finite, because an infinite loss times
    the weight 0 of padding is no number."""

    def calibrate(logits: Array, counts: Array) -> Array:
        held = counts > 0
        margin = tau * jnp.where(held, counts, 1).astype(logits.dtype) ** -0.25
        return jnp.where(held, logits - margin, jnp.finfo(logits.dtype).min / 4)

    return calibrate

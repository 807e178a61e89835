"""Coordinate-wise median and trimmed mean (Yin et al. 2018): robust against clients that send anything.

Here the robust ones are the losers: of three clients with disjoint supports the median of every weight is 0.

Axes: K clients, n of them with samples.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.methods import METHODS
from fedmi_jax.network.model import Params

SOURCE = "Yin et al. 2018, arXiv 1803.01498"
FEWEST = 3
"""Clients of a trimmed mean: of two, less than one half is none."""


def median() -> Method:
    """The median of every entry; of an even number of clients the mean of the two in the middle."""

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        n = jnp.sum(clients.samples > 0)
        ordered = _ordered(clients)
        return {name: (leaf[(n - 1) // 2] + leaf[n // 2]) / 2 for name, leaf in ordered.items()}, state

    return Method("median", apply, summary=METHODS["median"], source=SOURCE)


def trimmed_mean(beta: float) -> Method:
    """The mean of every entry without the int(beta * n) smallest and largest ones."""

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        n = jnp.sum(clients.samples > 0)
        cut = jnp.asarray([cuts(beta, some) for some in range(len(clients.samples) + 1)])[n]
        ordered, place = _ordered(clients), jnp.arange(len(clients.samples))
        inner = (place >= cut) & (place < n - cut)
        return {name: _mean(leaf, inner) for name, leaf in ordered.items()}, state

    def problem(counts: np.ndarray) -> str:
        clients = len(counts)
        if cuts(beta, clients):
            return ""
        if clients < FEWEST:
            return f"aggregation.kind: trimmed-mean needs {FEWEST} clients a round or more, not {clients}; give fedavg"
        return (
            f"aggregation.trimmed_mean.beta: {beta:g} of {clients} clients is none, and nothing would be trimmed; give "
            f"at least {np.ceil(1000 / clients) / 1000:g}, or aggregation.kind fedavg"
        )

    return Method("trimmed-mean", apply, problem=problem, summary=METHODS["trimmed-mean"], source=SOURCE)


def cuts(beta: float, clients: int) -> int:
    """int(beta * clients), where the product's rounding does not make 1 of 0.9999."""
    return int(beta * clients + 1e-9)


def _ordered(clients: Clients) -> dict[str, Array]:
    """Every entry's values, ascending, (K, ...); those of clients without samples last, as infinity."""
    there = clients.samples > 0
    return {
        name: jnp.sort(jnp.where(there.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, jnp.inf), 0)
        for name, leaf in clients.params.items()
    }


def _mean(ordered: Array, inner: Array) -> Array:
    picked = jnp.where(inner.reshape(-1, *[1] * (ordered.ndim - 1)), ordered, 0)
    return jnp.sum(picked, 0) / jnp.sum(inner).astype(ordered.dtype)

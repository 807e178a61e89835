"""TIES (Yadav et al. 2023): trim, elect the sign of every entry, average the clients that agree with it.

Axes: K clients, d parameters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.means import Weighting, mean_where, shares
from fedmi_jax.methods import METHODS
from fedmi_jax.methods import Ties as Settings
from fedmi_jax.network.model import Params


def ties(settings: Settings, weighting: Weighting = "uniform") -> Method:
    """x = base + scale * (mean of the clients whose vote has the elected sign - base), base where none has; base is 0
    for weights, else params.

    The mean is of the models, not of their votes: where all of them are 0 it is exactly 0, and params + (0 - params) is
    not in floating point."""

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        weights, updates = shares(clients, weighting), settings.of == "updates"
        votes = {name: leaf - params[name] if updates else leaf for name, leaf in clients.params.items()}
        if settings.density < 1:
            votes = jax.vmap(lambda one: trimmed(one, settings.density))(votes)
        sign = elected(votes, weights)
        base = params if updates else jax.tree.map(jnp.zeros_like, params)
        merged = {
            name: mean_where(leaf, weights, votes[name] * sign[name] > 0, base[name])
            for name, leaf in clients.params.items()
        }
        if settings.scale == 1:
            return merged, state
        return {name: leaf + settings.scale * (merged[name] - leaf) for name, leaf in base.items()}, state

    return Method("ties", apply, summary=METHODS["ties"], source="Yadav et al. 2023, TIES-Merging, arXiv 2306.01708")


def trimmed(votes: Params, density: float) -> Params:
    """One client's entries, all but the largest set to 0. As in the published code int(density * d) + 1 stay, and those
    that are as large as the last of them."""
    size = jnp.abs(jnp.concatenate([leaf.ravel() for leaf in votes.values()]))
    stay = min(int(density * len(size)) + 1, len(size))
    threshold = jnp.sort(size)[len(size) - stay]
    return {name: jnp.where(jnp.abs(leaf) >= threshold, leaf, 0) for name, leaf in votes.items()}


def elected(votes: Params, weights: Array) -> dict[str, Array]:
    """The sign of the weighted sum of the clients' entries; where that is 0, the sign that most entries got."""
    sign = {name: jnp.sign(_total(leaf, weights)) for name, leaf in votes.items()}
    most = jnp.sign(sum(jnp.sum(one) for one in sign.values()))
    return {name: jnp.where(one == 0, most, one) for name, one in sign.items()}


def _total(stacked: Array, weights: Array) -> Array:
    return jnp.sum(weights.astype(stacked.dtype).reshape(-1, *[1] * (stacked.ndim - 1)) * stacked, 0)

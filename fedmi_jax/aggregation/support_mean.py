"""Support mean: a weight is averaged over the clients that kept it (Sub-FedAvg, Vahidian et al. 2021).

A plain mean counts a pruned weight as a vote for zero, so that K clients with disjoint supports leave 1/K of every
weight. Here a weight is only divided by those who have it.

Axes: K clients.
"""

from __future__ import annotations

from jax import Array

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.means import Weighting, mean_where, shares
from fedmi_jax.methods import METHODS
from fedmi_jax.network.layers import is_weight
from fedmi_jax.network.model import Params


def support_mean(weighting: Weighting = "uniform") -> Method:
    """x = sum_k p_k s_k y_k / sum_k p_k s_k with s_k = [y_k != 0]; 0 where every client pruned. Biases: the mean."""

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        weights = shares(clients, weighting)
        return {name: over_support(name, leaf, weights) for name, leaf in clients.params.items()}, state

    return Method(
        "support-mean", apply, summary=METHODS["support-mean"],
        source="Vahidian et al. 2021, Sub-FedAvg, arXiv 2105.00562",
    )  # fmt: skip


def over_support(name: str, stacked: Array, weights: Array) -> Array:
    """The array of this name, (K, ...) -> (...)."""
    return mean_where(stacked, weights, stacked != 0 if is_weight(name) else True, 0)

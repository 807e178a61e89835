"""Federated averaging (McMahan et al. 2017).

Axes: K clients.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.means import Weighting, shares
from fedmi_jax.methods import METHODS
from fedmi_jax.network.model import Params


def fedavg(weighting: Weighting = "uniform") -> Method:
    """The mean of the clients' parameters: plain (the authors' code), or weighted by their numbers of samples."""

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        return tree_mean(clients.params, shares(clients, weighting)), state

    return Method("fedavg", apply, summary=METHODS["fedavg"], source="McMahan et al. 2017, arXiv 1602.05629")


def tree_mean(stacked: Params, weights: Array) -> Params:
    """Weighted mean over the leading axis of every leaf; weights (K,) need not sum to 1.

    In full precision everywhere: by default a GPU rounds the factors of a float32 product to 10 bits (TF32).
    """
    total = jnp.sum(weights)

    def mean(leaf: Array) -> Array:
        return jnp.tensordot(weights.astype(leaf.dtype), leaf, 1, precision="highest") / total.astype(leaf.dtype)

    return jax.tree.map(mean, stacked)

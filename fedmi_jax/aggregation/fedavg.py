"""Federated averaging (McMahan et al. 2017).

Axes: K clients.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Aggregator
from fedmi_jax.network.model import Params


def fedavg(weighting: Literal["uniform", "samples"] = "uniform") -> Aggregator:
    """The mean of the clients' parameters: plain (the authors' code), or weighted by their numbers of samples."""
    return Aggregator(init=_no_state, apply=partial(_mean, weighting=weighting))


def _no_state(params: Params) -> None:
    return None


def _mean(state: Any, params: Params, clients: Params, samples: Array, *, weighting: str) -> tuple[Params, Any]:
    weights = samples if weighting == "samples" else jnp.ones_like(samples)
    return tree_mean(clients, weights), state


def tree_mean(stacked: Params, weights: Array) -> Params:
    """Weighted mean over the leading axis of every leaf; weights (K,) need not sum to 1."""
    total = jnp.sum(weights)
    return jax.tree.map(
        lambda leaf: jnp.tensordot(weights.astype(leaf.dtype), leaf, 1) / total.astype(leaf.dtype), stacked
    )

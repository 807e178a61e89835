"""Means over clients of which not all have a say everywhere.

Axes: K clients, Y classes, O_l channels of convolution l, F features.
"""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Clients
from fedmi_jax.network.ablation import Gates
from fedmi_jax.network.model import Params

Weighting = Literal["uniform", "samples"]


def shares(clients: Clients, weighting: Weighting) -> Array:
    """Each client's say, (K,), not summing to 1: one, or its number of samples. None for a client without samples."""
    return clients.samples if weighting == "samples" else clients.samples > 0


def mean_where(stacked: Array, weights: Array, there: Array | bool, otherwise: Array | float) -> Array:
    """Weighted mean over the clients that are there, entry by entry.

    Args: stacked (K, ...); weights (K,); there: bool, broadcasts to stacked; otherwise: what stands where no client is
    there, broadcasts to one client's array. Zeros of every client that is there stay exact zeros, and a
    client that is there alone gives exactly its values.
    """
    say = weights.astype(stacked.dtype).reshape(-1, *[1] * (stacked.ndim - 1)) * there
    largest = jnp.max(say, 0)
    say = say / jnp.where(largest > 0, largest, 1)  # exactly 1 for a client alone, as for all that weigh alike
    total = jnp.sum(jnp.broadcast_to(say, stacked.shape), 0)
    mean = jnp.sum(say * stacked, 0) / jnp.where(total > 0, total, 1)
    return jnp.where(total > 0, mean, jnp.asarray(otherwise, stacked.dtype))


def head(params: Params, clients: Clients, weights: Array, blocks: Array | bool = True) -> dict[str, Array]:
    """The linear layer, whose row (weights and bias) of a class is the mean over the clients that hold the class. A row
    that no client holds keeps the values of params.

    blocks: bool (K, F, Y), of whom each weight is taken; a weight that this gives to no holder is the mean of all.
    """
    holds = clients.counts > 0
    kernel, bias = clients.params["fc_kernel"], clients.params["fc_bias"]
    row = mean_where(kernel, weights, holds[:, None], params["fc_kernel"])
    return {
        "fc_kernel": row if blocks is True else mean_where(kernel, weights, holds[:, None] & blocks, row),
        "fc_bias": mean_where(bias, weights, holds, params["fc_bias"]),
    }


def used(masks: Gates | None) -> dict[str, Array]:
    """The channels that each client uses for any class, bool (K, O_l), from masks (K, Y, O_l)."""
    layers: Any = masks  # `base.applied` refuses a method that needs circuits and is given none
    return {layer: jnp.any(mask, 1) for layer, mask in layers.items()}

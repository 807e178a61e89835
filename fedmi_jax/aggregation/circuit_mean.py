"""Circuit-masked mean: a channel is averaged over the clients whose circuits use it.

What the published code does once, after a run (its cascade), done in every round. A channel that nobody uses is the
mean of all: at zero it would never learn again, because ReLU has no gradient there.

Axes: K clients, Y classes, O_l channels of convolution l, F features.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.means import Weighting, head, mean_where, shares, used
from fedmi_jax.methods import METHODS
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params


def circuit_mean(blocks: bool = False, weighting: Weighting = "uniform") -> Method:
    """Kernel and bias of every channel: the mean over the clients that use it for any class; rows of the linear layer
    by holders. blocks: a row's weights from a channel only from holders whose circuit of the class has the channel."""

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        weights, new = shares(clients, weighting), dict(params)
        for layer, use in used(clients.masks).items():
            for name in (f"{layer}_kernel", f"{layer}_bias"):
                leaf = clients.params[name]
                there = use.reshape(len(use), *[1] * (leaf.ndim - 2), -1)
                new[name] = mean_where(leaf, weights, there, mean_where(leaf, weights, True, 0))
        return new | head(params, clients, weights, _blocks(clients) if blocks else True), state

    return Method(
        "circuit-mean", apply, needs_circuits=True, summary=METHODS["circuit-mean"],
        source="the cascade of the published code of arXiv 2512.23043, in every round",
    )  # fmt: skip


def _blocks(clients: Clients) -> Array:
    """Whether the circuit of the class has the feature's channel: bool (K, F, Y)."""
    masks = dict(clients.masks or {})
    last = masks[conv_layers(clients.params)[-1]].swapaxes(1, 2)  # (K, O, Y)
    positions = clients.params["fc_kernel"].shape[1] // last.shape[1]
    return jnp.tile(last, (1, positions, 1))  # features are position-major, channel fastest

"""FedBABU (Oh et al. 2022): the linear layer keeps its initial values, on every client and on the server, for ever.

Nor is it pruned, as published. With `pruned` it is, like every layer: since nobody moves it, all clients keep the same
weights of it. What averaging does to the read-out is nothing in both, and all that is lost is lost in the convolutions.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.methods import METHODS
from fedmi_jax.network.model import Params

HEAD = ("fc_kernel", "fc_bias")


def fedbabu(pruned: bool = False, weighting: Weighting = "uniform") -> Method:
    """FedAvg of the convolutions. pruned: whether clients prune the linear layer, too."""
    plain = fedavg(weighting)

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        mean, state = plain.apply(state, params, clients)
        new = dict(mean) | {name: params[name] for name in HEAD}  # the mean of equals may round
        if pruned:
            new["fc_kernel"] = jnp.where(mean["fc_kernel"] == 0, 0, params["fc_kernel"])
        return new, state

    def trainable(params: Params, state: State) -> dict[str, Array]:
        return {name: jnp.asarray(name not in HEAD) for name in params}

    return plain._replace(
        name="fedbabu", apply=apply, trainable=trainable, prunes_all=pruned, summary=METHODS["fedbabu"],
        source="Oh et al. 2022, FedBABU, arXiv 2106.06042",
    )  # fmt: skip

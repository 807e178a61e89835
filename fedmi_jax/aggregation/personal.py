"""Methods that leave a client layers of its own: FedPer (Arivazhagan et al. 2019) and LG-FedAvg (Liang et al. 2020).

Each client is judged by the model that it is served: the shared layers, and its own ones. The global model, all layers
averaged, is judged beside it. The two are different questions: never compare the one with the other.

Axes: K_total clients.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.methods import METHODS
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params


def fedper(weighting: Weighting = "uniform") -> Method:
    """The convolutions are shared, the linear layer is the client's own."""
    source = "Arivazhagan et al. 2019, FedPer, arXiv 1912.00818"
    return personal("fedper", lambda params: ("fc",), weighting, source)


def lg_fedavg(shared_layers: int = 1, weighting: Weighting = "uniform") -> Method:
    """The last layers are shared, those before them are the client's own."""

    def own(params: Params) -> tuple[str, ...]:
        return (*conv_layers(params), "fc")[:-shared_layers]

    return personal("lg-fedavg", own, weighting, "Liang et al. 2020, LG-FedAvg, arXiv 2001.01523")


def personal(name: str, own: Callable[[Params], tuple[str, ...]], weighting: Weighting, source: str) -> Method:
    """FedAvg in which clients keep the layers `own(params)`, which begin as in the initial model."""
    plain = fedavg(weighting)

    def mine(params: Params) -> dict:
        layers = own(params)
        return {key: leaf for key, leaf in params.items() if key.partition("_")[0] in layers}

    def init(params: Params, clients_total: int) -> State:
        return State(clients={k: jnp.broadcast_to(v, (clients_total, *v.shape)) for k, v in mine(params).items()})

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        mean, _ = plain.apply(state, params, clients)
        kept = {key: old.at[clients.numbers].set(clients.params[key]) for key, old in state.clients.items()}
        return mean, State(clients=kept)

    def serve(params: Params, state: State) -> Params:
        return dict(params) | state.clients

    return Method(name, apply, init, serve=serve, summary=METHODS[name], source=source)

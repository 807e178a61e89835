"""Orthogonality penalty: a client pays for channels that the circuits of others use, the soft form of owner channels
(proposed in section 4 of arXiv 2512.23043).

Axes: K clients, K_total clients in all, O_l channels of convolution l.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.aggregation.means import used
from fedmi_jax.methods import METHODS
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params


def orthogonality(weight: float, weighting: Weighting = "uniform") -> Method:
    """FedAvg; a client's loss has weight * sum over channels (l, o) of the share of the OTHER clients whose circuits
    used the channel when last seen, times |W_l,o|^2, over the filter's weights. In the first round the share is 0."""
    plain = fedavg(weighting)

    def init(params: Params, clients_total: int) -> State:
        nobody = {layer: jnp.zeros_like(params[f"{layer}_bias"]) for layer in conv_layers(params)}
        return State(nobody, {k: jnp.broadcast_to(v, (clients_total, *v.shape)) for k, v in nobody.items()})

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        mean, _ = plain.apply(state, params, clients)
        now = used(clients.masks)
        use = {k: old.at[clients.numbers].set(_part(now[k], old)) for k, old in state.clients.items()}
        return mean, State({k: jnp.sum(every, 0) for k, every in use.items()}, use)

    def correct(gradient: Params, params: Params, start: Params, state: State) -> Params:
        new = dict(gradient)
        for layer, total in state.server.items():
            kernel = f"{layer}_kernel"
            new[kernel] = gradient[kernel] + 2 * weight * (total - state.clients[layer]) * params[kernel]
        return new

    return plain._replace(
        name="orthogonality", apply=apply, init=init, correct=correct, needs_circuits=True,
        summary=METHODS["orthogonality"], source="proposed in section 4 of arXiv 2512.23043",
    )  # fmt: skip


def _part(uses: Array, before: Array) -> Array:
    """What each client adds to the shares that others see: of all clients but one."""
    return uses.astype(before.dtype) / max(len(before) - 1, 1)

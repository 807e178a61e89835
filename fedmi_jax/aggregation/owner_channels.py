"""Owner channels: every channel has one client that may write it, so that averaging mixes nobody's channels.

The "non-overlapping sets of neurons" that section 4 of arXiv 2512.23043 proposes. Channel o of every convolution
belongs to client o mod K_total, but for the first ones, a share of each layer, which may be common to all.

- "frozen": a client sees the whole network and trains its own filters and biases. A channel reads channels of other
  owners, who move them in the same round. Rows of the linear layer come from holders.
- "hard": a client sees and trains a thin network of its own channels. No weight leads from one owner's channels to
  another's, and nobody trains the biases of the linear layer, so that a client's network within the global one is
  exactly what it trained.

Axes: K clients, K_total clients in all, O_l channels of convolution l, F features.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.means import Weighting, head, mean_where, shares
from fedmi_jax.methods import METHODS
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params

Form = Literal["frozen", "hard"]
COMMON = -1


def owner_channels(form: Form = "frozen", common: float = 0.0, weighting: Weighting = "uniform") -> Method:
    """One writer for each channel. common: share of every layer's channels that all clients write, which are averaged.

    A channel whose owner takes no part in the round keeps its values.
    """

    def init(params: Params, clients_total: int) -> State:
        return State(jnp.asarray(clients_total), jnp.arange(clients_total))  # everyone's own number

    def trainable(params: Params, state: State) -> dict[str, Array]:
        return _writes(params, _own(params, state, common), form)

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        def by(number: Array) -> dict[str, Array]:
            writes = trainable(params, State(state.server, number))
            return {name: jnp.broadcast_to(one, params[name].shape) for name, one in writes.items()}

        weights, writer, ever = shares(clients, weighting), jax.vmap(by)(clients.numbers), jax.vmap(by)(state.clients)
        new = {name: mean_where(leaf, weights, writer[name], params[name]) for name, leaf in clients.params.items()}
        if form == "frozen":
            return new | head(params, clients, weights), state
        kernels = {f"{layer}_kernel" for layer in conv_layers(params)}
        return {k: jnp.where(jnp.any(ever[k], 0), v, 0) if k in kernels else v for k, v in new.items()}, state

    def serve(params: Params, state: State) -> Params:
        own = _own(params, state, common)
        seen = _writes(params, own, form)
        convolutions = {name for layer in own for name in (f"{layer}_kernel", f"{layer}_bias")}
        return {k: jnp.where(seen[k], v, 0) if k in convolutions else v for k, v in params.items()}

    return Method(
        "owner-channels", apply, init, trainable=trainable, serve=serve if form == "hard" else None,
        summary=METHODS["owner-channels"], source="proposed in section 4 of arXiv 2512.23043",
    )  # fmt: skip


def owners(channels: int, clients_total: Array | int, common: float) -> Array:
    """The owner of each channel, (O,), or COMMON."""
    shared = round(common * channels)
    number = jnp.arange(channels) - shared
    return jnp.where(number < 0, COMMON, number % clients_total)


def _own(params: Params, state: State, common: float) -> dict[str, Array]:
    """The channels that the client of this state may write, bool (O_l,) a layer."""
    found = {}
    for layer in conv_layers(params):
        owner = owners(params[f"{layer}_bias"].shape[0], state.server, common)
        found[layer] = (owner == state.clients) | (owner == COMMON)
    return found


def _writes(params: Params, own: dict[str, Array], form: Form) -> dict[str, Array]:
    """What a client with these channels writes, as `Method.trainable` returns it."""
    found, inputs, hard = {}, jnp.asarray(True), form == "hard"
    for layer, mine in own.items():
        found[f"{layer}_kernel"] = mine & inputs if hard else mine
        found[f"{layer}_bias"] = mine
        inputs = mine[:, None]
    positions = params["fc_kernel"].shape[0] // inputs.shape[0]  # features are position-major, channel fastest
    found["fc_kernel"] = jnp.tile(inputs, (positions, 1)) if hard else jnp.asarray(True)
    found["fc_bias"] = jnp.asarray(not hard)
    return found

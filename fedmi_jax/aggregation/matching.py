"""Weight matching: every client's channels are put in the order of the global model's before the mean is taken (Git
Re-Basin, Ainsworth et al. 2023), so that channels that do the same are averaged, whatever their numbers.

The clients are matched to the model that the round began with, which keeps its numbering: no order of the clients
matters, and circuits of one round can be compared with those of the next. Biases are never pruned and come from one
initial model, so that they may tag channels with their numbers; hence the form without them.

Axes: K clients, N images, O_l channels of convolution l, Y classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedmi_jax.aggregation.base import Clients, Method, Sees, State, seen
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.methods import METHODS
from fedmi_jax.methods import Matching as Settings
from fedmi_jax.network import model
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params

SWEEPS = 100
Order = dict[str, Array]
"""{"conv1": (O_1,), ...}: entry i is the client's channel that stands for channel i of the global model."""
_inner = partial(jnp.einsum, precision="highest")  # a GPU's default keeps 10 bits of every factor


def matching(settings: Settings, weighting: Weighting = "uniform") -> Method:
    """FedAvg of the clients' models in the order that `by_weights` or `by_activations` finds."""
    plain, by_seen = fedavg(weighting), settings.of == "activations"

    def init(params: Params, clients_total: int) -> State:
        return State({"reordered": jnp.zeros(len(conv_layers(params)), params["fc_bias"].dtype)})

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        def order(client: Params) -> Order:
            if by_seen:
                images, labels = seen(clients)
                return by_activations(params, client, images, labels >= 0)
            return by_weights(params, client, settings.biases)

        orders = jax.vmap(order)(clients.params)
        ordered = clients._replace(params=jax.vmap(model.narrow)(clients.params, orders))
        new, _ = plain.apply(state, params, ordered)
        shares = [reordered(orders[layer], clients.samples > 0) for layer in conv_layers(params)]
        return new, State({"reordered": jnp.stack(shares).astype(params["fc_bias"].dtype)})

    return plain._replace(
        name="matching", apply=apply, init=init, tells=("reordered",),
        sees=Sees(settings.images_per_class, settings.images) if by_seen else None,
        summary=METHODS["matching"], source="Ainsworth et al. 2023, Git Re-Basin, arXiv 2209.04836",
    )  # fmt: skip


def by_weights(reference: Params, client: Params, biases: bool = True) -> Order:
    """The order with the largest inner product of all weights (and biases): layer by layer the best one-to-one matching
    given the orders of the layers beside it, from the first layer to the last, until a sweep changes nothing.

    It begins with the client's own order, and no step makes the product smaller: a local optimum, no worse than that.
    """
    own: Order = {layer: jnp.arange(client[f"{layer}_bias"].shape[0]) for layer in conv_layers(client)}

    def sweep(carry: tuple) -> tuple:
        order, _, count = carry
        new = dict(order)
        for layer in order:
            new[layer] = _best(_alike(reference, client, new, layer, biases))
        changed = jnp.any(jnp.stack([jnp.any(new[layer] != order[layer]) for layer in order]))
        return new, changed, count + 1

    def going(carry: tuple) -> Array:
        return carry[1] & (carry[2] < SWEEPS)

    return lax.while_loop(going, sweep, (own, jnp.asarray(True), 0))[0]


def by_activations(reference: Params, client: Params, images: Array, there: Array) -> Order:
    """The order with the smallest squared distance of the layers' outputs, after ReLU and pool, on images
    (N, H, W, I), those that are there (N,) bool."""
    (a, _), (b, _) = (model.activations(one, images) for one in (reference, client))
    weight = there.astype(images.dtype)
    return {layer: _best(_inner("nhwi,nhwj,n->ij", a[layer], b[layer], weight)) for layer in a}


def reordered(orders: Array, there: Array) -> Array:
    """The share of a layer's channels that are put in another place, mean over the clients that are there: orders
    (K, O), there bool (K,)."""
    moved = there[:, None] & (orders != jnp.arange(orders.shape[1]))
    return jnp.sum(moved) / (jnp.sum(there) * orders.shape[1])


def _best(alike: Array) -> Array:
    """The one-to-one matching of rows to columns with the largest sum. Of equal ones that which moves less: channels
    without weights are all alike."""
    tie = jnp.finfo(alike.dtype).eps ** 0.75 * jnp.maximum(jnp.max(jnp.abs(alike)), 1e-30)
    rows, columns = optax.assignment.hungarian_algorithm(-alike - tie * jnp.eye(len(alike), dtype=alike.dtype))
    return jnp.zeros_like(columns).at[rows].set(columns)


def _alike(reference: Params, client: Params, order: Mapping[str, Array], layer: str, biases: bool) -> Array:
    """Inner product of all that touches a channel of the reference with all that touches one of the client, (O, O)."""
    layers = conv_layers(reference)
    place = layers.index(layer)
    a, b = reference[f"{layer}_kernel"], client[f"{layer}_kernel"]
    found = _inner("hwki,hwkj->ij", a, b if place == 0 else b[:, :, order[layers[place - 1]]])
    if biases:
        found += reference[f"{layer}_bias"][:, None] * client[f"{layer}_bias"]
    if layer == layers[-1]:  # features are position-major, channel fastest
        out = (one["fc_kernel"].reshape(-1, len(found), one["fc_bias"].shape[0]) for one in (reference, client))
        return found + _inner("piy,pjy->ij", *out)
    after = layers[place + 1]
    return found + _inner(
        "hwik,hwjk->ij", reference[f"{after}_kernel"], client[f"{after}_kernel"][..., order[after]]
    )  # fmt: skip

"""A round of the method: what clients are served, their training, the server's step.

Axes: S seeds, K clients of a round of K_total, M = S * K models, L weight tensors, T steps, B images of a batch.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec as P

from fedmi_jax.aggregation.base import NO_STATE, Clients, Method, State, applied, initial, served
from fedmi_jax.config import Local, Sparsity
from fedmi_jax.data.batches import Plan
from fedmi_jax.devices.layout import AXIS, Layout
from fedmi_jax.devices.lift import deal, gathered, lift
from fedmi_jax.federation.homes import pick
from fedmi_jax.federation.programs.stacks import first
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params
from fedmi_jax.training.local import train


@partial(jax.jit, static_argnames=("layout", "local", "sparse", "method"))
def train_models(
    global_models: Params, images: Images, which: Array, plan: Plan, keep: Array, class_counts: Array,
    state: State = NO_STATE, numbers: Array | None = None,
    *, layout: Layout, local: Local, sparse: Sparsity, method: Method,
) -> tuple[Params, Array]:  # fmt: skip
    """`local.train` of M models in one call, each from what its method serves it.

    Args: global_models (S, ...), the models that are started from; which (M,), each client's one; plan (M, T, B);
    keep (M, T, L); class_counts (M, Y); state: the method's, (S, ...) and (S, K_total, ...); numbers (M,), who each
    client is, needed where clients have a state. Returns the trained params (M, ...), dealt out over the devices where
    these share clients, and losses (M, T).
    """
    chex.assert_equal_shape_prefix([plan.indices, plan.counts, keep], 2)
    chex.assert_tree_shape_prefix((which, plan.steps, class_counts), plan.indices.shape[:1])
    piece = layout.piece(plan.indices.shape[-1] // layout.batch_devices)
    own, shared = (which, numbers, plan, keep, class_counts), (global_models, state, images)
    axis = AXIS if layout.shard == "batch" else None

    def client(which: Array, numbers: Array, plan: Plan, keep: Array, counts: Array, *shared: Any) -> Any:
        global_models, state, images = shared
        seen = entry(state, which, numbers)
        start = served(method, pick(global_models, which), seen)
        return train(
            start, images, plan, keep, counts, seen,
            local=local, sparse=sparse, method=method, micro_batch=piece, axis=axis, visiting=layout.narrowing,
        )  # fmt: skip

    if layout.shard == "clients":
        trained, losses = deal(client, layout, own, shared)
        return trained, gathered(losses, layout)

    def on_device(own: tuple, shared: tuple) -> Any:
        return lift(lambda *one: client(*one, *shared), layout, *own)

    split = Plan(P(None, None, AXIS), P(), P())  # type: ignore[arg-type]
    specs = ((P(), P(), split, P(), P()), P())
    return jax.shard_map(on_device, mesh=layout.mesh, in_specs=specs, out_specs=P(), check_vma=False)(own, shared)


def entry(state: State, seed: Array, client: Array) -> State:
    """What one client of one seed may see of the states of all, (S, ...) and (S, K_total, ...)."""
    server = jax.tree.map(lambda leaf: leaf[seed], state.server)
    return State(server, jax.tree.map(lambda leaf: leaf[seed, client], state.clients))


@partial(jax.jit, static_argnames=("layout", "method"))
def serve_models(
    global_models: Params, state: State, which: Array, numbers: Array, *, layout: Layout, method: Method
) -> Params:
    """What the method serves to M clients, (M, ...): each model where the client's own one is. Args: as in
    `train_models`."""
    one = jax.vmap(lambda w, n: served(method, pick(global_models, w), entry(state, w, n)))
    if layout.homes == 1:
        return gathered(one(which, numbers), layout)
    return deal(
        lambda w, n, g, s: served(method, pick(g, w), entry(s, w, n)), layout, (which, numbers), (global_models, state)
    )


@partial(jax.jit, static_argnames=("clients", "layout", "method"))
def initial_state(global_models: Params, *, clients: int, layout: Layout, method: Method) -> State:
    """The method's state of every seed, (S, ...), and of each of this many clients, (S, K_total, ...)."""
    state = jax.vmap(lambda params: initial(method, params, clients))(global_models)
    # A number that `init` wrote as a plain 0.0 would have another type than what `apply` makes of it.
    return gathered(jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state), layout)


@partial(jax.jit, static_argnames=("layout", "method"))
def aggregate(
    state: State, global_models: Params, clients: Clients, *, layout: Layout, method: Method
) -> tuple[Params, State]:
    """The server's step for every seed. Args: state and global_models (S, ...); clients (S, K, ...), but
    `clients.params` with a leading axis of at least M = S * K.

    Of models that are dealt out over devices or processes the mean is a collective, not a copy to one of them.
    """
    shape = clients.samples.shape
    own = first(clients.params, math.prod(shape))
    stacked = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), own)
    done = jax.vmap(partial(applied, method))(state, global_models, clients._replace(params=stacked))
    return gathered(done, layout)

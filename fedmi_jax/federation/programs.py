"""The compiled calls of a round, each over all its models or circuits at once.

Axes: S seeds, M models (seeds x clients of the round), C circuits, L weight tensors, T steps, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from fedmi_jax.aggregation import aggregator
from fedmi_jax.circuits import discovery, evaluation
from fedmi_jax.circuits.evaluation import Accuracy, TestSet
from fedmi_jax.config import Aggregation, Discovery, Local, Sparsity
from fedmi_jax.data.batches import Plan
from fedmi_jax.devices.layout import AXIS, Layout
from fedmi_jax.devices.lift import deal, gathered, lift
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Gates, Params
from fedmi_jax.training.local import train


def pick(models: Params, which: Array) -> Params:
    """One model of a stack."""
    return {name: leaf[which] for name, leaf in models.items()}


@partial(jax.jit, static_argnames=("how", "local", "sparse"))
def train_models(
    starts: Params, images: Images, which: Array, plan: Plan, keep: Array, class_counts: Array,
    *, how: Layout, local: Local, sparse: Sparsity,
) -> tuple[Params, Array]:  # fmt: skip
    """`local.train` of M models in one call.

    Args: starts (S, ...), the models that are started from; which (M,), each client's start; plan (M, T, B);
    keep (M, T, L); class_counts (M, Y). Returns the trained params (M, ...), dealt out over the devices where these
    share clients, and losses (M, T).
    """
    chex.assert_equal_shape_prefix([plan.indices, plan.weight, keep], 2)
    chex.assert_tree_shape_prefix((which, plan.steps, class_counts), plan.indices.shape[:1])
    piece = how.piece(plan.indices.shape[-1] // how.batch_devices)
    own = (which, plan, keep, class_counts)
    axis = AXIS if how.shard == "batch" else None

    def client(which: Array, plan: Plan, keep: Array, counts: Array, starts: Params, images: Images) -> Any:
        start = pick(starts, which)
        return train(start, images, plan, keep, counts, local=local, sparse=sparse, micro_batch=piece, axis=axis)

    if how.shard == "clients":
        trained, losses = deal(client, how, own, (starts, images))
        return trained, gathered(losses, how)

    def on_device(own: tuple, starts: Params, images: Images) -> Any:
        return lift(lambda which, plan, keep, counts: client(which, plan, keep, counts, starts, images), how, *own)

    split = Plan(P(None, None, AXIS), P(None, None, AXIS), P())  # type: ignore[arg-type]
    specs = ((P(), split, P(), P()), P(), P())
    return jax.shard_map(on_device, mesh=how.mesh, in_specs=specs, out_specs=P(), check_vma=False)(own, starts, images)


@partial(jax.jit, static_argnames=("how", "settings"))
def aggregate(
    state: Any, globals_: Params, local: Params, samples: Array, *, how: Layout, settings: Aggregation
) -> tuple[Params, Any]:
    """The server's step for every seed. Args: state and globals_ (S, ...); local (M, ...); samples (S, M / S).

    Of models that are dealt out over devices or processes the mean is a collective, not a copy to one of them.
    """
    stacked = jax.tree.map(lambda leaf: leaf.reshape(*samples.shape, *leaf.shape[1:]), local)
    return gathered(jax.vmap(aggregator(settings).apply)(state, globals_, stacked, samples), how)


@partial(jax.jit, static_argnames=("how",))
def joined(local: Params, globals_: Params, *, how: Layout) -> Params:
    """Local models (M, ...), then global ones (S, ...), on every device: circuits are dealt out in another order."""
    return gathered(jax.tree.map(lambda a, b: jnp.concatenate([a, b]), local, globals_), how)


@partial(jax.jit, static_argnames=("how",))
def whole(models: Params, *, how: Layout) -> Params:
    """The same models, on every device, where the host can read them."""
    return gathered(models, how)


@partial(jax.jit, static_argnames=("how",))
def finite(models: Params, *, how: Layout) -> Array:
    """Whether all parameters of each model are finite: (M,) bool."""
    by_leaf = [jnp.all(jnp.isfinite(leaf), tuple(range(1, leaf.ndim))) for leaf in models.values()]
    return gathered(jnp.all(jnp.stack(by_leaf), 0), how)


@partial(jax.jit, static_argnames=("how",))
def wiring(models: Params, *, how: Layout) -> tuple[dict[str, Array], dict[str, Array]]:
    """Per layer, of all models: share of zero weights (M,), and physical connectivity (M, destination, source) bool."""
    zeros, connected, convolutions = {}, {}, conv_layers(models)
    for layer in (*convolutions, "fc"):
        kernel = models[f"{layer}_kernel"]
        zeros[layer] = jnp.mean(kernel == 0, tuple(range(1, kernel.ndim)))
        if layer == "fc":  # rows are position-major, channel fastest
            channels = models[f"{convolutions[-1]}_bias"].shape[-1]
            kernel = kernel.reshape(kernel.shape[0], 1, -1, channels, kernel.shape[-1])
        connected[layer] = jnp.any(kernel != 0, (1, 2)).swapaxes(1, 2)
    return gathered((zeros, connected), how)


@partial(jax.jit, static_argnames=("how", "settings"))
def discover_circuits(
    models: Params, images: Images, which: Array, plan: Plan, fill: Gates | None,
    *, how: Layout, settings: Discovery,
) -> Gates:  # fmt: skip
    """`discovery.discover` of C circuits in one call, dealt out over the devices.

    Args: models with leading axis M; which (C,), each circuit's model; plan (C, T, B); fill (C, O_l) or None.
    Returns the final scores {"conv1": (C, O_1), ...}.
    """
    chex.assert_tree_shape_prefix((plan, fill), which.shape)
    piece = how.piece(plan.indices.shape[-1])

    def one(which: Array, plan: Plan, fill: Gates | None, models: Params, images: Images) -> Gates:
        return discovery.discover(
            pick(models, which), images, plan, fill, settings=settings, micro_batch=piece, narrowing=how.narrowing
        )

    return gathered(deal(one, how, (which, plan, fill), (models, images)), how)


@partial(jax.jit, static_argnames=("how", "measure"))
def measure_circuits(
    models: Params, test: TestSet, which: Array, gates: Gates, fill: Gates | None, target: Array,
    *, how: Layout, measure: Callable[..., Any],
) -> Any:  # fmt: skip
    """`measure` (`evaluation.performance` or `evaluation.class_accuracy`) of C masked models in one call.

    Args: models with leading axis M; which (C,); gates (C, O_l); fill (C, O_l) or None; target (C,).
    """

    def one(which: Array, gates: Gates, fill: Gates | None, target: Array, models: Params, test: TestSet) -> Any:
        return measure(pick(models, which), gates, fill, target, test, narrowing=how.narrowing)

    return gathered(deal(one, how, (which, gates, fill, target), (models, test)), how)


def measure_models(models: Params, test: TestSet, *, how: Layout) -> Accuracy:
    """M whole models on the test set: (M,), (M, Y)."""
    count = models["fc_bias"].shape[0]
    target = np.zeros(count, int)
    judged = measure_circuits(
        models, test, np.arange(count), all_open(models), None, target, how=how, measure=evaluation.performance
    )
    return judged[1]


def all_open(models: Params) -> Gates:
    """Gates that keep every channel of every model, (M, O_l)."""
    return {layer: jnp.ones_like(models[f"{layer}_bias"]) for layer in conv_layers(models)}


@partial(jax.jit, static_argnames=("how",))
def mean_outputs(models: Params, images: Images, which: Array, index: Array, valid: Array, *, how: Layout) -> Gates:
    """`evaluation.mean_outputs` of F pairs of a model and a client's data: which (F,), index and valid (F, G, B)."""

    def one(which: Array, index: Array, valid: Array, models: Params, images: Images) -> Gates:
        return evaluation.mean_outputs(pick(models, which), images, index, valid)

    return gathered(deal(one, how, (which, index, valid), (models, images)), how)


@partial(jax.jit, static_argnames=("how",))
def empty_masks(models: Params, which: Array, fill: Gates | None, target: Array, *, how: Layout) -> tuple[Array, Array]:
    """`evaluation.empty_mask` of C circuits: (C,), (C,)."""
    one = jax.vmap(lambda w, f, t: evaluation.empty_mask(pick(models, w), f, t))
    return gathered(one(which, fill, target), how)

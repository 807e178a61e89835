"""The compiled calls of a round, each over all its models or circuits at once.

Axes: S seeds, M models (seeds x clients of the round), C circuits, L weight tensors, T steps, B images of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fedmi_jax.aggregation.base import NO_STATE, Clients, Method, State, applied, initial, served
from fedmi_jax.circuits import deciding, discovery, evaluation, question
from fedmi_jax.circuits import sameness as one_by_one
from fedmi_jax.circuits.choice import candidates
from fedmi_jax.circuits.deciding import Found, Probed, Task
from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.circuits.evaluation import Accuracy, Asked, EvaluationSet, Performance
from fedmi_jax.circuits.objective import class_task, objective_of
from fedmi_jax.circuits.question import Explained
from fedmi_jax.circuits.sameness import Sameness
from fedmi_jax.circuits.survey import survey
from fedmi_jax.config import Discovery, Local, Sparsity
from fedmi_jax.data.batches import Plan
from fedmi_jax.devices.layout import AXIS, Layout
from fedmi_jax.devices.lift import deal, gathered, lift
from fedmi_jax.federation.homes import Models, all_open, at_home, pick, size, specs
from fedmi_jax.network.ablation import ZERO, Ablation, Mean, MeanMap
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params
from fedmi_jax.network.readout import refit
from fedmi_jax.training.local import train


@partial(jax.jit, static_argnames=("how", "local", "sparse", "method"))
def train_models(
    global_models: Params, images: Images, which: Array, plan: Plan, keep: Array, class_counts: Array,
    state: State = NO_STATE, numbers: Array | None = None,
    *, how: Layout, local: Local, sparse: Sparsity, method: Method,
) -> tuple[Params, Array]:  # fmt: skip
    """`local.train` of M models in one call, each from what its method serves it.

    Args: global_models (S, ...), the models that are started from; which (M,), each client's one; plan (M, T, B);
    keep (M, T, L); class_counts (M, Y); state: the method's, (S, ...) and (S, K_total, ...); numbers (M,), who each
    client is, needed where clients have a state. Returns the trained params (M, ...), dealt out over the devices where
    these share clients, and losses (M, T).
    """
    chex.assert_equal_shape_prefix([plan.indices, plan.counts, keep], 2)
    chex.assert_tree_shape_prefix((which, plan.steps, class_counts), plan.indices.shape[:1])
    piece = how.piece(plan.indices.shape[-1] // how.batch_devices)
    own, shared = (which, numbers, plan, keep, class_counts), (global_models, state, images)
    axis = AXIS if how.shard == "batch" else None

    def client(which: Array, numbers: Array, plan: Plan, keep: Array, counts: Array, *shared: Any) -> Any:
        global_models, state, images = shared
        seen = entry(state, which, numbers)
        start = served(method, pick(global_models, which), seen)
        return train(
            start, images, plan, keep, counts, seen,
            local=local, sparse=sparse, method=method, micro_batch=piece, axis=axis,
            visiting=how.narrowing,
        )  # fmt: skip

    if how.shard == "clients":
        trained, losses = deal(client, how, own, shared)
        return trained, gathered(losses, how)

    def on_device(own: tuple, shared: tuple) -> Any:
        return lift(lambda *one: client(*one, *shared), how, *own)

    split = Plan(P(None, None, AXIS), P(), P())  # type: ignore[arg-type]
    specs = ((P(), P(), split, P(), P()), P())
    return jax.shard_map(on_device, mesh=how.mesh, in_specs=specs, out_specs=P(), check_vma=False)(own, shared)


def entry(state: State, seed: Array, client: Array) -> State:
    """What one client of one seed may see of the states of all, (S, ...) and (S, K_total, ...)."""
    server = jax.tree.map(lambda leaf: leaf[seed], state.server)
    return State(server, jax.tree.map(lambda leaf: leaf[seed, client], state.clients))


@partial(jax.jit, static_argnames=("how", "method"))
def serve_models(
    global_models: Params, state: State, which: Array, numbers: Array, *, how: Layout, method: Method
) -> Params:
    """What the method serves to M clients, (M, ...): each model where the client's own one is. Args: as in
    `train_models`."""
    one = jax.vmap(lambda w, n: served(method, pick(global_models, w), entry(state, w, n)))
    if how.homes == 1:
        return gathered(one(which, numbers), how)
    return deal(
        lambda w, n, g, s: served(method, pick(g, w), entry(s, w, n)), how, (which, numbers), (global_models, state)
    )


@partial(jax.jit, static_argnames=("clients", "how", "method"))
def initial_state(global_models: Params, *, clients: int, how: Layout, method: Method) -> State:
    """The method's state of every seed, (S, ...), and of each of this many clients, (S, K_total, ...)."""
    state = jax.vmap(lambda params: initial(method, params, clients))(global_models)
    # A number that `init` wrote as a plain 0.0 would have another type than what `apply` makes of it.
    return gathered(jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state), how)


@partial(jax.jit, static_argnames=("how", "method"))
def aggregate(
    state: State, global_models: Params, clients: Clients, *, how: Layout, method: Method
) -> tuple[Params, State]:
    """The server's step for every seed. Args: state and global_models (S, ...); clients (S, K, ...), but
    `clients.params` with a leading axis of at least M = S * K.

    Of models that are dealt out over devices or processes the mean is a collective, not a copy to one of them.
    """
    shape = clients.samples.shape
    own = _first(clients.params, math.prod(shape))
    stacked = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), own)
    done = jax.vmap(partial(applied, method))(state, global_models, clients._replace(params=stacked))
    return gathered(done, how)


def _first(models: Params, count: int) -> Params:
    """What is dealt out evenly may have some more."""
    return jax.tree.map(lambda leaf: leaf[:count], models)


@partial(jax.jit, static_argnames=("counts", "how"))
def joined(parts: Sequence[Params], *, counts: tuple[int, ...], how: Layout) -> Params:
    """The first models of all parts, so many of each, one after the other, on every device."""
    own = [_first(part, count) for part, count in zip(parts, counts, strict=True)]
    return gathered(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *own), how)


@partial(jax.jit, static_argnames=("rows", "how"))
def repeated(models: Params, *, rows: tuple[int, ...], how: Layout) -> Params:
    """These of the models, one after the other, where such a round's models are."""
    chosen = jax.tree.map(lambda leaf: leaf[np.array(rows)], models)
    spec = NamedSharding(how.mesh, P(AXIS)) if how.homes > 1 else how.everywhere
    return jax.lax.with_sharding_constraint(chosen, spec)


@partial(jax.jit, static_argnames=("how",))
def seen_images(images: Images, index: Array, labels: Array, *, how: Layout) -> tuple[Array, Array]:
    """What a server sees of every seed: images (S, N, H, W, I), normalised, from indices (S, N); and labels (S, N)."""
    return gathered((images.normalised(index), labels), how)


@partial(jax.jit, static_argnames=("count", "how"))
def whole(models: Params, *, count: int, how: Layout) -> Params:
    """The first so many models, on every device, where the host can read them."""
    return gathered(_first(models, count), how)


@partial(jax.jit, static_argnames=("how",))
def finite(models: Params, *, how: Layout) -> Array:
    """Whether all parameters of each model are finite: (M,) bool."""

    def one(params: Params) -> Array:
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in params.values()]))

    return gathered(deal(one, how, (models,), ()), how)


@partial(jax.jit, static_argnames=("how",))
def wiring(models: Params, *, how: Layout) -> tuple[dict[str, Array], dict[str, Array]]:
    """Per layer, of all models: share of zero weights (M,), and physical connectivity (M, destination, source) bool.

    Model after model: to compare all weights with 0 at once would take a fourth of the memory of all models, or more.
    """
    return gathered(deal(_wiring, how, (models,), ()), how)


def _wiring(params: Params) -> tuple[dict[str, Array], dict[str, Array]]:
    zeros, connected, convolutions = {}, {}, conv_layers(params)
    for layer in (*convolutions, "fc"):
        kernel = params[f"{layer}_kernel"]
        zeros[layer] = jnp.mean(kernel == 0)
        if layer == "fc":  # rows are position-major, channel fastest
            kernel = kernel.reshape(1, -1, params[f"{convolutions[-1]}_bias"].shape[-1], kernel.shape[-1])
        connected[layer] = jnp.any(kernel != 0, (0, 1)).T
    return zeros, connected


class Masked(NamedTuple):
    """Masked models to be judged, one a row. Axes: n rows."""

    model: Any
    """(n,): which of the stacked models."""
    gates: Mapping[str, Any]
    """(n, O_l) a layer."""
    ablation: Ablation
    """Leading axis n."""
    label: Any
    """(n,): the class that is judged."""


def stacked(parts: Sequence[Masked]) -> Masked:
    """The rows of all parts, one part after the other; on the host, where nothing need be compiled for it."""
    return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)


def whole_models(models: Models, like: Ablation) -> Masked:
    """Every model with all channels open, as rows that can be judged together with others of this kind of ablation."""
    first = np.arange(size(models))
    unused = jax.tree.map(lambda v: np.zeros((len(first), *v.shape[1:]), v.dtype), like)
    return Masked(first, all_open(models), unused, np.zeros_like(first))


def over_rows(fn: Callable[..., Any], how: Layout, models: Models, which: Array, rows: tuple, shared: tuple) -> Any:
    """fn(params, *one of rows, *shared) for every row, dealt out over the devices, the results everywhere.

    Args: models with leading axis M, or a stack of a round's, to whose homes the rows have been taken (`at_home`);
    which (n,), each row's model; rows: pytrees with leading axis n.
    """

    def one(which: Array, rows: tuple, models: Models, shared: tuple) -> Any:
        return fn(pick(models, which, how), *rows, *shared)

    return gathered(deal(one, how, (which, rows), (models, shared), (specs(models, how), P())), how)


@partial(jax.jit, static_argnames=("how", "settings"))
def discover_circuits(
    models: Models, images: Images, which: Array, plan: Plan, ablation: Ablation, *, how: Layout, settings: Discovery
) -> Circuit:
    """`discovery.discover` of n circuits in one call: scores and masks (n, O_l) a layer.

    Args: models with leading axis M; which (n,), each circuit's model; plan (n, T, B); ablation with leading axis n.
    """
    chex.assert_tree_shape_prefix((plan, ablation), which.shape)

    def one(params: Params, plan: Plan, ablation: Ablation, images: Images) -> Circuit:
        return discovery.discover(
            params, images, plan, ablation,
            objective=objective_of(settings, class_task(images)), micro_batch=how.piece(plan.indices.shape[-1]),
            narrowing=how.narrowing,
        )  # fmt: skip

    return over_rows(one, how, models, which, (plan, ablation), (images,))


@partial(jax.jit, static_argnames=("how",))
def survey_models(
    models: Params, rows: Array, images: Images, seeds: Array, index: Array, valid: Array, *, how: Layout
) -> tuple[Array, MeanMap]:
    """`survey.survey` of models `rows` (m,), each on the probe images of its seed (m,): logits (m, G * B, Y) and means.

    Args: images (S, P, ...) but for the moments; index (G, B) places among P; valid bool (G, B).
    """

    def one(params: Params, seed: Array, images: Images, index: Array, valid: Array) -> tuple[Array, MeanMap]:
        return survey(params, _of_seed(images, seed), index, valid, narrowing=how.narrowing)

    return over_rows(one, how, models, rows, (seeds,), (images, index, valid))


def _of_seed(images: Images, seed: Array) -> Images:
    return images._replace(pixels=images.pixels[seed], labels=images.labels[seed])


@partial(jax.jit, static_argnames=("how",))
def whole_logits(models: Params, rows: Array, test: EvaluationSet, *, how: Layout) -> Array:
    """Logits of models `rows` (m,) on the test images, padding included: (m, N, Y)."""

    def one(params: Params, test: EvaluationSet) -> Array:
        gates = {layer: jnp.ones_like(params[f"{layer}_bias"]) for layer in conv_layers(params)}
        return evaluation.masked_logits(params, gates, ZERO, test.images, test.indices, how.narrowing)

    return over_rows(one, how, models, rows, (), (test,))


@partial(jax.jit, static_argnames=("how",))
def to_explain(
    models: Params, which: Array, whole: Array, test: EvaluationSet, label: Array, others: Array, *, how: Layout
) -> tuple[dict[str, Array], Array]:
    """Of n cases: the channels that could be part of a circuit, (n, O_l) a layer, and what there is to explain on the
    test images, (n,). Args: whole (n, N, Y), the whole models' logits; label (n,); others bool (n, Y)."""

    def one(params: Params, whole: Array, label: Array, others: Array, test: EvaluationSet) -> tuple:
        labels = jnp.where(test.valid, test.images.labels[test.indices], -1).ravel()
        return candidates(params), question.spread(whole, labels, label, others)

    return over_rows(one, how, models, which, (whole, label, others), (test,))


@partial(jax.jit, static_argnames=("how", "settings", "searched"))
def decide_circuits(
    models: Params, which: Array, images: Images, seeds: Array, probed: Probed, tasks: Task, *,
    how: Layout, settings: Discovery, searched: int,
) -> Found:  # fmt: skip
    """`deciding.decide` of n circuits in one call.

    Args: which (n,), each circuit's model; images (S, P, ...), of which `searched` are to search on; seeds (n,);
    probed (n, ...), what each circuit's model makes of the images; tasks (n, ...).
    """
    find = partial(
        deciding.decide, settings=settings, searched=searched, micro_batch=how.piece(tasks.plan.indices.shape[-1]),
        narrowing=how.narrowing,
    )  # fmt: skip

    def one(params: Params, seed: Array, probed: Probed, task: Task, images: Images) -> Found:
        return find(params, _of_seed(images, seed), probed, task)

    return over_rows(one, how, models, which, (seeds, probed, tasks), (images,))


@partial(jax.jit, static_argnames=("how", "settings", "searched"))
def attribute(
    models: Params, which: Array, images: Images, seeds: Array, probed: Probed, tasks: Task, *,
    how: Layout, settings: Discovery, searched: int,
) -> Mapping[str, Array]:  # fmt: skip
    """`deciding.attribution` of n circuits in one call, (n, O_l) a layer. Args: as of `decide_circuits`."""
    find = partial(
        deciding.attribution, settings=settings, searched=searched,
        micro_batch=how.piece(tasks.plan.indices.shape[-1]), narrowing=how.narrowing,
    )  # fmt: skip

    def one(params: Params, seed: Array, probed: Probed, task: Task, images: Images) -> Mapping[str, Array]:
        return find(params, _of_seed(images, seed), probed, task)

    return over_rows(one, how, models, which, (seeds, probed, tasks), (images,))


@partial(jax.jit, static_argnames=("how",))
def sameness(models: Params, test: EvaluationSet, masked: Masked, others: Array, *, how: Layout) -> Sameness:
    """`sameness.sameness` of every row, in one call: (n, O_l) a layer. others bool (n, Y)."""
    rows = (masked.gates, masked.ablation, masked.label, others)
    return over_rows(one_by_one.sameness, how, models, masked.model, rows, (test,))


def judge(models: Models, test: EvaluationSet, masked: Masked, *, how: Layout, measure: Callable[..., Any]) -> Any:
    """`measure` (`evaluation.performance` or `evaluation.class_accuracy`) of every row, in one call; numpy arrays."""

    def run(_: Any, masked: Masked) -> Any:
        return _judged(models, test, masked, how=how, measure=measure)

    return evaluation.divided(at_home(run, models, masked.model, masked, how))


def judge_decisions(
    models: Params, test: EvaluationSet, masked: Masked, asked: Asked, whole: Any, *, how: Layout
) -> tuple[Performance, Accuracy, Explained]:
    """`evaluation.decisions` of every row, in one call; numpy arrays.

    whole (M, N, Y): the logits of all models on these images.
    """
    return evaluation.divided(_judged_decisions(models, test, masked, asked, whole, how=how))


@partial(jax.jit, static_argnames=("how",))
def _judged_decisions(
    models: Params, test: EvaluationSet, masked: Masked, asked: Asked, whole: Array, *, how: Layout
) -> Any:  # fmt: skip
    one = partial(evaluation.decisions, narrowing=how.narrowing)
    rows = (masked.gates, masked.ablation, masked.label, asked)
    return over_rows(one, how, models, masked.model, rows, (test, whole))


@partial(jax.jit, static_argnames=("how", "measure"))
def _judged(models: Models, test: EvaluationSet, masked: Masked, *, how: Layout, measure: Callable[..., Any]) -> Any:
    one = partial(measure, narrowing=how.narrowing)
    return over_rows(one, how, models, masked.model, (masked.gates, masked.ablation, masked.label), (test,))


def judge_models(models: Params, test: EvaluationSet, *, how: Layout) -> Accuracy:
    """M whole models on the test set: (M,), (M, Y)."""
    return judge(models, test, whole_models(models, ZERO), how=how, measure=evaluation.performance)[1]


@partial(jax.jit, static_argnames=("how",))
def mean_outputs(models: Models, images: Images, which: Array, index: Array, valid: Array, *, how: Layout) -> Mean:
    """`evaluation.mean_outputs` of F pairs of a model and a client's data: which (F,), index and valid (F, G, B)."""

    def one(params: Params, index: Array, valid: Array, images: Images) -> Mean:
        return evaluation.mean_outputs(params, images, index, valid)

    return over_rows(one, how, models, which, (index, valid), (images,))


@partial(jax.jit, static_argnames=("how",))
def empty_masks(models: Models, which: Array, ablation: Ablation, label: Array, *, how: Layout) -> tuple[Array, Array]:
    """`evaluation.empty_mask` of n rows: (n,), (n,)."""
    together = replace(how, chunk=max(how.chunk, TOGETHER))
    return over_rows(evaluation.empty_mask, together, models, which, (ablation, label), ())


TOGETHER = 500
"""Rows at once, of work that is next to nothing."""


@partial(jax.jit, static_argnames=("how", "what"))
def refitted(
    models: Params, rows: Array, images: Images, seeds: Array, places: Array, classes: Array, *, how: Layout, what: str
) -> Params:
    """Models `rows` (m,) with their read-out refitted for their classes bool (m, Y), (m, ...).

    what: how (`network.readout`), on the probe images at `places` of their seeds (m,) that are of these classes; or
    "none".
    """

    def one(params: Params, seed: Array, classes: Array, images: Images, places: Array) -> Params:
        if what == "none":
            return params
        drawn = _of_seed(images, seed)
        labels = jnp.where(classes[drawn.labels[places]], drawn.labels[places], -1)
        return refit(params, drawn.normalised(places), labels, what, classes)  # type: ignore[arg-type]

    return over_rows(one, how, models, rows, (seeds, classes), (images, places))


@partial(jax.jit, static_argnames=("how",))
def accuracy_among(models: Params, classes: Array, test: EvaluationSet, *, how: Layout) -> Array:
    """Mean accuracy (M,) of all models over their classes bool (M, Y), among which alone they choose."""

    def one(params: Params, classes: Array, test: EvaluationSet) -> Array:
        gates = {layer: jnp.ones_like(params[f"{layer}_bias"]) for layer in conv_layers(params)}
        logits = evaluation.masked_logits(params, gates, ZERO, test.images, test.indices, how.narrowing)
        return evaluation.accuracy_among(logits, classes, test)

    return over_rows(one, how, models, jnp.arange(len(classes)), (classes,), (test,))

"""The compiled calls of a round, each over all its models or circuits at once.

Axes: S seeds, M models (seeds x clients of the round), C circuits, L weight tensors, T steps, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from fedmi_jax.aggregation.base import NO_STATE, Clients, Method, State, applied, initial, served
from fedmi_jax.circuits import deciding, discovery, evaluation, question
from fedmi_jax.circuits.choice import candidates
from fedmi_jax.circuits.deciding import Found, Probed, Task
from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.circuits.evaluation import Accuracy, Asked, EvaluationSet, Performance
from fedmi_jax.circuits.objective import class_task, objective_of
from fedmi_jax.circuits.question import Explained
from fedmi_jax.circuits.survey import survey
from fedmi_jax.config import Discovery, Local, Sparsity
from fedmi_jax.data.batches import Plan
from fedmi_jax.devices.layout import AXIS, Layout
from fedmi_jax.devices.lift import deal, gathered, lift
from fedmi_jax.network.ablation import ZERO, Ablation, Mean, MeanMap
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params
from fedmi_jax.network.readout import refit
from fedmi_jax.training.local import train


def pick(models: Params, which: Array) -> Params:
    """One model of a stack."""
    return {name: leaf[which] for name, leaf in models.items()}


@partial(jax.jit, static_argnames=("how", "local", "sparse", "method"))
def train_models(
    globals_: Params, images: Images, which: Array, plan: Plan, keep: Array, class_counts: Array,
    state: State = NO_STATE, numbers: Array | None = None,
    *, how: Layout, local: Local, sparse: Sparsity, method: Method,
) -> tuple[Params, Array]:  # fmt: skip
    """`local.train` of M models in one call, each from what its method serves it.

    Args: globals_ (S, ...), the models that are started from; which (M,), each client's one; plan (M, T, B);
    keep (M, T, L); class_counts (M, Y); state: the method's, (S, ...) and (S, K_total, ...); numbers (M,), who each
    client is, needed where clients have a state. Returns the trained params (M, ...), dealt out over the devices where
    these share clients, and losses (M, T).
    """
    chex.assert_equal_shape_prefix([plan.indices, plan.weight, keep], 2)
    chex.assert_tree_shape_prefix((which, plan.steps, class_counts), plan.indices.shape[:1])
    piece = how.piece(plan.indices.shape[-1] // how.batch_devices)
    own, shared = (which, numbers, plan, keep, class_counts), (globals_, state, images)
    axis = AXIS if how.shard == "batch" else None

    def client(which: Array, numbers: Array, plan: Plan, keep: Array, counts: Array, *shared: Any) -> Any:
        globals_, state, images = shared
        seen = entry(state, which, numbers)
        start = served(method, pick(globals_, which), seen)
        return train(
            start, images, plan, keep, counts, seen,
            local=local, sparse=sparse, method=method, micro_batch=piece, axis=axis,
        )  # fmt: skip

    if how.shard == "clients":
        trained, losses = deal(client, how, own, shared)
        return trained, gathered(losses, how)

    def on_device(own: tuple, shared: tuple) -> Any:
        return lift(lambda *one: client(*one, *shared), how, *own)

    split = Plan(P(None, None, AXIS), P(None, None, AXIS), P())  # type: ignore[arg-type]
    specs = ((P(), P(), split, P(), P()), P())
    return jax.shard_map(on_device, mesh=how.mesh, in_specs=specs, out_specs=P(), check_vma=False)(own, shared)


def entry(state: State, seed: Array, client: Array) -> State:
    """What one client of one seed may see of the states of all, (S, ...) and (S, K_total, ...)."""
    server = jax.tree.map(lambda leaf: leaf[seed], state.server)
    return State(server, jax.tree.map(lambda leaf: leaf[seed, client], state.clients))


@partial(jax.jit, static_argnames=("how", "method"))
def serve_models(
    globals_: Params, state: State, which: Array, numbers: Array, *, how: Layout, method: Method
) -> Params:
    """What the method serves to M clients, (M, ...). Args: as in `train_models`."""
    one = jax.vmap(lambda w, n: served(method, pick(globals_, w), entry(state, w, n)))
    return gathered(one(which, numbers), how)


@partial(jax.jit, static_argnames=("clients", "how", "method"))
def initial_state(globals_: Params, *, clients: int, how: Layout, method: Method) -> State:
    """The method's state of every seed, (S, ...), and of each of this many clients, (S, K_total, ...)."""
    state = jax.vmap(lambda params: initial(method, params, clients))(globals_)
    # A number that `init` wrote as a plain 0.0 would have another type than what `apply` makes of it.
    return gathered(jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), state), how)


@partial(jax.jit, static_argnames=("how", "method"))
def aggregate(state: State, globals_: Params, clients: Clients, *, how: Layout, method: Method) -> tuple[Params, State]:
    """The server's step for every seed. Args: state and globals_ (S, ...); clients (S, K, ...), but `clients.params`
    with the leading axis M = S * K.

    Of models that are dealt out over devices or processes the mean is a collective, not a copy to one of them.
    """
    shape = clients.samples.shape
    stacked = jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), clients.params)
    done = jax.vmap(partial(applied, method))(state, globals_, clients._replace(params=stacked))
    return gathered(done, how)


@partial(jax.jit, static_argnames=("how",))
def joined(parts: Sequence[Params], *, how: Layout) -> Params:
    """The models of all parts, one after the other, on every device: circuits are dealt out in another order."""
    return gathered(jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts), how)


@partial(jax.jit, static_argnames=("times", "how"))
def repeated(models: Params, *, times: int, how: Layout) -> Params:
    """Every model so many times, one after the other, on every device."""
    return gathered(jax.tree.map(lambda leaf: jnp.repeat(leaf, times, 0), models), how)


@partial(jax.jit, static_argnames=("how",))
def seen_images(images: Images, index: Array, labels: Array, *, how: Layout) -> tuple[Array, Array]:
    """What a server sees of every seed: images (S, N, H, W, I), normalised, from indices (S, N); and labels (S, N)."""
    return gathered((images.normalised(index), labels), how)


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


def whole_models(models: Params, like: Ablation) -> Masked:
    """Every model with all channels open, as rows that can be judged together with others of this kind of ablation."""
    first = np.arange(len(models["fc_bias"]))
    unused = jax.tree.map(lambda v: np.zeros((len(first), *v.shape[1:]), v.dtype), like)
    return Masked(first, all_open(models), unused, np.zeros_like(first))


def all_open(models: Params) -> dict[str, np.ndarray]:
    """Gates that keep every channel of every model, (M, O_l)."""
    biases = {layer: models[f"{layer}_bias"] for layer in conv_layers(models)}
    return {layer: np.ones(bias.shape, bias.dtype) for layer, bias in biases.items()}


def over_rows(fn: Callable[..., Any], how: Layout, models: Params, which: Array, rows: tuple, shared: tuple) -> Any:
    """fn(params, *one of rows, *shared) for every row, dealt out over the devices, the results everywhere.

    Args: models with leading axis M; which (n,), each row's model; rows: pytrees with leading axis n.
    """

    def one(which: Array, rows: tuple, models: Params, shared: tuple) -> Any:
        return fn(pick(models, which), *rows, *shared)

    return gathered(deal(one, how, (which, rows), (models, shared)), how)


@partial(jax.jit, static_argnames=("how", "settings"))
def discover_circuits(
    models: Params, images: Images, which: Array, plan: Plan, ablation: Ablation, *, how: Layout, settings: Discovery
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


def judge(models: Params, test: EvaluationSet, masked: Masked, *, how: Layout, measure: Callable[..., Any]) -> Any:
    """`measure` (`evaluation.performance` or `evaluation.class_accuracy`) of every row, in one call; numpy arrays."""
    return evaluation.divided(_judged(models, test, masked, how=how, measure=measure))


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
def _judged(models: Params, test: EvaluationSet, masked: Masked, *, how: Layout, measure: Callable[..., Any]) -> Any:
    one = partial(measure, narrowing=how.narrowing)
    return over_rows(one, how, models, masked.model, (masked.gates, masked.ablation, masked.label), (test,))


def judge_models(models: Params, test: EvaluationSet, *, how: Layout) -> Accuracy:
    """M whole models on the test set: (M,), (M, Y)."""
    return judge(models, test, whole_models(models, ZERO), how=how, measure=evaluation.performance)[1]


@partial(jax.jit, static_argnames=("how",))
def mean_outputs(models: Params, images: Images, which: Array, index: Array, valid: Array, *, how: Layout) -> Mean:
    """`evaluation.mean_outputs` of F pairs of a model and a client's data: which (F,), index and valid (F, G, B)."""

    def one(params: Params, index: Array, valid: Array, images: Images) -> Mean:
        return evaluation.mean_outputs(params, images, index, valid)

    return over_rows(one, how, models, which, (index, valid), (images,))


@partial(jax.jit, static_argnames=("how",))
def empty_masks(models: Params, which: Array, ablation: Ablation, label: Array, *, how: Layout) -> tuple[Array, Array]:
    """`evaluation.empty_mask` of n rows: (n,), (n,)."""
    one = jax.vmap(lambda w, a, c: evaluation.empty_mask(pick(models, w), a, c))
    return gathered(one(which, ablation, label), how)


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

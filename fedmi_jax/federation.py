"""The round and the run: local training, aggregation, discovery, evaluation, record.

Axes: S seeds, K clients, M = S * K models (seed-major), C circuits (seed-, then client-, then class-major), Y classes,
T steps, B images of a batch. Models are stacked as (M local ones, then S global ones).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from fedmi_jax import execution, keys, model, recording, sparsity
from fedmi_jax.aggregation import aggregator
from fedmi_jax.circuits import evaluation
from fedmi_jax.circuits.evaluation import TestSet
from fedmi_jax.config import Aggregation, ConfigError, Experiment, FedmiError
from fedmi_jax.data import batches, datasets, partition
from fedmi_jax.data.batches import Plan
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.execution import Layout
from fedmi_jax.local import Images
from fedmi_jax.model import CONV_LAYERS, Gates, Params

Progress = Callable[[int, str], None]
"""Called as (round, stage) when a stage of a round begins, and as (rounds + 1, "done") at the end."""


@dataclass(frozen=True, eq=False)
class Circuits:
    """Which circuits are looked for: C rows of (seed slot, client, class)."""

    seed: np.ndarray
    client: np.ndarray
    label: np.ndarray

    @cached_property
    def classes(self) -> np.ndarray:
        """The labels analysed by anyone, ascending."""
        return np.unique(self.label)


@dataclass(frozen=True, eq=False)
class Setup:
    """An experiment on its data: everything that stays the same from round to round."""

    experiment: Experiment
    dataset: Dataset
    clients: list[list[np.ndarray]]
    """[S][K] indices into the training images."""
    counts: np.ndarray
    """(S, K, Y) training images."""
    circuits: Circuits

    @cached_property
    def layout(self) -> Layout:
        return execution.layout(self.experiment.execution, self.experiment.evaluation)

    @cached_property
    def dtype(self) -> Any:
        return jnp.dtype(self.experiment.execution.precision)

    @cached_property
    def train_images(self) -> Images:
        return self._on_device(self.dataset.train_images, self.dataset.train_labels)

    @cached_property
    def test(self) -> TestSet:
        dataset, per_class = self.dataset, self.experiment.evaluation.images_per_class
        images = self._on_device(dataset.test_images, dataset.test_labels)
        return evaluation.make_test_set(
            images, dataset.test_labels, dataset.num_classes, self.layout.forward_batch, per_class
        )

    def _on_device(self, pixels: np.ndarray, labels: np.ndarray) -> Images:
        moments = (jnp.asarray(m, self.dtype) for m in (self.dataset.mean, self.dataset.std))
        return execution.replicate(Images(jnp.asarray(pixels), jnp.asarray(labels), *moments), self.layout)

    @cached_property
    def steps(self) -> np.ndarray:
        """(S, K) local steps of every client in a round."""
        local = self.experiment.local
        samples = self.counts.sum(-1)
        return np.vectorize(batches.local_steps, otypes=[int])(samples, local.batch_size, local.epochs)

    @cached_property
    def plan_shape(self) -> tuple[int, int]:
        """(T, B) that every client's training plan is padded to."""
        widest = min(self.experiment.local.batch_size, int(self.counts.sum(-1).max()))
        return int(self.steps.max()), self.layout.padded(widest, self.layout.devices)

    @cached_property
    def keep(self) -> np.ndarray:
        """(M, T, L) weights to keep after each step; a client's own T decides, later entries are never used."""
        sizes = sparsity.weight_sizes(jax.eval_shape(self.initial_params, 0))
        distinct = {t: sparsity.keep_counts(self.experiment.sparsity, t, sizes) for t in np.unique(self.steps)}
        longest = self.plan_shape[0]
        return np.stack([np.pad(distinct[t], ((0, longest - t), (0, 0)), "edge") for t in self.steps.ravel()])

    def initial_params(self, seed: int) -> Params:
        key = jax.random.fold_in(jax.random.key(seed), keys.INIT)
        return _initialise(key, self.dataset.image_shape, self.dataset.num_classes, self.dtype)

    @cached_property
    def discovery_images(self) -> list[np.ndarray]:
        """[C] indices of the client's training images of the circuit's class."""
        labels, c = self.dataset.train_labels, self.circuits
        held = (self.clients[s][k] for s, k in zip(c.seed, c.client, strict=True))
        return [own[labels[own] == label] for own, label in zip(held, c.label, strict=True)]

    @cached_property
    def discovery_batches(self) -> list[int]:
        """[C] images per discovery step."""
        size, samples = self.experiment.discovery.batch_size, self.counts.sum(-1)
        c = self.circuits
        return [
            batches.discovery_batch(len(images), samples[s, k], size)
            for images, s, k in zip(self.discovery_images, c.seed, c.client, strict=True)
        ]


_initialise = jax.jit(model.init, static_argnums=(1, 2, 3))


def prepare(experiment: Experiment, dataset: Dataset | None = None) -> Setup:
    """The experiment on its data. Raises FedmiError naming the field for whatever does not go together."""
    dataset = dataset or datasets.load(experiment.data)
    height, width, _ = dataset.image_shape
    if min(height, width) < 8:
        raise FedmiError(f"data: images must be at least 8 x 8 pixels for three pooling layers; got {height} x {width}")
    _require_classes(experiment, dataset)
    labels, classes = dataset.train_labels, dataset.num_classes
    clients = [
        partition.limit(
            partition.partition(labels, classes, experiment.split, seed), experiment.data.images_per_client, seed
        )
        for seed in experiment.seeds
    ]
    counts = np.stack([partition.counts(held, labels, classes) for held in clients])
    return Setup(experiment, dataset, clients, counts, _circuits(experiment, counts))


def _require_classes(experiment: Experiment, dataset: Dataset) -> None:
    for label in experiment.discovery.classes or ():
        if label >= dataset.num_classes:
            raise ConfigError(
                f"discovery.classes: {dataset.name} has classes 0 to {dataset.num_classes - 1}; got {label}"
            )
    if experiment.discovery.classes == ():
        raise ConfigError("discovery.classes: give at least one class, or none at all for each client's own")


def _circuits(experiment: Experiment, counts: np.ndarray) -> Circuits:
    wanted = experiment.discovery.classes
    if wanted is None:
        return Circuits(*np.nonzero(counts))
    s, k, i = np.nonzero(np.ones((*counts.shape[:2], len(wanted)), bool))
    return Circuits(s, k, np.sort(wanted)[i])


def run(experiment: Experiment, dataset: Dataset | None = None, progress: Progress | None = None) -> xr.Dataset:
    """Run the experiment and return its result (see `fedmi_jax.results` for the variables).

    dataset: images to use in place of those `experiment.data` names. Raises FedmiError for a configuration that does
    not fit the data, and for a loss that is not finite.
    """
    with execution.session(experiment.execution):
        return _run(prepare(experiment, dataset), progress or _silent)


def _run(setup: Setup, progress: Progress) -> xr.Dataset:
    experiment = setup.experiment
    globals_ = execution.replicate(_stack([setup.initial_params(seed) for seed in experiment.seeds]), setup.layout)
    state = jax.vmap(aggregator(experiment.aggregation).init)(globals_)
    records = []
    for round_ in range(1, experiment.rounds + 1):
        progress(round_, "train")
        local, losses = train(setup, globals_, round_)
        globals_, state = aggregate(setup, state, globals_, local)
        records.append(recording.snapshot(setup, losses, local, globals_))
        records[-1] |= analyse(setup, local, globals_, round_, progress)
    progress(experiment.rounds + 1, "done")
    return recording.assemble(setup, records)


def _silent(round_: int, stage: str) -> None:
    pass


def _stack(trees: list[Params]) -> Params:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def train(setup: Setup, globals_: Params, round_: int) -> tuple[Params, np.ndarray]:
    """Every client's local training: global params (S, ...) -> local params (M, ...) and losses (M, T)."""
    experiment, clients = setup.experiment, len(setup.clients[0])
    local = experiment.local
    plans = [
        batches.training_plan(own, local.batch_size, local.epochs, seed, round_, setup.plan_shape)
        for own, seed in zip(setup.clients, experiment.seeds, strict=True)
    ]
    plan = Plan(*(np.concatenate(parts) for parts in zip(*plans, strict=True)))
    start = jax.tree.map(lambda leaf: jnp.repeat(leaf, clients, 0), globals_)
    counts = setup.counts.reshape(-1, setup.counts.shape[-1])
    trained, losses = execution.train_models(
        start, setup.train_images, plan, setup.keep, counts,
        how=setup.layout, local=local, sparse=experiment.sparsity,
    )  # fmt: skip
    losses = np.asarray(losses)
    _require_finite(setup, losses, round_)
    return trained, losses


def _require_finite(setup: Setup, losses: np.ndarray, round_: int) -> None:
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        seed, client = divmod(int(bad[0, 0]), len(setup.clients[0]))
        raise FedmiError(
            f"the training loss is not finite: seed {setup.experiment.seeds[seed]}, round {round_}, client {client}, "
            f"local step {bad[0, 1]}; lower local.learning_rate (now {setup.experiment.local.learning_rate:g})"
        )


def aggregate(setup: Setup, state: Any, globals_: Params, local: Params) -> tuple[Params, Any]:
    """The server's step for every seed: new global params (S, ...) and server state."""
    return _aggregate(state, globals_, local, setup.counts.sum(-1), setup.experiment.aggregation)


@partial(jax.jit, static_argnames=("settings",))
def _aggregate(
    state: Any, globals_: Params, local: Params, samples: jax.Array, settings: Aggregation
) -> tuple[Params, Any]:
    stacked = jax.tree.map(lambda leaf: leaf.reshape(*samples.shape, *leaf.shape[1:]), local)
    return jax.vmap(aggregator(settings).apply)(state, globals_, stacked, samples)


def analyse(
    setup: Setup, local: Params, globals_: Params, round_: int, progress: Progress = _silent
) -> dict[str, np.ndarray]:
    """Discover every circuit on local and on global models and measure them; arrays with leading axes (2, C)."""
    c, clients = setup.circuits, len(setup.clients[0])
    models = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), local, globals_)
    on_local, on_global = c.seed * clients + c.client, len(setup.clients) * clients + c.seed
    which = np.concatenate([on_local, on_global])
    progress(round_, "discover")
    fill = _fills(setup, models, which)
    plan = discovery_plans(setup, round_)
    how, settings = setup.layout, setup.experiment.discovery
    scores = execution.discover_circuits(models, setup.train_images, which, plan, fill, how=how, settings=settings)
    jax.block_until_ready(scores)  # so that the stage is told when it begins
    progress(round_, "evaluate")
    return recording.of_circuits(scores) | measure(setup, models, which, scores, fill)


def discovery_plans(setup: Setup, round_: int) -> Plan:
    """The discovery batches of every circuit, local ones first: (2C, T, B)."""
    c, steps = setup.circuits, setup.experiment.discovery.steps
    width = setup.layout.padded(max(setup.discovery_batches), 1)
    plans = []
    for purpose in (keys.DISCOVER_LOCAL, keys.DISCOVER_GLOBAL):
        for i, (s, k, label) in enumerate(zip(c.seed, c.client, c.label, strict=True)):
            key = (setup.experiment.seeds[s], purpose, round_, int(k), int(label))
            images, batch = setup.discovery_images[i], setup.discovery_batches[i]
            plans.append(batches.discovery_plan(images, batch, steps, key, width))
    return batches.stack(plans)


def measure(
    setup: Setup, models: Params, which: np.ndarray, scores: Gates, fill: Gates | None
) -> dict[str, np.ndarray]:
    """Section 5's measures of every circuit (leading axes (2, C): local, global) and of every model."""
    how, test = setup.layout, setup.test
    target = np.tile(setup.circuits.label, 2)
    gates = {layer: (scores[layer] > 0).astype(setup.dtype) for layer in CONV_LAYERS}
    removed = {layer: 1 - gate for layer, gate in gates.items()}
    other = np.roll(which, len(which) // 2)  # a local circuit's mask on the global model, and the other way round
    judge = execution.measure_circuits
    kept = judge(models, test, which, gates, fill, target, how=how, measure=evaluation.performance)
    crossed = judge(models, test, other, gates, _swap(fill), target, how=how, measure=evaluation.performance)
    necessity = judge(models, test, which, removed, fill, target, how=how, measure=evaluation.class_accuracy)
    empty = execution.empty_masks(models, which, fill, target)
    accuracy = execution.measure_models(models, test, how=how)
    return recording.of_measures(setup, kept, crossed, necessity, empty, accuracy)


def _swap(fill: Gates | None) -> Gates | None:
    """The fills of the other model, with the same client's data."""
    return None if fill is None else {k: jnp.roll(v, v.shape[0] // 2, 0) for k, v in fill.items()}


def _fills(setup: Setup, models: Params, which: np.ndarray) -> Gates | None:
    """Mean ablation: every channel's mean output, on each circuit's model, over its client's data, (2C, O_l)."""
    if setup.experiment.discovery.ablation == "zero":
        return None
    clients, batch = [own for seed in setup.clients for own in seed], setup.layout.forward_batch
    rows = -(-max(map(len, clients)) // batch)
    index, valid = (
        np.stack(part) for part in zip(*(evaluation.groups(own, batch, rows) for own in clients), strict=True)
    )
    c = setup.circuits
    client = np.tile(c.seed * len(setup.clients[0]) + c.client, 2)
    pairs, back = np.unique(np.stack([which, client]), axis=1, return_inverse=True)
    means = execution.mean_outputs(
        models, setup.train_images, pairs[0], index[pairs[1]], valid[pairs[1]], how=setup.layout
    )
    return {layer: mean[back] for layer, mean in means.items()}


def memory(setup: Setup) -> int:
    """Rough bytes a round needs on all devices together: images, models with Adam's moments, activations, plans."""
    item, layout, discovery = setup.dtype.itemsize, setup.layout, setup.experiment.discovery
    shapes = jax.eval_shape(setup.initial_params, 0)
    size = item * sum(leaf.size for leaf in jax.tree.leaves(shapes))
    clients, circuits = setup.steps.size, 2 * len(setup.circuits.label)
    images = setup.dataset.train_images.nbytes + setup.dataset.test_images.nbytes
    height, width, channels = setup.dataset.image_shape
    # about six copies of each layer's output and of its patches or tiles are alive at the peak of a pass
    activations = 6 * item * height * width * (model.CHANNELS[0] + 9 * channels + model.CHANNELS[1])
    batch = layout.devices * max(layout.piece(setup.plan_shape[1] // layout.devices), layout.forward_batch)
    side_by_side = 1 if layout.one_by_one else max(clients, circuits)
    plans = 8 * (clients * math.prod(setup.plan_shape) + circuits * discovery.steps * max(setup.discovery_batches))
    models = size * (5 * clients + 2 * len(setup.clients))
    return images * layout.devices + models + plans + side_by_side * batch * activations

"""The round and the run: local training, aggregation, discovery, evaluation, record.

Axes: S seeds, K clients, of which P take part in a round, M = S * P models (seed-major), C circuits (seed-, then
client-, then class-major), Y classes, T steps, B images of a batch. Models are stacked as (M local ones, then S global
ones).
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

from fedmi_jax import controls, execution, keys, model, programs, recording, sparsity
from fedmi_jax.aggregation import aggregator
from fedmi_jax.circuits import evaluation
from fedmi_jax.circuits.evaluation import TestSet
from fedmi_jax.config import ConfigError, Experiment, FedmiError, participants, replace
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

    def at(self, rows: np.ndarray) -> Circuits:
        return Circuits(self.seed[rows], self.client[rows], self.label[rows])


@dataclass(frozen=True, eq=False)
class Round:
    """Who takes part in a round, and the circuits that are looked for in it."""

    number: int
    clients: np.ndarray
    """(S, P), ascending."""
    rows: np.ndarray
    """Which of the setup's circuits: those of these clients. Padded with the first one, so that every round has as many
    and nothing is compiled twice."""
    found: int
    """Rows that are no padding."""

    @property
    def models(self) -> tuple[np.ndarray, np.ndarray]:
        """Seed slot and client of every model, (M,) each."""
        return np.repeat(np.arange(len(self.clients)), self.clients.shape[1]), self.clients.ravel()


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
        settings, judged = self.experiment.execution, self.experiment.evaluation
        models = len(self.experiment.seeds) * participants(self.experiment)
        return execution.layout(settings, judged, models, self.model_bytes)

    @cached_property
    def model_bytes(self) -> int:
        """Roughly what training one more client side by side takes: parameters, gradients, moments, activations."""
        item = self.dtype.itemsize
        height, width, channels = self.dataset.image_shape
        # about six copies of each layer's output and of its patches or tiles are alive at the peak of a pass
        activations = 6 * item * height * width * (model.CHANNELS[0] + 9 * channels + model.CHANNELS[1])
        batch = self.experiment.execution.micro_batch or self.experiment.local.batch_size
        return 5 * self.params_bytes + batch * activations

    @cached_property
    def params_bytes(self) -> int:
        """Of one model's parameters."""
        shapes = jax.eval_shape(self.initial_params, 0)
        return self.dtype.itemsize * sum(leaf.size for leaf in jax.tree.leaves(shapes))

    def round(self, number: int) -> Round:
        """Who takes part in this round, drawn with the seed, and their circuits."""
        clients = self._drawn(number)
        rows = self._rows(clients)
        surplus = np.zeros(self.most_circuits - len(rows), int)
        return Round(number, clients, np.concatenate([rows, surplus]), len(rows))

    def _drawn(self, number: int) -> np.ndarray:
        total, some = self.counts.shape[1], participants(self.experiment)
        draws = (keys.generator(seed, keys.PARTICIPATE, number) for seed in self.experiment.seeds)
        return np.stack([np.sort(draw.choice(total, some, replace=False)) for draw in draws])

    def _rows(self, clients: np.ndarray) -> np.ndarray:
        takes_part = np.zeros(self.counts.shape[:2], bool)
        np.put_along_axis(takes_part, clients, True, 1)
        return np.flatnonzero(takes_part[self.circuits.seed, self.circuits.client])

    @cached_property
    def most_circuits(self) -> int:
        """Of any round."""
        rounds = range(1, self.experiment.rounds + 1)
        return max(len(self._rows(self._drawn(number))) for number in rounds)

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
        batch = self.layout.forward_batch
        test = evaluation.make_test_set(images, dataset.test_labels, dataset.num_classes, batch, per_class)
        return execution.replicate(test, self.layout)

    def _on_device(self, pixels: np.ndarray, labels: np.ndarray) -> Images:
        moments = (np.asarray(m, self.dtype) for m in (self.dataset.mean, self.dataset.std))
        return execution.replicate(Images(pixels, labels, *moments), self.layout)  # type: ignore[arg-type]

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
        return int(self.steps.max()), self.layout.padded(widest, self.layout.batch_devices)

    @cached_property
    def keep(self) -> np.ndarray:
        """(S, K, T, L) weights to keep after each step; a client's own T decides, later entries are never used."""
        sizes = sparsity.weight_sizes(jax.eval_shape(self.initial_params, 0))
        distinct = {t: sparsity.keep_counts(self.experiment.sparsity, t, sizes) for t in np.unique(self.steps)}
        longest = self.plan_shape[0]
        padded = {t: np.pad(kept, ((0, longest - t), (0, 0)), "edge") for t, kept in distinct.items()}
        return np.stack([[padded[t] for t in own] for own in self.steps])

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
    globals_ = initial_models(setup)
    state = jax.vmap(aggregator(experiment.aggregation).init)(globals_)
    records = []
    for number in range(1, experiment.rounds + 1):
        round_ = setup.round(number)
        progress(number, "train")
        local, losses = train(setup, globals_, round_)
        globals_, state = aggregate(setup, state, globals_, local, round_)
        records.append(recording.snapshot(setup, round_, losses, local, globals_))
        records[-1] |= analyse(setup, local, globals_, round_, progress)
    progress(experiment.rounds + 1, "done")
    return recording.assemble(setup, records)


def _silent(round_: int, stage: str) -> None:
    pass


def initial_models(setup: Setup) -> Params:
    """Every seed's fresh global model, (S, ...), on every device."""
    fresh = [setup.initial_params(seed) for seed in setup.experiment.seeds]
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *fresh)
    return execution.replicate(stacked, setup.layout)


def train(setup: Setup, globals_: Params, round_: Round) -> tuple[Params, np.ndarray]:
    """Local training of the round's clients: global params (S, ...) -> local params (M, ...) and losses (M, T)."""
    local = setup.experiment.local
    plans = [
        batches.training_plan(
            {k: setup.clients[s][k] for k in clients}, local.batch_size, local.epochs, seed, round_.number,
            setup.plan_shape,
        )
        for s, (seed, clients) in enumerate(zip(setup.experiment.seeds, round_.clients, strict=True))
    ]  # fmt: skip
    plan = Plan(*(np.concatenate(parts) for parts in zip(*plans, strict=True)))
    which = round_.models
    trained, losses = programs.train_models(
        globals_, setup.train_images, which[0], plan, setup.keep[which], setup.counts[which],
        how=setup.layout, local=local, sparse=setup.experiment.sparsity,
    )  # fmt: skip
    losses = np.asarray(losses)
    _require_finite(setup, losses, round_)
    return trained, losses


def _require_finite(setup: Setup, losses: np.ndarray, round_: Round) -> None:
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        seed, client = (part[bad[0, 0]] for part in round_.models)
        where = f"seed {setup.experiment.seeds[seed]}, round {round_.number}, client {client}, local step {bad[0, 1]}"
        rate = setup.experiment.local.learning_rate
        raise FedmiError(f"the training loss is not finite: {where}; lower local.learning_rate (now {rate:g})")


def aggregate(setup: Setup, state: Any, globals_: Params, local: Params, round_: Round) -> tuple[Params, Any]:
    """The server's step for every seed: new global params (S, ...) and server state."""
    samples = np.take_along_axis(setup.counts.sum(-1), round_.clients, 1)
    return programs.aggregate(state, globals_, local, samples, how=setup.layout, settings=setup.experiment.aggregation)


def analyse(
    setup: Setup, local: Params, globals_: Params, round_: Round, progress: Progress = _silent
) -> dict[str, np.ndarray]:
    """Discover every circuit on local and on global models and measure them; arrays with leading axes (2, C)."""
    models = programs.joined(local, globals_, how=setup.layout)
    which = models_of(setup, round_)
    progress(round_.number, "discover")
    fill = _fills(setup, models, which, round_)
    how, settings = setup.layout, replace(setup.experiment.discovery, repeat="never")  # one program for both
    search = partial(programs.discover_circuits, models, setup.train_images, which, how=how, settings=settings)
    scores, *again = [search(discovery_plans(setup, round_, p), fill) for p in controls.searches(setup, round_)]
    jax.block_until_ready((scores, again))  # so that the stage is told when it begins
    progress(round_.number, "evaluate")
    found = recording.of_circuits(setup, round_, scores) | controls.rediscovery(setup, round_, scores, again)
    return found | measure(setup, models, which, scores, fill, round_)


def models_of(setup: Setup, round_: Round) -> np.ndarray:
    """(2C,) each circuit's model: the client's own, then its seed's global one."""
    c, models = setup.circuits.at(round_.rows), round_.clients.size
    place = np.zeros(setup.counts.shape[:2], int)
    place[round_.models] = np.arange(models)
    return np.concatenate([place[c.seed, c.client], models + c.seed])


def discovery_plans(setup: Setup, round_: Round, purposes: tuple[int, int] = keys.DISCOVER) -> Plan:
    """The discovery batches of every circuit, local ones first: (2C, T, B)."""
    c, steps = setup.circuits, setup.experiment.discovery.steps
    width = setup.layout.padded(max(setup.discovery_batches), 1)
    plans = []
    for purpose in purposes:
        for i in round_.rows:
            key = (setup.experiment.seeds[c.seed[i]], purpose, round_.number, int(c.client[i]), int(c.label[i]))
            images, batch = setup.discovery_images[i], setup.discovery_batches[i]
            plans.append(batches.discovery_plan(images, batch, steps, key, width))
    return batches.stack(plans)


def measure(
    setup: Setup, models: Params, which: np.ndarray, scores: Gates, fill: Gates | None, round_: Round
) -> dict[str, np.ndarray]:
    """Section 5's measures of every circuit (leading axes (2, C): local, global) and of every model."""
    how, test = setup.layout, setup.test
    target = np.tile(setup.circuits.label[round_.rows], 2)
    gates = {layer: (scores[layer] > 0).astype(setup.dtype) for layer in CONV_LAYERS}
    other = np.roll(which, len(which) // 2)  # a local circuit's mask on the global model, and the other way round
    judge = programs.measure_circuits
    whole = programs.all_open(models)  # judged in the same call as circuits, which is then compiled but once
    count = len(whole["conv1"])
    everything = np.concatenate([which, other, np.arange(count)]), _stacked(gates, gates, whole)
    fills = None if fill is None else _stacked(fill, _swap(fill), whole)
    classes = np.concatenate([target, target, np.zeros(count, int)])
    judged = judge(models, test, *everything, fills, classes, how=how, measure=evaluation.performance)
    kept, crossed, (_, accuracy) = _split(judged, len(which))
    by_class = controls.class_judgements(setup, round_, which, scores, fill)
    accuracies = np.asarray(judge(models, test, *by_class, how=how, measure=evaluation.class_accuracy))
    empty = programs.empty_masks(models, which, fill, target, how=how)
    found = recording.of_measures(setup, round_, kept[0], crossed[0], accuracies[: len(which)], empty, accuracy)
    return found | controls.random_masks(setup, round_, accuracies)


def _stacked(*parts: Gates) -> Gates:
    return {layer: jnp.concatenate([part[layer] for part in parts]) for layer in CONV_LAYERS}


def _split(judged: Any, circuits: int) -> list[Any]:
    """On the own model, on the other one, and the rest."""
    ends = (slice(circuits), slice(circuits, 2 * circuits), slice(2 * circuits, None))
    return [jax.tree.map(lambda values, part=part: values[part], judged) for part in ends]


def _swap(fill: Gates | None) -> Gates | None:
    """The fills of the other model, with the same client's data."""
    return None if fill is None else {k: jnp.roll(v, v.shape[0] // 2, 0) for k, v in fill.items()}


def _fills(setup: Setup, models: Params, which: np.ndarray, round_: Round) -> Gates | None:
    """Mean ablation: every channel's mean output, on each circuit's model, over its client's data, (2C, O_l)."""
    if setup.experiment.discovery.ablation == "zero":
        return None
    clients, batch = [own for seed in setup.clients for own in seed], setup.layout.forward_batch
    rows = -(-max(map(len, clients)) // batch)
    index, valid = (
        np.stack(part) for part in zip(*(evaluation.groups(own, batch, rows) for own in clients), strict=True)
    )
    c = setup.circuits.at(round_.rows)
    client = np.tile(c.seed * len(setup.clients[0]) + c.client, 2)
    pairs, back = np.unique(np.stack([which, client]), axis=1, return_inverse=True)
    means = programs.mean_outputs(
        models, setup.train_images, pairs[0], index[pairs[1]], valid[pairs[1]], how=setup.layout
    )
    return {layer: mean[back] for layer, mean in means.items()}


def memory(setup: Setup) -> int:
    """Rough bytes a round needs on all devices together: images, models, what trains side by side, plans."""
    layout, some = setup.layout, participants(setup.experiment)
    images = setup.dataset.train_images.nbytes + setup.dataset.test_images.nbytes
    models = len(setup.experiment.seeds) * some
    circuits = 2 * setup.most_circuits
    searched = circuits * setup.experiment.discovery.steps * max(setup.discovery_batches)
    plans = 12 * (models * math.prod(setup.plan_shape) + searched)
    stacks = 2 * setup.params_bytes * (models + len(setup.experiment.seeds))
    side_by_side = min(layout.chunk, max(models, circuits)) * setup.model_bytes
    return plans + layout.devices * (images + stacks + side_by_side)

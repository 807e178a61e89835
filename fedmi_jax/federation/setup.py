"""An experiment on its data: facts that need no device, a layout on the devices at hand, the images placed there.

Axes: S seeds, K clients, of which P take part in a round, M = S * P models (seed-major), Y classes, T steps, B images
of a batch, L weight tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedmi_jax import aggregation, keys
from fedmi_jax.aggregation import Method
from fedmi_jax.circuits import evaluation
from fedmi_jax.circuits.evaluation import EvaluationSet
from fedmi_jax.circuits.narrowing import DENSEST
from fedmi_jax.config import Experiment, participants
from fedmi_jax.data import batches, datasets, own_split, partition, probe, seen
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.data.own_split import OwnSplit
from fedmi_jax.devices import lift
from fedmi_jax.devices.layout import Layout, resolve
from fedmi_jax.errors import ConfigError
from fedmi_jax.federation import cases
from fedmi_jax.federation.cases import Cases, Circuits
from fedmi_jax.network import model
from fedmi_jax.network.images import Images
from fedmi_jax.results import schema
from fedmi_jax.training import pruning


@dataclass(frozen=True, eq=False)
class Round:
    """Who takes part in a round."""

    number: int
    clients: np.ndarray
    """(S, P), ascending."""

    @property
    def models(self) -> tuple[np.ndarray, np.ndarray]:
        """Seed slot and client of every model, (M,) each."""
        return np.repeat(np.arange(len(self.clients)), self.clients.shape[1]), self.clients.ravel()

    @property
    def pooled(self) -> Round:
        """Where one model is trained for all, whoever takes part: in the place of client 0."""
        return Round(self.number, 0 * self.clients[:, :1])


@dataclass(frozen=True, eq=False)
class Facts:
    """An experiment on its data: numpy only, the same on every machine and from round to round."""

    experiment: Experiment
    dataset: Dataset
    clients: list[list[np.ndarray]]
    """[S][K] indices into the training images."""
    counts: np.ndarray
    """(S, K, Y) training images."""
    circuits: Circuits
    method: Method

    def round(self, number: int) -> Round:
        """Who takes part in this round, drawn with the seed."""
        total, some = self.counts.shape[1], participants(self.experiment)
        draws = (keys.generator(seed, keys.PARTICIPATE, number) for seed in self.experiment.seeds)
        return Round(number, np.stack([np.sort(draw.choice(total, some, replace=False)) for draw in draws]))

    def cases(self, round_: Round) -> Cases:
        """The circuits of this round."""
        return cases.of_round(self.circuits, round_.clients, self.most_circuits, self.method.serve is not None)

    @cached_property
    def probe(self) -> np.ndarray | None:
        """(S, P) training images of the second instrument (`fedmi_jax.data.probe`); None where nothing needs them."""
        discovery, dataset, evaluation = self.experiment.discovery, self.dataset, self.experiment.evaluation
        if discovery.as_published and not evaluation.readout_images:
            return None
        sizes = (dataset.train_labels, dataset.num_classes, discovery.probe)
        return np.stack([probe.draw(*sizes, seed) for seed in self.experiment.seeds])

    @cached_property
    def training(self) -> list[list[np.ndarray]]:
        """[S][K] what every client trains on: its own images or, of a method that pools them, everyone's."""
        if not self.method.pooled:
            return self.clients
        return [[np.unique(np.concatenate(held))] * len(held) for held in self.clients]

    @cached_property
    def training_counts(self) -> np.ndarray:
        """(S, K, Y) of these, by class."""
        labels, classes = self.dataset.train_labels, self.dataset.num_classes
        return np.stack([partition.counts(own, labels, classes) for own in self.training])

    @cached_property
    def seen(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The images that the server may see and their labels, (S, N) each; None for a method that asks for none."""
        sees, labels, classes = self.method.sees, self.dataset.train_labels, self.dataset.num_classes
        if sees is None:
            return None
        drawn = [
            seen.draw(labels, classes, held, sees.per_class, sees.whose, seed)
            for held, seed in zip(self.clients, self.experiment.seeds, strict=True)
        ]
        index, found = zip(*drawn, strict=True)
        return np.stack(index), np.stack(found)

    @cached_property
    def most_circuits(self) -> int:
        """Of any round; draws the clients of every round, unless it is all of them."""
        everyone = participants(self.experiment) == self.counts.shape[1]
        rounds = [1] if everyone else range(1, self.experiment.rounds + 1)
        return max(len(self.circuits.of(self.round(number).clients)) for number in rounds)

    @cached_property
    def dtype(self) -> Any:
        return jnp.dtype(self.experiment.execution.precision)

    @cached_property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes of one model's parameters."""
        image, classes = self.dataset.image_shape, self.dataset.num_classes
        fresh = jax.eval_shape(lambda: model.init(jax.random.key(0), image, self.experiment.model.channels, classes))
        return {name: jax.ShapeDtypeStruct(leaf.shape, self.dtype) for name, leaf in fresh.items()}

    @cached_property
    def params_bytes(self) -> int:
        """Of one model's parameters."""
        return self.dtype.itemsize * sum(leaf.size for leaf in self.shapes.values())

    @cached_property
    def model_bytes(self) -> int:
        """Roughly what training one more client side by side takes: parameters, gradients, moments, activations."""
        batch = self.experiment.execution.micro_batch or self.experiment.local.batch_size
        numbers = batch * activations(self.dataset.image_shape, self.experiment.model.channels)
        # at the peak of a pass XLA's programs hold 1.5 (GPU) to 2.4 (CPU) times these numbers
        return 5 * self.params_bytes + int(2.5 * self.dtype.itemsize * numbers)

    @cached_property
    def stays_sparse(self) -> bool:
        """Whether models are expected to have so few weights that programs need no form for others, averaged ones too,
        even if no two clients keep the same weights. A closer look's own models are dense."""
        kept = (1 - self.experiment.sparsity.target) * participants(self.experiment)
        return kept <= DENSEST and not self.experiment.thorough

    @cached_property
    def steps(self) -> np.ndarray:
        """(S, K) local steps of every client in a round."""
        local = self.experiment.local
        samples = self.training_counts.sum(-1)
        return np.vectorize(batches.local_steps, otypes=[int])(samples, local.batch_size, local.epochs)

    @cached_property
    def keep(self) -> np.ndarray:
        """(S, K, T, L) weights to keep after each step; a client's own T decides, later entries are never used."""
        sizes = pruning.weight_sizes(self.shapes)
        distinct = {t: pruning.keep_counts(self.experiment.sparsity, t, sizes) for t in np.unique(self.steps)}
        longest = int(self.steps.max())
        padded = {t: np.pad(kept, ((0, longest - t), (0, 0)), "edge") for t, kept in distinct.items()}
        return np.stack([[padded[t] for t in own] for own in self.steps])

    @cached_property
    def discovery_images(self) -> list[np.ndarray]:
        """Of every circuit of the experiment: indices of the client's training images of its class."""
        labels, c = self.dataset.train_labels, self.circuits
        held = (self.clients[s][k] for s, k in zip(c.seed, c.client, strict=True))
        return [own[labels[own] == label] for own, label in zip(held, c.label, strict=True)]

    @cached_property
    def discovery_batches(self) -> list[int]:
        """Of every circuit of the experiment: images per discovery step."""
        size, samples = self.experiment.discovery.batch_size, self.counts.sum(-1)
        c = self.circuits
        return [
            batches.discovery_batch(len(images), samples[s, k], size)
            for images, s, k in zip(self.discovery_images, c.seed, c.client, strict=True)
        ]


@dataclass(frozen=True, eq=False)
class Setup:
    """All that stays the same from round to round: facts, layout, and arrays on the devices."""

    facts: Facts
    layout: Layout
    train_images: Images
    test: EvaluationSet
    probe: Images | None = None
    """The probe images, (S, P, ...), of an instrument that needs them."""
    some: EvaluationSet | None = None
    """The first test images of every class, on which this instrument's controls are judged."""

    @property
    def plan_shape(self) -> tuple[int, int]:
        """(T, B) that every client's training plan is padded to."""
        facts, layout = self.facts, self.layout
        widest = min(facts.experiment.local.batch_size, int(facts.training_counts.sum(-1).max()))
        return int(facts.steps.max()), layout.padded(widest, layout.batch_devices)


def activations(image_shape: tuple[int, ...], channels: tuple[int, ...]) -> int:
    """Numbers per image in all outputs of convolutions, and in the patches or tiles that they are computed from.

    Patches of the image are 9 numbers per position and channel; tiles of a layer are 16 per window of four positions.
    """
    height, width, inputs = image_shape
    total, copies = 0, 9
    for outputs in channels:
        total += height * width * (outputs + copies * inputs)
        height, width, inputs, copies = height // 2, width // 2, outputs, 4
    return total


def prepare(
    experiment: Experiment, dataset: Dataset | None = None, method: Method | None = None, split: OwnSplit | None = None
) -> Facts:
    """The experiment on its data; no device is touched. method, split: in place of those that the experiment names.

    Raises FedmiError naming the field for whatever does not go together.
    """
    method = aggregation.chosen(experiment.aggregation, experiment.local, method)
    dataset = dataset or datasets.load(experiment.data)
    experiment = own_split.settle(experiment, dataset.train_labels, split)
    _require_room(experiment, dataset)
    _require_classes(experiment, dataset)
    labels, classes = dataset.train_labels, dataset.num_classes
    clients = [_held(experiment, labels, classes, split, seed) for seed in experiment.seeds]
    counts = np.stack([partition.counts(held, labels, classes) for held in clients])
    facts = Facts(experiment, dataset, clients, counts, _circuits(experiment, counts), method)
    _ = facts.probe  # raises where a class has too few images
    _ = facts.seen  # raises where there is none
    _require_method(facts)
    _require_circuits(facts)
    return facts


def _held(
    experiment: Experiment, labels: np.ndarray, classes: int, split: OwnSplit | None, seed: int
) -> list[np.ndarray]:
    """[K] indices into the training images."""
    if split is None:
        held = partition.partition(labels, classes, experiment.split, seed)
    else:
        held = own_split.draw(labels, split, seed, experiment.split.clients)
    return partition.limit(held, experiment.data.images_per_client, seed)


def lay_out(facts: Facts) -> Layout:
    """How the experiment's work is laid out on the devices at hand."""
    experiment = facts.experiment
    models = len(experiment.seeds) * participants(experiment)
    judged = 4 * facts.most_circuits + 2 * models + len(experiment.seeds)  # on two models each, and the models
    return resolve(experiment.execution, experiment.evaluation, models, facts.model_bytes, judged)


def place(facts: Facts, chunk: int | None = None) -> Setup:
    """Put the images on the devices. To be called within `devices.session`, which sets the precision.

    chunk: what `client_chunk` "auto" means; None: what the memory that is free now allows.
    """
    layout, dataset, per_class = lay_out(facts), facts.dataset, facts.experiment.evaluation.images_per_class
    if chunk is not None and facts.experiment.execution.client_chunk == "auto":
        layout = replace(layout, chunk=chunk)

    def on_device(pixels: np.ndarray, labels: np.ndarray) -> Images:
        moments = (np.asarray(moment, facts.dtype) for moment in (dataset.mean, dataset.std))
        return lift.replicate(Images(pixels, labels, *moments), layout)  # type: ignore[arg-type]

    images, labels = on_device(dataset.test_images, dataset.test_labels), dataset.test_labels
    sized = partial(evaluation.make_evaluation_set, images, labels, dataset.num_classes, layout.forward_batch)
    train, drawn = on_device(dataset.train_images, dataset.train_labels), facts.probe
    setup = Setup(facts, layout, train, lift.replicate(sized(per_class), layout))
    if drawn is not None:
        setup = replace(setup, probe=on_device(dataset.train_images[drawn], dataset.train_labels[drawn]))
    if facts.experiment.decides:
        setup = replace(setup, some=lift.replicate(sized(min(per_class or SOME, SOME)), layout))
    return setup


SOME = 100
"""Test images of a class on which controls of the second instrument are judged: there are many of them."""


def _require_room(experiment: Experiment, dataset: Dataset) -> None:
    """Every convolution is followed by a pool, which needs two pixels and leaves one."""
    pools, (height, width, _) = len(experiment.model.channels), dataset.image_shape
    if min(height, width) < 2**pools:
        raise ConfigError(
            f"model.channels: {pools} convolutions, each with a 2 x 2 pool, need images of at least {2**pools} x "
            f"{2**pools} pixels; those of {dataset.name} have {height} x {width}, enough for "
            f"{int(min(height, width)).bit_length() - 1}"
        )


def _require_classes(experiment: Experiment, dataset: Dataset) -> None:
    for label in experiment.discovery.classes or ():
        if label >= dataset.num_classes:
            raise ConfigError(
                f"discovery.classes: {dataset.name} has classes 0 to {dataset.num_classes - 1}; got {label}"
            )
    if experiment.discovery.classes == ():
        raise ConfigError("discovery.classes: give at least one class, or none at all for each client's own")


def _require_method(facts: Facts) -> None:
    """Raise ConfigError where the method cannot work with the clients of some round, or tells what no result has."""
    for name in facts.method.tells:
        if name not in schema.VARIABLES:
            raise ConfigError(f"method {facts.method.name}: tells {name!r}, and a result has no such variable")
    for number in range(1, facts.experiment.rounds + 1):
        for counts, clients in zip(facts.counts, facts.round(number).clients, strict=True):
            if problem := facts.method.problem(counts[clients]):
                raise ConfigError(problem)


def _require_circuits(facts: Facts) -> None:
    """Raise ConfigError where a method that needs circuits would not get any in the whole run of a seed: without them
    it is silently another method, as circuit-mean is head-by-holders."""
    if not facts.method.needs_circuits:
        return
    classes, numbers = facts.circuits.classes, range(1, facts.experiment.rounds + 1)
    holds = np.any(facts.counts[..., classes], -1)
    there = np.concatenate([facts.round(number).clients for number in numbers], 1)
    for seed, found in zip(facts.experiment.seeds, np.take_along_axis(holds, there, 1), strict=True):
        if not found.any():
            raise ConfigError(
                f"discovery.classes: {facts.method.name} needs circuits, and no client that takes part with seed "
                f"{seed} holds any of {', '.join(map(str, classes))}; give classes that clients hold, or none at all "
                "for each client's own"
            )


def _circuits(experiment: Experiment, counts: np.ndarray) -> Circuits:
    wanted = experiment.discovery.classes
    if wanted is None:
        return Circuits(*np.nonzero(counts))
    s, k, i = np.nonzero(np.ones((*counts.shape[:2], len(wanted)), bool))
    return Circuits(s, k, np.sort(wanted)[i])


def memory(facts: Facts, layout: Layout) -> int:
    """Rough bytes a round needs on all devices together: images, models, what trains side by side, plans."""
    experiment, dataset = facts.experiment, facts.dataset
    images = dataset.train_images.nbytes + dataset.test_images.nbytes
    models = len(experiment.seeds) * participants(experiment)
    circuits = 2 * facts.most_circuits
    d = experiment.discovery
    searched = circuits * d.steps * (max(facts.discovery_batches) if d.as_published else d.batch_size)
    plans = 4 * (models * int(facts.steps.max()) * (experiment.local.batch_size + 1) + searched)
    if d.gates == "bernoulli":
        plans += circuits * d.steps * d.masks // 2 * sum(experiment.model.channels)
    local, server = (2 * facts.params_bytes * count for count in (models, len(experiment.seeds)))
    side_by_side = min(layout.chunk, max(models, circuits)) * facts.model_bytes
    return plans + layout.devices * (images + server + side_by_side) + layout.devices // layout.homes * local

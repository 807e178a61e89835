"""An experiment on its data: who holds what, who takes part when, and which circuits are looked for.

Axes: S seeds, K clients, of which P take part in a round, M = S * P models (seed-major), C circuits (seed-, then
client-, then class-major), Y classes, T steps, B images of a batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedmi_jax import keys
from fedmi_jax.circuits import evaluation
from fedmi_jax.circuits.evaluation import TestSet
from fedmi_jax.config import Experiment, participants
from fedmi_jax.data import batches, datasets, partition
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.devices import lift
from fedmi_jax.devices.layout import Layout, resolve
from fedmi_jax.errors import ConfigError
from fedmi_jax.network import model
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params
from fedmi_jax.training import pruning


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
        return resolve(settings, judged, models, self.model_bytes)

    @cached_property
    def model_bytes(self) -> int:
        """Roughly what training one more client side by side takes: parameters, gradients, moments, activations."""
        batch = self.experiment.execution.micro_batch or self.experiment.local.batch_size
        numbers = batch * activations(self.dataset.image_shape, self.experiment.model.channels)
        # at the peak of a pass XLA's programs hold 1.5 (GPU) to 2.4 (CPU) times these numbers
        return 5 * self.params_bytes + int(2.5 * self.dtype.itemsize * numbers)

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
        return lift.replicate(test, self.layout)

    def _on_device(self, pixels: np.ndarray, labels: np.ndarray) -> Images:
        moments = (np.asarray(m, self.dtype) for m in (self.dataset.mean, self.dataset.std))
        return lift.replicate(Images(pixels, labels, *moments), self.layout)  # type: ignore[arg-type]

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
        sizes = pruning.weight_sizes(jax.eval_shape(self.initial_params, 0))
        distinct = {t: pruning.keep_counts(self.experiment.sparsity, t, sizes) for t in np.unique(self.steps)}
        longest = self.plan_shape[0]
        padded = {t: np.pad(kept, ((0, longest - t), (0, 0)), "edge") for t, kept in distinct.items()}
        return np.stack([[padded[t] for t in own] for own in self.steps])

    def initial_params(self, seed: int) -> Params:
        key = jax.random.fold_in(jax.random.key(seed), keys.INIT)
        return _initialise(
            key, self.dataset.image_shape, self.experiment.model.channels, self.dataset.num_classes, self.dtype
        )

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


_initialise = jax.jit(model.init, static_argnums=(1, 2, 3, 4))


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


def prepare(experiment: Experiment, dataset: Dataset | None = None) -> Setup:
    """The experiment on its data. Raises FedmiError naming the field for whatever does not go together."""
    dataset = dataset or datasets.load(experiment.data)
    _require_room(experiment, dataset)
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


def _circuits(experiment: Experiment, counts: np.ndarray) -> Circuits:
    wanted = experiment.discovery.classes
    if wanted is None:
        return Circuits(*np.nonzero(counts))
    s, k, i = np.nonzero(np.ones((*counts.shape[:2], len(wanted)), bool))
    return Circuits(s, k, np.sort(wanted)[i])


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

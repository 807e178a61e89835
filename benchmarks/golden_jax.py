"""fedmi_jax's own functions as the golden replay asks for them (`benchmarks.golden.Backend`).

Axes: K clients, M models, C circuits, T steps, B images of a batch, O_l channels of convolution l.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedmi_jax.aggregation import Clients, State, fedavg
from fedmi_jax.circuits import evaluation
from fedmi_jax.circuits.evaluation import EvaluationSet
from fedmi_jax.config import Data, Discovery, Execution, Local, Sparsity
from fedmi_jax.data import batches, datasets
from fedmi_jax.data.batches import Plan
from fedmi_jax.devices.layout import Layout, resolve
from fedmi_jax.federation import homes, programs
from fedmi_jax.network.ablation import ZERO
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params
from fedmi_jax.training import pruning

METHOD = fedavg()


def backend(settings: Execution, test_index: np.ndarray) -> JaxBackend:
    """On MNIST, judged on these test images, in the precision of the session."""
    dataset = datasets.load(Data())
    moments = [jnp.asarray(m, settings.precision) for m in (dataset.mean, dataset.std)]
    train = Images(jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels), *moments)
    test = Images(jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels), *moments)
    chosen = evaluation.make_evaluation_set(test, dataset.test_labels, dataset.num_classes, 250, among=test_index)
    return JaxBackend(resolve(settings), train, chosen)


@dataclass(frozen=True, eq=False)
class JaxBackend:
    """Documented in `benchmarks.golden.Backend`."""

    layout: Layout
    images: Images
    test: EvaluationSet

    def train(self, start: Params, index: np.ndarray, local: Local, sparse: Sparsity) -> Params:
        clients, steps, width = index.shape
        width = self.layout.padded(width, self.layout.batch_devices)
        plan = batches.stack([plan_of(one, width) for one in index])
        sizes = pruning.weight_sizes(start)
        distinct = [pruning.keep_counts(sparse, int(own), sizes) for own in np.asarray(plan.steps)]
        keep = np.stack([np.pad(own, ((0, steps - len(own)), (0, 0)), "edge") for own in distinct])
        starts, which = jax.tree.map(lambda leaf: leaf[None], start), np.zeros(clients, int)
        counts = np.ones((clients, start["fc_bias"].shape[0]))
        return programs.train_models(
            starts,
            self.images,
            which,
            plan,
            keep,
            counts,
            layout=self.layout,
            local=local,
            sparse=sparse,
            method=METHOD,
        )[0]

    def average(self, models: Params) -> Mapping[str, Any]:
        equal = jnp.ones(len(models["fc_bias"]), int)
        start = {name: leaf[0] for name, leaf in models.items()}  # what they started from has no say in the mean
        clients = Clients(models, equal, equal[:, None], equal, jnp.arange(len(equal)))
        return METHOD.apply(State(), start, clients)[0]

    def discover(
        self, models: Params, which: np.ndarray, index: np.ndarray, settings: Discovery
    ) -> dict[str, np.ndarray]:
        width = self.layout.padded(index.shape[-1], 1)
        plan = batches.stack([plan_of(one, width) for one in index])
        found = programs.discover_circuits(
            models, self.images, which, plan, ZERO, layout=self.layout, settings=settings
        )
        return {layer: np.asarray(score) for layer, score in found.score.items()}

    def call_rate(self, models: Params, which: np.ndarray, gates: Any, target: np.ndarray) -> np.ndarray:
        judged, _ = self._judge(models, which, gates, target, alone=False)
        return np.asarray(judged.call_rate)[np.arange(len(target)), target]

    def class_accuracy(self, models: Params, which: np.ndarray, gates: Any, target: np.ndarray) -> np.ndarray:
        return np.asarray(self._judge(models, which, gates, target, alone=True)[1].overall)

    def accuracy(self, models: Params) -> np.ndarray:
        every = np.arange(len(models["fc_bias"]))
        _, judged = self._judge(models, every, homes.all_open(models), np.zeros_like(every), alone=False)
        return np.asarray(judged.overall)

    def _judge(self, models: Params, which: np.ndarray, gates: Any, target: np.ndarray, alone: bool) -> Any:
        rows = len(target)
        filled = partial(_filled, rows=rows + -rows % ROWS)
        as_numbers = {layer: jnp.asarray(filled(gate), models["fc_bias"].dtype) for layer, gate in gates.items()}
        masked = programs.Masked(jnp.asarray(filled(which)), as_numbers, ZERO, jnp.asarray(filled(target)))
        judged = programs.judge(models, self.test, masked, layout=self.layout, alone=alone)
        return jax.tree.map(lambda leaf: leaf[:rows], judged)


ROWS = 64
"""Masked models are judged so many at once, so that circuits and whole models share a program, whose compilation takes
longer than its work. Those that are filled in have no open channel, which is the least work."""


def _filled(values: Any, rows: int) -> np.ndarray:
    """With zeros, to so many rows."""
    values = np.asarray(values)
    return np.pad(values, [(0, rows - len(values)), *[(0, 0)] * (values.ndim - 1)])


def plan_of(index: np.ndarray, width: int) -> Plan:
    """A file's batches (T, B) as a plan of this width; -1, where a file has it, is padding."""
    rows = [row[row >= 0] for row in index]
    rows = [row for row in rows if len(row)]
    if not rows:
        return Plan(np.zeros((len(index), width), np.int32), np.zeros(len(index), np.int32), np.int32(0))
    return batches.from_batches(rows, width, len(index))

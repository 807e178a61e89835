"""The PyTorch reference as the golden replay asks for it (`benchmarks.golden.Backend`), in float64.

Axes: K clients, M models, C circuits, T steps, B images of a batch, O_l channels of convolution l.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.golden_jax import plan_of
from benchmarks.pytorch_reference import circuits, training
from benchmarks.pytorch_reference.circuits import TestImages
from benchmarks.pytorch_reference.federation import stack
from benchmarks.pytorch_reference.model import (
    Images,
    Params,
    Place,
    from_package,
    images,
    place,
    to_package,
    unstacked,
)
from fedmi_jax.config import Data, Discovery, Local, Sparsity
from fedmi_jax.data import datasets

Stacked = dict[str, np.ndarray]
"""Models in fedmi_jax's layout, with a leading axis."""


def backend(test_index: np.ndarray) -> TorchBackend:
    """On MNIST, judged on these test images."""
    data, where = datasets.load(Data()), place("float64")
    moments = data.mean, data.std
    train = images(data.train_images, data.train_labels, moments, where)
    test = circuits.make_test_images(
        data.test_images, data.test_labels, moments, data.num_classes, where, among=test_index
    )
    return TorchBackend(where, train, test)


@dataclass(frozen=True, eq=False)
class TorchBackend:
    """Documented in `benchmarks.golden.Backend`."""

    where: Place
    images: Images
    test: TestImages

    def train(self, start: Any, index: np.ndarray, local: Local, sparse: Sparsity) -> Stacked:
        own = from_package(start, self.where)
        plans = [plan_of(one, index.shape[-1]) for one in index]
        return stacked([training.train(own, self.images, plan, local, sparse)[0] for plan in plans])

    def average(self, models: Any) -> Stacked:
        return to_package(training.average(unstacked(models, self.where)))

    def discover(self, models: Any, which: np.ndarray, index: np.ndarray, settings: Discovery) -> Stacked:
        own = unstacked(models, self.where)
        plans = [plan_of(one, index.shape[-1]) for one in index]
        scores = [circuits.discover(own[m], self.images, plan, settings) for m, plan in zip(which, plans, strict=True)]
        return {layer: stack([score[layer] for score in scores]) for layer in scores[0]}

    def call_rate(self, models: Any, which: np.ndarray, gates: Any, target: np.ndarray) -> np.ndarray:
        judged = self._judge(models, which, gates, target, circuits.performance)
        return stack([found.call_rate[c] for found, c in zip(judged, target, strict=True)])

    def class_accuracy(self, models: Any, which: np.ndarray, gates: Any, target: np.ndarray) -> np.ndarray:
        return stack(self._judge(models, which, gates, target, circuits.class_accuracy))

    def accuracy(self, models: Any) -> np.ndarray:
        batch = self.where.forward_batch
        return stack([circuits.model_accuracy(model, self.test, batch)[0] for model in unstacked(models, self.where)])

    def _judge(self, models: Any, which: np.ndarray, gates: Any, target: np.ndarray, measure: Callable) -> list[Any]:
        own, batch = unstacked(models, self.where), self.where.forward_batch
        masks = [{layer: self.where.tensor(gate[i]) for layer, gate in gates.items()} for i in range(len(target))]
        return [
            measure(own[m], mask, int(c), self.test, batch) for m, mask, c in zip(which, masks, target, strict=True)
        ]


def stacked(models: list[Params]) -> Stacked:
    each = [to_package(model) for model in models]
    return {name: np.stack([model[name] for model in each]) for name in each[0]}

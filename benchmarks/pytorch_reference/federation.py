"""A round as in `fedmi_jax.federation.simulation`: train, average, discover on local and global models, measure.

Axes: K clients, C circuits, T steps, Y classes, O_l channels of convolution l.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.pytorch_reference import circuits, training
from benchmarks.pytorch_reference.circuits import TestImages
from benchmarks.pytorch_reference.model import Gates, Images, Params, Place, images
from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.circuits.evaluation import Performance
from fedmi_jax.data import batches
from fedmi_jax.federation import recording, simulation
from fedmi_jax.federation.cases import Cases
from fedmi_jax.federation.setup import Round, Setup


@dataclass(frozen=True)
class Reference:
    """A prepared experiment of one seed, its images on the device."""

    setup: Setup
    where: Place
    train_images: Images
    test: TestImages


def prepare(setup: Setup, where: Place) -> Reference:
    """The package's own preparation (who holds what, which circuits), with PyTorch's images."""
    if len(setup.facts.clients) != 1 or setup.facts.experiment.discovery.ablation != "zero":
        raise ValueError("the PyTorch reference runs one seed, with zero ablation")
    data = setup.facts.dataset
    moments = (data.mean, data.std)
    train_images = images(data.train_images, data.train_labels, moments, where)
    test = circuits.make_test_images(
        data.test_images, data.test_labels, moments, data.num_classes, where,
        setup.facts.experiment.evaluation.images_per_class,
    )  # fmt: skip
    return Reference(setup, where, train_images, test)


def train(reference: Reference, start: Params, round_: int) -> tuple[list[Params], list[Tensor]]:
    """Every client's model after its local training, and its losses (T,)."""
    setup = reference.setup
    experiment, local = setup.facts.experiment, setup.facts.experiment.local
    clients, seed = dict(enumerate(setup.facts.clients[0])), experiment.seeds[0]
    plans = batches.training_plan(clients, local.batch_size, local.epochs, seed, round_, setup.plan_shape)
    own = [
        training.train(start, reference.train_images, plan, local, experiment.sparsity)
        for plan in training.unstacked(plans)
    ]
    return [params for params, _ in own], [losses for _, losses in own]


def analyse(
    reference: Reference, local: list[Params], global_: Params, round_: int,
    progress: simulation.Progress = lambda round_, stage: None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The record of `simulation.one_round` but for the models' own: every circuit on local and on global models."""
    setup = reference.setup
    now, models = setup.facts.round(round_), [*local, global_]
    cases = setup.facts.cases(now)
    progress(round_, "discover")
    plans = simulation.discovery_plans(setup, cases, round_)
    scores = [
        circuits.discover(models[m], reference.train_images, plan, setup.facts.experiment.discovery)
        for m, plan in zip(cases.model, training.unstacked(plans), strict=True)
    ]
    synchronise(reference.where)  # so that the stage is told when it begins
    progress(round_, "evaluate")
    masks = [{layer: values > 0 for layer, values in score.items()} for score in scores]
    fields = [{layer: stack([one[layer] for one in some]) for layer in some[0]} for some in (scores, masks)]
    found = Circuit(*fields)
    return recording.of_circuits(cases, found) | measure(reference, models, cases, masks, now)


def measure(reference: Reference, models: list[Params], cases: Cases, masks: Sequence[Gates], round_: Round) -> Any:
    """`simulation.measure`: section 5's measures of every circuit and of every model."""
    test, batch = reference.test, reference.where.forward_batch
    removed = [{layer: ~gate for layer, gate in gates.items()} for gates in masks]
    own, other = ([models[m] for m in rows] for rows in (cases.model, cases.other))
    rows = list(zip(own, other, masks, removed, cases.label.tolist(), strict=True))
    return recording.of_measures(
        reference.setup.facts,
        round_,
        cases,
        Performance(*columns([circuits.performance(m, k, c, test, batch) for m, _, k, _, c in rows])),
        Performance(*columns([circuits.performance(o, k, c, test, batch) for _, o, k, _, c in rows])),
        stack([circuits.class_accuracy(m, r, c, test, batch) for m, _, _, r, c in rows]),
        columns([circuits.empty_mask(m, c) for m, _, _, _, c in rows]),
        columns([circuits.model_accuracy(m, test, batch) for m in models]),
    )


def columns(results: list[Any]) -> list[Any]:
    """The fields of many results, each stacked."""
    return [stack(list(field)) for field in zip(*results, strict=True)]


def stack(values: list[Tensor]) -> np.ndarray:
    """One transfer from the device for all of them."""
    return torch.stack(values).numpy(force=True)


def warm_up(reference: Reference, start: Params) -> Callable[[], None] | None:
    """For a first call: a little of every kind of work. None on a GPU, where set-up depends on every shape."""
    return None if reference.where.device.type == "cuda" else partial(_a_little, reference, start)


def _a_little(reference: Reference, start: Params) -> None:
    setup, images, experiment = reference.setup, reference.train_images, reference.setup.facts.experiment
    few = np.arange(experiment.local.batch_size, dtype=np.int32) % len(images.labels)
    plan = batches.from_batches([few, few])
    training.train(start, images, plan, experiment.local, experiment.sparsity)
    scores = circuits.discover(start, images, plan, experiment.discovery)
    label = int(setup.facts.circuits.label[0])
    circuits.performance(start, scores, label, reference.test, reference.where.forward_batch)


def synchronise(where: Place, result: Any = None) -> None:
    """Wait until the device has done what it was given, `result` included."""
    if where.device.type == "cuda":
        torch.cuda.synchronize(where.device)

"""What circuits and models are worth: their measures on the test images.

Axes: M models, n rows, m of the models, N test images, Y classes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedmi_jax.circuits import evaluation
from fedmi_jax.circuits import sameness as one_by_one
from fedmi_jax.circuits.evaluation import Accuracy, Asked, EvaluationSet, Performance
from fedmi_jax.circuits.question import Explained
from fedmi_jax.circuits.sameness import Sameness
from fedmi_jax.devices.layout import Layout
from fedmi_jax.federation.homes import Models, at_home, narrowing
from fedmi_jax.federation.programs.rows import Masked, of_seed, over_rows, stacked, whole_models
from fedmi_jax.network.ablation import ZERO, Ablation
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params, all_open
from fedmi_jax.network.readout import refit
from fedmi_jax.results.schema import REFITS


def judge(
    models: Models, test: EvaluationSet, masked: Masked, alone: np.ndarray | bool, *, layout: Layout
) -> tuple[Performance, Accuracy]:
    """`evaluation.performance` of every row, in one call; numpy arrays. alone: of all rows, or bool (n,)."""

    def run(_: Any, rows: tuple[Masked, np.ndarray]) -> Any:
        return _judged(models, test, *rows, layout=layout)

    rows = (masked, np.broadcast_to(alone, len(masked.label)))
    return evaluation.divided(at_home(run, models, masked.model, rows, layout))


def judge_both(
    models: Models, test: EvaluationSet, masked: Masked, by_class: Masked, *, layout: Layout
) -> tuple[tuple[Performance, Accuracy], np.ndarray]:
    """n rows on all test images, and the accuracy (m,) of m rows on the images of their class alone.

    One after the other all are worked on in one call, which is then compiled but once. Side by side they are not: rows
    with few images would take as long there as those with many.
    """
    n, run = len(masked.label), partial(judge, models, test, layout=layout)
    if not layout.one_by_one:
        return run(masked, alone=False), run(by_class, alone=True)[1].overall
    found = run(stacked([masked, by_class]), alone=np.arange(n + len(by_class.label)) >= n)
    return jax.tree.map(lambda leaf: leaf[:n], found), found[1].overall[n:]


@partial(jax.jit, static_argnames=("layout",))
def _judged(models: Models, test: EvaluationSet, masked: Masked, alone: Array, *, layout: Layout) -> Any:
    one = partial(evaluation.performance, narrowing=narrowing(models, layout), beside=layout.beside)
    return over_rows(one, layout, models, masked.model, (masked.gates, masked.ablation, masked.label, alone), (test,))


def judge_models(models: Params, test: EvaluationSet, *, layout: Layout) -> Accuracy:
    """M whole models on the test set: (M,), (M, Y)."""
    return judge(models, test, whole_models(models, ZERO), alone=False, layout=layout)[1]


def judge_decisions(
    models: Models, test: EvaluationSet, masked: Masked, asked: Asked, whole: Any, *, layout: Layout, block: int = 0
) -> tuple[Performance, Accuracy, Explained]:
    """`evaluation.decisions` of every row, in one call or in calls of `block` rows; numpy arrays.

    whole (M, N, Y): the logits of all models on these images.
    """

    def run(_: Any, rows: tuple[Masked, Asked]) -> Any:
        return _judged_decisions(models, test, *rows, whole, layout=layout)

    return evaluation.divided(at_home(run, models, masked.model, (masked, asked), layout, block))


@partial(jax.jit, static_argnames=("layout",))
def _judged_decisions(
    models: Models, test: EvaluationSet, masked: Masked, asked: Asked, whole: Array, *, layout: Layout
) -> Any:  # fmt: skip
    one = partial(evaluation.decisions, narrowing=narrowing(models, layout))
    rows = (masked.gates, masked.ablation, masked.label, asked)
    return over_rows(one, layout, models, masked.model, rows, (test, whole))


@partial(jax.jit, static_argnames=("layout",))
def sameness(models: Models, test: EvaluationSet, masked: Masked, others: Array, *, layout: Layout) -> Sameness:
    """`sameness.sameness` of every row, in one call: (n, O_l) a layer. others bool (n, Y)."""
    rows = (masked.gates, masked.ablation, masked.label, others)
    return over_rows(one_by_one.sameness, layout, models, masked.model, rows, (test,))


@partial(jax.jit, static_argnames=("layout",))
def empty_masks(
    models: Models, which: Array, ablation: Ablation, label: Array, *, layout: Layout
) -> tuple[Array, Array]:
    """`evaluation.empty_mask` of n rows: (n,), (n,)."""
    together = replace(layout, chunk=max(layout.chunk, TOGETHER))
    return over_rows(evaluation.empty_mask, together, models, which, (ablation, label), ())


TOGETHER = 500
"""Rows at once, of work that is next to nothing."""


@partial(jax.jit, static_argnames=("layout",))
def whole_logits(models: Models, rows: Array, test: EvaluationSet, *, layout: Layout) -> Array:
    """Logits of models `rows` (m,) on the test images, padding included: (m, N, Y)."""

    leave_out = narrowing(models, layout)

    def one(params: Params, test: EvaluationSet) -> Array:
        return evaluation.masked_logits(params, all_open(params), ZERO, test.images, test.indices, leave_out)

    return over_rows(one, layout, models, rows, (), (test,))


@partial(jax.jit, static_argnames=("layout",))
def readouts(
    models: Models, rows: Array, images: Images, seeds: Array, classes: Array, places: Array, test: EvaluationSet, *,
    layout: Layout,
) -> Array:  # fmt: skip
    """Mean accuracy (m, R) of models `rows` (m,) over their classes bool (m, Y), among which alone they choose, with
    their read-out refitted for these classes in every way of `REFITS`.

    A refit (`network.readout`) sees the probe images at `places` of the model's seed, seeds (m,), that are of these
    classes.
    """

    def one(params: Params, seed: Array, classes: Array, images: Images, places: Array, test: EvaluationSet) -> Array:
        drawn, gates = of_seed(images, seed), all_open(params)
        labels = jnp.where(classes[drawn.labels[places]], drawn.labels[places], -1)
        shown = drawn.normalised(places)
        each = [params if what == "none" else refit(params, shown, labels, what, classes) for what in REFITS]  # type: ignore[arg-type]

        def judge(params: Params) -> Array:
            logits = evaluation.masked_logits(params, gates, ZERO, test.images, test.indices, narrowing(models, layout))
            return evaluation.accuracy_among(logits, classes, test)

        return jax.lax.map(judge, jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))

    return over_rows(one, layout, models, rows, (seeds, classes), (images, places, test))

"""The searches for circuits, and what each needs to know of the models before it begins.

Axes: S seeds, M models, n circuits or cases, F pairs of a model and a client's data, T steps, B images of a batch,
G batches, P probe images of a seed, Y classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax import Array

from fedmi_jax.circuits import deciding, discovery, evaluation, question
from fedmi_jax.circuits.choice import candidates
from fedmi_jax.circuits.deciding import Found, Probed, Task
from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.circuits.evaluation import EvaluationSet
from fedmi_jax.circuits.objective import class_task, objective_of
from fedmi_jax.circuits.survey import survey
from fedmi_jax.config import Discovery
from fedmi_jax.data.batches import Plan
from fedmi_jax.devices.layout import Layout
from fedmi_jax.federation.homes import Models, narrowing
from fedmi_jax.federation.programs.rows import of_seed, over_rows
from fedmi_jax.network.ablation import Ablation, Mean, MeanMap
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params


@partial(jax.jit, static_argnames=("layout", "settings"))
def discover_circuits(
    models: Models, images: Images, which: Array, plan: Plan, ablation: Ablation, *, layout: Layout, settings: Discovery
) -> Circuit:
    """`discovery.discover` of n circuits in one call: scores and masks (n, O_l) a layer.

    Args: models with leading axis M; which (n,), each circuit's model; plan (n, T, B); ablation with leading axis n.
    """
    chex.assert_tree_shape_prefix((plan, ablation), which.shape)

    def one(params: Params, plan: Plan, ablation: Ablation, images: Images) -> Circuit:
        return discovery.discover(
            params, images, plan, ablation,
            objective=objective_of(settings, class_task(images)), micro_batch=layout.piece(plan.indices.shape[-1]),
            narrowing=narrowing(models, layout), beside=layout.beside,
        )  # fmt: skip

    return over_rows(one, layout, models, which, (plan, ablation), (images,))


@partial(jax.jit, static_argnames=("layout",))
def mean_outputs(models: Models, images: Images, which: Array, index: Array, valid: Array, *, layout: Layout) -> Mean:
    """`evaluation.mean_outputs` of F pairs of a model and a client's data: which (F,), index and valid (F, G, B)."""

    def one(params: Params, index: Array, valid: Array, images: Images) -> Mean:
        return evaluation.mean_outputs(params, images, index, valid)

    return over_rows(one, layout, models, which, (index, valid), (images,))


@partial(jax.jit, static_argnames=("layout",))
def survey_models(
    models: Models, rows: Array, images: Images, seeds: Array, index: Array, valid: Array, *, layout: Layout
) -> tuple[Array, MeanMap]:
    """`survey.survey` of models `rows` (m,), each on the probe images of its seed (m,): logits (m, G * B, Y) and means.

    Args: images (S, P, ...) but for the moments; index (G, B) places among P; valid bool (G, B).
    """

    def one(params: Params, seed: Array, images: Images, index: Array, valid: Array) -> tuple[Array, MeanMap]:
        return survey(params, of_seed(images, seed), index, valid, narrowing=narrowing(models, layout))

    return over_rows(one, layout, models, rows, (seeds,), (images, index, valid))


@partial(jax.jit, static_argnames=("layout",))
def to_explain(
    models: Models, which: Array, whole: Array, test: EvaluationSet, label: Array, others: Array, *, layout: Layout
) -> tuple[dict[str, Array], Array]:
    """Of n cases: the channels that could be part of a circuit, (n, O_l) a layer, and what there is to explain on the
    test images, (n,). Args: whole (n, N, Y), the whole models' logits; label (n,); others bool (n, Y)."""

    def one(params: Params, whole: Array, label: Array, others: Array, test: EvaluationSet) -> tuple:
        labels = jnp.where(test.valid, test.images.labels[test.indices], -1).ravel()
        return candidates(params), question.spread(whole, labels, label, others)

    return over_rows(one, layout, models, which, (whole, label, others), (test,))


@partial(jax.jit, static_argnames=("layout", "settings", "searched"))
def decide_circuits(
    models: Models, which: Array, images: Images, seeds: Array, probed: Probed, tasks: Task, *,
    layout: Layout, settings: Discovery, searched: int,
) -> Found:  # fmt: skip
    """`deciding.decide` of n circuits in one call.

    Args: which (n,), each circuit's model; images (S, P, ...), of which `searched` are to search on; seeds (n,);
    probed (n, ...), what each circuit's model makes of the images; tasks (n, ...).
    """
    find = partial(
        deciding.decide, settings=settings, searched=searched, micro_batch=layout.piece(tasks.plan.indices.shape[-1]),
        narrowing=narrowing(models, layout),
    )  # fmt: skip

    def one(params: Params, seed: Array, probed: Probed, task: Task, images: Images) -> Found:
        return find(params, of_seed(images, seed), probed, task)

    return over_rows(one, layout, models, which, (seeds, probed, tasks), (images,))


@partial(jax.jit, static_argnames=("layout", "settings", "searched"))
def attribute(
    models: Models, which: Array, images: Images, seeds: Array, probed: Probed, tasks: Task, *,
    layout: Layout, settings: Discovery, searched: int,
) -> Mapping[str, Array]:  # fmt: skip
    """`deciding.attribution` of n circuits in one call, (n, O_l) a layer. Args: as of `decide_circuits`."""
    find = partial(
        deciding.attribution, settings=settings, searched=searched,
        micro_batch=layout.piece(tasks.plan.indices.shape[-1]), narrowing=narrowing(models, layout),
    )  # fmt: skip

    def one(params: Params, seed: Array, probed: Probed, task: Task, images: Images) -> Mapping[str, Array]:
        return find(params, of_seed(images, seed), probed, task)

    return over_rows(one, layout, models, which, (seeds, probed, tasks), (images,))

"""The second instrument: a circuit of one model that decides between a class and others, with the smallest size that
explains enough of what the whole model, or the truth, says.

The steps are files of their own: what the model makes of the probe images (`survey`), what there is to explain
(`question`), the search (`discovery`), the size (`choice`).

Axes: P probe images, S of them to search on, G groups of B to choose a size on, Y classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fedmi_jax.circuits import question as q
from fedmi_jax.circuits.choice import Choice, Judged, choose
from fedmi_jax.circuits.discovery import search
from fedmi_jax.circuits.narrowing import Narrowing
from fedmi_jax.circuits.objective import Task as Loss
from fedmi_jax.circuits.objective import class_task, decision_task, fair_gates, objective_of
from fedmi_jax.config import Discovery
from fedmi_jax.data.batches import Plan
from fedmi_jax.network.ablation import ZERO, MeanMap, Zero
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params


class Probed(NamedTuple):
    """What a whole model makes of the probe images."""

    logits: Array
    """(P, Y)."""
    means: MeanMap
    """Over the S images to search on, as many of every class."""


class Task(NamedTuple):
    """Which circuit is looked for, and with which draws."""

    label: Any
    """(): the class."""
    others: Any
    """bool (Y,): the classes it is told from."""
    plan: Plan
    """(T, B), places among the first S probe images."""
    draws: Any
    """uint8 (T, M / 2, sum of O_l)."""
    chosen: Any
    """(G, B): places among the probe images, on which the size is chosen."""
    valid: Any
    """bool (G, B): False for padding."""
    truth: Any
    """() bool: asked is what the image's class is, in place of what the whole model says."""


class Found(NamedTuple):
    """A circuit, and what there was to explain."""

    choice: Choice
    spread: Array
    """(), in nats, over the images to search on."""
    temperature: Array
    """()."""


def compiled_for(settings: Discovery) -> Discovery:
    """The settings that are static in a program. Whether the truth is asked for is a value of the task (`Task.truth`),
    so that the two objectives share one program: to compile it takes longer than many a search."""
    return replace(settings, objective="decision") if settings.objective == "contrast" else settings


def decide(
    params: Params, images: Images, probed: Probed, task: Task, *, settings: Discovery, searched: int,
    micro_batch: int, narrowing: Narrowing,
) -> Found:  # fmt: skip
    """The circuit that explains what there is to explain on the P probe images, S = `searched` of them to search on.

    settings: as `compiled_for` gives them. Where the spread is under `question.LEAST_SPREAD` there is nothing to find,
    and what is returned means nothing.
    """
    asked, ablation, loss = _to_search(images, probed, task, settings, searched)
    draws = None if settings.gates == "step" else jnp.asarray(task.draws)
    found = search(
        params, images, task.plan, ablation, draws,
        objective=objective_of(settings, loss), micro_batch=micro_batch, narrowing=narrowing,
    )  # fmt: skip
    rows = jnp.where(task.valid, images.labels[task.chosen], -1).ravel()
    judged = _asked(probed.logits[task.chosen.ravel()], rows, task, asked.temperature)
    choice = choose(
        params, found, ablation, Judged(images, task.chosen, judged), _target(settings, probed, judged, task),
        by_size=settings.objective != "class" and settings.gates == "bernoulli", narrowing=narrowing,
    )  # fmt: skip
    return Found(choice, asked.spread, asked.temperature)


def attribution(
    params: Params, images: Images, probed: Probed, task: Task, *, settings: Discovery, searched: int,
    micro_batch: int, narrowing: Narrowing,
) -> Mapping[str, Array]:  # fmt: skip
    """What every channel is worth without a search, {"conv1": (O_1,), ...}: what opening it saves of the search's loss
    while all others are open with probability 1/2, mean over the samples of the task's steps. Args: as of `decide`."""
    _, ablation, loss = _to_search(images, probed, task, settings, searched)
    return search(
        params, images, task.plan, ablation, jnp.asarray(task.draws),
        objective=fair_gates(loss), micro_batch=micro_batch, narrowing=narrowing, late=0,
    ).value  # fmt: skip


def status(spread: float, competence: float, compact: bool) -> str:
    """Of a circuit: "undefined" where the model decides nothing about the class, which is not an empty circuit.

    spread in nats; competence: balanced accuracy of the whole model on the class.
    """
    if spread < q.LEAST_SPREAD or competence < q.LEAST_COMPETENCE:
        return "undefined"
    return "found" if compact else "not compact"


def _to_search(
    images: Images, probed: Probed, task: Task, settings: Discovery, searched: int
) -> tuple[q.Question, MeanMap | Zero, Loss]:  # fmt: skip
    """What is asked on the images to search on, what replaces a closed channel, and the loss."""
    first = jnp.arange(searched)
    asked = _asked(probed.logits[first], images.labels[first], task, None)
    loss = class_task(images) if settings.objective == "class" else decision_task(asked)
    return asked, _replaced(probed.means, settings), loss


def _asked(logits: Array, labels: Array, task: Task, temperature: Array | None) -> q.Question:
    """The question on these images, (N, Y) and (N,); labels below 0 are padding."""
    weights = q.balanced(labels, task.label, task.others, logits.dtype)
    if temperature is None:
        temperature = q.temperature(logits, task.label, weights)
    return q.ask(logits, task.label, temperature, weights, labels == task.label, task.truth)


def _target(settings: Discovery, probed: Probed, judged: q.Question, task: Task) -> Array:
    """What a circuit must explain. The truth is explained by the whole model itself in part only."""
    whole = q.explained(probed.logits[task.chosen.ravel()], judged)
    return settings.target * jnp.where(task.truth, whole, 1)


def _replaced(means: MeanMap, settings: Discovery) -> MeanMap | Zero:
    """What a closed channel is replaced by. Zeros of sampled gates leave closed ones a gradient; under step gates they
    are the paper's, where closed is closed for good."""
    if settings.ablation == "mean-map":
        return means
    return ZERO if settings.gates == "step" else jax.tree.map(jnp.zeros_like, means)

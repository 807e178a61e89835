"""What a search for a circuit minimises, how scores become gates and move, and which channels are open in the end.

An objective is a task, which says what a circuit is for, and a kind of gates; this is the only place that decides what
"open" means. All functions are of ONE circuit.

Axes: B images of a batch, Y classes, P probe images, M samples of all gates, O_l channels of convolution l, T steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedmi_jax.circuits.question import LEAST_SPREAD, Question, cross_entropy, margin
from fedmi_jax.config import Discovery
from fedmi_jax.network.ablation import Gates
from fedmi_jax.network.gates import bernoulli_gate, straight_through_gate
from fedmi_jax.network.images import Images

Scores = Mapping[str, Array]
"""{"conv1": (O_1,), ...}."""
Task = Callable[[Array, Array, Array], Array]
"""(logits (B, Y), the images' indices (B,), weights (B,)) -> the loss over these images."""


class Objective(NamedTuple):
    """A search's pure functions."""

    start: float
    """Every channel's score before the first step."""
    gates: Callable[[Scores, Mapping[str, Array]], Gates]
    """(scores, this step's draws uint8 (M / 2, O_l), or nothing) -> gates of the forward pass, (O_l,) or (M, O_l);
    their gradient moves the scores."""
    task: Task
    penalty: Callable[[Scores, Array], Array]
    """(scores, share of the search that is done) -> the price of open channels."""
    optimiser: optax.GradientTransformation
    bounded: Callable[[Scores], dict[str, Array]]
    """The scores kept within what the search allows."""
    mask: Callable[[Scores], dict[str, Array]]
    """The circuit of these scores, before any choice of its size: bool (O_l,) a layer. A score of minus infinity is
    never open."""
    closes_for_good: bool
    """Whether a channel that closed can be left out of the rest of the search: it never reopens."""


def class_task(images: Images) -> Task:
    """The paper's (section 2.2, phase B): cross-entropy on images, which are all of the class."""

    def loss(logits: Array, index: Array, weights: Array) -> Array:
        return jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(logits, images.labels[index]))

    return loss


def decision_task(question: Question) -> Task:
    """How far the circuit's answers are from those asked for, in units of the best constant answer's distance."""

    def loss(logits: Array, index: Array, weights: Array) -> Array:
        apart = cross_entropy(margin(logits, question.label, question.temperature), question.answers[index])
        return jnp.sum(weights * apart) / jnp.maximum(question.spread, LEAST_SPREAD)

    return loss


def objective_of(settings: Discovery, task: Task) -> Objective:
    """The task with the gates that the settings name."""
    return (step_gates if settings.gates == "step" else bernoulli_gates)(settings, task)


def step_gates(settings: Discovery, task: Task) -> Objective:
    """The paper's gates: open where the score is positive, with Adam on the scores and l0 * sum of sigmoid(score).

    Under zero ablation a closed channel gets no gradient but the penalty's, which pushes its score further down.
    """
    return Objective(
        start=settings.initial_score,
        gates=lambda scores, _: {layer: straight_through_gate(score) for layer, score in scores.items()},
        task=task,
        penalty=lambda scores, _: settings.l0 * _expected(scores),
        optimiser=optax.adam(settings.learning_rate),
        bounded=dict,
        mask=_positive,
        closes_for_good=settings.ablation != "mean-map",
    )


LOWEST, HIGHEST = -4.0, 6.0
"""Bounds of a score, so that a closed channel is still drawn now and then."""
RAMP = 0.4
"""Share of the search over which the penalty rises to its full weight (Cao et al. 2021)."""
DECAY = 0.5
"""Share of the search, at its end, over which the learning rate falls to 0 (Gao et al. 2025)."""


def bernoulli_gates(settings: Discovery, task: Task) -> Objective:
    """Gates that are open with probability sigmoid(score), M samples of them a step, each for its share of the images.

    The second half of the samples takes the draws 255 - u: every gate is then open in nearly its expected number. Since
    a closed gate has a gradient, its channel may reopen; and the loss is away from its minimum from the first step on,
    where gates that are all open would leave some losses without any gradient.
    """

    late = int(settings.steps * (1 - DECAY))
    rate = optax.linear_schedule(settings.learning_rate, 0.0, max(settings.steps - late, 1), late)
    return Objective(
        start=settings.initial_score,
        gates=_sampled,
        task=task,
        penalty=lambda scores, done: settings.l0 * jnp.minimum(1, done / RAMP) * _expected(scores),
        optimiser=optax.adam(rate),
        bounded=lambda scores: {layer: jnp.clip(score, LOWEST, HIGHEST) for layer, score in scores.items()},
        mask=_positive,
        closes_for_good=False,
    )


def fair_gates(task: Task) -> Objective:
    """Gates that are open with probability 1/2 and stay so. What opening a channel saves of the task's loss, mean over
    many samples, is then its Banzhaf value, as far as the loss is affine in its gate."""
    return Objective(
        start=0.0,
        gates=_sampled,
        task=task,
        penalty=lambda scores, _: 0 * _expected(scores),
        optimiser=optax.set_to_zero(),
        bounded=dict,
        mask=_positive,
        closes_for_good=False,
    )


def _sampled(scores: Scores, draws: Mapping[str, Array]) -> Gates:
    paired = {layer: jnp.concatenate([u, 255 - u]) for layer, u in draws.items()}
    return {layer: bernoulli_gate(score, paired[layer]) for layer, score in scores.items()}


def _expected(scores: Scores) -> Array:
    """Expected number of open channels, were every one open with probability sigmoid(score)."""
    return jnp.sum(jnp.concatenate([jax.nn.sigmoid(score) for score in scores.values()]))


def _positive(scores: Scores) -> dict[str, Array]:
    return {layer: score > 0 for layer, score in scores.items()}

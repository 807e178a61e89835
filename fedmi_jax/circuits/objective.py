"""What a search for a circuit minimises, how scores become gates, and which channels are open in the end.

An objective is one row of functions, and the only place that decides what "open" means. All functions are of ONE
circuit.

Axes: B images of a batch, Y classes, O_l channels of convolution l.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedmi_jax.config import Discovery
from fedmi_jax.network.ablation import Gates
from fedmi_jax.network.gates import straight_through_gate

Scores = Mapping[str, Array]
"""{"conv1": (O_1,), ...}."""


class Objective(NamedTuple):
    """A search's pure functions."""

    start: float
    """Every channel's score before the first step."""
    gates: Callable[[Scores], Gates]
    """Gates that the forward pass uses; their gradient moves the scores."""
    loss: Callable[[Array, Array, Array], Array]
    """(logits (B, Y), labels (B,), weights (B,)) -> the task's loss over these images."""
    penalty: Callable[[Scores], Array]
    """The price of open channels."""
    mask: Callable[[Scores], dict[str, Array]]
    """The circuit of these scores: bool (O_l,) a layer. A score of minus infinity is never open."""
    closes_for_good: bool
    """Whether a channel that closed can be left out of the rest of the search: it never reopens."""


def class_objective(settings: Discovery) -> Objective:
    """The paper's (section 2.2, phase B): cross-entropy on images of the class, plus l0 * sum of sigmoid(score).

    A closed channel gets no gradient but the penalty's, which pushes its score further down.
    """

    def penalty(scores: Scores) -> Array:
        return settings.l0 * jnp.sum(jnp.concatenate([jax.nn.sigmoid(score) for score in scores.values()]))

    return Objective(settings.initial_score, _step_gates, _cross_entropy, penalty, _positive, closes_for_good=True)


def _step_gates(scores: Scores) -> dict[str, Array]:
    return {layer: straight_through_gate(score) for layer, score in scores.items()}


def _positive(scores: Scores) -> dict[str, Array]:
    return {layer: score > 0 for layer, score in scores.items()}


def _cross_entropy(logits: Array, labels: Array, weights: Array) -> Array:
    return jnp.sum(weights * optax.softmax_cross_entropy_with_integer_labels(logits, labels))

"""What a circuit has to explain: of some images, whether each of them is of the class.

A model's answer is binary here, the class or another one, as a probability. A circuit explains as much as its answers
come nearer to those that are asked for than the best constant answer does. A circuit whose answer does not depend on
the image therefore explains nothing, whatever its answer is.

Axes: N images of a set, Y classes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

LEAST_SPREAD = 0.02
"""Nats: a model whose answers are nearer than this to one constant answer decides nothing about the class."""
LEAST_COMPETENCE = 0.75
"""Balanced accuracy on the class under which there is no circuit of a model to look for."""


class Question(NamedTuple):
    """What is asked about a class on one set of images, and what there is to explain."""

    label: Array
    """(): the class."""
    temperature: Array
    """(): logits are divided by it in all losses, see `temperature`."""
    weights: Array
    """(N,): sum 1, half of it on the class and half on the others; or all 0 (`balanced`)."""
    answers: Array
    """(N,): the probability of the class that is asked for."""
    entropy: Array
    """(N,): of the answers, in nats."""
    spread: Array
    """(): the distance of the best constant answer, in nats."""


class Explained(NamedTuple):
    """How well the answers of a circuit are those that are asked for; each ()."""

    explained: Array
    """1 - distance / spread: 1 for the very answers, at most 0 for a constant answer (a deviance R^2)."""
    explained_plain: Array
    """The same of the probabilities as they are, at temperature 1."""
    auc: Array
    """Of the margin, class against the others: threshold-free, so that it tells evidence from a shift of the read-out;
    0.5 knows nothing."""
    accuracy: Array
    """Balanced accuracy on the class against the classes it is told from."""
    bias_accuracy: Array
    """The same where the margin, plus a bias that is refitted, is above 0 (`bias_accuracy`)."""
    agreement: Array
    """Share (weighted) of images on which both call the class, or both do not."""
    constant_agreement: Array
    """The same of the best constant answer."""


def margin(logits: Array, label: Array, temperature: Array) -> Array:
    """Log-odds of the class against all others, (...,), of logits (..., Y)."""
    scaled, own = logits / temperature, jnp.arange(logits.shape[-1]) == label
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, scaled), -1)
    return jnp.sum(jnp.where(own, scaled, 0), -1) - others


def cross_entropy(margin: Array, answers: Array) -> Array:
    """Of binary answers with these log-odds, where the asked-for probabilities are `answers`."""
    return jax.nn.softplus(margin) - answers * margin


def entropy(p: Array) -> Array:
    """Of a binary answer with this probability, in nats."""
    return -(jax.scipy.special.xlogy(p, p) + jax.scipy.special.xlog1py(1 - p, -p))


def balanced(labels: Array, label: Array, others: Array, dtype: jnp.dtype) -> Array:
    """Weights (N,) of images: half on those of the class, half on the other classes (Y,) bool, each of these alike.

    An image of any other class has weight 0. Labels below 0 are padding. Where the class has no image, or none of the
    others has one, all weights are 0: nothing is asked, so that the spread is 0 too.
    """
    classes = jnp.arange(others.shape[0])
    count = jnp.sum(labels[:, None] == classes, 0)
    own = classes == label
    there = others & (count > 0) & ~own
    share = jnp.where(own, 0.5, jnp.where(there, 0.5 / jnp.maximum(jnp.sum(there), 1), 0))
    weights = (share / jnp.maximum(count, 1))[jnp.maximum(labels, 0)]
    asked = jnp.any(there) & jnp.any(labels == label)
    return jnp.where((labels >= 0) & asked, weights, 0).astype(dtype)


def temperature(logits: Array, label: Array, weights: Array) -> Array:
    """(): half the standard deviation of the class's lead over the best other class, and at least 1.

    A model that is ten times as confident is so asked the same question. logits (N, Y).
    """
    own = jnp.arange(logits.shape[-1]) == label
    lead = jnp.sum(jnp.where(own, logits, 0), -1) - jnp.max(jnp.where(own, -jnp.inf, logits), -1)
    mean = jnp.sum(weights * lead)
    return jnp.maximum(1, jnp.sqrt(jnp.sum(weights * (lead - mean) ** 2)) / 2)


def ask(
    logits: Array, label: Array, temperature: Array, weights: Array, truth: Array | None = None,
    ask_truth: Array | bool = True,
) -> Question:  # fmt: skip
    """The question that a model's own logits (N, Y) answer; with `truth` (N,) bool and `ask_truth` (), what is the
    class in fact."""
    answers = jax.nn.sigmoid(margin(logits, label, temperature))
    if truth is not None:
        answers = jnp.where(ask_truth, truth.astype(logits.dtype), answers)
    each, constant = entropy(answers), entropy(jnp.sum(weights * answers))
    return Question(label, temperature, weights, answers, each, constant - jnp.sum(weights * each))


def spread(whole: Array, labels: Array, label: Array, others: Array) -> Array:
    """(), nats: what there is to explain of a model's logits (N, Y). Args: as of `compare_with`."""
    weights = balanced(labels, label, others, whole.dtype)
    return ask(whole, label, temperature(whole, label, weights), weights).spread


def explained(logits: Array, question: Question) -> Array:
    """How much of the answers asked for these logits (N, Y) explain, ()."""
    apart = cross_entropy(margin(logits, question.label, question.temperature), question.answers) - question.entropy
    return 1 - jnp.sum(question.weights * apart) / jnp.maximum(question.spread, 1e-6)  # no NaN where nothing is decided


def compare_with(logits: Array, whole: Array, labels: Array, label: Array, others: Array) -> Explained:
    """How well logits (N, Y) are the answers of a whole model, whose logits are `whole` (N, Y).

    labels (N,), below 0 for padding; label (): the class; others bool (Y,): the classes it is told from.
    """
    weights, truth = balanced(labels, label, others, logits.dtype), labels == label
    asked = ask(whole, label, temperature(whole, label, weights), weights)
    plain = ask(whole, label, jnp.ones_like(asked.temperature), weights)
    called, wanted = jnp.argmax(logits, -1) == label, jnp.argmax(whole, -1) == label
    constant = jnp.maximum(jnp.sum(weights * wanted), jnp.sum(weights * ~wanted))
    score = margin(logits, label, asked.temperature)
    return Explained(
        explained(logits, asked), explained(logits, plain), auc(score, truth, weights),
        jnp.sum(weights * (called == truth)),
        bias_accuracy(score, truth, weights, every_second(labels, others.shape[0])),
        jnp.sum(weights * (called == wanted)), constant,
    )  # fmt: skip


def auc(score: Array, truth: Array, weights: Array) -> Array:
    """(): the probability that an image of the class has a higher score than another one, ties counted half, each
    drawn by its weight (the area under the ROC curve). All of (N,)."""
    order = jnp.argsort(score)
    ranked, negative = score[order], jnp.where(truth, 0, weights)[order]
    below = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(negative)])
    lower, upper = (below[jnp.searchsorted(ranked, score, side=side)] for side in ("left", "right"))
    positive = jnp.where(truth, weights, 0)
    pairs = jnp.sum(positive) * below[-1]
    return jnp.where(pairs > 0, jnp.sum(positive * (lower + upper)) / 2 / jnp.where(pairs > 0, pairs, 1), 0.5)


def every_second(labels: Array, classes: int) -> Array:
    """bool (N,): every second image of each class, of labels (N,)."""
    so_far = jnp.cumsum(labels[:, None] == jnp.arange(classes), 0)
    return jnp.take_along_axis(so_far, jnp.maximum(labels, 0)[:, None], 1)[:, 0] % 2 == 0


def bias_accuracy(score: Array, truth: Array, weights: Array, half: Array) -> Array:
    """(): balanced accuracy of calling the class where score + bias > 0. The bias is fitted on `half` of the images, by
    cross-entropy with both sides weighing the same, and judged on the others, and the reverse; the mean of both. 0.5
    where a half has no images of one side. All of (N,)."""
    halves = [_sides(truth, jnp.where(part, weights, 0)) for part in (half, ~half)]
    judged = [_right(score + _bias(score, fitted), other) for fitted, other in (halves, halves[::-1])]
    there = jnp.all(jnp.stack([jnp.sum(side) > 0 for sides in halves for side in sides]))
    return jnp.where(there, (judged[0] + judged[1]) / 2, 0.5)


def _sides(truth: Array, weights: Array) -> tuple[Array, Array]:
    """Weights (N,) of the class's images, and of the others', each with sum 1; or 0 where there are none."""
    sides = (jnp.where(side, weights, 0) for side in (truth, ~truth))
    return tuple(one / jnp.where(jnp.sum(one) > 0, jnp.sum(one), 1) for one in sides)  # type: ignore[return-value]


def _bias(score: Array, sides: tuple[Array, Array]) -> Array:
    """With the least cross-entropy: the one with which the class has 1/2 of the probability, on average."""
    both = sides[0] + sides[1]

    def halved(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        too_low = jnp.sum(both * jax.nn.sigmoid(score + middle)) < 1
        return jnp.where(too_low, middle, low), jnp.where(too_low, high, middle)

    ends = -jnp.max(score) - 1, -jnp.min(score) + 1
    low, high = lax.fori_loop(0, BISECTIONS, halved, ends)
    return (low + high) / 2


BISECTIONS = 40
"""A bias is so exact to 1e-12 of the range of scores."""


def _right(score: Array, sides: tuple[Array, Array]) -> Array:
    return (jnp.sum(sides[0] * (score > 0)) + jnp.sum(sides[1] * (score <= 0))) / 2


def balanced_accuracy(logits: Array, label: Array, weights: Array, truth: Array) -> Array:
    """(): mean of the share of images of the class that are called it, and of others that are not; weights balanced."""
    return jnp.sum(weights * ((jnp.argmax(logits, -1) == label) == truth))

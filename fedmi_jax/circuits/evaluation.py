"""What a circuit, or a whole model, can do on the test set (sections 2.3 and 3 of the paper).

Axes: N test images, Y classes, G groups of images, B images of a group, O_l channels of convolution l.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedmi_jax.circuits import question
from fedmi_jax.circuits.narrowing import WIDTHS, Narrowing, Widths, of_channels, on_live_channels
from fedmi_jax.circuits.question import Explained
from fedmi_jax.network import model
from fedmi_jax.network.ablation import Ablation, Gates, Mean
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params, SparseModel


class EvaluationSet(NamedTuple):
    """Test images in groups of at most B, all together and class by class."""

    images: Images
    indices: Array
    """(G, B): every image once; padding repeats one."""
    valid: Array
    """(G, B) bool."""
    class_indices: Array
    """(Y, g, B): every class's own images."""
    class_valid: Array
    """(Y, g, B) bool."""


class Fraction(NamedTuple):
    """A share or a mean before the division, so that no program gives a NaN where there is nothing to divide by: one
    who looks for errors with JAX_DEBUG_NANS would be told of that NaN."""

    part: Array
    whole: Array
    """Of the same shape and dtype."""


def divided(measured: Any, dtype: Any = None) -> Any:
    """The tree with numpy arrays in place of `Fraction`s, NaN where the whole is 0. dtype: to divide in, or None."""

    def quotient(one: Any) -> np.ndarray:
        if isinstance(one, Fraction):
            return np.asarray(one.part, dtype) / np.asarray(one.whole, dtype)
        return np.asarray(one)

    with np.errstate(invalid="ignore"):
        return jax.tree.map(quotient, measured, is_leaf=lambda node: isinstance(node, Fraction))


class Performance(NamedTuple):
    """A masked model judged as a detector of one class; in programs of `Fraction`s."""

    call_rate: Any
    """(Y,): share of the images of each true class that are called the class."""
    false_positive_rate: Any
    """(): share of all images of other classes that are called the class."""
    target_softmax: Any
    """(): mean probability of the class over its images."""
    failure_softmax: Any
    """(Y,): mean probabilities over the images of the class that are not called it; NaN where there are none."""


class Accuracy(NamedTuple):
    """A model judged as a classifier; in programs of `Fraction`s."""

    overall: Any
    """()."""
    per_class: Any
    """(Y,)."""


def groups(indices: np.ndarray, batch: int, total: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """These indices in rows of `batch`, (total, batch), and which entries are real."""
    rows = total or -(-len(indices) // batch)
    flat = np.zeros(rows * batch, np.int32)
    flat[: len(indices)] = indices
    return flat.reshape(rows, batch), (np.arange(rows * batch) < len(indices)).reshape(rows, batch)


def make_evaluation_set(
    images: Images, labels: np.ndarray, num_classes: int, batch: int, per_class: int | None = None,
    among: np.ndarray | None = None,
) -> EvaluationSet:  # fmt: skip
    """The test set, or the first `per_class` images of each class, or those with indices `among` only."""
    among = np.arange(len(labels)) if among is None else among
    chosen = [among[labels[among] == c][:per_class] for c in range(num_classes)]
    everything = np.sort(np.concatenate(chosen))
    batch = min(batch, len(everything))
    rows = -(-max(map(len, chosen)) // batch)
    by_class = [groups(own, batch, rows) for own in chosen]
    index, valid = groups(everything, batch)
    stacked = [np.stack(part) for part in zip(*by_class, strict=True)]
    return EvaluationSet(images, index, valid, *stacked)  # type: ignore[arg-type]


def performance(
    params: Params, gates: Gates, ablation: Ablation, target: Array, alone: Array, test: EvaluationSet, *,
    narrowing: Narrowing, beside: str | None = None,
) -> tuple[Performance, Accuracy]:  # fmt: skip
    """The model with only these channels open; target () is the circuit's class.

    alone (), bool: on the images of this class alone, in place of all test images; no others are looked at then. One
    program does both, as it takes longer to compile than to run. beside: as `masked_logits`.
    """
    index, valid, count = _shown(test, target, alone)
    logits = masked_logits(params, gates, ablation, test.images, index, narrowing, count=count, beside=beside)
    return _performance(logits, target, test.images.labels[index].ravel(), valid.ravel())


def _shown(test: EvaluationSet, target: Array, alone: Array) -> tuple[Array, Array, Array]:
    """All test images or those of one class: (G, B), (G, B), and how many groups of them there are."""
    (every, _), own = test.indices.shape, test.class_indices.shape[1]
    filled = [jnp.pad(array[target], ((0, every - own), (0, 0))) for array in (test.class_indices, test.class_valid)]
    chosen = [jnp.where(alone, some, all_) for some, all_ in zip(filled, (test.indices, test.valid), strict=True)]
    return *chosen, jnp.where(alone, own, every)  # type: ignore[return-value]


def _performance(logits: Array, target: Array, labels: Array, valid: Array) -> tuple[Performance, Accuracy]:
    """Of logits (N, Y) of images with these labels (N,); only those that are valid, bool (N,), count."""
    probabilities, answer = jax.nn.softmax(logits), jnp.argmax(logits, -1)
    called, classes = (answer == target) & valid, probabilities.shape[-1]
    truth = jax.nn.one_hot(labels, classes, dtype=probabilities.dtype) * valid[:, None]
    count, hits = truth.sum(0), (truth * called[:, None]).sum(0)
    own = valid & (labels == target)
    other = jnp.arange(classes) != target
    detected = Performance(
        call_rate=Fraction(hits, count),
        false_positive_rate=Fraction(jnp.sum(hits * other), jnp.sum(count * other)),
        target_softmax=_mean(probabilities[:, target], own),
        failure_softmax=_mean(probabilities, own & ~called),
    )
    return detected, _accuracy(truth, answer == labels)


class Asked(NamedTuple):
    """What a masked model's answers are compared with."""

    others: Array
    """bool (Y,): the classes that the class is told from."""
    model: Array
    """(): whose answers they are compared with, a row of the whole models' logits."""


def decisions(
    params: Params, gates: Gates, ablation: Ablation, target: Array, asked: Asked, test: EvaluationSet, whole: Array, *,
    narrowing: Narrowing,
) -> tuple[Performance, Accuracy, Explained]:  # fmt: skip
    """`performance`, and how well the answers are those of a whole model; whole: the logits of all models (M, N, Y)."""
    logits = masked_logits(params, gates, ablation, test.images, test.indices, narrowing)
    labels, valid = test.images.labels[test.indices].ravel(), test.valid.ravel()
    compared = question.compare_with(logits, whole[asked.model], jnp.where(valid, labels, -1), target, asked.others)
    return *_performance(logits, target, labels, valid), compared


def _accuracy(truth: Array, right: Array) -> Accuracy:
    """Args: truth (N, Y), one-hot, 0 for padding; right (N,) bool."""
    hits, count = (truth * right[:, None]).sum(0), truth.sum(0)
    return Accuracy(Fraction(hits.sum(), count.sum()), Fraction(hits, count))


def accuracy_among(logits: Array, classes: Array, test: EvaluationSet) -> Array:
    """(): mean over these classes bool (Y,) of the share of their images that logits (N, Y) are right about, where no
    other class competes; a class without images is left out."""
    answer = jnp.argmax(jnp.where(classes, logits, -jnp.inf), -1)
    labels, valid = test.images.labels[test.indices].ravel(), test.valid.ravel()
    truth = jax.nn.one_hot(labels, len(classes), dtype=logits.dtype) * (valid & classes[labels])[:, None]
    count = jnp.sum(truth, 0)
    rates = jnp.sum(truth * (answer == labels)[:, None], 0) / jnp.maximum(count, 1)
    return jnp.sum(rates) / jnp.maximum(jnp.sum(count > 0), 1)


def empty_mask(params: Params, ablation: Ablation, target: Array) -> tuple[Array, Array]:
    """The control: with every channel closed the output cannot depend on the image.

    Returns whether the answer is the class, (), and the class's probability, ().
    """
    logits = ablation.silent_logits(params, conv_layers(params)[-1])
    return (jnp.argmax(logits) == target).astype(logits.dtype), jax.nn.softmax(logits)[target]


def masked_logits(
    params: Params,
    gates: Gates,
    ablation: Ablation,
    images: Images,
    index: Array,
    narrowing: Narrowing,
    widths: Widths = WIDTHS[:2],
    count: Array | None = None,
    beside: str | None = None,
) -> Array:
    """Logits (G * B, Y) of images (G, B) with only these channels open, group after group.

    gates of 0 and 1; widths: of the smaller models that are tried where `narrowing` is on; count (): of the groups, the
    first so many are looked at, and logits of others are 0; beside: the name of the axis along which others are looked
    at too, which then go on as long as the longest of them.
    """
    if count is not None and beside is not None:
        count = lax.pmax(count, beside)
    logits, (params, ablation) = partial(group_logits, images=images), ablation.folded(params)
    if not narrowing:
        return logits(params, None, gates, ablation, index, count)
    speaking = ablation.may_speak({layer: gate > 0 for layer, gate in gates.items()})
    return on_live_channels(logits, params, speaking, gates, ablation, index, count, widths=widths, narrowing=narrowing)


def mean_outputs(params: Params, images: Images, index: Array, valid: Array) -> Mean:
    """Every convolution channel's mean output, bias included, before ReLU, over these images (G, B)."""
    sums = lax.map(lambda group: _output_sums(params, images.normalised(group[0]), group[1]), (index, valid))
    return Mean({layer: total.sum(0) / valid.sum().astype(total.dtype) for layer, total in sums.items()})


def _output_sums(params: Params, x: Array, valid: Array) -> dict[str, Array]:
    """Sum over images of each channel's mean over positions."""
    outputs = model.conv_outputs(params, x)
    return {layer: (y.mean((1, 2)) * valid[:, None]).sum(0) for layer, y in outputs.items()}


def group_logits(
    params: Params | SparseModel, channels: Gates | None, gates: Gates, ablation: Ablation,
    index: Array, count: Array | None = None, *, images: Images,
) -> Array:  # fmt: skip
    """(G * B, Y), group after group; count (): of the first so many groups, and 0 for the others."""
    gates, replaced = of_channels(gates, channels), ablation.of_channels(channels)

    def of_group(group: Array) -> Array:
        return model.apply(params, images.normalised(group), gates, replaced)

    if count is None:
        logits = lax.map(of_group, index)
    else:
        one = jax.eval_shape(of_group, index[0])
        none = jnp.zeros((len(index), *one.shape), one.dtype)
        logits = lax.fori_loop(0, count, lambda i, done: done.at[i].set(of_group(index[i])), none)
    return logits.reshape(-1, logits.shape[-1])


def _mean(values: Array, chosen: Array) -> Fraction:
    """Mean over the chosen entries of the leading axis."""
    chosen = chosen.reshape(-1, *(1,) * (values.ndim - 1))
    total = jnp.sum(values * chosen, 0)
    total = total.astype(jnp.result_type(total, 1.0))  # a sum of booleans is whole
    return Fraction(total, jnp.full_like(total, jnp.sum(chosen)))

"""Centroids: are two classes told apart in the features of the mean of their experts, or do they collapse into one?

Features are the last convolution's output after ReLU and pool. A class's centroid is their mean over its test images;
its distance to another is 1 - cosine. The authors' script is `centroid_exp.py`: it looks at the first images only (up
to the first batch of 256 at whose end both classes have more than 50), calls a distance under 0.01 collapsed, and then
the class with the larger norm the winner, if the norms differ by more than 5, whatever their scale.

Axes: n rows, N images of the two classes (padded), w weightings of these images, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedmi_jax.circuits.evaluation import EvaluationSet
from fedmi_jax.federation.homes import pick
from fedmi_jax.network import model
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params
from fedmi_jax.network.ops import relu_pool, windows
from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.bench import Bench
from fedmi_jax.studies.chance import generator
from fedmi_jax.studies.stored import Moment, Stored, pair_name
from fedmi_jax.studies.tidy import Row

COLLAPSED, NORMS_DIFFER = 0.01, 5.0
BATCH, ENOUGH = 256, 50


def features(params: Params, x: Array) -> Array:
    """(N, h * w * O_L) of images x."""
    last = conv_layers(params)[-1]
    y = model.conv_outputs(params, x)[last]
    return relu_pool(windows(y), jnp.zeros(y.shape[-1], y.dtype)).reshape(len(x), -1)


def _sums(
    first: Params, other: Array, share: Array, classes: Array, weight: Array, local_models: Params, test: EvaluationSet,
    *, narrowing: bool,
) -> Array:  # fmt: skip
    """Weighted sums of features, (w, F), of the model share * first + (1 - share) * other. weight: (w, N)."""
    second = pick(local_models, other)
    mixed = {k: share.astype(v.dtype) * v + (1 - share).astype(v.dtype) * second[k] for k, v in first.items()}
    groups = test.class_indices[classes].reshape(-1, test.class_indices.shape[-1])
    by_group = weight.reshape(len(weight), *groups.shape).swapaxes(0, 1)
    each = lax.map(lambda part: part[1] @ features(mixed, test.images.normalised(part[0])), (groups, by_group))
    return each.sum(0)


def weights(stored: Stored, bench: Bench) -> list[Row]:
    """Distance and norms on the mean of two clients and on each client's own model. Null: the same images, dealt out at
    random into two sets of the same sizes."""
    cases = [(m, pair) for m, moment in enumerate(stored.moments) for pair in moment.pairs]
    inputs = [row for m, pair in cases for row in _inputs(stored, bench, m, pair)]
    first, *columns = (np.array(column) for column in zip(*inputs, strict=True)) if inputs else ((),)
    found = bench.judge(_sums, bench.local_models, first, tuple(columns), (bench.local_models, bench.test))
    found = found.reshape(len(cases), 3, *found.shape[1:])
    return [
        row
        for (m, pair), sums in zip(cases, found, strict=True)
        for row in _rows(stored.moments[m], pair, sums, weightings(bench.test, pair, _dealer(stored, m, pair))[1])
    ]


def _inputs(stored: Stored, bench: Bench, m: int, pair: tuple[int, int]) -> list[tuple]:
    """The mean of the two clients, then each of them alone."""
    models = [bench.local(m, stored.moments[m].experts[label]) for label in pair]
    weight, _ = weightings(bench.test, pair, _dealer(stored, m, pair))
    dtype = stored.ds["weights_local_fc_bias"].dtype
    return [(*models, np.array(share, dtype), pair, weight.astype(dtype)) for share in (0.5, 1, 0)]


def _dealer(stored: Stored, m: int, pair: tuple[int, int]) -> list[np.random.Generator]:
    moment = stored.moments[m]
    return [generator(moment.seed, "centroids", moment.round, n, *pair) for n in stored.samples()]


def weightings(
    test: EvaluationSet, pair: tuple[int, int], dealers: Sequence[np.random.Generator]
) -> tuple[np.ndarray, np.ndarray]:
    """0 or 1 for every image of the two classes, (w, N), and how many images each weighting has, (w,): the one class,
    the other, both as far as the authors' script looks, and two random sets for each dealer."""
    valid = np.asarray(test.class_valid)[list(pair)].reshape(2, -1)
    place = np.asarray(test.class_indices)[list(pair)].reshape(2, -1)
    own = [np.stack([valid[0], np.zeros_like(valid[1])]), np.stack([np.zeros_like(valid[0]), valid[1]])]
    stop = looked_at(place[0][valid[0]], place[1][valid[1]])
    sets = [*own, *(part & (place < stop) for part in own)]
    images, size = np.flatnonzero(valid), int(valid[0].sum())
    for dealer in dealers:
        dealt = np.zeros((2, valid.size), bool)
        order = dealer.permutation(images)
        dealt[0, order[:size]], dealt[1, order[size:]] = True, True
        sets += [part.reshape(valid.shape) for part in dealt]
    weight = np.stack(sets).reshape(len(sets), -1)
    return weight, weight.sum(1)


def looked_at(first: np.ndarray, second: np.ndarray) -> int:
    """So many test images, in the order of the file, the authors' script looks at for classes at these places."""
    last = max([*first, *second], default=0) + 1
    ends = range(BATCH, last + BATCH, BATCH)
    return next((end for end in ends if min((first < end).sum(), (second < end).sum()) > ENOUGH), last)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """1 - cosine; NaN where one of the two is 0."""
    norms = np.linalg.norm(first) * np.linalg.norm(second)
    return float(1 - first @ second / norms) if norms > 0 else np.nan


def _rows(moment: Moment, pair: tuple[int, int], sums: np.ndarray, count: np.ndarray) -> list[Row]:
    """sums (3, w, F): of the mean model and of the two own ones."""
    at, of = (moment.seed, moment.round), {"pair": pair_name(pair)}
    centres = sums.astype(float) / np.maximum(count, 1)[:, None]
    nulls = [np.array([distance(*two) for two in one[4:].reshape(-1, 2, one.shape[-1])]) for one in centres]
    far = [distance(*one[:2]) for one in centres]
    rows = [Row(*at, "distance", far[0], of, nulls[0])]
    for i, label in enumerate(pair):
        own = {**of, "source": moment.experts[label]}
        rows.append(Row(*at, "distance_on_own_model", far[1 + i], own, nulls[1 + i]))
        rows.append(Row(*at, "norm", float(np.linalg.norm(centres[0, i])), {"class": label, **of}))
        rows.append(Row(*at, "images", int(count[i]), {"class": label, **of}))
        rows.append(Row(*at, "images_looked_at", int(count[2 + i]), {"class": label, **of}))
    rows.append(Row(*at, "distance_on_own_models", float(np.mean(far[1:])), of))
    return rows + _verdict(at, of, pair, centres[0, :2], "") + _verdict(at, of, pair, centres[0, 2:4], "_looked_at")


def _verdict(at: tuple[int, int], of: dict, pair: tuple[int, int], centres: np.ndarray, end: str) -> list[Row]:
    """As the authors': collapsed or not, and who then wins; NaN where nobody does."""
    far, norms = distance(*centres), np.linalg.norm(centres, axis=1)
    wins = far < COLLAPSED and abs(norms[0] - norms[1]) > NORMS_DIFFER
    rows = [Row(*at, f"distance{end}", far, of)] if end else []
    rows.append(Row(*at, f"collapsed{end}", far < COLLAPSED, of))
    rows.append(Row(*at, f"winner{end}", pair[int(np.argmax(norms))] if wins else np.nan, of))
    return rows


STUDY = Study(
    masks=None,
    weights=weights,
    tables=(
        Table(
            "two classes' centroids on the mean of their experts", ("pair",),
            (
                Column("distance (1 - cosine)", "distance", "number", null=True),
                Column("on the experts' own models", "distance_on_own_models", "number"),
                Column("under 0.01", "collapsed", "flag"),
                Column("with the authors' images", "distance_looked_at", "number"),
            ),
        ),
        Table(
            "norms", ("class", "pair"),
            (
                Column("norm", "norm", "number"), Column("images", "images", "count"),
                Column("images that the authors look at", "images_looked_at", "count"),
            ),
        ),
    ),
    panels=(
        Panel(
            "distance of two classes' centroids", "pair",
            (Series("mean of the two experts", "distance"), Series("experts' own models", "distance_on_own_models")),
            "1 - cosine", share=False,
        ),
    ),
    by_pairs=True,
    caption="random: the same images in two random sets; under 0.01 the authors call the classes indistinguishable",
)  # fmt: skip

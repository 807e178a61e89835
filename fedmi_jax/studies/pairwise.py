"""Injection, pair by pair: on the mean of two clients the channels that two circuits share become either client's own.

As `injection`, for two classes of different clients at a time, on the plain mean of their experts. The authors' script
is `shared_neurons-pairwise.py`, for classes 1, 5 and 9.

Axes: n rows, Y classes of the network, O_l channels of convolution l.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from fedmi_jax.circuits.evaluation import EvaluationSet
from fedmi_jax.federation.homes import pick
from fedmi_jax.network.model import Params, all_open
from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.bench import Answers, Bench, answers, replaced
from fedmi_jax.studies.chance import generator, like
from fedmi_jax.studies.injection import shared
from fedmi_jax.studies.stored import Moment, Stored, pair_name
from fedmi_jax.studies.tidy import Row

Pair = tuple[int, int]


def _shared(moment: Moment, pair: Pair) -> dict[str, np.ndarray]:
    return shared({label: moment.circuits[label] for label in pair})


def masks(stored: Stored) -> list[Row]:
    """How many channels two circuits share."""
    return [row for moment in stored.moments for pair in moment.pairs for row in _of_pair(stored, moment, pair)]


def _of_pair(stored: Stored, moment: Moment, pair: Pair) -> list[Row]:
    at, own = (moment.seed, moment.round), _shared(moment, pair)
    drawn = []
    for n in stored.samples():
        rng = generator(moment.seed, "pairwise", moment.round, n, 0, *pair)
        drawn.append(shared({label: like(moment.circuits[label], rng) for label in pair}))
    rows = []
    for layer, both in own.items():
        null = np.array([one[layer].sum() for one in drawn], float)
        rows.append(Row(*at, "shared_by_layer", int(both.sum()), {"pair": pair_name(pair), "layer": layer}, null))
    total = np.sum([row.null for row in rows], 0)
    count = sum(int(both.sum()) for both in own.values())
    return [*rows, Row(*at, "shared_channels", count, {"pair": pair_name(pair)}, total)]


def pair_mean(first: Params, second: Params) -> Params:
    return jax.tree.map(lambda a, b: (a + b) / 2, dict(first), dict(second))


def _injected(
    first: Params, other: Array, source: Array, channels: Mapping[str, Array], classes: Array, local_models: Params,
    test: EvaluationSet, *, narrowing: bool,
) -> Answers:  # fmt: skip
    base = pair_mean(first, pick(local_models, other))
    return answers(
        replaced(base, pick(local_models, source), channels), all_open(first), classes, test, narrowing=narrowing
    )


def weights(stored: Stored, bench: Bench) -> list[Row]:
    """Accuracy of both classes on the mean of the two clients, and with the channels of the one or of the other.
    Null: as many random channels are put in."""
    cases = [(m, pair) for m, moment in enumerate(stored.moments) for pair in moment.pairs]
    rows = [row for m, pair in cases for row in _inputs(stored, bench, m, pair)]
    first, other, source, sets, classes = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    columns = (np.array(other), np.array(source), bench.gates(sets), np.array(classes)) if rows else ()
    found = bench.judge(_injected, bench.local_models, first, columns, (bench.local_models, bench.test))
    called = found.called.reshape(len(cases), -1, *found.called.shape[1:])
    return masks(stored) + [
        row
        for (m, pair), own in zip(cases, called, strict=True)
        for row in _rows(stored.moments[m], pair, stored.options.nulls, own)
    ]


def _inputs(stored: Stored, bench: Bench, m: int, pair: Pair) -> list[tuple]:
    """Nothing put in; the one's channels, and random ones of it; the other's, likewise."""
    moment = stored.moments[m]
    both = _shared(moment, pair)
    models = [bench.local(m, moment.experts[label]) for label in pair]
    random = [like(both, generator(moment.seed, "pairwise", moment.round, n, 1, *pair)) for n in stored.samples()]
    none = {layer: np.zeros_like(own) for layer, own in both.items()}
    put = [(models[0], none), *((source, channels) for source in models for channels in (both, *random))]
    return [(*models, source, channels, pair) for source, channels in put]


def _rows(moment: Moment, pair: Pair, nulls: int, called: Any) -> list[Row]:
    """called (1 + 2 * (1 + nulls), 2, Y)."""
    at, name, rows = (moment.seed, moment.round), pair_name(pair), []
    before = [float(called[0, i, label]) for i, label in enumerate(pair)]
    for i, label in enumerate(pair):
        rows.append(Row(*at, "mean_accuracy", before[i], {"class": label, "pair": name}))
    gains = {"gain_of_own": [], "gain_of_other": []}
    for s, source in enumerate(pair):
        own = called[1 + s * (1 + nulls) :][: 1 + nulls]
        for i, label in enumerate(pair):
            of, then = {"class": label, "pair": name, "source": moment.experts[source]}, own[:, i, label]
            rows.append(Row(*at, "accuracy", float(then[0]), of, then[1:]))
            rows.append(Row(*at, "gain", float(then[0]) - before[i], of, then[1:] - before[i]))
            gains["gain_of_own" if source == label else "gain_of_other"].append(then - before[i])
    for measure, both in gains.items():
        value = np.mean(both, 0)
        rows.append(Row(*at, measure, float(value[0]), {"pair": name}, value[1:]))
    return rows


STUDY = Study(
    masks=masks,
    weights=weights,
    tables=(
        Table(
            "two classes on the mean of their experts", ("pair",),
            (
                Column("channels shared", "shared_channels", "count", null=True),
                Column("gain of the class whose expert's are put in", "gain_of_own", "points", null=True),
                Column("of the other class", "gain_of_other", "points", null=True),
            ),
        ),
        Table(
            "class by class", ("class", "pair", "source"),
            (Column("after", "accuracy", null=True), Column("gain", "gain", "points", null=True)),
        ),
    ),
    panels=(
        Panel(
            "shared channels by pair of classes", "pair", (Series("of both circuits", "shared_channels"),), "channels",
            share=False,
        ),
        Panel(
            "gain by pair of classes", "pair",
            (
                Series("of the class whose expert's channels are put in", "gain_of_own"),
                Series("of the other class", "gain_of_other"),
            ),
            "accuracy after minus before", share=False,
        ),
    ),
    by_pairs=True,
    caption="shared channels of both circuits are overwritten, on the mean of the two clients",
)  # fmt: skip

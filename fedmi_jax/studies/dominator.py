"""Dominator: the class that the global model knows best; what becomes of all classes without the channels that only its
circuit uses? Every class is asked about in the global model that its expert got. The authors' script is
`dominator_circuit.py`; it gives no change of top-3, and no null.

Axes: N random sets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedmi_jax.errors import FedmiError
from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.bench import Bench, Own
from fedmi_jax.studies.chance import Channels, generator, like
from fedmi_jax.studies.stored import Moment, Stored, others
from fedmi_jax.studies.tidy import Row


def own_channels(circuits: Mapping[int, Channels], label: int) -> dict[str, np.ndarray]:
    """Those that no other class's circuit uses."""
    rest = others(circuits, label)
    return {layer: own & ~rest[layer] for layer, own in circuits[label].items()}


def dominator(accuracy: Mapping[int, float]) -> int | None:
    """The class with the highest accuracy, the first of equals; None where no accuracy is known."""
    known = {label: value for label, value in accuracy.items() if not np.isnan(value)}
    return max(known, key=lambda label: known[label]) if known else None


def masks(stored: Stored) -> list[Row]:
    """Of every class the channels that would go if it were the dominator; which one is, where the result says so."""
    known = [{c: stored.global_accuracy(moment, c) for c in moment.experts} for moment in stored.moments]
    return [row for moment, own in zip(stored.moments, known, strict=True) for row in _of_moment(stored, moment, own)]


def _of_moment(stored: Stored, moment: Moment, accuracy: Mapping[int, float]) -> list[Row]:
    at, first, rows = (moment.seed, moment.round), dominator(accuracy), []
    for label in moment.experts:
        own = own_channels(moment.circuits, label)
        drawn = [_random_own(moment, label, n) for n in stored.samples()]
        for layer, mask in own.items():
            null = np.array([one[layer].sum() for one in drawn], float)
            rows.append(Row(*at, "own_channels", int(mask.sum()), {"class": label, "layer": layer}, null))
        if first is not None:
            rows.append(Row(*at, "top1", accuracy[label], {"class": label}))
            rows.append(Row(*at, "dominator", label == first, {"class": label}))
    return rows


def _random_own(moment: Moment, label: int, n: int) -> dict[str, np.ndarray]:
    rng = generator(moment.seed, "dominator", moment.round, n, 0)
    return own_channels({c: like(circuit, rng) for c, circuit in moment.circuits.items()}, label)


def weights(stored: Stored, bench: Bench) -> list[Row]:
    """Before and after: top-1, top-3 and mean softmax of every expert's class. Null: as many random channels go."""
    moments, cases = stored.moments, stored.cases
    before = bench.own_answers(cases, bench.whole(len(cases)))
    known = [{} for _ in moments]
    for (m, label), accuracy in zip(cases, before.top1, strict=True):
        known[m][label] = float(accuracy)
    gone = [_gone(moment, own) for moment, own in zip(moments, known, strict=True)]
    sets = [[own, *_random_gone(stored, moment, own)] for moment, own in zip(moments, gone, strict=True)]
    each = [(case, {k: ~mask for k, mask in closed.items()}) for case in cases for closed in sets[case[0]]]
    after = bench.own_answers(*zip(*each, strict=True))
    rows = [row for moment, own in zip(moments, known, strict=True) for row in _of_moment(stored, moment, own)]
    rows = [row for row in rows if row.measure != "top1"]
    for i, (m, label) in enumerate(cases):
        own = (Own(*(part.reshape(len(cases), -1)[i] for part in some)) for some in (before, after))
        rows += _changes(moments[m], label, *own)
    return rows


def _gone(moment: Moment, accuracy: Mapping[int, float]) -> dict[str, np.ndarray]:
    label = dominator(accuracy)
    if label is None:
        raise FedmiError("the test set has no image of any class that has a circuit")
    return own_channels(moment.circuits, label)


def _random_gone(stored: Stored, moment: Moment, gone: Channels) -> list[dict[str, np.ndarray]]:
    return [like(gone, generator(moment.seed, "dominator", moment.round, n, 1)) for n in stored.samples()]


def _changes(moment: Moment, label: int, before: Own, after: Own) -> list[Row]:
    """before (1,), after (1 + N,) each."""
    at, of, rows = (moment.seed, moment.round), {"class": label}, []
    for name, (first,), then in zip(Own._fields, before, after, strict=True):
        rows.append(Row(*at, name, float(first), of))
        rows.append(Row(*at, f"{name}_after", float(then[0]), of, then[1:]))
        rows.append(Row(*at, f"{name}_change", float(then[0] - first), of, then[1:] - first))
    return rows


STUDY = Study(
    masks=masks,
    weights=weights,
    tables=(
        Table(
            "without the channels that only the dominator's circuit uses", ("class",),
            (
                Column("dominator", "dominator", "flag"),
                Column("only its own channels", "own_channels", "count"),
                Column("top-1", "top1"),
                Column("change", "top1_change", "points", null=True),
                Column("top-3", "top3"),
                Column("change", "top3_change", "points", null=True),
                Column("softmax", "softmax"),
                Column("change", "softmax_change", "points", null=True),
            ),
        ),
    ),
    panels=(
        Panel(
            "change without the dominator's own channels", "class",
            (Series("top-1", "top1_change"), Series("top-3", "top3_change"), Series("softmax", "softmax_change")),
            "after minus before", share=False,
        ),
        Panel("before", "class", (Series("top-1", "top1"), Series("dominator (1)", "dominator")), "top-1"),
    ),
    caption="no channel goes where no channel is the dominator's alone: every change is then exactly 0",
)  # fmt: skip

"""Single-circuit ablation: of an expert's global model only its circuit is left; does it still know its class?

To zero a channel's kernel and bias is to close its gate, so the accuracy is the paper's cross-evaluation. The authors'
script is `circuit_ablation.py`; where a circuit is missing it goes on with the whole model, this one refuses.

Axes: N random sets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedmi_jax.config import from_json
from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.bench import Bench
from fedmi_jax.studies.chance import Channels, generator, like
from fedmi_jax.studies.stored import Case, Moment, Stored, others
from fedmi_jax.studies.tidy import Row


def masks(stored: Stored) -> list[Row]:
    """Sizes, what is shared with other experts' circuits, and the accuracies that the result has."""
    return [row for moment in stored.moments for label in moment.experts for row in _of_circuit(stored, moment, label)]


def _of_circuit(stored: Stored, moment: Moment, label: int) -> list[Row]:
    own, found = moment.circuits[label], []
    drawn = [_random_shared(moment, label, n) for n in stored.samples()]
    shared = _shared(moment.circuits, label)
    for layer in stored.layers:
        of = {"class": label, "layer": layer}
        found.append(Row(moment.seed, moment.round, "kept_channels", int(own[layer].sum()), of))
        null = np.array([one[layer] for one in drawn], float)
        found.append(Row(moment.seed, moment.round, "shared_by_layer", shared[layer], of, null))
    total = np.array([sum(one.values()) for one in drawn], float)
    found.append(Row(moment.seed, moment.round, "shared_channels", sum(shared.values()), {"class": label}, total))
    constant = any(not mask.any() for mask in own.values())
    found.append(Row(moment.seed, moment.round, "constant", constant, {"class": label}))
    return found + accuracies(stored, moment, label)


def _shared(circuits: Mapping[int, Channels], label: int) -> dict[str, int]:
    """Channels of the circuit that any other class's circuit uses too, by layer."""
    rest = others(circuits, label)
    return {layer: int((own & rest[layer]).sum()) for layer, own in circuits[label].items()}


def _random_shared(moment: Moment, label: int, n: int) -> dict[str, int]:
    rng = generator(moment.seed, "ablation", moment.round, n, 0)
    return _shared({c: like(circuit, rng) for c, circuit in moment.circuits.items()}, label)


def accuracies(stored: Stored, moment: Moment, label: int) -> list[Row]:
    """As the result has them. Cross-evaluation counts only where closed channels gave 0, as here."""
    if "config" in stored.ds.attrs and from_json(stored.ds.attrs["config"]).discovery.ablation != "zero":
        return []
    before = stored.global_accuracy(moment, label)
    after = float(stored.of_circuit("cross_evaluation", moment, label))
    random = stored.of_circuit("random_cross_evaluation", moment, label)
    wrong = float(stored.of_circuit("cross_evaluation_false_positive_rate", moment, label))
    return _rows(moment, label, before, after, random if random.ndim else None, wrong)


def _rows(
    moment: Moment, label: int, before: float, after: float, random: np.ndarray | None, wrong: float
) -> list[Row]:  # fmt: skip
    at, of = (moment.seed, moment.round), {"class": label}
    null = None if random is None else before - random
    found = [
        Row(*at, "global_accuracy", before, of),
        Row(*at, "circuit_accuracy", after, of, random),
        Row(*at, "drop", before - after, of, null),
        Row(*at, "false_positive_rate", wrong, of),
    ]
    return [row for row in found if not np.isnan(row.value)]


def weights(stored: Stored, bench: Bench) -> list[Row]:
    """The same from the weights, with random circuits of the same sizes."""
    known = [row for row in masks(stored) if row.measure not in MEASURED]
    cases = stored.cases
    whole = bench.own_answers(cases, bench.whole(len(cases))).top1
    kept = bench.answers(cases, [stored.moments[m].circuits[label] for m, label in cases])
    random = _random(stored, bench, cases)
    rows = []
    for i, (m, label) in enumerate(cases):
        called = kept.called[i][:, label]
        wrong = _wrong(called, bench.images, label)
        rows += _rows(stored.moments[m], label, float(whole[i]), float(called[label]), random[i], wrong)
    return known + rows


MEASURED = ("global_accuracy", "circuit_accuracy", "drop", "false_positive_rate")


def _wrong(called: np.ndarray, images: np.ndarray, label: int) -> float:
    """Share of the images of all other classes that are called the class."""
    others = np.flatnonzero((np.arange(len(images)) != label) & (images > 0))
    return float(np.average(called[others], weights=images[others])) if len(others) else np.nan


def _random(stored: Stored, bench: Bench, cases: list[Case]) -> np.ndarray | list[None]:
    """Accuracy of N random circuits for every case, (cases, N)."""
    if not stored.options.nulls:
        return [None] * len(cases)
    each = [(case, n) for case in cases for n in stored.samples()]
    drawn = [_random_circuit(stored.moments[m], label, n) for (m, label), n in each]
    return bench.own_answers([case for case, _ in each], drawn).top1.reshape(len(cases), -1)


def _random_circuit(moment: Moment, label: int, n: int) -> dict[str, np.ndarray]:
    return like(moment.circuits[label], generator(moment.seed, "ablation", moment.round, n, 1, label))


STUDY = Study(
    masks=masks,
    weights=weights,
    tables=(
        Table(
            "one circuit of the global model", ("class",),
            (
                Column("channels kept", "kept_channels", "count"),
                Column("shared", "shared_channels", "count", null=True),
                Column("global model", "global_accuracy"),
                Column("circuit", "circuit_accuracy", null=True),
                Column("drop", "drop", "points", null=True),
                Column("other classes called it", "false_positive_rate"),
                Column("constant", "constant", "flag"),
            ),
        ),
    ),
    panels=(
        Panel(
            "accuracy on the class", "class",
            (
                Series("global model", "global_accuracy"),
                Series("its circuit only", "circuit_accuracy"),
                Series("other classes called it", "false_positive_rate"),
            ),
            "share of images",
        ),
    ),
    caption="other classes called it: near 1 the circuit gives one answer to everything",
)  # fmt: skip

"""Single-circuit ablation: of an expert's global model only its circuit is left; does it still know its class?

To zero a channel's kernel and bias is to close its gate, so the accuracy is the paper's cross-evaluation. The authors'
script is `circuit_ablation.py`; where a circuit is missing it goes on with the whole model, this one refuses.

Axes: n circuits (an expert's, then random ones), Y classes of the network.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fedmi_jax.config import from_json
from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.bench import Bench
from fedmi_jax.studies.chance import Channels, generator, like
from fedmi_jax.studies.stored import Moment, Stored, others
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
    return _rows(moment, label, before, np.append(after, random if random.ndim else []), np.array([wrong]))


def _rows(moment: Moment, label: int, before: float, after: np.ndarray, wrong: np.ndarray) -> list[Row]:
    """after, wrong: of the circuit, then of random ones, as far as they are known."""
    at, of = (moment.seed, moment.round), {"class": label}
    found = [Row(*at, "global_accuracy", before, of)]
    measured = (("circuit_accuracy", after), ("drop", before - after), ("false_positive_rate", wrong))
    found += [Row(*at, name, float(both[0]), of, both[1:]) for name, both in measured]
    return [row for row in found if not np.isnan(row.value)]


def weights(stored: Stored, bench: Bench) -> list[Row]:
    """The same from the weights, with random circuits of the same sizes."""
    known = [row for row in masks(stored) if row.measure not in MEASURED]
    cases, classes = stored.cases, len(bench.images)
    whole = bench.own_answers(cases, bench.whole(len(cases))).top1
    each = [(case, circuit) for case in cases for circuit in _circuits(stored, *case)]
    kept = bench.answers(*zip(*each, strict=True)).called.reshape(len(cases), -1, classes, classes)
    rows = []
    for (m, label), before, called in zip(cases, whole, kept, strict=True):
        own = called[..., label]
        rows += _rows(stored.moments[m], label, float(before), own[:, label], _wrong(own, bench.images, label))
    return known + rows


MEASURED = ("global_accuracy", "circuit_accuracy", "drop", "false_positive_rate")


def _wrong(called: np.ndarray, images: np.ndarray, label: int) -> np.ndarray:
    """Share of the images of all other classes that are called the class, (n,). called: of each class, (n, Y)."""
    others = np.flatnonzero((np.arange(len(images)) != label) & (images > 0))
    if not len(others):
        return np.full(len(called), np.nan)
    return np.average(called[:, others], 1, images[others])


def _circuits(stored: Stored, m: int, label: int) -> list[Channels]:
    """The expert's, then random ones."""
    moment = stored.moments[m]
    own = moment.circuits[label]
    keys = [(moment.seed, "ablation", moment.round, n, 1, label) for n in stored.samples()]
    return [own, *(like(own, generator(*key)) for key in keys)]


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
                Column("other classes called it", "false_positive_rate", null=True),
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

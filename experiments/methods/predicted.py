"""What was predicted of the methods before the runs (README.md beside this file), each with the rule that judges it.

Thresholds, rounds and the correction for their number were fixed before any run that judges them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import xarray as xr

from experiments.methods import rows, told
from experiments.methods.measured import Points
from experiments.methods.one_shot import RANDOM
from experiments.methods.told import Reduce, last
from fedmi_jax.analysis import parts
from fedmi_jax.analysis.findings import MORE
from fedmi_jax.analysis.parts import Part
from fedmi_jax.analysis.verdicts import OPEN, Criterion

TWO, DIRICHLET = rows.MAIN
ROUNDS = 10
"""Of the runs that predictions are about."""
LESS = Criterion(high=-0.05)
EARLY, LATE = slice(0, 3), slice(-3, None)
"""Rounds 1 to 3, and the last three."""


@dataclass(frozen=True)
class Prediction:
    """One prediction and how it is judged."""

    id: str
    says: str
    rule: str
    sure: str
    """How sure it was before the runs."""
    judge: Callable[[Points], list[Part]]
    family: int = 0
    """Those of a family were registered together, and are corrected together (Holm 1979)."""


@dataclass(frozen=True)
class Row:
    """A prediction, judged."""

    prediction: Prediction
    parts: list[Part]
    before: str
    """The verdict before correction."""
    after: str
    """The one that stands."""
    p: float
    """Corrected, of the verdict before correction; 1: there is none."""


def judge(points: Points) -> list[Row]:
    """Every prediction, corrected with those of its family, "holds" and "does not hold" each by itself."""
    return [row for _, family in groupby(PREDICTIONS, lambda one: one.family) for row in _family(list(family), points)]


def _family(predictions: list[Prediction], points: Points) -> list[Row]:
    found = [one.judge(points) for one in predictions]
    return [_row(*one) for one in zip(predictions, found, parts.corrected_p(found), strict=True)]


def _row(prediction: Prediction, found: list[Part], p: tuple[float, float]) -> Row:
    before = parts.together(found)
    own = {parts.HOLDS: p[0], parts.FAILS: p[1]}.get(before, 1.0)
    return Row(prediction, found, before, parts.corrected(before, *p), own)


# --- what rules are made of ---


def _mean_of(rounds: slice) -> Reduce:
    return lambda values: values.isel(round=rounds).mean("round")


early, late = _mean_of(EARLY), _mean_of(LATE)


def value(points: Points, scenario: str, method: str, measure: str, criterion: Criterion, reduce: Reduce = last,
          label: str = "", beside: bool = False) -> Part:  # fmt: skip
    """A part: the row's own number."""
    found = _of_all_rounds(points, scenario, method, measure, reduce)
    return _part(found, label or f"{scenario}, {method}: {measure}", scenario, criterion, beside)


def change(points: Points, scenario: str, method: str, measure: str, criterion: Criterion, reduce: Reduce = last,
           label: str = "", beside: bool = False, base: str = rows.BASE) -> Part:  # fmt: skip
    """A part: the row's number minus FedAvg's (base's), seed by seed."""
    own, other = (_of_all_rounds(points, scenario, name, measure, reduce) for name in (method, base))
    return _part(own - other, label or f"{scenario}, {method} - {base}: {measure}", scenario, criterion, beside)


def between(points: Points, scenario: str, method: str, measure: str, other: str, criterion: Criterion,
            beside: bool = False) -> Part:  # fmt: skip
    """A part: one number of the row minus another, seed by seed, in the last round."""
    one, two = (_of_all_rounds(points, scenario, method, name) for name in (measure, other))
    return _part(one - two, f"{scenario}, {method}: {measure} - {other}", scenario, criterion, beside)


def _of_all_rounds(points: Points, scenario: str, method: str, measure: str, reduce: Reduce = last) -> xr.DataArray:
    """(S,); of a run of another length than the predictions are about there is nothing. Arithmetic of two such arrays
    is of the seeds that both have."""
    run = rows.BASE if method in rows.ONE_SHOT else method
    whole = told.by_round(points, scenario, run, measure).sizes["round"] == ROUNDS
    found = told.per_seed(points, scenario, method, measure, reduce)
    return found if whole else found[:0]


def _part(per_seed: xr.DataArray, label: str, scenario: str, criterion: Criterion, beside: bool) -> Part:
    if not np.isfinite(per_seed).any():
        return parts.missing(label, scenario, f"no such number in results of {ROUNDS} rounds", beside)
    return parts.part(label, scenario, per_seed, criterion, beside=beside)


def same(points: Points, scenario: str, method: str, measure: str, room: float) -> list[Part]:
    """Two parts: the difference to FedAvg is at least -room, and at most room (two one-sided tests)."""
    ends = (Criterion(low=-room), Criterion(high=room))
    return [change(points, scenario, method, measure, end) for end in ends]


# --- the rules ---


def m1(points: Points) -> list[Part]:
    ways = ("matching", "matching-without-biases", "matching-of-activations")
    equal = [
        part for measure in ("held accuracy", "kept") for part in same(points, TWO, "matching", measure, 0.05)
    ]  # fmt: skip
    moved = [value(points, TWO, rows.BASE, "moved", Criterion(high=0.02), told.over_rounds)]
    beside = [change(points, TWO, name, "held accuracy", MORE, beside=True) for name in ways[1:]]
    return [*equal, *moved, *beside]


def m2(points: Points) -> list[Part]:
    found = []
    for name in ("support-mean", "head-by-holders", "support-and-holders"):
        found.append(change(points, TWO, name, "held accuracy", MORE, early, f"{name} - fedavg, rounds 1 to 3"))
        label = f"{name}, the same minus that of the last three rounds"
        found.append(change(points, TWO, name, "held accuracy", MORE, lambda v: early(v) - late(v), label))
    return found


def m3(points: Points) -> list[Part]:
    hard = "owner-channels-hard"
    return [
        value(points, TWO, hard, "away from sufficiency", Criterion(high=0.001), told.over_rounds),
        value(points, TWO, rows.BASE, "away from sufficiency", Criterion(high=0.001), told.over_rounds, beside=True),
    ]


def m4(points: Points) -> list[Part]:
    return [value(points, TWO, "median", "held accuracy", Criterion(high=0.25))]


def m5(points: Points) -> list[Part]:
    ratio = _ratio(points, "fedadam-unmasked", "global density")
    return [
        _part(ratio, "global density, fedadam-unmasked over fedavg", TWO, Criterion(low=1.5), False),
        _part(_ratio(points, "fedadam", "global density"), "the same, masked", TWO, Criterion(low=1.5), True),
    ]


def _ratio(points: Points, method: str, measure: str) -> xr.DataArray:
    own, base = (_of_all_rounds(points, TWO, name, measure) for name in (method, rows.BASE))
    return own / base.where(base > 0)


def m6(points: Points) -> list[Part]:
    return [change(points, TWO, "fedadam", "held accuracy", LESS)]


def m7(points: Points) -> list[Part]:
    return [
        change(points, TWO, "ties", "held accuracy", MORE, late, "ties - support-mean, last three rounds",
               base="support-mean"),
        change(points, TWO, "ties", "held accuracy", MORE, late, "ties - fedavg, last three rounds", beside=True),
    ]  # fmt: skip


def m8(points: Points) -> list[Part]:
    return [change(points, TWO, "calibration", "held accuracy", Criterion(low=0.10))]


def m9(points: Points) -> list[Part]:
    keeps = [change(points, TWO, "owner-channels", name, Criterion(low=0.05)) for name in ("kept", "decision")]
    return [*keeps, change(points, TWO, "owner-channels", "held accuracy", MORE, beside=True)]


def m10(points: Points) -> list[Part]:
    names = [name for name in told.there(points, "iid") if name != rows.BASE]
    rule = Criterion(low=-0.02)
    if not names:
        return [parts.missing("held accuracy of the best methods", "iid", "no results")]
    return [change(points, "iid", name, "held accuracy", rule) for name in names]


def m11(points: Points) -> list[Part]:
    return [
        change(points, scenario, "head-by-holders", "held accuracy", Criterion(low=0.05))
        for scenario in rows.MAIN
    ]  # fmt: skip


def m12(points: Points) -> list[Part]:
    return [change(points, TWO, "fedbabu-pruned", "held accuracy", Criterion(low=0.10))]


def m13(points: Points) -> list[Part]:
    unpruned = "fedavg-unpruned-linear"
    return [
        change(points, TWO, "fedbabu", "held accuracy", Criterion(low=0.10), base=unpruned),
        change(points, TWO, unpruned, "held accuracy", MORE, beside=True),
        change(points, TWO, "fedbabu", "held accuracy", MORE, base="fedbabu-pruned", beside=True),
    ]


def m14(points: Points) -> list[Part]:
    pruned = "fedavg-pruned-linear"
    return [
        value(points, TWO, pruned, "held accuracy", Criterion(high=0.70)),
        change(points, TWO, pruned, "held accuracy", MORE, base="fedavg-unpruned-linear", beside=True),
    ]


def m15(points: Points) -> list[Part]:
    return [
        value(points, TWO, "pooled", "held accuracy", Criterion(low=0.90)),
        change(points, TWO, "pooled", "held accuracy", MORE, base="fedavg-unpruned-linear", beside=True),
    ]


def m16(points: Points) -> list[Part]:
    return [
        change(points, TWO, "cascade", rows.HELD, LESS),
        value(points, TWO, "cascade", f"{rows.HELD}, {RANDOM}", MORE, beside=True),
    ]


def m17(points: Points) -> list[Part]:
    return [
        change(points, TWO, "ensemble", rows.AMONG, LESS),
        value(points, TWO, "ensemble", f"{rows.AMONG}, {RANDOM}", MORE, beside=True),
    ]


def m18(points: Points) -> list[Part]:
    shifted = "decision, a bias refitted"
    return [
        between(points, TWO, rows.BASE, shifted, "decision, own model", Criterion(low=-0.05)),
        between(points, TWO, rows.BASE, shifted, "decision", MORE, beside=True),
    ]


def apart(points: Points, measure: str, criterion: Criterion, beside: bool = False) -> Part:
    """A part: how far FedAvg with other rounding is from FedAvg, without a sign, seed by seed, last round."""
    one, other = (_of_all_rounds(points, TWO, name, measure) for name in ("fedavg-other-rounding", rows.BASE))
    return _part(abs(one - other), f"{TWO}, distance by rounding: {measure}", TWO, criterion, beside)


def m19(points: Points) -> list[Part]:
    small = Criterion(high=0.10)
    told_beside = ("decision", "AUC", "cross-evaluation", "kept")
    return [apart(points, "held accuracy", small), *(apart(points, name, small, beside=True) for name in told_beside)]


PREDICTIONS = (
    Prediction("M1", "Matching channels before averaging changes nothing, for nothing has moved",
               "two-class, last round: held accuracy and channels kept of matching within 0.05 of FedAvg's; channels "
               "moved under FedAvg, all rounds, at most 0.02", "90 %", m1),
    Prediction("M2", "Support mean and head by holders help early, while clients keep different weights",
               "two-class: held accuracy minus FedAvg's, rounds 1 to 3, at least 0.01 for support-mean, "
               "head-by-holders and both; and at least 0.01 more than in the last three rounds", "60 %", m2),
    Prediction("M3", "In hard owner channels a circuit works on the averaged model exactly as on its own",
               "two-class, all rounds: distance of cross-evaluation and sufficiency at most 0.001", "99 %", m3),
    Prediction("M4", "The median collapses", "two-class, last round: held accuracy at most 0.25", "80 %", m4),
    Prediction("M5", "Adam on the server brings pruned weights back, if nothing forbids it",
               "two-class, last round: global density of fedadam-unmasked over FedAvg's at least 1.50", "70 %", m5),
    Prediction("M6", "Adam on the server does harm",
               "two-class, last round: held accuracy of fedadam minus FedAvg's at most -0.05", "75 %", m6),
    Prediction("M7", "Electing signs helps when clients keep the same weights already",
               "two-class, last three rounds: held accuracy of ties minus that of support-mean at least 0.01",
               "45 %", m7),
    Prediction("M8", "The classes are still there and are only not read out",
               "two-class, last round: held accuracy of calibration minus FedAvg's at least 0.10", "65 %", m8),
    Prediction("M9", "Channels with one writer keep circuits",
               "two-class, last round: channels kept, and decision accuracy on the averaged model, of owner-channels "
               "minus FedAvg's at least 0.05 each", "55 %", m9),
    Prediction("M10", "What helps under label skew does no harm without",
               "iid, last round: held accuracy of each of the best methods minus FedAvg's at least -0.02", "85 %", m10),
    Prediction("M11", "Much of what is lost is lost in the linear layer's rows of classes that a client does not hold",
               "two-class and dirichlet-0.1, last round: held accuracy of head-by-holders minus FedAvg's at least 0.05",
               "50 %", m11),
    Prediction("M12", "A linear layer that nobody trains helps with as few weights as the other layers, too",
               "two-class, last round: held accuracy of fedbabu-pruned minus FedAvg's at least 0.10", "65 %", m12, 1),
    Prediction("M13", "An unpruned linear layer that clients train does not help as much",
               "two-class, last round: held accuracy of fedbabu minus that of fedavg-unpruned-linear at least 0.10",
               "50 %", m13, 1),
    Prediction("M14", "A linear layer with few weights is enough for averaging to fail, whatever the convolutions have",
               "two-class, last round: held accuracy of fedavg-pruned-linear, whose convolutions are dense, at most "
               "0.70",
               "65 %", m14, 2),
    Prediction("M15", "As few weights are enough to tell the classes apart where nothing is averaged",
               "two-class, last round: held accuracy of pooled at least 0.90", "85 %", m15, 3),
    Prediction("M16", "A model put together from circuits of the paper's search works less than the averaged one",
               "two-class, last round: held accuracy of cascade minus FedAvg's at most -0.05", "75 %", m16, 4),
    Prediction("M17", "And so do these circuits where each speaks for its own class",
               "two-class, last round: accuracy among held classes of ensemble minus FedAvg's at most -0.05", "50 %",
               m17, 4),
    Prediction("M18", "One bias for each circuit gives its answer on the averaged model back",
               "two-class, last round, FedAvg: decision accuracy of local circuits on the averaged model with one bias "
               "refitted, minus that on their own model, at least -0.05", "40 %", m18, 5),
    Prediction("M19", "Rounding alone moves a seed's accuracy by little",
               "two-class, last round: held accuracy of fedavg-other-rounding and FedAvg, distance seed by seed, at "
               "most 0.10", "60 %", m19, 6),
)  # fmt: skip


# --- markdown ---

LEGEND = (
    "A part holds, or does not, when its whole 95 % interval over seeds meets, or misses, its criterion, with three "
    "seeds or more; a prediction holds when all parts do, and does not when one does not. M1 to M11 are corrected "
    "together (Holm), and so are M12 and M13, and M16 and M17; M14, M15, M18 and M19 are each alone. p is corrected. "
    "Parts marked 'beside' decide nothing."
)


def markdown(found: list[Row], cut: str = "") -> str:
    """The verdicts, and every part behind them. cut: what is to be said of runs that were not given all images."""
    head = ["| prediction | sure | verdict |", "|---|---|---|"]
    head += [f"| **{r.prediction.id}** {r.prediction.says} | {r.prediction.sure} | {_verdict(r)} |" for r in found]
    every = ["| | part | measured | criterion | alone |", "|---|---|---|---|---|"]
    every += [_part_line(row, part) for row in found for part in row.parts]
    return "\n".join([*([cut, ""] if cut else []), *head, "", LEGEND, "", *every, ""])


def registered() -> str:
    """The rules, as they stand in the README."""
    lines = ["| | prediction | rule | sure |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {one.id} | {one.says} | {one.rule} | {one.sure} |" for one in PREDICTIONS)])


def _verdict(row: Row) -> str:
    said = [] if row.before == OPEN else [f"p {row.p:.3f}"]
    if row.after == OPEN and row.before != OPEN:
        said.insert(0, f"before correction: {row.before}")
    lacks = sum(1 for part in row.parts if part.lacks and not part.beside)
    said += [f"{lacks} of {sum(not part.beside for part in row.parts)} parts lack results"] if lacks else []
    return row.after + (f" ({'; '.join(said)})" if said else "")


def _part_line(row: Row, part: Part) -> str:
    label = f"{part.label} (beside)" if part.beside else part.label
    measured, alone = (part.lacks, "-") if part.lacks else (str(part.estimate), "-" if part.beside else part.verdict)
    return f"| {row.prediction.id} | {label} | {measured} | {part.criterion or '-'} | {alone} |"

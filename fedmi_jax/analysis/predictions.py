"""Predictions about circuits that decide (docs/evidence.md), each a rule that judges it.

They were written before any run over seeds: thresholds, units, nulls and the correction for their number are fixed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fedmi_jax.analysis import parts, predicted, predicted_sizes
from fedmi_jax.analysis.instruments import Results
from fedmi_jax.analysis.parts import IN_PART, Part
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, OPEN


@dataclass(frozen=True)
class Prediction:
    """One prediction and how it is judged."""

    id: str
    says: str
    rule: str
    sure: str
    """How sure it was before the runs."""
    judge: Callable[[Results, str], list[Part]]
    """Of results, by objective."""
    answers: tuple[str, str, str] = (HOLDS, FAILS, IN_PART)
    """What the three verdicts are called."""
    counts: bool = True
    """Whether it is corrected together with the others."""
    beyond_chance: bool = False
    """Whether holding says less where random sets meet the criterion too, so that it is part of the answer."""


@dataclass(frozen=True)
class Row:
    """A prediction, judged on some results."""

    prediction: Prediction
    parts: list[Part]
    before: str
    """The verdict before correction."""
    after: str
    """The one that stands."""
    p: float | None
    """Corrected, of the verdict before correction; None: it has none."""
    gate: str = ""
    """What P0 says of the experiments."""

    @property
    def lacks(self) -> list[str]:
        """What is missing to judge it."""
        return [f"{one.label}: {one.lacks}" for one in self.parts if one.lacks and not one.beside]

    @property
    def seeds(self) -> int:
        """Of the part that has fewest, of those that have any."""
        return min((one.estimate.seeds for one in self.parts if not one.beside and one.estimate.seeds), default=0)

    def named(self, verdict: str) -> str:
        """As this prediction calls the verdict."""
        named: dict[str, str] = dict(zip((HOLDS, FAILS, IN_PART), self.prediction.answers, strict=True))
        said = named.get(verdict, verdict)
        beaten = (
            verdict == HOLDS
            and self.prediction.beyond_chance
            and any(one.null_meets_it for one in self.parts if not one.beside)
        )
        return f"{said}, but random sets meet it too" if beaten else said


def judge(results: Results, objective: str = "decision", by_origin: bool = False) -> list[Row]:
    """Every prediction on these results, whose circuits were searched with this objective.

    by_origin: a failing part of P0 that is about circuits of global models closes only what is about these, too (the
    second registration in docs/evidence.md), instead of everything about circuits.
    """
    gate, *others = PREDICTIONS
    gates = gate.judge(results, objective)
    measured = {one.id: _gated(one.judge(results, objective), gates, by_origin) for one in others}
    family = [one for one in others if one.counts]
    p = parts.corrected_p([measured[one.id] for one in family])
    fixed = dict(zip([one.id for one in family], p, strict=True))
    rows = [_row(gate, gates, None, "")]
    for one in others:
        said = _unclear(measured[one.id], gates, by_origin)
        rows.append(_row(one, measured[one.id], fixed.get(one.id), said))
    return rows


def _row(prediction: Prediction, found: list[Part], p: tuple[float, float] | None, gate: str) -> Row:
    before = parts.together(found)
    if p is None:
        return Row(prediction, found, before, before, None, gate)
    of = {HOLDS: p[0], FAILS: p[1]}.get(before)
    return Row(prediction, found, before, parts.corrected(before, *p), of, gate)


def _gated(found: list[Part], gates: list[Part], by_origin: bool) -> list[Part]:
    """Parts of an experiment in which the instrument does not work are not judged, if they are about circuits."""
    closed = [_experiments(_concerning(one, gates, by_origin), FAILS) & set(one.experiments) for one in found]
    return [_closed(one, names) for one, names in zip(found, closed, strict=True)]


def _concerning(one: Part, gates: list[Part], by_origin: bool) -> list[Part]:
    """The parts of P0 that can close this part: none where it is about whole models."""
    if not one.about:
        return []
    return [gate for gate in gates if not by_origin or gate.about != ("global",) or "global" in one.about]


def _closed(one: Part, experiments: set[str]) -> Part:
    if not experiments:
        return one
    lacks = f"P0 does not hold in {', '.join(sorted(experiments))}"
    return replace(one, verdict=OPEN, holds_p=1.0, fails_p=1.0, lacks=lacks)


def _unclear(found: list[Part], gates: list[Part], by_origin: bool) -> str:
    """In which of their experiments P0 cannot be told yet."""
    unclear: set[str] = set()
    for one in [one for one in found if one.about and not one.beside and not one.lacks]:
        asked, used = _concerning(one, gates, by_origin), set(one.experiments)
        unclear |= used & (_experiments(asked, OPEN) - _experiments(asked, FAILS))
        unclear |= used - {name for gate in asked for name in gate.experiments}
    return f"P0 cannot be told yet in {', '.join(sorted(unclear))}" if unclear else ""


def _experiments(gates: list[Part], verdict: str) -> set[str]:
    return {name for one in gates if one.verdict == verdict for name in one.experiments}


PREDICTIONS = (
    Prediction("P0", "The instrument works: its circuits are faithful, random sets and the paper's circuits are not",
               "share of circuits that explain 0.8 of the decision and work as well as the whole model within 0.05: "
               "local and global at least 0.80, random live sets at most 0.10, the paper's at most 0.20", "90 %",
               predicted.p0, counts=False),
    Prediction("P1", "Circuits of dense models and at 95 and 97 % sparsity are not empty",
               "share of local circuits without any channel, each at most 0.05", "95 %", predicted.p1),
    Prediction("P2", "Clients of one class learn no decision",
               "share of local models that are competent, told from all other classes, at most 0.10", "85 %",
               predicted.p2),
    Prediction("P3", "Clients of two classes learn one, and the paper's search does not find it",
               "local models competent, at least 0.95; the paper's circuits work, at most 0.60; circuits that decide "
               "do, at least 0.95", "90 %", predicted.p3),
    Prediction("P4", "Averaging breaks local circuits under skew only",
               "(works on the global model - 0.5) / (works on its own - 0.5), last round: two-class at most 0.50, IID "
               "at least 0.90", "75 %", predicted.p4),
    Prediction("P5", "Of circuits that averaging breaks, the evidence or its read-out is lost",
               "AUC on the global model of two-class circuits that work less than 0.75 there: at least 0.90 or at most "
               "0.75", "50 % each", predicted.p5,
               ("the evidence survives, the read-out has moved", "the circuit is destroyed", IN_PART),
               beyond_chance=True),
    Prediction("P5-refit", "Setting the read-out right gives the accuracy back",
               "share of the accuracy lost by averaging that one scale and biases give back, at least 0.50", "-",
               predicted.p5_refit, counts=False),
    Prediction("P6", "Collapse is the model's, not the circuit's",
               "of circuits that are out (work less than 0.55 on the global model), share whose class the whole global "
               "model calls on less than 10 % of its images, each at least 0.80", "80 %", predicted.p6),
    Prediction("P7", "Do circuits grow by averaging?",
               "size of the global circuit over the local one's, geometric mean: at least 1.50, or under 1.50 and not "
               "wholly over 1.00", "none", predicted_sizes.p7, ("growth persists", "growth was the search's", IN_PART)),
    Prediction("P8", "Sparsity makes circuits smaller, not more stable",
               "channels over live ones fall at every level and Page's p < 0.05; the share out falls by at most 0.01",
               "70 %", predicted_sizes.p8),
    Prediction("P9", "IID clients find the same circuits, as far as a search finds its own again",
               "IoU corrected for chance over that of circuits found again, lowest layer, at least 0.90; as measured "
               "at most 0.90", "70 %", predicted_sizes.p9),
    Prediction("P10", "Masks do not invent what is not there",
               "size over live channels of permuted weights at least 2.00 times as large; shuffled labels explain at "
               "most 0.05", "80 %", predicted_sizes.p10, counts=False),
)  # fmt: skip
"""The first is the gate; P1 to P9 are corrected together."""

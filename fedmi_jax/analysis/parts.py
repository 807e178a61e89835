"""From the parts of several predictions to their verdicts, corrected for their number.

A part is one number per seed and its criterion. A prediction holds when all its parts hold and does not when one of
them fails. Several predictions are corrected together (Holm 1979): the p of "holds" is the largest of the parts, since
all must hold; that of "does not hold" the smallest times their number, since one is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from fedmi_jax.analysis.verdicts import FAILS, HOLDS, MIN_SEEDS, OPEN, Criterion, decide
from fedmi_jax.results.statistics import Estimate, estimate

ALPHA = 0.05
IN_PART = "in part"
"""Where a prediction has three answers: neither of the two."""
NOTHING = Estimate(np.nan, None, None, 0)


@dataclass(frozen=True)
class Part:
    """One number of a prediction, and how it stands."""

    label: str
    experiments: tuple[str, ...]
    estimate: Estimate = NOTHING
    criterion: str = ""
    verdict: str = OPEN
    """By its interval alone."""
    holds_p: float = 1.0
    fails_p: float = 1.0
    null: float | None = None
    null_meets_it: bool = False
    undefined: float | None = None
    """Share of the circuits that are of no competent model."""
    detail: str = ""
    lacks: str = ""
    """What is missing to judge it; empty: nothing."""
    beside: bool = False
    """Told, but decides nothing."""
    about: tuple[str, ...] = ("local",)
    """Origins of the models whose circuits it is about; none: it is about whole models."""


Answer = Callable[[Estimate], str]


def part(
    label: str, experiments: str | Sequence[str], per_seed: xr.DataArray, criterion: Criterion, *,
    null: xr.DataArray | None = None, undefined: xr.DataArray | None = None, detail: str = "", beside: bool = False,
    answer: Answer | None = None, fails: Criterion | None = None, scale: Callable[[Any], Any] = lambda x: x,
    about: tuple[str, ...] = ("local",),
) -> Part:  # fmt: skip
    """A part with one number per seed, (S,).

    null (S,): the same number by chance; undefined: 1 for undefined circuits, 0 for others; answer: from the estimate
    to the verdict, where that is more than the criterion; fails: the criterion of "does not hold", where it is another
    than missing the first; scale: of the numbers, for the tests; about: origins of the circuits.
    """
    found = estimate(per_seed)
    holds_p, fails_p = one_sided(scale(np.asarray(per_seed, float)), _scaled(criterion, scale))
    if fails is not None:
        fails_p = one_sided(scale(np.asarray(per_seed, float)), _scaled(fails, scale))[0]
    chance = None if null is None else float(null.mean())
    chance = None if chance is None or np.isnan(chance) else chance
    return Part(
        label, (experiments,) if isinstance(experiments, str) else tuple(experiments), found, str(criterion),
        answer(found) if answer else decide(found, criterion), holds_p, fails_p, chance,
        chance is not None and criterion.met(chance), None if undefined is None else float(undefined.mean()),
        detail, "" if found.seeds else "there is no such circuit", beside, about,
    )  # fmt: skip


def _scaled(criterion: Criterion, scale: Callable[[Any], Any]) -> Criterion:
    """Its finite end scaled."""
    ends = {"low": criterion.low, "high": criterion.high}
    return Criterion(**{name: float(scale(end)) for name, end in ends.items() if np.isfinite(end)})


def one_sided(values: np.ndarray, criterion: Criterion) -> tuple[float, float]:
    """p-values of a t-test over seeds for a mean that meets a one-sided criterion, and for one that misses it.

    1 with fewer than `MIN_SEEDS` values. Where all seeds agree there is nothing to estimate, and p is 0 or 1.
    """
    values = values[np.isfinite(values)]
    if len(values) < MIN_SEEDS:
        return 1.0, 1.0
    away = values - criterion.low if np.isfinite(criterion.low) else criterion.high - values
    if np.ptp(away) < 1e-9:
        return (0.0, 1.0) if away.mean() >= 0 else (1.0, 0.0)
    return tuple(float(stats.ttest_1samp(away, 0, alternative=side).pvalue) for side in ("greater", "less"))  # type: ignore


def missing(
    label: str, experiments: str | Sequence[str], lacks: str, beside: bool = False, about: tuple[str, ...] = ("local",)
) -> Part:
    """A part that cannot be measured."""
    names = (experiments,) if isinstance(experiments, str) else tuple(experiments)
    return Part(label, names, lacks=lacks, beside=beside, about=about)


# --- of several parts, and of several predictions ---


def together(parts: Sequence[Part]) -> str:
    """How a prediction stands before correction."""
    verdicts = [one.verdict for one in parts if not one.beside]
    if FAILS in verdicts:
        return FAILS
    if not verdicts or len(set(verdicts)) > 1:
        return OPEN
    return verdicts[0]


def p_values(parts: Sequence[Part]) -> tuple[float, float]:
    """Of "holds" and of "does not hold"."""
    deciding = [one for one in parts if not one.beside]
    if not deciding:
        return 1.0, 1.0
    return max(one.holds_p for one in deciding), min(1.0, len(deciding) * min(one.fails_p for one in deciding))


def holm(p: Sequence[float]) -> list[float]:
    """Corrected p-values (Holm 1979), in the order given: the i-th smallest times the number of those not smaller, and
    no less than the one before."""
    values = np.asarray(p, float)
    order = np.argsort(values, kind="stable")
    scaled = np.minimum(1, np.maximum.accumulate(values[order] * (len(values) - np.arange(len(values)))))
    found = np.empty(len(values))
    found[order] = scaled
    return found.tolist()


def corrected_p(predictions: Sequence[Sequence[Part]]) -> list[tuple[float, float]]:
    """Of "holds" and of "does not hold", each a family of its own, by prediction."""
    holds, fails = (holm(side) for side in zip(*map(p_values, predictions), strict=True))
    return list(zip(holds, fails, strict=True))


def corrected(verdict: str, holds_p: float, fails_p: float) -> str:
    """The verdict that stands, by the corrected p-values. "In part" is a statement that both boundaries are missed, so
    that it has no p of its own and stands by its interval."""
    p = {HOLDS: holds_p, FAILS: fails_p}.get(verdict, 0.0)
    return verdict if p < ALPHA else OPEN

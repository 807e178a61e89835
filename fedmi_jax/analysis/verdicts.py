"""From numbers to a verdict, by fixed rules.

A claim is judged under several *definitions* (whose circuits, which accuracy, what two empty sets count as). Under
each, one number per seed is compared with a criterion:

- holds: the whole 95 % interval over seeds meets the criterion;
- does not hold: the whole interval misses it;
- cannot tell yet: the interval reaches over the boundary, or there are fewer than `MIN_SEEDS` seeds.

The claim holds when it holds under every definition, does not hold when it fails under every one, and holds only for
those named when it holds under some and fails under others. Otherwise it cannot be told yet. Definitions under which
nothing could be measured have no say.

Beside it stands what chance gives. When the null meets the criterion too, meeting it is no evidence; that is marked,
and left to the reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedmi_jax.results.statistics import Estimate

MIN_SEEDS = 3
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell yet"
Verdict = Literal["holds", "does not hold", "cannot tell yet"]


@dataclass(frozen=True)
class Criterion:
    """A closed range of values."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        low, high = _said(self.low), _said(self.high)
        if math.isinf(self.high):
            return f"at least {low}"
        return f"at most {high}" if math.isinf(self.low) else f"{low} to {high}"

    def met(self, value: float) -> bool:
        return self.low <= value <= self.high


def _said(limit: float) -> str:
    """With two digits, or with as many as it has."""
    short = f"{limit:.2f}"
    return short if math.isclose(float(short), limit) else f"{limit:g}"


@dataclass(frozen=True)
class Finding:
    """One claim under one definition."""

    definition: str
    estimate: Estimate
    criterion: Criterion
    verdict: Verdict
    mean_meets_it: bool
    """What the mean alone says, whatever the number of seeds."""
    null: float | None = None
    """Mean of the same number by chance; None: there is no null, or the result lacks it."""
    ceiling: float | None = None
    """The same number of circuits against themselves, found again on the same weights."""
    detail: str = ""
    rule: str = ""
    """What decides, where it is more than the criterion."""
    caution: str = ""
    """What the number must not be read without."""
    void: bool = False
    """The number says nothing about the claim, so that the definition has no say."""

    @property
    def null_meets_it(self) -> bool:
        return self.null is not None and self.criterion.met(self.null)

    @property
    def ceiling_decides(self) -> bool:
        """Search noise alone misses what the criterion asks for, or meets an upper limit."""
        if self.ceiling is None:
            return False
        return self.ceiling < self.criterion.low or self.ceiling <= self.criterion.high < math.inf

    @property
    def measured(self) -> bool:
        """Whether there was anything to measure."""
        return not (self.void or math.isnan(self.estimate.mean))


def judged(
    definition: str, estimate: Estimate, criterion: Criterion, null: float | None = None, detail: str = "",
    ceiling: float | None = None,
) -> Finding:  # fmt: skip
    """The finding, with the verdict that the rule gives."""
    null = None if null is None or math.isnan(null) else null
    met = criterion.met(estimate.mean)
    return Finding(definition, estimate, criterion, decide(estimate, criterion), met, null, ceiling, detail)


def decide(estimate: Estimate, criterion: Criterion) -> Verdict:
    """The rule of a single definition."""
    low, high = estimate.low, estimate.high
    if math.isnan(estimate.mean) or low is None or high is None or estimate.seeds < MIN_SEEDS:
        return OPEN
    if criterion.low <= low and high <= criterion.high:
        return HOLDS
    return FAILS if high < criterion.low or low > criterion.high else OPEN


def overall(findings: list[Finding]) -> str:
    """The rule of the claim: `holds`, `holds only for A; B` (and of what is still open, `cannot tell yet for C`), `does
    not hold`, or `cannot tell yet`."""
    verdicts = {finding.verdict for finding in findings if finding.measured}
    if len(verdicts) == 1:
        return verdicts.pop()
    if not {HOLDS, FAILS} <= verdicts:
        return OPEN
    rest = f"; {OPEN} for {_named(findings, OPEN)}" if OPEN in verdicts else ""
    return f"holds only for {_named(findings, HOLDS)}{rest}"


def _named(findings: list[Finding], verdict: Verdict) -> str:
    return "; ".join(f.definition for f in findings if f.measured and f.verdict == verdict)


def leaning(findings: list[Finding]) -> str:
    """What the means alone say, whatever the number of seeds: how an undecided claim stands."""
    usable = [finding for finding in findings if finding.measured]
    met = [finding.definition for finding in usable if finding.mean_meets_it]
    if not usable:
        return "nothing to judge"
    if len(met) == len(usable):
        return HOLDS
    return f"holds only for {'; '.join(met)}" if met else FAILS

"""From numbers to a verdict, by fixed rules.

A claim is judged under several *definitions* (whose circuits, which accuracy, what two empty sets count as). Under
each, one number per seed is compared with a criterion:

- holds: the whole 95 % interval over seeds meets the criterion;
- does not hold: the whole interval misses it;
- cannot tell yet: the interval reaches over the boundary, or there are fewer than `MIN_SEEDS` seeds.

The claim holds when it holds under every definition, does not hold when it fails under every one, and holds only for
those named when it holds under some and fails under others. Otherwise it cannot be told yet.

Beside it stands what chance gives. When the null meets the criterion too, meeting it is no evidence; that is marked,
and left to the reader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from fedmi_jax.analysis.statistics import Estimate

MIN_SEEDS = 3
HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell yet"
Verdict = Literal["holds", "does not hold", "cannot tell yet"]


@dataclass(frozen=True)
class Criterion:
    """A closed range of values."""

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.high):
            return f"at least {self.low:.2f}"
        return f"at most {self.high:.2f}" if math.isinf(self.low) else f"{self.low:.2f} to {self.high:.2f}"

    def met(self, value: float) -> bool:
        return self.low <= value <= self.high


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
    detail: str = ""

    @property
    def null_meets_it(self) -> bool:
        return self.null is not None and self.criterion.met(self.null)


def judged(
    definition: str, estimate: Estimate, criterion: Criterion, null: float | None = None, detail: str = ""
) -> Finding:
    """The finding, with the verdict that the rule gives."""
    null = None if null is None or math.isnan(null) else null
    met = criterion.met(estimate.mean)
    return Finding(definition, estimate, criterion, decide(estimate, criterion), met, null, detail)


def decide(estimate: Estimate, criterion: Criterion) -> Verdict:
    """The rule of a single definition."""
    low, high = estimate.low, estimate.high
    if math.isnan(estimate.mean) or low is None or high is None or estimate.seeds < MIN_SEEDS:
        return OPEN
    if criterion.low <= low and high <= criterion.high:
        return HOLDS
    return FAILS if high < criterion.low or low > criterion.high else OPEN


def overall(findings: list[Finding]) -> str:
    """The rule of the claim: `holds`, `holds only for A; B`, `does not hold`, or `cannot tell yet`."""
    verdicts = {finding.verdict for finding in findings}
    if not findings or verdicts == {OPEN}:
        return OPEN
    if verdicts == {HOLDS}:
        return HOLDS
    if verdicts == {FAILS}:
        return FAILS
    if {HOLDS, FAILS} <= verdicts:
        return f"holds only for {'; '.join(f.definition for f in findings if f.verdict == HOLDS)}"
    return OPEN


def leaning(findings: list[Finding]) -> str:
    """What the means alone say, whatever the number of seeds: how an undecided claim stands."""
    usable = [f for f in findings if not math.isnan(f.estimate.mean)]
    met = [f.definition for f in usable if f.mean_meets_it]
    if not usable:
        return "nothing to judge"
    if len(met) == len(usable):
        return HOLDS
    return f"holds only for {'; '.join(met)}" if met else FAILS

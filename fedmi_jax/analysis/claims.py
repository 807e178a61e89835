"""The paper's claims C1 to C12 (METHOD: section 9), each a rule that judges it (`verdicts`).

Axes: S seeds, R rounds, K clients, C classes.

Where the paper says "near 1.0", "about 100 %" or "often" a number had to be chosen. The choices stand in `CLAIMS`
beside each claim and are printed with every table: near 1 is at least 0.9; about 100 % at least 0.95, and as a
detector that must not fire on other classes, a one-vs-rest balanced accuracy of at least 0.75, halfway from chance to
perfect. A degenerate circuit's output cannot depend on the image, so its accuracy of 0 or 1 is no finding: circuits
that are not degenerate are judged alone, too, wherever some are, and where all are, nobody's accuracy has a say.

A run shorter than the paper's decides only what more rounds could not undo: a circuit that has collapsed has collapsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import xarray as xr

from fedmi_jax import presets
from fedmi_jax.analysis import interference, measures, nulls, verdicts
from fedmi_jax.analysis.findings import (
    ALPHA,
    LESS,
    SKEWED,
    TREND,
    against_sparsity,
    between_clients,
    detector,
    function,
    in_place,
    overlap,
    preserved,
    so_far,
)  # fmt: skip
from fedmi_jax.analysis.measures import LAST_ROUND, LAST_ROUNDS
from fedmi_jax.analysis.parts import Part
from fedmi_jax.analysis.runs import ABLATION, Runs, is_a, paper
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, OPEN, Criterion, Finding, judged
from fedmi_jax.results.statistics import estimate

NEAR_ONE, WORKS = Criterion(low=0.9), Criterion(low=0.95)


@dataclass(frozen=True)
class Claim:
    """One claim and how it is judged."""

    id: str
    section: str
    says: str
    """In our words."""
    paper: str
    """The paper's value."""
    rule: str
    kinds: tuple[str, ...]
    """Experiments that it is about."""
    needs: tuple[str, ...]
    """Variables without which a run is left out."""
    judge: Callable[[Runs], list[Finding]]
    """Of one run or more of those kinds, each with these variables."""


@dataclass(frozen=True)
class Row:
    """A claim, judged on some runs."""

    claim: Claim
    findings: list[Finding]
    absent: list[str]
    """Experiments of the claim that are not there."""
    lacking: list[str]
    """Those that are, and what they lack to be judged."""
    deciding: Sequence[Part] = ()
    """The same with circuits that decide, told and not judged."""

    @property
    def without(self) -> list[str]:
        return self.absent + self.lacking

    @property
    def verdict(self) -> str:
        said = verdicts.overall(self.findings)
        return f"{said}, without {', '.join(self.without)}" if self.without and said != OPEN else said

    @property
    def leaning(self) -> str:
        return verdicts.leaning(self.findings)

    @property
    def seeds(self) -> int:
        """Of the definition that has fewest; those without data do not count."""
        return min(self._seeds, default=0)

    @property
    def most_seeds(self) -> int:
        """Of the definition that has most."""
        return max(self._seeds, default=0)

    @property
    def _seeds(self) -> list[int]:
        return [finding.estimate.seeds for finding in self.findings if finding.measured]


def judge(runs: Runs, deciding: Mapping[str, Sequence[Part]] | None = None) -> list[Row]:
    """Every claim on these experiments; a claim whose experiments are not there has no findings. deciding: what stands
    beside each claim (`second`)."""
    return [_row(claim, runs, (deciding or {}).get(claim.id, ())) for claim in CLAIMS]


def _row(claim: Claim, runs: Runs, deciding: Sequence[Part] = ()) -> Row:
    there = {name: ds for name, ds in runs.items() if is_a(name, claim.kinds)}
    lacks = {name: [v for v in claim.needs if v not in ds] for name, ds in there.items()}
    usable = {name: ds for name, ds in there.items() if not lacks[name]}
    about = [*claim.kinds] if ABLATION not in claim.kinds else [f"{ABLATION}-{level:g}" for level in presets.LEVELS]
    absent = [name for name in about if name not in there]
    lacking = [f"{name} (no {', '.join(variables)})" for name, variables in lacks.items() if variables]
    findings = claim.judge(usable) if usable else []
    if usable and not findings:
        lacking.append(f"a third level besides {' and '.join(usable)}")
    return Row(claim, findings, absent, lacking, deciding)


# --- the rules ---


def _c1(runs: Runs) -> list[Finding]:
    on_average = between_clients(runs, "inter_client_iou", "on average", measures.mean, NEAR_ONE)
    return on_average + between_clients(
        runs, "inter_client_iou", "everywhere", measures.lowest, NEAR_ONE, firm=(FAILS,)
    )


def _c2(runs: Runs) -> list[Finding]:
    return between_clients(runs, "stability_iou", "", measures.mean, NEAR_ONE, LAST_ROUNDS)


def _c3(runs: Runs) -> list[Finding]:
    ways = (("on average", measures.mean), ("in the worst layer", measures.lowest_layer))
    return [
        finding
        for measure in (preserved, in_place)
        for label, reduce in ways
        for finding in measure(runs, "iid", label, reduce, NEAR_ONE, LAST_ROUNDS)
    ]


def _c4(runs: Runs) -> list[Finding]:
    low = Criterion(high=0.3)
    return between_clients(runs, "specialist_distinctness", "", measures.highest_layer, low, LAST_ROUND)


def _c5(runs: Runs) -> list[Finding]:
    found: list[Finding] = []
    for name in runs:
        accuracy = f"{name}, accuracy on the class"
        found += function(runs, name, accuracy, measures.mean, WORKS, rounds=LAST_ROUND)
        found += detector(runs, name, f"{name}, balanced accuracy", rounds=LAST_ROUND)
    return found


def _c6(runs: Runs) -> list[Finding]:
    found: list[Finding] = []
    for name, ds in runs.items():
        measured = overlap(runs, name, "local_global_iou", None, f"{name}, as measured", measures.decline, LESS)
        found += [replace(one, ceiling=None) for one in measured]  # what search noise leaves of a decline is no limit
        one = measures.overlaps(ds, "local_global_iou")[0]  # under either convention corrected IoU is the same
        corrected = estimate(measures.decline(nulls.corrected(one.value, one.null)))
        made = judged(f"{name}, corrected for chance", corrected, LESS)
        found.append(so_far(made, ds.sizes["round"], paper(name).rounds))
        found += in_place(runs, name, name, measures.decline, LESS)
    return found


def _c7(runs: Runs) -> list[Finding]:
    return between_clients(runs, "specialist_distinctness", "", measures.mean, Criterion(low=0.6, high=0.9))


def _c8(runs: Runs) -> list[Finding]:
    back, often = "share of circuits that collapse and recover", "share of rounds with most circuits out"
    return [
        *function(runs, "three-class", back, interference.recovered_share, Criterion(low=0.5), firm=(HOLDS,)),
        *function(runs, "three-class", often, _most_out, Criterion(low=0.2)),
    ]


def _most_out(cross: xr.DataArray) -> xr.DataArray:
    """Share of rounds in which more than half of the circuits are out; rounds without circuits do not count."""
    share = interference.out_share(cross)
    return (share > 0.5).where(share.notnull()).mean("round")


def _c9(runs: Runs) -> list[Finding]:
    low = Criterion(high=0.5)
    return [
        finding
        for measure in (preserved, in_place)
        for finding in (
            *measure(runs, "three-class", "on average", measures.mean, low),
            *measure(runs, "three-class", "in the best round", measures.highest_round, low, firm=(FAILS,)),
        )
    ]


def _c10(runs: Runs) -> list[Finding]:
    name = "shared-class"
    shared, lowest = measures.shared_classes(runs[name]), "accuracy on the class, lowest of any client and round"
    return [
        *function(runs, name, lowest, measures.lowest, WORKS, shared, firm=(FAILS,)),
        *detector(runs, name, "balanced accuracy", shared),
    ]


def _c11(runs: Runs) -> list[Finding]:
    name = "shared-class"
    shared = measures.shared_classes(runs[name])
    own = [c for c in runs[name]["class"].values.tolist() if c not in shared]
    once, often = "share of circuits that collapse", "share of circuits and rounds out"
    return [
        *function(runs, name, once, interference.collapsed_share, Criterion(low=0.5), own, firm=(HOLDS,)),
        *function(runs, name, often, interference.out_rate, Criterion(low=0.1), own),
    ]


# --- the table ---

_BETWEEN, _STABLE, _KEPT, _DISTINCT = (
    (measure, "empty_pairs_" + measure.removesuffix("_iou"))
    for measure in ("inter_client_iou", "stability_iou", "local_global_iou", "specialist_distinctness")
)
_CROSS = ("cross_evaluation", "degenerate")
CLAIMS = (
    Claim("C1", "3.1, fig. 1", "IID clients find the same circuits, in all classes, layers and rounds", "near 1.0",
          "inter-client IoU at least 0.90: the mean, and the lowest of all", ("iid",), _BETWEEN, _c1),
    Claim("C2", "3.1, fig. 10", "an IID client's circuits settle over rounds", "converges to 1.0",
          f"mean IoU with the round before, last {measures.LAST} rounds, at least 0.90", ("iid",), _STABLE, _c2),
    Claim("C3", "3.1, fig. 2", "in IID, averaging keeps local circuits where they were", "converges near 1.0",
          f"local-to-global IoU, last {measures.LAST} rounds, at least 0.90: the mean, and in the worst layer",
          ("iid",), _KEPT, _c3),
    Claim("C4", "3.2, fig. 3, 14", "clients with other classes use other channels", "below 0.3 in all layers",
          "specialist distinctness, last round, highest layer, at most 0.30", SKEWED, _DISTINCT, _c4),
    Claim("C5", "3.2, fig. 4", "local circuits still work on the averaged model", "nearly 100 %",
          "cross-evaluation, last round, at least 0.95; balanced accuracy at least 0.75", SKEWED, _CROSS, _c5),
    Claim("C6", "3.2, fig. 5, 15, 16", "local circuits move: overlap with the global ones peaks early, then declines",
          "declines", "local-to-global IoU, second half of the rounds minus first, at most -0.01", SKEWED, _KEPT, _c6),
    Claim("C7", "3.2.1, fig. 6", "with three classes per client, circuits of different clients overlap more",
          "0.6 to 0.9", "specialist distinctness, mean of rounds and layers, 0.60 to 0.90",
          ("three-class",), _DISTINCT, _c7),
    Claim("C8", "3.2.1, fig. 7", "three-class circuits collapse to 0 % and recover, often most of them at once",
          "often 0 %, a majority in many rounds",
          "cross-evaluation falls under 1 % and comes back: at least half of the circuits; under 1 %: most circuits at "
          "once in at least 20 % of the rounds", ("three-class",), _CROSS, _c8),
    Claim("C9", "3.2.1, fig. 8, 17", "three-class circuits never settle: local-to-global overlap stays low",
          "low and noisy for 50 rounds", "local-to-global IoU at most 0.50: the mean, and in the best round",
          ("three-class",), _KEPT, _c9),
    Claim("C10", "3.2.2, fig. 9", "the circuit of a class that all clients hold always survives", "at or near 100 %",
          "cross-evaluation at least 0.95 for every client in every round; balanced accuracy at least 0.75",
          ("shared-class",), _CROSS, _c10),
    Claim("C11", "3.2.2, fig. 9", "circuits of the classes that one client holds collapse often", "frequently 0 %",
          "cross-evaluation falls under 1 %: at least half of them; is under 1 %: at least 10 % of circuits and rounds",
          ("shared-class",), _CROSS, _c11),
    Claim("C12", "3.3, fig. 19", "the sparser, the more stable is the cross-evaluation",
          "monotone; last round 3 of 6 out at 95 %, 1 of 6 at 99.5 %",
          f"{TREND} (does not hold: p of a rise < {ALPHA}, or the interval of the fall wholly under 0.01); last round, "
          "95 % minus 99.5 %, at least 0.01",
          (ABLATION,), _CROSS, against_sparsity),
)  # fmt: skip

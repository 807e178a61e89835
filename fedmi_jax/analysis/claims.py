"""The paper's claims C1 to C12 (METHOD: section 9), each a rule that judges it (`verdicts`).

Axes: S seeds, R rounds, K clients, C classes.

Where the paper says "near 1.0", "about 100 %" or "often" a number had to be chosen. The choices stand in `CLAIMS`
beside each claim and are printed with every table: near 1 is at least 0.9; about 100 % at least 0.95, and as a
detector that must not fire on other classes, a one-vs-rest balanced accuracy of at least 0.75, halfway from chance to
perfect. A degenerate circuit's output cannot depend on the image, so its accuracy of 0 or 1 is no finding: circuits
that are not degenerate are judged alone, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from fedmi_jax.analysis import alignment, interference, measures, nulls, verdicts
from fedmi_jax.analysis.measures import Reduce
from fedmi_jax.analysis.runs import ABLATION, Runs, sparsity_level
from fedmi_jax.analysis.statistics import estimate, over_seeds, paired
from fedmi_jax.analysis.verdicts import Criterion, Finding, judged

NEAR_ONE, WORKS, DETECTS = Criterion(low=0.9), Criterion(low=0.95), Criterion(low=0.75)
ALPHA = 0.05
"""Of the trend test."""


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
    """Experiments that bear on it."""
    judge: Callable[[Runs], list[Finding]]


@dataclass(frozen=True)
class Row:
    """A claim, judged on some runs."""

    claim: Claim
    findings: list[Finding]

    @property
    def verdict(self) -> str:
        return verdicts.overall(self.findings)

    @property
    def leaning(self) -> str:
        return verdicts.leaning(self.findings)

    @property
    def seeds(self) -> int:
        return min((finding.estimate.seeds for finding in self.findings), default=0)


def judge(runs: Runs) -> list[Row]:
    """Every claim on these experiments; a claim whose experiments are not there has no findings."""
    return [Row(claim, claim.judge(runs)) for claim in CLAIMS]


# --- overlap ---


def _overlap(
    ds: xr.Dataset, measure: str, origin: str | None, reduce: Reduce, criterion: Criterion, label: str
) -> list[Finding]:
    """One finding per convention for two empty sets."""
    circuits, found = f"{origin} circuits" if origin else "", []
    conventions = measures.overlaps(ds, measure, origin)
    if len({str(estimate(reduce(one.value))) for one in conventions}) == 1:  # no empty pair where this looks
        conventions = [replace(conventions[0], convention="")]
    for one in conventions:
        null = measures.number(reduce, one.null)
        found.append(judged(_label(label, circuits, one.convention), estimate(reduce(one.value)), criterion, null))
    return found


def _both(
    runs: Runs, kinds: tuple[str, ...], measure: str, reduces: dict[str, Reduce], criterion: Criterion
) -> list[Finding]:
    """Circuits of global models, as the authors, and of local ones, in every experiment and by every reduction."""
    return [
        finding
        for name in kinds
        if name in runs
        for label, reduce in reduces.items()
        for origin in ("global", "local")
        for finding in _overlap(
            runs[name], measure, origin, reduce, criterion, _label(name if len(kinds) > 1 else "", label)
        )
    ]


def _label(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _c1(runs: Runs) -> list[Finding]:
    reduces: dict[str, Reduce] = {"on average": measures.mean, "everywhere": measures.lowest}
    return _both(runs, ("iid",), "inter_client_iou", reduces, NEAR_ONE)


def _c2(runs: Runs) -> list[Finding]:
    return _both(runs, ("iid",), "stability_iou", {"": measures.last_rounds}, NEAR_ONE)


def _c3(runs: Runs) -> list[Finding]:
    if "iid" not in runs:
        return []
    reduces: dict[str, Reduce] = {
        "on average": measures.last_rounds,
        "in the worst layer": measures.last_rounds_lowest_layer,
    }
    return _kept(runs["iid"], reduces, NEAR_ONE)


def _kept(ds: xr.Dataset, reduces: dict[str, Reduce], criterion: Criterion) -> list[Finding]:
    """Local against global circuits; where the result has weights, after matching their channels, too."""
    found: list[Finding] = []
    for label, reduce in reduces.items():
        found += _overlap(ds, "local_global_iou", None, reduce, criterion, label)
    if alignment.has_aligned(ds):
        value = alignment.aligned(ds)["aligned_local_global_iou"]
        for label, reduce in reduces.items():
            found.append(judged(f"{label}, channels aligned", estimate(reduce(value)), criterion))
    return found


def _c4(runs: Runs) -> list[Finding]:
    kinds, reduces = ("one-class", "two-class"), {"": measures.last_round_highest_layer}
    return _both(runs, kinds, "specialist_distinctness", reduces, Criterion(high=0.3))


def _c6(runs: Runs) -> list[Finding]:
    found: list[Finding] = []
    for name in ("one-class", "two-class"):
        if name in runs:
            for one in measures.overlaps(runs[name], "local_global_iou"):
                for label, value, null in (
                    ("as measured", one.value, measures.number(measures.decline, one.null)),
                    ("corrected for chance", nulls.corrected(one.value, one.null), None),
                ):
                    definition = _label(name, label, one.convention)
                    found.append(judged(definition, estimate(measures.decline(value)), LESS, null))
    return found


def _c7(runs: Runs) -> list[Finding]:
    return _both(runs, ("three-class",), "specialist_distinctness", {"": measures.mean}, Criterion(low=0.6, high=0.9))


def _c9(runs: Runs) -> list[Finding]:
    if "three-class" not in runs:
        return []
    reduces: dict[str, Reduce] = {"on average": measures.mean, "in the best round": measures.highest_round}
    return _kept(runs["three-class"], reduces, Criterion(high=0.5))


# --- function ---


def _chance(ds: xr.Dataset, reduce: Reduce, classes: list[int] | None = None) -> tuple[float | None, str]:
    """The reduced number by chance, the mean over random masks, and what stands for chance."""
    found = measures.random_cross_evaluation(ds)
    if found is None:
        return None, ""
    name, values = found
    values = values if classes is None else values.sel({"class": classes})
    parts = [values.isel(sample=i) for i in range(values.sizes["sample"])] if "sample" in values.dims else [values]
    return float(np.mean([measures.number(reduce, part) or 0.0 for part in parts])), f"null: {name}"


def _function(
    ds: xr.Dataset, label: str, reduce: Reduce, criterion: Criterion, classes: list[int] | None = None
) -> Finding:
    """A number of the cross-evaluation of local circuits."""
    cross = measures.cross_evaluation(ds)
    cross = cross if classes is None else cross.sel({"class": classes})
    null, what = _chance(ds, reduce, classes)
    return judged(label, estimate(reduce(cross)), criterion, null, what)


def _sound(ds: xr.Dataset, label: str, reduce: Reduce, classes: list[int] | None = None) -> list[Finding]:
    """The same of circuits with a channel in every layer, where some have none."""
    degenerate = ds["degenerate"].sel(origin="local", drop=True)
    cross = measures.cross_evaluation(ds).where(~degenerate)
    chosen = slice(None) if classes is None else classes
    if not degenerate.sel({"class": chosen}).any():
        return []
    return [judged(label, estimate(reduce(cross.sel({"class": chosen}))), WORKS)]


def _detector(ds: xr.Dataset, label: str, reduce: Reduce, classes: list[int] | None = None) -> list[Finding]:
    """The same circuits as detectors of their class; chance is a half."""
    balanced = measures.balanced(ds)
    if balanced is None:
        return []
    balanced = balanced if classes is None else balanced.sel({"class": classes})
    return [judged(label, estimate(reduce(balanced)), DETECTS, 0.5)]


def _c5(runs: Runs) -> list[Finding]:
    found: list[Finding] = []
    for name in ("one-class", "two-class"):
        if name in runs:
            found.append(_function(runs[name], f"{name}, accuracy on the class", measures.last_round, WORKS))
            found += _sound(runs[name], f"{name}, of circuits that are not degenerate", measures.last_round)
            found += _detector(runs[name], f"{name}, balanced accuracy", measures.last_round)
    return found


def _most_out(cross: xr.DataArray) -> xr.DataArray:
    """Share of rounds in which more than half of the circuits are out."""
    return (interference.out_share(cross) > 0.5).mean("round")


def _out_at_all(cross: xr.DataArray) -> xr.DataArray:
    return over_seeds(interference.out(cross))


def _c8(runs: Runs) -> list[Finding]:
    if "three-class" not in runs:
        return []
    ds = runs["three-class"]
    return [
        _function(ds, "share of circuits out at least once", interference.ever_out_share, Criterion(low=0.5)),
        _function(ds, "share of rounds with most circuits out", _most_out, Criterion(low=0.2)),
    ]


def _c10(runs: Runs) -> list[Finding]:
    if "shared-class" not in runs:
        return []
    ds = runs["shared-class"]
    shared = measures.shared_classes(ds)
    return [
        _function(ds, "accuracy on the class, lowest of any client and round", measures.lowest, WORKS, shared),
        *_sound(ds, "lowest of circuits that are not degenerate", measures.lowest, shared),
        *_detector(ds, "balanced accuracy", measures.mean, shared),
    ]


def _c11(runs: Runs) -> list[Finding]:
    if "shared-class" not in runs:
        return []
    ds = runs["shared-class"]
    own = [c for c in ds["class"].values.tolist() if c not in measures.shared_classes(ds)]
    return [
        _function(ds, "share of circuits out at least once", interference.ever_out_share, Criterion(low=0.5), own),
        _function(ds, "share of circuits and rounds out", _out_at_all, Criterion(low=0.1), own),
    ]


# --- trend ---


def _c12(runs: Runs) -> list[Finding]:
    levels = sorted((name for name in runs if name.startswith(ABLATION)), key=sparsity_level)
    if len(levels) < 3:
        return []
    cross = [measures.cross_evaluation(runs[name]) for name in levels]
    out = [_out_at_all(one) for one in cross]
    falls = [over_seeds(interference.collapses(one)) for one in cross]
    last = [over_seeds(interference.out(one.isel(round=-1))) for one in cross]
    return [
        _trend("share of circuits and rounds out", out, levels),
        _trend("collapses per circuit", falls, levels),
        _contrast("share out in the last round", last, levels),
    ]


def _trend(label: str, per_level: list[xr.DataArray], levels: list[str]) -> Finding:
    """Holds: falls at every level, and significantly (Page). Does not hold: it does not fall at every level, and not
    significantly. Its number is the fall from the first level to the last."""
    per_level = list(xr.align(*per_level, join="inner"))
    values = np.stack([one.values for one in per_level], 1)
    found, at_every_level = interference.trend(values), bool((np.diff(values.mean(0)) < 0).all())
    verdict: verdicts.Verdict = verdicts.OPEN
    said = _levels(per_level, levels)
    if found is not None:
        said += f"; Page's p {found.falling:.3f}"
    if found is not None and per_level[0].size >= verdicts.MIN_SEEDS:
        falls = found.falling < ALPHA
        verdict = verdicts.OPEN if falls != at_every_level else verdicts.HOLDS if falls else verdicts.FAILS
    fall = paired(per_level[0], per_level[-1])
    return Finding(f"{label}, falling at every level", fall, MORE, verdict, at_every_level, detail=said)


MORE, LESS = Criterion(low=0.01), Criterion(high=-0.01)
"""A difference that is there."""


def _contrast(label: str, per_level: list[xr.DataArray], levels: list[str]) -> Finding:
    ends = f"{sparsity_level(levels[0]):.1%} minus {sparsity_level(levels[-1]):.1%}"
    return judged(f"{label}, {ends}", paired(per_level[0], per_level[-1]), MORE, None, _levels(per_level, levels))


def _levels(per_level: list[xr.DataArray], levels: list[str]) -> str:
    means = (f"{sparsity_level(n):.1%}: {float(v.mean()):.2f}" for n, v in zip(levels, per_level, strict=True))
    return ", ".join(means)


_SKEWED = ("one-class", "two-class")
CLAIMS = (
    Claim("C1", "3.1, fig. 1", "IID clients find the same circuits, in all classes, layers and rounds", "near 1.0",
          "inter-client IoU at least 0.90: the mean, and the lowest of all", ("iid",), _c1),
    Claim("C2", "3.1, fig. 10", "an IID client's circuits settle over rounds", "converges to 1.0",
          f"mean IoU with the round before, last {measures.LAST} rounds, at least 0.90", ("iid",), _c2),
    Claim("C3", "3.1, fig. 2", "in IID, averaging keeps local circuits where they were", "converges near 1.0",
          f"local-to-global IoU, last {measures.LAST} rounds, at least 0.90: the mean, and in the worst layer",
          ("iid",), _c3),
    Claim("C4", "3.2, fig. 3, 14", "clients with other classes use other channels", "below 0.3 in all layers",
          "specialist distinctness, last round, highest layer, at most 0.30", _SKEWED, _c4),
    Claim("C5", "3.2, fig. 4", "local circuits still work on the averaged model", "nearly 100 %",
          "cross-evaluation, last round, at least 0.95; balanced accuracy at least 0.75", _SKEWED, _c5),
    Claim("C6", "3.2, fig. 5, 15, 16", "local circuits move: overlap with the global ones peaks early, then declines",
          "declines", "local-to-global IoU, second half of the rounds minus first, at most -0.01", _SKEWED, _c6),
    Claim("C7", "3.2.1, fig. 6", "with three classes per client, circuits of different clients overlap more",
          "0.6 to 0.9", "specialist distinctness, mean of rounds and layers, 0.60 to 0.90", ("three-class",), _c7),
    Claim("C8", "3.2.1, fig. 7", "three-class circuits collapse to 0 % and recover, often most of them at once",
          "often 0 %, a majority in many rounds",
          "cross-evaluation under 1 %: for at least half of the circuits at least once; for most circuits at once in "
          "at least 20 % of the rounds", ("three-class",), _c8),
    Claim("C9", "3.2.1, fig. 8, 17", "three-class circuits never settle: local-to-global overlap stays low",
          "low and noisy for 50 rounds", "local-to-global IoU at most 0.50: the mean, and in the best round",
          ("three-class",), _c9),
    Claim("C10", "3.2.2, fig. 9", "the circuit of a class that all clients hold always survives", "at or near 100 %",
          "cross-evaluation at least 0.95 for every client in every round; balanced accuracy at least 0.75",
          ("shared-class",), _c10),
    Claim("C11", "3.2.2, fig. 9", "circuits of the classes that one client holds collapse often", "frequently 0 %",
          "cross-evaluation under 1 %: for at least half of them once; in at least 10 % of circuits and rounds",
          ("shared-class",), _c11),
    Claim("C12", "3.3, fig. 19", "the sparser, the more stable is the cross-evaluation",
          "monotone; last round 3 of 6 out at 95 %, 1 of 6 at 99.5 %",
          "falls at every level with Page's p < 0.05 (does not hold: neither); last round, 95 % minus 99.5 %, "
          "at least 0.01",
          (ABLATION,), _c12),
)  # fmt: skip

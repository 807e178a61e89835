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

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from fedmi_jax import presets
from fedmi_jax.analysis import alignment, interference, measures, nulls, verdicts
from fedmi_jax.analysis.measures import ALL_ROUNDS, LAST_ROUND, LAST_ROUNDS, Reduce
from fedmi_jax.analysis.runs import ABLATION, Runs, is_a, levels, paper, sparsity_level
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, OPEN, Criterion, Finding, Verdict, decide, judged
from fedmi_jax.results.schema import held
from fedmi_jax.results.statistics import Estimate, estimate, over_seeds, paired

NEAR_ONE, WORKS, DETECTS = Criterion(low=0.9), Criterion(low=0.95), Criterion(low=0.75)
_SKEWED = ("one-class", "two-class")
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


def judge(runs: Runs) -> list[Row]:
    """Every claim on these experiments; a claim whose experiments are not there has no findings."""
    return [_row(claim, runs) for claim in CLAIMS]


def _row(claim: Claim, runs: Runs) -> Row:
    there = {name: ds for name, ds in runs.items() if is_a(name, claim.kinds)}
    lacks = {name: [v for v in claim.needs if v not in ds] for name, ds in there.items()}
    usable = {name: ds for name, ds in there.items() if not lacks[name]}
    about = [*claim.kinds] if ABLATION not in claim.kinds else [f"{ABLATION}-{level:g}" for level in presets.LEVELS]
    absent = [name for name in about if name not in there]
    lacking = [f"{name} (no {', '.join(variables)})" for name, variables in lacks.items() if variables]
    findings = claim.judge(usable) if usable else []
    if usable and not findings:
        lacking.append(f"a third level besides {' and '.join(usable)}")
    return Row(claim, findings, absent, lacking)


def _so_far(finding: Finding, rounds: int, of: int, firm: tuple[Verdict, ...] = ()) -> Finding:
    """Of so many of the paper's rounds: only a verdict that more rounds could not undo (firm) stands."""
    if rounds >= of:
        return finding
    verdict = finding.verdict if finding.verdict in firm else OPEN
    return replace(finding, verdict=verdict, detail=_label(f"{rounds} of {of} rounds", finding.detail))


def _label(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


# --- overlap ---


def _overlap(
    runs: Runs, name: str, measure: str, origin: str | None, label: str, reduce: Reduce, criterion: Criterion,
    rounds: slice = ALL_ROUNDS, firm: tuple[Verdict, ...] = (), aligned: bool = False,
) -> list[Finding]:  # fmt: skip
    """One finding per convention for two empty sets."""
    ds, found = runs[name], []
    what = _label(label, f"{origin} circuits" if origin else "", "channels aligned" if aligned else "")
    for one in measures.overlaps(ds, measure, origin, rounds, aligned):
        null, ceiling = (measures.number(reduce, part) for part in (one.null, one.ceiling))
        corrected = measures.number(reduce, nulls.corrected(one.value, one.null))
        detail = _label(
            f"{one.empty:.0%} of pairs empty" if one.empty else "",
            "" if corrected is None else f"corrected for chance {corrected:.2f}",
        )
        made = judged(_label(what, one.convention), estimate(reduce(one.value)), criterion, null, detail, ceiling)
        found.append(_so_far(made, ds.sizes["round"], paper(name).rounds, firm))
    return found


def _between_clients(
    runs: Runs, measure: str, label: str, reduce: Reduce, criterion: Criterion, rounds: slice = ALL_ROUNDS,
    firm: tuple[Verdict, ...] = (),
) -> list[Finding]:  # fmt: skip
    """Circuits of global models, as the authors, and of local ones, in every experiment; unions of local ones also
    after matching the clients' channels, where the result has weights."""
    found: list[Finding] = []
    for name, ds in runs.items():
        said = _label(name if name in _SKEWED else "", label)
        for origin in ("global", "local"):
            found += _overlap(runs, name, measure, origin, said, reduce, criterion, rounds, firm)
        if f"aligned_{measure}" in alignment.ALIGNED and alignment.has_aligned(ds):
            found += _overlap(runs, name, measure, "local", said, reduce, criterion, rounds, firm, aligned=True)
    return found


def _kept(
    runs: Runs, name: str, label: str, reduce: Reduce, criterion: Criterion, rounds: slice = ALL_ROUNDS,
    firm: tuple[Verdict, ...] = (),
) -> list[Finding]:  # fmt: skip
    """Local against global circuits; where the result has weights, after matching their channels, too."""
    ways = (False, True) if alignment.has_aligned(runs[name]) else (False,)
    return [
        finding
        for aligned in ways
        for finding in _overlap(runs, name, "local_global_iou", None, label, reduce, criterion, rounds, firm, aligned)
    ]


def _in_place(
    runs: Runs, name: str, label: str, reduce: Reduce, criterion: Criterion, rounds: slice = ALL_ROUNDS,
    firm: tuple[Verdict, ...] = (),
) -> list[Finding]:  # fmt: skip
    """The share of the local circuit's channels that the global one has: a circuit that only grew has not moved."""
    value, null = (part.isel(round=rounds) for part in measures.contained(runs[name]))
    chance = measures.number(reduce, null)
    first, last = (_with_channels(runs[name], value, at) for at in (0, -1))
    left = f"layers with channels: {first:.0%} in the first round, {last:.0%} in the last" if first * last < 1 else ""
    made = judged(_label(label, "share of its channels kept"), estimate(reduce(value)), criterion, chance, left)
    return [_so_far(made, runs[name].sizes["round"], paper(name).rounds, firm)]


def _with_channels(ds: xr.Dataset, kept: xr.DataArray, at: int) -> float:
    """Of the circuits of one of these rounds, the share of layers in which the local one has channels at all."""
    here = kept.isel(round=at)
    there = held(ds).sel(round=here["round"]).broadcast_like(here)
    return float(here.notnull().sum() / there.sum())


def _c1(runs: Runs) -> list[Finding]:
    on_average = _between_clients(runs, "inter_client_iou", "on average", measures.mean, NEAR_ONE)
    return on_average + _between_clients(
        runs, "inter_client_iou", "everywhere", measures.lowest, NEAR_ONE, firm=(FAILS,)
    )


def _c2(runs: Runs) -> list[Finding]:
    return _between_clients(runs, "stability_iou", "", measures.mean, NEAR_ONE, LAST_ROUNDS)


def _c3(runs: Runs) -> list[Finding]:
    ways = (("on average", measures.mean), ("in the worst layer", measures.lowest_layer))
    return [
        finding
        for measure in (_kept, _in_place)
        for label, reduce in ways
        for finding in measure(runs, "iid", label, reduce, NEAR_ONE, LAST_ROUNDS)
    ]


def _c4(runs: Runs) -> list[Finding]:
    low = Criterion(high=0.3)
    return _between_clients(runs, "specialist_distinctness", "", measures.highest_layer, low, LAST_ROUND)


def _c6(runs: Runs) -> list[Finding]:
    found: list[Finding] = []
    for name, ds in runs.items():
        measured = _overlap(runs, name, "local_global_iou", None, f"{name}, as measured", measures.decline, LESS)
        found += [replace(one, ceiling=None) for one in measured]  # what search noise leaves of a decline is no limit
        one = measures.overlaps(ds, "local_global_iou")[0]  # under either convention corrected IoU is the same
        corrected = estimate(measures.decline(nulls.corrected(one.value, one.null)))
        made = judged(f"{name}, corrected for chance", corrected, LESS)
        found.append(_so_far(made, ds.sizes["round"], paper(name).rounds))
        found += _in_place(runs, name, name, measures.decline, LESS)
    return found


def _c7(runs: Runs) -> list[Finding]:
    return _between_clients(runs, "specialist_distinctness", "", measures.mean, Criterion(low=0.6, high=0.9))


def _c9(runs: Runs) -> list[Finding]:
    low = Criterion(high=0.5)
    return [
        finding
        for measure in (_kept, _in_place)
        for finding in (
            *measure(runs, "three-class", "on average", measures.mean, low),
            *measure(runs, "three-class", "in the best round", measures.highest_round, low, firm=(FAILS,)),
        )
    ]


# --- function ---


def _function(
    runs: Runs, name: str, label: str, reduce: Reduce, criterion: Criterion, classes: list[int] | None = None,
    rounds: slice = ALL_ROUNDS, firm: tuple[Verdict, ...] = (),
) -> list[Finding]:  # fmt: skip
    """A number of the cross-evaluation of local circuits; where some are degenerate, or do not even work on the model
    they were found on, also of the others."""
    ds = runs[name]
    cross = _part(measures.cross_evaluation(ds), classes, rounds)
    what, random = measures.random_cross_evaluation(ds) or ("", None)
    random = None if random is None else _part(random, classes, rounds)
    empty = _part(measures.degenerate(ds), classes, rounds)
    found = []
    for said, which in _sorts(ds):
        keep = True if which is None else _part(which, classes, rounds)
        kept, detail = cross.where(keep), f"null: {what}" if what else ""
        if said:
            if kept.notnull().equals(cross.notnull()):
                continue
            detail = _label(_share_left(kept, cross), detail)
        chance = None if random is None else _chance(random.where(keep), reduce)
        made = judged(_label(label, said), estimate(reduce(kept)), criterion, chance, detail)
        bad = float(empty.where(kept.notnull()).mean())
        made = replace(made, caution=f"{bad:.0%} degenerate" if bad > 0 else "", void=bad == 1)
        found.append(_so_far(made, ds.sizes["round"], paper(name).rounds, firm))
    return found


def _sorts(ds: xr.Dataset) -> list[tuple[str, xr.DataArray | None]]:
    """Which local circuits to judge, and what they are called: all; those with a channel in every layer; those that
    averaging alone can have broken, where the result says which."""
    home = measures.works_at_home(ds)
    sorts = [("", None), ("not degenerate", ~measures.degenerate(ds))]
    return sorts if home is None else [*sorts, ("works on its own model", home)]


def _common_sorts(all_: list[xr.Dataset]) -> list[tuple[Any, ...]]:
    """Of `_sorts`, those that every run can tell, without "all": name, and which circuits of each run."""
    sorts = [dict(_sorts(ds)) for ds in all_]
    return [(said, *(of[said] for of in sorts)) for said in sorts[0] if said and all(said in of for of in sorts)]


def _part(values: xr.DataArray, classes: list[int] | None, rounds: slice) -> xr.DataArray:
    values = values.isel(round=rounds)
    return values if classes is None else values.sel({"class": classes})


def _share_left(kept: xr.DataArray, cross: xr.DataArray) -> str:
    """How many of the circuits, over all seeds; of several rounds each counts as often as it is there."""
    many = " and rounds" if cross.sizes.get("round", 1) > 1 else ""
    return f"{int(kept.notnull().sum())} of {int(cross.notnull().sum())} circuits{many}"


def _chance(random: xr.DataArray, reduce: Reduce) -> float | None:
    """The reduced number by chance, the mean over random masks; None where there is none."""
    parts = [random.isel(sample=i) for i in range(random.sizes["sample"])] if "sample" in random.dims else [random]
    found = [number for part in parts if (number := measures.number(reduce, part)) is not None]
    return float(np.mean(found)) if found else None


def _detector(
    runs: Runs, name: str, label: str, classes: list[int] | None = None, rounds: slice = ALL_ROUNDS
) -> list[Finding]:
    """The same circuits as detectors of their class; chance is a half."""
    ds = runs[name]
    balanced = measures.balanced(ds)
    if balanced is None:
        return []
    made = judged(label, estimate(over_seeds(_part(balanced, classes, rounds))), DETECTS, 0.5)
    return [_so_far(made, ds.sizes["round"], paper(name).rounds)]


def _c5(runs: Runs) -> list[Finding]:
    found: list[Finding] = []
    for name in runs:
        accuracy = f"{name}, accuracy on the class"
        found += _function(runs, name, accuracy, measures.mean, WORKS, rounds=LAST_ROUND)
        found += _detector(runs, name, f"{name}, balanced accuracy", rounds=LAST_ROUND)
    return found


def _most_out(cross: xr.DataArray) -> xr.DataArray:
    """Share of rounds in which more than half of the circuits are out; rounds without circuits do not count."""
    share = interference.out_share(cross)
    return (share > 0.5).where(share.notnull()).mean("round")


def _out_at_all(cross: xr.DataArray) -> xr.DataArray:
    return over_seeds(interference.out(cross))


def _c8(runs: Runs) -> list[Finding]:
    back, often = "share of circuits that collapse and recover", "share of rounds with most circuits out"
    return [
        *_function(runs, "three-class", back, interference.recovered_share, Criterion(low=0.5), firm=(HOLDS,)),
        *_function(runs, "three-class", often, _most_out, Criterion(low=0.2)),
    ]


def _c10(runs: Runs) -> list[Finding]:
    name = "shared-class"
    shared, lowest = measures.shared_classes(runs[name]), "accuracy on the class, lowest of any client and round"
    return [
        *_function(runs, name, lowest, measures.lowest, WORKS, shared, firm=(FAILS,)),
        *_detector(runs, name, "balanced accuracy", shared),
    ]


def _c11(runs: Runs) -> list[Finding]:
    name = "shared-class"
    shared = measures.shared_classes(runs[name])
    own = [c for c in runs[name]["class"].values.tolist() if c not in shared]
    once, often = "share of circuits that collapse", "share of circuits and rounds out"
    return [
        *_function(runs, name, once, interference.collapsed_share, Criterion(low=0.5), own, firm=(HOLDS,)),
        *_function(runs, name, often, _out_at_all, Criterion(low=0.1), own),
    ]


# --- trend ---

MORE, LESS = Criterion(low=0.01), Criterion(high=-0.01)
"""A difference that is there."""


def _c12(runs: Runs) -> list[Finding]:
    if len(names := levels(runs)) < 3:
        return []
    cross = [measures.cross_evaluation(runs[name]) for name in names]
    empty = [measures.degenerate(runs[name]).where(all_.notnull()) for name, all_ in zip(names, cross, strict=True)]
    found = _trends(names, cross, "", [f"{float(one.mean()):.0%} degenerate" for one in empty])
    for said, *which in _common_sorts([runs[name] for name in names]):
        kept = [all_.where(one) for one, all_ in zip(which, cross, strict=True)]
        if all(some.notnull().equals(all_.notnull()) for some, all_ in zip(kept, cross, strict=True)):
            continue
        beside = [_share_left(some, all_) for some, all_ in zip(kept, cross, strict=True)]
        found += _trends(names, kept, said, beside)
    rounds = min(ds.sizes["round"] for ds in runs.values())
    return [_so_far(finding, rounds, paper(names[0]).rounds) for finding in found]


def _trends(names: list[str], cross: list[xr.DataArray], which: str, beside: list[str]) -> list[Finding]:
    """All findings on some of the circuits; beside: what is said of each level."""
    last = [over_seeds(interference.out(one.isel(round=-1))) for one in cross]
    ends = f"{sparsity_level(names[0]):.1%} minus {sparsity_level(names[-1]):.1%}"
    change = judged(
        _label("share out in the last round", which, ends), paired(last[0], last[-1]), MORE, None,
        _levels(last, names, beside),
    )  # fmt: skip
    numbers = {
        "share of circuits and rounds out": _out_at_all,
        "collapses per circuit and step": interference.collapse_rate,
    }
    trends = [_trend(_label(label, which), [of(one) for one in cross], names, beside) for label, of in numbers.items()]
    return [*trends, change]


def _trend(label: str, per_level: list[xr.DataArray], names: list[str], beside: list[str]) -> Finding:
    """Its number is the fall from the first level to the last, of seeds that have all levels."""
    said, per_level = _levels(per_level, names, beside), list(xr.align(*per_level, join="inner"))
    values = np.stack([one.values for one in per_level], 1)
    whole = np.isfinite(values).all(1)
    values, fall = values[whole], paired(per_level[0][whole], per_level[-1][whole])
    at_every_level = len(values) > 0 and bool((np.diff(values.mean(0)) < 0).all())
    found = interference.trend(values)
    if found is not None:
        said += f"; Page's p {found.falling:.3f}" + (f", of a rise {found.rising:.3f}" if found.rising < ALPHA else "")
    verdict = _trend_verdict(found, at_every_level, fall)
    return Finding(f"{label}, falling at every level", fall, MORE, verdict, at_every_level, detail=said, rule=TREND)


TREND = f"falls at every level and Page's p < {ALPHA}"


def _trend_verdict(found: interference.Trend | None, at_every_level: bool, fall: Estimate) -> Verdict:
    """That no fall is significant does not yet say that there is none: a rise must be, or the fall's whole interval lie
    below what counts as one."""
    if found is None or fall.seeds < verdicts.MIN_SEEDS:
        return OPEN
    if at_every_level and found.falling < ALPHA:
        return HOLDS
    return FAILS if found.rising < ALPHA or decide(fall, MORE) == FAILS else OPEN


def _levels(per_level: list[xr.DataArray], names: list[str], beside: list[str]) -> str:
    told = zip(names, per_level, beside, strict=True)
    return ", ".join(f"{sparsity_level(name):.1%}: {float(v.mean()):.2f} ({more})" for name, v, more in told)


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
          "specialist distinctness, last round, highest layer, at most 0.30", _SKEWED, _DISTINCT, _c4),
    Claim("C5", "3.2, fig. 4", "local circuits still work on the averaged model", "nearly 100 %",
          "cross-evaluation, last round, at least 0.95; balanced accuracy at least 0.75", _SKEWED, _CROSS, _c5),
    Claim("C6", "3.2, fig. 5, 15, 16", "local circuits move: overlap with the global ones peaks early, then declines",
          "declines", "local-to-global IoU, second half of the rounds minus first, at most -0.01", _SKEWED, _KEPT, _c6),
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
          (ABLATION,), _CROSS, _c12),
)  # fmt: skip

"""What the rules of the paper's claims are made of: one number, its interval, what chance gives, and a verdict.

Axes: S seeds, R rounds, K clients, C classes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray as xr

from fedmi_jax.analysis import alignment, interference, measures, nulls, verdicts
from fedmi_jax.analysis.measures import ALL_ROUNDS, Reduce
from fedmi_jax.analysis.runs import Runs, levels, paper, sparsity_level
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, OPEN, Criterion, Finding, Verdict, decide, judged
from fedmi_jax.results.labels import held
from fedmi_jax.results.statistics import Estimate, estimate, over_seeds, paired

SKEWED = ("one-class", "two-class")
"""Experiments that share claims; a finding on them names its experiment."""
DETECTS = Criterion(low=0.75)
"""One-vs-rest balanced accuracy, halfway from chance to perfect."""
ALPHA = 0.05
"""Of the trend test."""


def so_far(finding: Finding, rounds: int, of: int, firm: tuple[Verdict, ...] = ()) -> Finding:
    """Of so many of the paper's rounds: only a verdict that more rounds could not undo (firm) stands."""
    if rounds >= of:
        return finding
    verdict = finding.verdict if finding.verdict in firm else OPEN
    return replace(finding, verdict=verdict, detail=_label(f"{rounds} of {of} rounds", finding.detail))


def _label(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


# --- overlap ---


def overlap(
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
        found.append(so_far(made, ds.sizes["round"], paper(name).rounds, firm))
    return found


def between_clients(
    runs: Runs, measure: str, label: str, reduce: Reduce, criterion: Criterion, rounds: slice = ALL_ROUNDS,
    firm: tuple[Verdict, ...] = (),
) -> list[Finding]:  # fmt: skip
    """Circuits of global models, as the authors, and of local ones, in every experiment; unions of local ones also
    after matching the clients' channels, where the result has weights."""
    found: list[Finding] = []
    for name, ds in runs.items():
        said = _label(name if name in SKEWED else "", label)
        for origin in ("global", "local"):
            found += overlap(runs, name, measure, origin, said, reduce, criterion, rounds, firm)
        if f"aligned_{measure}" in alignment.ALIGNED and alignment.has_aligned(ds):
            found += overlap(runs, name, measure, "local", said, reduce, criterion, rounds, firm, aligned=True)
    return found


def preserved(
    runs: Runs, name: str, label: str, reduce: Reduce, criterion: Criterion, rounds: slice = ALL_ROUNDS,
    firm: tuple[Verdict, ...] = (),
) -> list[Finding]:  # fmt: skip
    """Local against global circuits; where the result has weights, after matching their channels, too."""
    ways = (False, True) if alignment.has_aligned(runs[name]) else (False,)
    return [
        finding
        for aligned in ways
        for finding in overlap(runs, name, "local_global_iou", None, label, reduce, criterion, rounds, firm, aligned)
    ]


def in_place(
    runs: Runs, name: str, label: str, reduce: Reduce, criterion: Criterion, rounds: slice = ALL_ROUNDS,
    firm: tuple[Verdict, ...] = (),
) -> list[Finding]:  # fmt: skip
    """The share of the local circuit's channels that the global one has: a circuit that only grew has not moved."""
    value, null = (part.isel(round=rounds) for part in measures.contained(runs[name]))
    chance = measures.number(reduce, null)
    first, last = (_with_channels(runs[name], value, at) for at in (0, -1))
    left = f"layers with channels: {first:.0%} in the first round, {last:.0%} in the last" if first * last < 1 else ""
    made = judged(_label(label, "share of its channels kept"), estimate(reduce(value)), criterion, chance, left)
    return [so_far(made, runs[name].sizes["round"], paper(name).rounds, firm)]


def _with_channels(ds: xr.Dataset, kept: xr.DataArray, at: int) -> float:
    """Of the circuits of one of these rounds, the share of layers in which the local one has channels at all."""
    here = kept.isel(round=at)
    there = held(ds).sel(round=here["round"]).broadcast_like(here)
    return float(here.notnull().sum() / there.sum())


# --- function ---


def function(
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
        found.append(so_far(made, ds.sizes["round"], paper(name).rounds, firm))
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


def detector(
    runs: Runs, name: str, label: str, classes: list[int] | None = None, rounds: slice = ALL_ROUNDS
) -> list[Finding]:
    """The same circuits as detectors of their class; chance is a half."""
    ds = runs[name]
    balanced = measures.balanced(ds)
    if balanced is None:
        return []
    made = judged(label, estimate(over_seeds(_part(balanced, classes, rounds))), DETECTS, 0.5)
    return [so_far(made, ds.sizes["round"], paper(name).rounds)]


# --- trend ---

MORE, LESS = Criterion(low=0.01), Criterion(high=-0.01)
"""A difference that is there."""


def against_sparsity(runs: Runs) -> list[Finding]:
    """How often circuits are out at each level of an ablation, of three levels at least."""
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
    return [so_far(finding, rounds, paper(names[0]).rounds) for finding in found]


def _trends(names: list[str], cross: list[xr.DataArray], which: str, beside: list[str]) -> list[Finding]:
    """All findings on some of the circuits; beside: what is said of each level."""
    last = [over_seeds(interference.out(one.isel(round=-1))) for one in cross]
    ends = f"{sparsity_level(names[0]):.1%} minus {sparsity_level(names[-1]):.1%}"
    change = judged(
        _label("share out in the last round", which, ends), paired(last[0], last[-1]), MORE, None,
        _levels(last, names, beside),
    )  # fmt: skip
    numbers = {
        "share of circuits and rounds out": interference.out_rate,
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
    verdict = trend_verdict(found, at_every_level, fall)
    return Finding(f"{label}, falling at every level", fall, MORE, verdict, at_every_level, detail=said, rule=TREND)


TREND = f"falls at every level and Page's p < {ALPHA}"


def trend_verdict(found: interference.Trend | None, at_every_level: bool, fall: Estimate) -> Verdict:
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

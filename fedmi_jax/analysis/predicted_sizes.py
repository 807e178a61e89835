"""What predictions measure, P7 to P10 (docs/evidence.md): how large circuits are, and which channels they share.

Axes: S seeds, R rounds, K clients, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from fedmi_jax.analysis import findings, interference, measures, runs, sizes, units
from fedmi_jax.analysis.instruments import Key, Results
from fedmi_jax.analysis.interference import Trend
from fedmi_jax.analysis.nulls import corrected
from fedmi_jax.analysis.parts import IN_PART, Part, missing, part
from fedmi_jax.analysis.predicted import ON_OTHER, on
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, MIN_SEEDS, OPEN, Criterion
from fedmi_jax.presets import LEVELS
from fedmi_jax.results import schema
from fedmi_jax.results.schema import STATUS
from fedmi_jax.results.statistics import Estimate, estimate, over_seeds, paired

MATCHED = 8
"""Channels at which P7 compares circuits; other sizes stand beside."""


def growth(found: Estimate) -> str:
    """P7's answer: growth persists (holds), was the search's (does not hold), or there is some."""
    low, high = found.low, found.high
    if low is None or high is None or found.seeds < MIN_SEEDS:
        return OPEN
    if low >= 1.5:
        return HOLDS
    if high >= 1.5:
        return OPEN
    return FAILS if low <= 1 else IN_PART


def p7(results: Results, objective: str) -> list[Part]:
    key, name = Key("two-class", objective, "own"), "two-class"
    label = "global over local size"

    def grown(ds: xr.Dataset) -> Part:
        both = units.found(ds).all("origin")
        ratio = (units.size(ds, "global") / units.size(ds)).where(both)
        detail = f"{int(both.sum())} of {int(units.competent(ds).sel(origin='local').sum())} have both"
        return part(
            label, name, units.geometric(ratio), Criterion(low=1.5), undefined=units.undefined(ds, "global"),
            detail=detail, answer=growth, scale=np.log, about=schema.ORIGINS,
        )  # fmt: skip

    def moved(ds: xr.Dataset, size: int) -> Part:
        there = units.found(ds)
        found = sizes.at_size(ds, there & there.all("origin"), (size,)).isel(size=0)
        said = f"best {size} channels, second half of the rounds minus first"
        value = measures.decline(found["iou"])
        detail = f"corrected for chance {estimate(measures.decline(corrected(found['iou'], found['expected'])))}"
        return part(said, name, value, findings.LESS, null=measures.decline(found["expected"]), detail=detail,
                    beside=True, about=schema.ORIGINS)  # fmt: skip

    beside = [
        on(results, key, ("score_conv1",), f"best {size} channels", lambda ds, size=size: moved(ds, size), True)
        for size in (MATCHED, *(size for size in sizes.SIZES if size != MATCHED))
    ]
    return [on(results, key, ("size",), label, grown), *beside]


def p8(results: Results, objective: str) -> list[Part]:
    names = [f"{runs.ABLATION}-{level:g}" for level in LEVELS]
    keys = [Key(name, objective, "own") for name in names]
    labels = (
        "channels over live ones, falling",
        "fall of the share out",
        "of both models competent, fall of the share out",
    )
    needs = ("size", "live", ON_OTHER)
    absent = [name for name, key in zip(names, keys, strict=True) if key not in results]
    lacks = [on(results, key, needs, "", lambda _: missing("", "", "")).lacks for key in keys if key in results]
    if absent or any(lacks):
        said = [f"{objective} results of {', '.join(absent)} are not there"] if absent else []
        return [
            missing(label, names, "; ".join(said + [one for one in lacks if one]), label == labels[2])
            for label in labels
        ]
    levels = [results[key] for key in keys]
    outs = [units.out(ds) for ds in levels]
    both = [out.where(units.competent(ds).all("origin")) for out, ds in zip(outs, levels, strict=True)]
    undefined = [float(units.undefined(ds, "local").mean()) for ds in levels]
    return [
        _falling(labels[0], names, [over_seeds(units.share_of_live(ds)) for ds in levels], undefined),
        _fall(labels[1], names, outs),
        _fall(labels[2], names, both, True),
    ]


def _falling(label: str, names: list[str], per_level: list[xr.DataArray], undefined: list[float]) -> Part:
    levels = xr.concat(xr.align(*per_level, join="inner"), "level", join="exact").transpose("seed", "level")
    levels = levels.dropna("seed")  # ranked within a seed, which needs every level
    values, fall = levels.values, paired(levels.isel(level=0), levels.isel(level=-1))
    every = len(values) > 0 and bool((np.diff(values.mean(0)) < 0).all())
    trend = interference.trend(values)
    p = trend if trend and len(values) >= MIN_SEEDS else Trend(1.0, 1.0)
    return Part(
        label, tuple(names), fall, findings.TREND, findings.trend_verdict(trend, every, fall), p.falling, p.rising,
        undefined=float(np.mean(undefined)), detail=f"{_told(names, values.mean(0))}; Page's p {p.falling:.3f}",
        lacks="" if len(values) else "there is no such circuit",
    )  # fmt: skip


def _fall(label: str, names: list[str], out: list[xr.DataArray], beside: bool = False) -> Part:
    shares = [over_seeds(one) for one in out]
    first, last = xr.align(shares[0], shares[-1], join="inner")
    told = _told(names, [float(one.mean()) for one in shares])
    return part(label, names, first - last, Criterion(high=0.01), detail=told, beside=beside)


def _told(names: list[str], values: Sequence[float] | np.ndarray) -> str:
    levels = zip(names, values, strict=True)
    return ", ".join(f"{runs.sparsity_level(name):.1%}: {value:.2f}" for name, value in levels)


_PAIRED = {
    "between clients": sizes.between_clients,
    "round before": sizes.round_before,
    "local to global": sizes.local_to_global,
}


def p9(results: Results, objective: str) -> list[Part]:
    key, needs = Key("iid", objective, "probe"), ("rediscovery_iou", "live_conv1", "mask_conv1")
    parts = []
    for name in _PAIRED:
        for raw in (False, True):
            label = f"{name}, as measured" if raw else f"{name}, of what is found again, lowest layer"
            parts.append(on(results, key, needs, label, lambda ds, at=(name, label, raw): _alike(ds, *at)))
    return parts


def _alike(ds: xr.Dataset, name: str, label: str, raw: bool) -> Part:
    """Of local circuits in the rounds with a second search."""
    again = ds["rediscovery_iou"].where(units.competent(ds))
    twice = again.notnull().any([dim for dim in again.dims if dim != "round"])
    about = schema.ORIGINS if name == "local to global" else ("local",)
    found = sizes.overlaps(
        _PAIRED[name](sizes.circuits(ds.sel(origin=[*about]), units.competent(ds).sel(origin=[*about]))), True
    )
    iou, chance = (_layers(part.sel(round=twice)) for part in found)
    undefined = units.undefined(ds, "local")
    if raw:
        return part(label, "iid", iou.mean("layer"), Criterion(high=0.9), undefined=undefined, about=about)
    ceiling = corrected(*(_layers(part.sel(round=twice, origin=[*about])) for part in (again, _chance_again(ds))))
    ratio = corrected(iou, chance) / ceiling.where(ceiling > 0)
    told = ", ".join(f"{layer} {float(ratio.sel(layer=layer).mean()):.2f}" for layer in ratio["layer"].values)
    lowest = ratio.min("layer", skipna=False)
    return part(label, "iid", lowest, Criterion(low=0.9), undefined=undefined, detail=told, about=about)


def _layers(values: xr.DataArray) -> xr.DataArray:
    """(S, layer)."""
    return values.mean([dim for dim in values.dims if dim not in ("seed", "layer")])


def _chance_again(ds: xr.Dataset) -> xr.DataArray:
    """Of a circuit and a second one of its size on the same model."""
    sets = sizes.circuits(ds, units.competent(ds))
    return sizes.overlaps((sets, sets), True).expected


def p10(results: Results, objective: str) -> list[Part]:
    key, name = Key("two-class", objective, "own"), "two-class"
    labels = "permuted weights, size over live channels", "shuffled labels, explained"

    def larger(ds: xr.Dataset) -> Part:
        last = ds.isel(round=measures.LAST_ROUND)
        size, live, status = (_of_null(last, f"null_{name}", "permuted") for name in ("size", "live", "status"))
        decides = status.isin([STATUS.index("found"), STATUS.index("not compact")])
        value = units.ratio_of_means((size / live.where(live > 0)).where(decides), units.share_of_live(last), 0)
        detail = f"{int(decides.sum())} of {int(status.notnull().sum())} permuted models decide about the class"
        undefined = units.undefined(last, "local")
        return part(labels[0], name, value, Criterion(low=2), undefined=undefined, detail=detail)

    def explained(ds: xr.Dataset) -> Part:
        last = ds.isel(round=measures.LAST_ROUND)
        value = over_seeds(_of_null(last, "null_explained", "shuffled"))
        return part(labels[1], name, value, Criterion(high=0.05), undefined=units.undefined(last, "local"))

    return [
        on(results, key, ("null_size", "null_live", "null_status", "size", "live"), labels[0], larger),
        on(results, key, ("null_explained",), labels[1], explained),
    ]


def _of_null(ds: xr.Dataset, name: str, null: str) -> xr.DataArray:
    """Of competent local circuits, what the same search gives there (`schema.NULLS`), (S, R, K, C)."""
    return units.of(ds, name).sel(null=null, drop=True)

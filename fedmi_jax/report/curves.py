"""Lines over rounds: the mean over seeds, its interval as a band, degenerate points hollow. Chance is a grey band;
where every line has its own, it is dashed in the line's colour.

Axes: S seeds, R rounds, K clients, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fedmi_jax.analysis import measures, nulls
from fedmi_jax.report import style
from fedmi_jax.results.schema import held
from fedmi_jax.results.statistics import band, estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Curve:
    """One line: values[seed, round]; hollow[seed, round], the share of its circuits that are degenerate; null, the same
    by chance."""

    label: str
    values: xr.DataArray
    colour: str
    marker: str
    hollow: xr.DataArray | None = None
    null: xr.DataArray | None = None


@dataclass(frozen=True)
class Panel:
    """Lines in one frame, and what chance gives for all of them, [seed, round, ...], behind them."""

    title: str
    curves: Sequence[Curve]
    null: xr.DataArray | None = None
    null_label: str = ""
    """Also of the lines' own nulls."""
    note: str = ""
    """For the small print."""


def draw(panels: Sequence[Panel], columns: int, ylabel: str, height: float = 1.45) -> Figure:
    """A page-wide figure of panels that share their axes, from 0 to 1."""
    figure, axes = style.grid(len(panels), columns, height)
    for one, panel in zip(axes, panels, strict=True):
        _fill(one, panel)
        one.set(title=panel.title, ylim=(-0.07, 1.07), yticks=(0, 0.5, 1))
    for one in axes[:: min(columns, len(axes))]:
        one.set_ylabel(ylabel)
    for one in axes[-min(columns, len(axes)) :]:
        one.set_xlabel("round")
    curves = [curve for panel in panels for curve in panel.curves]
    if any(_is_hollow(curve).any() for curve in curves):
        axes[0].plot([], [], "o", mfc="white", mec=style.BLACK, mew=0.8, label=style.DEGENERATE)
        style.say(figure, style.HOLLOW)
    if any(_partial(curve).any() for curve in curves):
        style.say(figure, "dotted: the circuits of fewer seeds, the others' are empty")
    for note in sorted({panel.note for panel in panels if panel.note}):
        style.say(figure, note)
    style.legend(figure, axes)
    return figure


def _fill(axes: Axes, panel: Panel) -> None:
    for depth, curve in enumerate(panel.curves):
        line(axes, curve, depth)
    if panel.null is not None:
        chance(axes, panel.null, panel.null_label)
    for curve in panel.curves:
        if curve.null is not None:
            mean = curve.null.mean("seed")
            look = {"lw": 0.8, "ls": DASHES}
            axes.plot(mean["round"], mean, color=curve.colour, zorder=3.5, path_effects=style.rim(1.8), **look)
            axes.plot([], [], color=style.NULL, label=f"{panel.null_label} (same colour)", **look)
    rounds = panel.curves[0].values["round"].values if panel.curves else np.array([1])
    axes.set_xlim(rounds.min() - 0.5, rounds.max() + 0.5)
    if len(rounds) <= 10:
        axes.set_xticks(rounds[1::2] if len(rounds) > 5 else rounds)


DASHES, DOTS = (0, (3, 2)), (0, (1, 1))


def line(axes: Axes, curve: Curve, depth: int = 0) -> None:
    """The mean, its band where there are seeds, and a marker per round; many rounds get fewer of them, but all that are
    degenerate. Lines are the thinner the later they are drawn, so that those that coincide are seen; bands have an
    edge, so that those that overlap are told apart. Where some seeds have no value the line is dotted."""
    found = band(curve.values)
    rounds, mean, partial = found["round"].values, found["mean"].values, _partial(curve)
    if not np.isfinite(mean).any():
        return
    width = max(2.0 - 0.5 * depth, 0.8)
    if partial.any():
        axes.plot(rounds, mean, color=curve.colour, lw=0.8, ls=DOTS, zorder=3)
    axes.plot(rounds, np.where(partial, np.nan, mean), color=curve.colour, lw=width, zorder=3)
    axes.fill_between(rounds, found["low"], found["high"], color=curve.colour, alpha=0.12, lw=0)
    for limit in ("low", "high"):
        axes.plot(rounds, found[limit], color=curve.colour, lw=0.4, alpha=0.7, zorder=2)
    hollow = _is_hollow(curve)
    full = ~hollow & (np.arange(len(rounds)) % max(1, len(rounds) // 10) == 0)
    look = {"ls": "", "marker": curve.marker, "mec": curve.colour, "mew": 0.8, "ms": max(4.4 - 0.8 * depth, 2.4)}
    axes.plot(rounds[full], mean[full], mfc=curve.colour, zorder=4, **look)
    axes.plot(rounds[hollow], mean[hollow], mfc="white", zorder=5, **look)  # no full one hides them
    axes.plot([], [], color=curve.colour, marker=curve.marker, label=curve.label)


def _partial(curve: Curve) -> np.ndarray:
    """bool (R,): some seeds have no value here, though they have one in another round."""
    there = curve.values.notnull()
    seeds = there.sum("seed").values
    return (seeds > 0) & (seeds < int(there.any("round").sum("seed")))


def _is_hollow(curve: Curve) -> np.ndarray:
    """bool (R,): at least half of what the point averages is degenerate."""
    if curve.hollow is None:
        return np.zeros(curve.values.sizes["round"], bool)
    return curve.hollow.mean("seed").values >= 0.5


def bars(
    axes: Axes, at: np.ndarray, values: xr.DataArray, empty: xr.DataArray, width: float, colour: str, label: str
) -> None:
    """One per layer with its interval, of values[seed, layer]; the part that pairs of two empty sets contribute,
    empty[seed, layer], is hollow."""
    total, hollow = values.mean("seed").values, np.nan_to_num(empty.mean("seed").values)
    axes.bar(at, total - hollow, width, color=colour, label=label)
    some = hollow > 0
    if some.any():
        look = {"fill": False, "ec": colour, "label": style.BOTH_EMPTY}
        axes.bar(at[some], hollow[some], width, (total - hollow)[some], **look)
    for x, layer in zip(at, values["layer"].values, strict=True):
        one = estimate(values.sel(layer=layer))
        if one.low is not None and one.high is not None:
            ends = [[one.mean - one.low], [one.high - one.mean]]
            axes.errorbar(x, one.mean, ends, color=style.BLACK, lw=0.8, capsize=2)


def chance(axes: Axes, null: xr.DataArray, label: str) -> None:
    """Grey: the mean, and its interval over seeds as a band; other dimensions (random masks, say) are averaged."""
    found = band(null.mean([dim for dim in null.dims if dim not in ("seed", "round")]))
    rounds = found["round"].values
    axes.plot(rounds, found["mean"], color=style.NULL, lw=1.4, zorder=1, label=label)
    axes.fill_between(rounds, found["low"], found["high"], color=style.NULL, alpha=0.35, lw=0, zorder=1)


def names(ds: xr.Dataset) -> dict[int, str]:
    """Classes as the data set names them."""
    return dict(zip(ds["class"].values.tolist(), map(str, ds["class_name"].values), strict=True))


def own_classes(ds: xr.Dataset, client: int) -> list[int]:
    """Classes that this client analyses in any seed."""
    there = ds["analysed"].sel(client=client).any("seed").values.astype(bool)
    return ds["class"].values[there].tolist()


def degenerate(ds: xr.Dataset, origin: str | None) -> xr.DataArray:
    """1 where a circuit of this origin (None: of any) is degenerate, NaN where there is none (seed, round, client,
    class)."""
    flags = ds["degenerate"]
    one = flags.sel(origin=origin, drop=True) if origin else flags.any("origin")
    return one.where(held(ds)).astype(float)


def overlap(title: str, ds: xr.Dataset, measure: str, origin: str | None, at: dict[str, object]) -> Panel:
    """A measure of similarity, one line per layer, mean over the dimensions that are left at this place."""
    value, null, empty = ds[measure], nulls.expected(ds)[measure], ds["empty_pairs_" + measure.removesuffix("_iou")]
    if origin is not None:
        value, null, empty = (part.sel(origin=origin) for part in (value, null, empty))
    value, null, empty = (
        over_rounds(part.sel({d: v for d, v in at.items() if d in part.dims})) for part in (value, null, empty)
    )
    flags = degenerate(ds, origin)
    flags = flags.sel({d: v for d, v in at.items() if d in flags.dims})
    hollow = flags.mean([d for d in flags.dims if d not in ("seed", "round")])
    curves = [
        Curve(layer, value.sel(layer=layer), colour, marker, hollow, null.sel(layer=layer))
        for (layer, colour), marker in zip(style.LAYERS.items(), style.MARKERS, strict=False)
    ]
    note = style.EMPTY_COUNT if (empty > 0).any() else ""
    return Panel(title, curves, null_label="random sets", note=note)


def over_rounds(values: xr.DataArray) -> xr.DataArray:
    return values.mean([dim for dim in values.dims if dim not in ("seed", "round", "layer")])


def cross_evaluation(title: str, ds: xr.Dataset, client: int) -> Panel:
    """Local circuits on the global model, one line per class of the client."""
    cross, flags = (values.sel(client=client) for values in (measures.cross_evaluation(ds), degenerate(ds, "local")))
    labels = names(ds)
    curves = [
        Curve(labels[c], cross.sel({"class": c}), *style.look(c), flags.sel({"class": c}))
        for c in own_classes(ds, client)
    ]
    found = measures.random_cross_evaluation(ds)
    if found is None:
        return Panel(title, curves, note="the result has no null for cross-evaluation")
    name, null = found
    nulls_ = [over_rounds(null.sel({"client": client, "class": c})) for c in own_classes(ds, client)]
    if len(curves) == 1:
        return Panel(title, curves, nulls_[0], name)
    curves = [replace(curve, null=one) for curve, one in zip(curves, nulls_, strict=True)]
    return Panel(title, curves, null_label=name)  # a mean over classes would be the chance of none of them

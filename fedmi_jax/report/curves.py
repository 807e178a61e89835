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
from fedmi_jax.errors import FedmiError
from fedmi_jax.report import style
from fedmi_jax.results import undefined
from fedmi_jax.results.labels import class_names
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


def require_values(values: xr.DataArray, lack: str) -> None:
    """Raises FedmiError, which says what is lacking, where there is no value at all."""
    if not values.notnull().any():
        raise FedmiError(f"there is nothing to show: {lack}")


def draw(places: Sequence[Panel | None], columns: int, ylabel: str, height: float = 1.45) -> list[Figure]:
    """Pages of panels that share their axes, from 0 to 1, side by side as many as asked for if their titles allow. None
    is a place that stays free.

    Raises FedmiError where no panel has a line.
    """
    panels = [place for place in places if place is not None]
    if not any(_has_values(curve) for panel in panels for curve in panel.curves):
        raise FedmiError("there is nothing to show: no value in any round")
    columns = style.columns([panel.title for panel in panels], columns)
    rows = max(1, int(style.PAGE_HEIGHT / height))
    pages = [places[i : i + rows * columns] for i in range(0, len(places), rows * columns)]
    return [_page(page, columns, ylabel, height) for page in pages]


def _page(places: Sequence[Panel | None], columns: int, ylabel: str, height: float) -> Figure:
    columns = min(columns, len(places))
    figure, grid = style.grid(len(places), columns, height)
    for i, (one, place) in enumerate(zip(grid, places, strict=True)):
        if place is None:
            one.set_axis_off()
            continue
        _fill(one, place)
        one.set(title=style.wrapped(place.title, style.page() - 0.3), ylim=(-0.07, 1.07), yticks=(0, 0.5, 1))
        if i % columns == 0:
            one.set_ylabel(ylabel)
        if style.is_lowest(places, i, columns):
            one.set_xlabel("round")
            one.tick_params(labelbottom=True)
    panels = [place for place in places if place is not None]
    _small_print(figure, style.shown(figure), panels)
    return figure


def _small_print(figure: Figure, axes: list[Axes], panels: Sequence[Panel]) -> None:
    """What the marks mean, the notes of the panels, which lines have no values; and the legend."""
    curves = [curve for panel in panels for curve in panel.curves]
    if any(_is_hollow(curve).any() for curve in curves):
        axes[0].plot([], [], "o", mfc="white", mec=style.BLACK, mew=0.8, label=style.DEGENERATE)
        style.say(figure, style.HOLLOW)
    if any(_partial(curve).any() for curve in curves):
        style.say(figure, "dotted: the circuits of fewer seeds, the others have none")
    for note in sorted({panel.note for panel in panels if panel.note}):
        style.say(figure, note)
    style.say(figure, _without_values(panels))
    style.legend(figure, axes)


NAMED = 6
"""Lines without values that a figure names; it counts the others."""


def _without_values(panels: Sequence[Panel]) -> str:
    """The lines that are missing in panels that have others."""
    missing = [
        f"{panel.title}: {curve.label}"
        for panel in panels
        for curve in panel.curves
        if not _has_values(curve) and any(map(_has_values, panel.curves))
    ]
    more = [f"{len(missing) - NAMED} more"] if len(missing) > NAMED else []
    return f"without values: {', '.join(missing[:NAMED] + more)}" if missing else ""


def _has_values(curve: Curve) -> bool:
    return bool(curve.values.notnull().any())


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
            _dashes(axes, mean, curve.colour)
            axes.plot([], [], color=style.NULL, label=f"{panel.null_label} (same colour)", **look)
    if not any(map(_has_values, panel.curves)):
        said = "no values" if panel.curves else "no class to analyse"
        axes.text(0.5, 0.5, said, color=style.NULL, ha="center", va="center", transform=axes.transAxes)
    if not panel.curves:
        return  # the axes are shared, the rounds come from other panels
    rounds = panel.curves[0].values["round"].values
    axes.set_xlim(rounds.min() - 0.5, rounds.max() + 0.5)
    if len(rounds) <= 10:
        axes.set_xticks(rounds[1::2] if len(rounds) > 5 else rounds)


DASHES, DOTS = (0, (3, 2)), (0, (1, 1))


def _alone(values: np.ndarray) -> np.ndarray:
    """bool (R,): there is a value, and none in the rounds beside it, so that a line through it is not seen."""
    there = np.pad(np.isfinite(values), 1)
    return there[1:-1] & ~there[:-2] & ~there[2:]


def _dashes(axes: Axes, mean: xr.DataArray, colour: str) -> None:
    """One at every round of chance that stands alone."""
    alone = _alone(mean.values)
    if alone.any():
        axes.plot(mean["round"].values[alone], mean.values[alone], "_", color=colour, ms=7, mew=1.2, zorder=3.5)


def _interval(axes: Axes, found: xr.Dataset, colour: str) -> None:
    """As an upright line at every round that stands alone, where a band is not seen."""
    low, high = found["low"].values, found["high"].values
    alone = _alone(low)
    if alone.any():
        axes.vlines(found["round"].values[alone], low[alone], high[alone], color=colour, lw=0.8, zorder=2)


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
    _interval(axes, found, curve.colour)
    hollow = _is_hollow(curve)
    full = ~hollow & ((np.arange(len(rounds)) % max(1, len(rounds) // 10) == 0) | _alone(mean))
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
    _dashes(axes, found["mean"], style.NULL)
    _interval(axes, found, style.NULL)


def names(ds: xr.Dataset, dim: str = "class") -> dict[int, str]:
    """`labels.class_names`, with the label also where matplotlib's legends would leave a name out. dim: "class" or
    "true_class"."""
    found = class_names(ds, dim)
    if any(name == "" or name.startswith("_") for name in found.values()):
        return {label: f"{label}: {name}" for label, name in found.items()}
    return found


def own_classes(ds: xr.Dataset, client: int) -> list[int]:
    """Classes that this client analyses in any seed."""
    there = ds["analysed"].sel(client=client).any("seed").values.astype(bool)
    return ds["class"].values[there].tolist()


def degenerate(ds: xr.Dataset, origin: str | None) -> xr.DataArray:
    """1 where a circuit of this origin (None: of any) is degenerate, NaN where there is none (seed, round, client,
    class)."""
    there = undefined.defined(ds)
    flags = ds["degenerate"] & there
    one, known = (values.sel(origin=origin, drop=True) if origin else values.any("origin") for values in (flags, there))
    return one.where(known).astype(float)


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
        Curve(layer, value.sel(layer=layer), *look, hollow, null.sel(layer=layer))
        for layer, look in style.layers(ds).items()
    ]
    return Panel(title, curves, null_label="random sets", note=convention(empty))


def convention(empty: xr.DataArray) -> str:
    """What is to be said beside a mean over pairs of which so many are empty."""
    return style.EMPTY_COUNT if (empty > 0).any() else ""


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

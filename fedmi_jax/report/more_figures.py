"""Figures that the paper does not have: what every single run can show about itself. Each takes one result.

Axes: S seeds, R rounds, K clients, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from fedmi_jax.analysis import alignment, interference, measures, nulls
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.report import style
from fedmi_jax.report.curves import Curve, Panel, bars, degenerate, draw, names, over_rounds, own_classes
from fedmi_jax.results.schema import held
from fedmi_jax.results.statistics import estimate, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

MOST_CIRCUITS = 40
"""Rows that a heat map can hold."""
MARK, GLOBAL_MARK = " ○", " □"
"""Behind the name of a degenerate circuit; of a global one, where both stand in one row."""


def _circuits(ds: xr.Dataset) -> list[tuple[int, int]]:
    """(client, class) of the circuits of the first seed's last round, the first `MOST_CIRCUITS`."""
    there = held(ds).isel(seed=0, round=-1).values
    pairs = [(ds["client"].values[k].item(), ds["class"].values[c].item()) for k, c in np.argwhere(there)]
    return pairs[:MOST_CIRCUITS]


def _rows(axes: Axes, ds: xr.Dataset, circuits: list[tuple[int, int]], marks: dict[str, str]) -> None:
    """A label per circuit of the last round, with the mark of each origin of which it is degenerate in at least half of
    the seeds."""
    labels, shares = names(ds), {origin: degenerate(ds, origin).isel(round=-1).mean("seed") for origin in marks}
    said = [
        f"{k}: {labels[c]}"
        + "".join(marks[origin] for origin, share in shares.items() if share.sel({"client": k, "class": c}) >= 0.5)
        for k, c in circuits
    ]
    axes.set_yticks(range(len(said)), said, fontsize=6 if len(said) > 12 else 6.5)
    axes.tick_params(length=0)


def heatmap(ds: xr.Dataset) -> Figure:
    """Channels of every circuit in the last round of the first seed: local model only, global model only, both."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    circuits, last = _circuits(ds), ds.isel(seed=0, round=-1)
    marks, shown = {"local": MARK, "global": GLOBAL_MARK}, dict[str, str]()
    seed = f"seed {last['seed'].item()}, round {last['round'].item()}"
    figure = Figure(figsize=(style.PAGE, 0.75 + 0.13 * len(circuits)), layout="constrained")
    colours = ("white", style.BLUE, style.ORANGE, style.BLACK)
    for i, (axes, layer) in enumerate(zip(figure.subplots(1, 3, width_ratios=[32, 64, 128]), CONV_LAYERS, strict=True)):
        masks = [last[f"mask_{layer}"].sel({"client": k, "class": c}).astype(int) for k, c in circuits]
        codes = [(m.sel(origin="local") + 2 * m.sel(origin="global")).values for m in masks]
        axes.pcolormesh(np.array(codes), cmap=ListedColormap(colours), vmin=0, vmax=3, edgecolors="#EEEEEE", lw=0.15)
        axes.invert_yaxis()
        axes.set(title=f"{layer}, {seed}" if i == 2 else layer, xlabel="channel")
        _rows(axes, ds.isel(seed=[0]), circuits if i == 0 else [], marks)
        said = [t.get_text() for t in axes.get_yticklabels()]
        axes.set_yticks(np.arange(len(said)) + 0.5, said)
        if i == 0:
            axes.set_ylabel("client: class")
            shown = {origin: mark for origin, mark in marks.items() if any(mark in name for name in said)}
    patches = [Patch(fc=c, label=n) for c, n in zip(colours[1:], ("local only", "global only", "both"), strict=True)]
    figure.legend(handles=patches, loc="outside upper center", ncols=3)
    for origin, mark in shown.items():
        style.say(figure, f"{mark.strip()}: {origin} circuit degenerate (no channel in some layer)")
    return figure


def drift(ds: xr.Dataset) -> Figure:
    """What the circuit found on the global model reaches beyond the local one there."""
    gap, flags, labels = ds["drift_gap"].sel(origin="local"), degenerate(ds, "local"), names(ds)
    panels = []
    for k in ds["client"].values[:12].tolist():
        curves = [
            Curve(labels[c], gap.sel({"client": k, "class": c}), *style.look(c), flags.sel({"client": k, "class": c}))
            for c in own_classes(ds, k)
        ]
        panels.append(Panel(f"client {k}", curves))
    figure = draw(panels, 3, "drift gap: accuracy,\nglobal minus local circuit")
    for axes in figure.axes[: len(panels)]:
        axes.set(ylim=(-1.14, 1.14), yticks=(-1, 0, 1))
        axes.axhline(0, color=style.NULL, lw=0.6, zorder=0)
    return figure


def pairwise(ds: xr.Dataset) -> Figure:
    """IoU of every two classes' circuits in the last round, mean over seeds and pairs of clients."""
    last, labels = ds["class_pair_iou"].isel(round=-1).mean("seed"), {o: _marked(ds, o) for o in ("local", "global")}
    figure, axes = style.grid(6, 3, 2.3, share=False)
    image = None
    places = [(origin, layer) for origin in labels for layer in CONV_LAYERS]
    for one, (origin, layer) in zip(axes, places, strict=True):
        image = _matrix(one, last.sel(origin=origin, layer=layer).values, labels[origin], labels[origin])
        one.set_title(f"{layer}, {origin} circuits")
    for one in axes[::3]:
        one.set_ylabel("class")
    for one in axes[3:]:
        one.set_xlabel("class")
    if image is not None:
        figure.colorbar(image, ax=axes, label="IoU")
    style.say(figure, _convention(ds["empty_pairs_class_pair"].isel(round=-1)))
    if any(name.endswith(MARK) for said in labels.values() for name in said):
        style.say(figure, f"{MARK.strip()}: at least half of the circuits degenerate (no channel in some layer)")
    return figure


def _marked(ds: xr.Dataset, origin: str) -> list[str]:
    """Short names of the classes, with a mark where at least half of the last round's circuits are degenerate."""
    share = degenerate(ds, origin).isel(round=-1).mean(("seed", "client"))
    return [f"{style.short(n)}{MARK if share.sel({'class': c}) >= 0.5 else ''}" for c, n in names(ds).items()]


def _convention(empty: xr.DataArray) -> str:
    """What is to be said beside a mean over pairs of which so many are empty."""
    return style.EMPTY_COUNT if (empty > 0).any() else ""


def _matrix(axes: Axes, values: np.ndarray, rows: list[str], columns: list[str]) -> AxesImage | None:
    """Shares from 0 to 1 as colours, and as numbers; where these have no room, what needs a colour bar."""
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    style.ticks(axes, columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0)
    if values.size > 120:
        return image
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value < 0.55 else "black"
            axes.text(j, i, f"{value:.2f}".lstrip("0") or "0", ha="center", va="center", fontsize=6, color=colour)
    return None


def partition(ds: xr.Dataset) -> Figure:
    """Training images of every client and class, of the first seed; area is their number, which stands beside it where
    there is room."""
    counts = ds["samples"].isel(seed=0).values
    figure, (axes,) = style.grid(1, 1, max(1.2, min(4.0, 0.26 * len(counts) + 0.8)), style.COLUMN)
    k, c = np.nonzero(counts)
    room, few = min(220.0, 9000 / max(len(counts), 1)), len(counts) <= 12 and counts.shape[1] <= 10
    axes.scatter(c, k, room * counts[k, c] / counts.max(), color=style.BLUE, lw=0, alpha=0.4 if few else 1)
    for x, y in zip(c.tolist(), k.tolist(), strict=True) if few else ():
        axes.text(x, y, str(counts[y, x]), ha="center", va="center", fontsize=6)
    axes.set(ylim=(len(counts) - 0.4, -0.6), xlim=(-0.6, counts.shape[1] - 0.4), ylabel="client", xlabel="class")
    style.ticks(axes, [style.short(str(name)) for name in ds["true_class_name"].values])
    axes.set_yticks(np.unique(np.linspace(0, len(counts) - 1, min(len(counts), 11)).astype(int)))
    axes.set_title(f"training images, seed {ds['seed'].values[0]}; largest dot {counts.max()}")
    return figure


def sparsity(ds: xr.Dataset) -> Figure:
    """Share of weights that are left, per tensor, after local training and after averaging; on a logarithmic scale."""
    panels = []
    for origin in ("local", "global"):
        values = 1 - ds[f"realised_sparsity_{origin}"]
        values = values.mean([d for d in values.dims if d not in ("seed", "round", "parameter_layer")])
        colours = zip(values["parameter_layer"].values, style.SERIES, style.MARKERS, strict=False)
        curves = [Curve(str(n), values.sel(parameter_layer=n), colour, marker) for n, colour, marker in colours]
        panels.append(Panel(f"{origin} models", curves))
    figure = draw(panels, 2, "weights left, not 0", 1.7)
    lowest = min(float(curve.values.min()) for panel in panels for curve in panel.curves)
    for axes in figure.axes:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(ylim=(max(lowest, 1e-4) / 1.3, 1.3))
    return figure


def accuracy(ds: xr.Dataset) -> Figure:
    """The whole global model, class by class, beside it the mean of the local models of its holders."""
    labels = zip(ds["true_class"].values.tolist(), ds["true_class_name"].values, strict=True)
    local = ds["local_class_accuracy"]
    local = (local.where(ds["samples"] > 0) if "samples" in ds else local).mean("client")
    panels = [
        Panel(str(name), [
            Curve("global model", ds["global_class_accuracy"].sel(true_class=c), style.ORIGINS["global"], "o"),
            Curve("local models of its holders", local.sel(true_class=c), style.ORIGINS["local"], "s"),
        ])
        for c, name in list(labels)[:20]
    ]  # fmt: skip
    return draw(panels, 5, "accuracy", 1.3)


def specificity(ds: xr.Dataset) -> Figure:
    """Of local circuits in the last round: share of the images of each class that are called the circuit's class."""
    circuits = _circuits(ds)
    figure, axes = style.grid(2, 2, max(1.5, 0.16 * len(circuits) + 0.9))
    image, seeds = None, f", mean of {n} seeds" if (n := ds.sizes["seed"]) > 1 else ""
    last = ds.isel(round=-1).sel(origin="local")
    truths = [style.short(str(name)) for name in ds["true_class_name"].values]
    for one, name, title in zip(
        axes, ("call_rate", "cross_evaluation_call_rate"), ("on its own model", "on the global model"), strict=True
    ):
        rates = [last[name].sel({"client": k, "class": c}).mean("seed").values for k, c in circuits]
        image = _matrix(one, np.array(rates), [""] * len(circuits), truths)
        _rows(one, ds, circuits, {"local": MARK})
        _outline(one, ds, circuits)
        one.set(
            title=f"local circuit {title}{seeds}", xlabel="images of class (box: its own, dotted: its client's others)"
        )
    axes[0].set_ylabel("client: class (○ degenerate)")
    if image is not None:
        figure.colorbar(image, ax=axes, label="share called the circuit's class")
    return figure


def _outline(axes: Axes, ds: xr.Dataset, circuits: list[tuple[int, int]]) -> None:
    """In each circuit's row: its own class, and the others that its client is analysed for."""
    from matplotlib.patches import Rectangle

    columns = {label: j for j, label in enumerate(ds["true_class"].values.tolist())}
    for i, (k, own) in enumerate(circuits):
        for c in set(own_classes(ds, k)) & set(columns):
            corner, line = (columns[c] - 0.44, i - 0.44), "-" if c == own else ":"
            axes.add_patch(Rectangle(corner, 0.88, 0.88, fill=False, ec=style.VERMILLION, lw=0.8, ls=line))


def sufficiency(ds: xr.Dataset) -> Figure:
    """Accuracy on the class with only the circuit kept, and with exactly the circuit removed, means over circuits;
    dashed, the same of random masks of their sizes, where the run has them, else of the empty mask."""
    panels = []
    for name, title in (("sufficiency", "circuit kept"), ("necessity", "circuit removed")):
        chances = {f"random_{name}": "random masks"}
        if name == "sufficiency":
            chances["empty_mask_accuracy"] = "empty mask"
        random = next((of for of in chances if of in ds), None)
        curves = []
        for (origin, colour), mark in zip(style.ORIGINS.items(), style.MARKERS, strict=False):
            value, null = (of and over_rounds(ds[of].sel(origin=origin).where(held(ds))) for of in (name, random))
            flags = over_rounds(degenerate(ds, origin))
            curves.append(Curve(f"{origin} circuits", value, colour, mark, flags, null))  # type: ignore[arg-type]
        panels.append(Panel(f"{name}: {title}", curves, null_label=chances.get(random or "", "")))
    return draw(panels, 2, "accuracy on the class", 1.7)


def outages(ds: xr.Dataset) -> Figure:
    """Share of circuits under 1 % on the global model, and how often and how long."""
    cross = measures.cross_evaluation(ds)
    flags = over_rounds(degenerate(ds, "local"))
    curve = Curve("local circuits", interference.out_share(cross), style.BLUE, "o", flags)
    found = measures.random_cross_evaluation(ds)
    label, null = ("", None) if found is None else (found[0], over_rounds(interference.out(found[1])))
    falls, back = (estimate(over_seeds(of(cross))) for of in (interference.collapses, interference.recoveries))
    longest = float(interference.longest_outage(cross).max())
    title = f"per circuit: collapses {falls}, recoveries {back} (also of circuits out from the start); longest outage "
    title += f"{longest:.0f} round{'' if longest == 1 else 's'}" if np.isfinite(longest) else "-"
    return draw([Panel(title, [curve], null, label)], 1, "share of circuits under 1 %", 1.9)


def kept(ds: xr.Dataset) -> Figure:
    """How much of the local circuit lies in the global one, and of the global one in the local one; dashed, the same of
    random sets of their sizes. Where the first is near 1 and the second is not, the circuit has grown, not moved."""
    ways = (
        ("local circuit's channels that are in the global one", "local", "global", style.BLUE, "o"),
        ("global circuit's channels that are in the local one", "global", "local", style.ORANGE, "s"),
    )
    found = [(label, measures.contained(ds, inner, outer), colour, mark) for label, inner, outer, colour, mark in ways]
    panels, flags = [], over_rounds(degenerate(ds, None))
    for layer in CONV_LAYERS:
        curves = []
        for label, parts, colour, mark in found:
            value, null = (over_rounds(part.sel(layer=layer)) for part in parts)
            curves.append(Curve(label, value, colour, mark, flags, null))
        panels.append(Panel(layer, curves, null_label="random sets"))
    return draw(panels, 3, "share of channels", 1.7)


def ceiling(ds: xr.Dataset) -> Figure:
    """Local-to-global IoU in the last round between its ceiling, a circuit found twice, and chance."""
    last, chance = ds.isel(round=-1), nulls.expected(ds).isel(round=-1)
    again, twice = last["rediscovery_iou"], last["empty_pairs_rediscovery"]
    rows: list[tuple[str, Any, Any, str]] = [
        (f"found again, {o}", again.sel(origin=o), twice.sel(origin=o), colour) for o, colour in style.ORIGINS.items()
    ]
    rows += [
        ("local to global", last["local_global_iou"], last["empty_pairs_local_global"], style.GREEN),
        ("random sets", chance["local_global_iou"], last["empty_pairs_local_global"], style.NULL),
    ]
    figure, (axes,) = style.grid(1, 1, 1.9, style.COLUMN)
    for i, (label, values, empty, colour) in enumerate(rows):
        bars(axes, np.arange(len(CONV_LAYERS)) + 0.2 * i, over_rounds(values), over_rounds(empty), 0.18, colour, label)
    axes.set_xticks(np.arange(len(CONV_LAYERS)) + 0.3, list(CONV_LAYERS))
    axes.set(ylabel="IoU, last round", ylim=(0, 1.04))
    style.legend(figure, [axes], 2)
    return figure


def aligned(ds: xr.Dataset) -> Figure:
    """Local-to-global IoU, the same after the best matching of channels, and the share of channels that this moves."""
    found, chance = alignment.aligned(ds), nulls.expected(ds)["local_global_iou"]
    note, flags = _convention(ds["empty_pairs_local_global"]), over_rounds(degenerate(ds, None))
    panels = []
    for layer in CONV_LAYERS:
        pairs = (
            ("as it is", ds["local_global_iou"], "o", style.BLUE),
            ("channels aligned", found["aligned_local_global_iou"], "s", style.VERMILLION),
            ("share of channels moved", found["moved"], "^", style.PURPLE),
        )
        curves = [
            Curve(label, over_rounds(v.sel(layer=layer)), colour, mark, flags) for label, v, mark, colour in pairs
        ]
        null = over_rounds(chance.sel(layer=layer))
        panels.append(Panel(layer, curves, null, "random sets", note))
    return draw(panels, 3, "local-to-global IoU,\nor share of channels")

"""Figures whose cells are circuits, classes or clients: maps of channels, of overlap, of calls, and of training images.

Each takes one result and gives the figure's pages: a page holds as many rows as are legible, and is as wide as its
columns need. Functions raise FedmiError where there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fedmi_jax.errors import FedmiError
from fedmi_jax.report import style
from fedmi_jax.report.curves import convention, degenerate, names, own_classes
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import ORIGINS, conv_layers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

HEATMAP_ROWS, SPECIFICITY_ROWS, CLIENTS = 60, 50, 100
"""Rows on a page."""
CELL = 8.5 / 72
"""Inches that a row or column with a name needs."""
MARK, GLOBAL_MARK = " ○", " □"
"""Behind the name of a degenerate circuit; of a global one, where both stand in one row."""


Circuits = Sequence[tuple[int, int]]
"""(client, class) of each."""

# --- circuits of the last round ---


def _circuits(ds: xr.Dataset) -> Circuits:
    """Those of the last round, in any seed. Raises FedmiError where there is none."""
    there = held(ds).isel(round=-1).any("seed").values
    pairs = [(ds["client"].values[k].item(), ds["class"].values[c].item()) for k, c in np.argwhere(there)]
    if not pairs:
        raise FedmiError("there is nothing to show: no client has a circuit in the last round")
    return pairs


def _absent(ds: xr.Dataset) -> str:
    """What is to be said of clients that analyse a class but do not take part in the last round, in any seed."""
    expected, there = (part.any(("seed", "class")) for part in (ds["analysed"].astype(bool), held(ds).isel(round=-1)))
    absent = ds["client"].values[(expected & ~there).values]
    return f"not in the last round: client {', '.join(map(str, absent))}" if len(absent) else ""


def _row_names(ds: xr.Dataset, circuits: Circuits, marks: dict[str, str]) -> list[str]:
    """A name per circuit of the last round, with the mark of each origin of which it is degenerate in at least half of
    the seeds."""
    labels, shares = names(ds), {origin: degenerate(ds, origin).isel(round=-1).mean("seed") for origin in marks}
    return [
        f"{k}: {labels[c]}"
        + "".join(marks[origin] for origin, share in shares.items() if share.sel({"client": k, "class": c}) >= 0.5)
        for k, c in circuits
    ]


def _rows(axes: Axes, said: list[str], at: float = 0) -> None:
    """A tick for every row, whose middle is `at` above its number."""
    axes.set_yticks(np.arange(len(said)) + at, said, fontsize=6 if len(said) > 12 else 6.5)
    axes.tick_params(length=0)


def heatmap(ds: xr.Dataset) -> list[Figure]:
    """Channels of every circuit in the last round of the first seed: local model only, global model only, both."""
    ds = ds.isel(seed=[0])
    circuits = _circuits(ds)
    if not any(ds[f"mask_{layer}"].isel(round=-1).any() for layer in conv_layers(ds)):
        raise FedmiError("there is nothing to show: no circuit of the last round has a channel")
    pages = [_channels(ds, part) for part in style.chunks(circuits, HEATMAP_ROWS)]
    for figure in pages:
        style.say(figure, _absent(ds))
    return pages


def _channels(ds: xr.Dataset, circuits: Circuits) -> Figure:
    """One page of the heat map."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    last, layers = ds.isel(seed=0, round=-1), list(conv_layers(ds))
    marks, seed = {"local": MARK, "global": GLOBAL_MARK}, f"seed {last['seed'].item()}, round {last['round'].item()}"
    said, where = _row_names(ds, circuits, marks), layers[-1] if len(layers) <= 3 else None
    figure = Figure(figsize=(style.page(), 0.75 + 0.13 * max(6, len(circuits))), layout="constrained")
    colours = ("white", style.BLUE, style.ORANGE, style.BLACK)
    channels = np.array([ds.sizes[f"channel_{layer}"] for layer in layers])
    widths = np.maximum(channels, channels.sum() / (2.5 * len(layers)))  # room for the names of narrow layers
    grid = figure.subplots(1, len(layers), width_ratios=widths.tolist(), squeeze=False)[0]
    for i, (axes, layer) in enumerate(zip(grid, layers, strict=True)):
        masks = [last[f"mask_{layer}"].sel({"client": k, "class": c}).astype(int) for k, c in circuits]
        codes = [(m.sel(origin="local") + 2 * m.sel(origin="global")).values for m in masks]
        axes.pcolormesh(np.array(codes), cmap=ListedColormap(colours), vmin=0, vmax=3, edgecolors="#EEEEEE", lw=0.15)
        axes.invert_yaxis()
        axes.set(title=f"{layer}, {seed}" if layer == where else layer, xlabel="channel")
        _rows(axes, said if i == 0 else [], 0.5)
    grid[0].set_ylabel("client: class")
    style.say(figure, "" if where else seed)
    patches = [Patch(fc=c, label=n) for c, n in zip(colours[1:], ("local only", "global only", "both"), strict=True)]
    figure.legend(handles=patches, loc="outside upper center", ncols=3)
    for origin, mark in marks.items():
        if any(mark in name for name in said):
            style.say(figure, f"{mark.strip()}: {origin} circuit degenerate (no channel in some layer)")
    return figure


_CALLED = {"call_rate": "on its own model", "cross_evaluation_call_rate": "on the global model"}
"""Rates of calls of a local circuit's class, and what their panel is called."""
_REMOVED = {
    "call_rate": "kept, own model",
    "cross_evaluation_call_rate": "kept, global model",
    "removed_call_rate": "removed, own model",
}


def specificity(ds: xr.Dataset) -> list[Figure]:
    """Of local circuits in the last round: share of the images of each class that are called the circuit's class."""
    return _all_calls(ds, _CALLED)


def removed(ds: xr.Dataset) -> list[Figure]:
    """Specificity before and after averaging, and of the local model without its circuit: where a class is called on
    as many images of its own as of others, what is left does not tell them apart."""
    return _all_calls(ds, _REMOVED)


def _all_calls(ds: xr.Dataset, shown: dict[str, str]) -> list[Figure]:
    circuits = _circuits(ds)
    few = len(circuits) * ds.sizes["true_class"] <= MOST_NUMBERS
    pages = [_calls(ds, part, few, shown) for part in style.chunks(circuits, SPECIFICITY_ROWS)]
    for figure in pages:
        style.say(figure, _absent(ds))
    return pages


def _calls(ds: xr.Dataset, circuits: Circuits, few: bool, shown: dict[str, str]) -> Figure:
    """One page of it."""
    said, truths = _row_names(ds, circuits, {"local": MARK}), style.short([*names(ds, "true_class").values()])
    cells = _cells(said, truths, len(shown), few)
    height = max(1.5, 0.16 * len(circuits) + 0.9) + cells.below
    figure, axes = style.grid(len(shown), len(shown), height, cells.width)
    images, seeds = [], f", mean of {n} seeds" if (n := ds.sizes["seed"]) > 1 and len(shown) < 3 else ""
    last = ds.isel(round=-1).sel(origin="local")
    for one, (name, title) in zip(axes, shown.items(), strict=True):
        rates = [last[name].sel({"client": k, "class": c}).mean("seed").values for k, c in circuits]
        images += [_matrix(one, np.array(rates), truths, cells)]
        _rows(one, said)
        _outline(one, ds, circuits)
        one.set(title=f"local circuit {title}{seeds}", xlabel="images of class")
    axes[0].set_ylabel("client: class (○ degenerate)")
    style.say(figure, "box: the circuit's own class, dotted: the other classes of its client")
    if not cells.numbers:
        figure.colorbar(images[0], ax=axes, label="share called the circuit's class")
    return figure


def _outline(axes: Axes, ds: xr.Dataset, circuits: Circuits) -> None:
    """In each circuit's row: its own class, and the others that its client is analysed for."""
    from matplotlib.patches import Rectangle

    columns = {label: j for j, label in enumerate(ds["true_class"].values.tolist())}
    for i, (k, own) in enumerate(circuits):
        for c in set(own_classes(ds, k)) & set(columns):
            corner, line = (columns[c] - 0.44, i - 0.44), "-" if c == own else ":"
            axes.add_patch(Rectangle(corner, 0.88, 0.88, fill=False, ec=style.VERMILLION, lw=0.8, ls=line))


# --- classes against classes ---


def pairwise(ds: xr.Dataset) -> list[Figure]:
    """IoU of every two classes' circuits in the last round, mean over seeds and pairs of clients."""
    last = ds["class_pair_iou"].isel(round=-1).mean("seed")
    if not last.notnull().any():
        raise FedmiError("there is nothing to show: no two circuits in the last round")
    labels, layers = {origin: _marked(ds, origin) for origin in ORIGINS}, conv_layers(ds)
    columns = min(3, len(layers))
    places = style.in_rows([[(origin, layer) for layer in layers] for origin in labels], columns)
    said, count = [name for names_ in labels.values() for name in names_], ds.sizes["class"]
    cells = _cells(said, said[:count], columns, count**2 <= MOST_NUMBERS)
    height = max(2.3, CELL * count + 0.45) + cells.below
    figure, axes = style.grid(len(places), columns, height, cells.width, share=False)
    images = []
    for i, (one, place) in enumerate(zip(axes, places, strict=True)):
        if place is None:
            one.set_axis_off()
            continue
        origin, layer = place
        images += [_matrix(one, last.sel(origin=origin, layer=layer).values, labels[origin], cells)]
        _rows(one, labels[origin])
        one.set_title(f"{layer}, {origin} circuits")
        if i % columns == 0:
            one.set_ylabel("class")
        if style.is_lowest(places, i, columns):
            one.set_xlabel("class")
    if not cells.numbers:
        figure.colorbar(images[0], ax=axes, label="IoU")
    style.say(figure, convention(ds["empty_pairs_class_pair"].isel(round=-1)))
    if any(name.endswith(MARK) for name in said):
        style.say(figure, f"{MARK.strip()}: at least half of the circuits degenerate (no channel in some layer)")
    style.say(figure, _absent(ds))
    return [figure]


def _marked(ds: xr.Dataset, origin: str) -> list[str]:
    """Short names of the classes, with a mark where at least half of the last round's circuits are degenerate."""
    share, labels = degenerate(ds, origin).isel(round=-1).mean(("seed", "client")), names(ds)
    said = zip(labels, style.short([*labels.values()]), strict=True)
    return [f"{name}{MARK if share.sel({'class': c}) >= 0.5 else ''}" for c, name in said]


# --- cells ---

MOST_NUMBERS = 120
"""Cells of a panel that can hold their number."""


@dataclass(frozen=True)
class Cells:
    """How a row of panels with named rows and columns is laid out; lengths in inches."""

    width: float
    """Of the figure."""
    pitch: float
    """From one column to the next."""
    numbers: bool
    """Whether every cell holds its number, or a colour bar is needed."""
    below: float
    """What column names that stand upright take."""


def _cells(rows: list[str], columns: list[str], panels: int, few: bool) -> Cells:
    """For so many panels side by side. few: whether a panel has no more than `MOST_NUMBERS` cells."""
    named, upright = style.widest(rows, 6.5) + 0.35, style.widest(columns, 6.5)
    width = max(style.page(), panels * (CELL * len(columns) + named) + 0.6)
    pitch = (width / panels - named) / len(columns)
    return Cells(width, pitch, few and pitch >= 11 / 72, upright if style.upright(columns, pitch) else 0)


def _matrix(axes: Axes, values: np.ndarray, columns: list[str], cells: Cells) -> AxesImage:
    """Shares from 0 to 1 as colours, and as numbers where these have room."""
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    style.ticks(axes, columns, cells.pitch)
    if not cells.numbers:
        return image
    one = "1.00" if cells.pitch >= 16 / 72 else "1.0"
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour, said = "white" if value < 0.55 else "black", f"{value:.2f}".lstrip("0")
            axes.text(j, i, one if said == "1.00" else said, ha="center", va="center", fontsize=6, color=colour)
    return image


def partition(ds: xr.Dataset) -> list[Figure]:
    """Training images of every client and class, of the first seed; area is their number, which stands beside it where
    there is room."""
    counts = ds["samples"].isel(seed=0).transpose("client", "true_class").values
    if not counts.any():
        raise FedmiError("there is nothing to show: no client has a training image")
    return [_dots(ds, counts, part) for part in style.chunks(range(len(counts)), CLIENTS)]


def _dots(ds: xr.Dataset, counts: np.ndarray, shown: Sequence[int]) -> Figure:
    """One page of it, the clients in these rows of counts[client, true_class]."""
    largest, (clients, classes) = counts.max(), (len(shown), counts.shape[1])
    width, own = max(style.column(), CELL * classes + 0.6), counts[list(shown)]
    height = max(1.2, 0.26 * clients + 0.8) if clients <= 12 else max(4.0, 0.085 * clients + 0.8)
    labels, beside = style.short([*names(ds, "true_class").values()]), (width - 0.6) / classes
    below = style.widest(labels, 6.5) if style.upright(labels, beside) else 0
    figure, (axes,) = style.grid(1, 1, height + below, width)
    k, c = np.nonzero(own)
    few, pitch = clients <= 12 and classes <= 10, min((height - 0.8) / clients, beside)
    room = 220 if few else min(220, (80 * pitch) ** 2)
    axes.scatter(c, k, room * own[k, c] / largest, color=style.BLUE, lw=0, alpha=0.4 if few else 1)
    for x, y in zip(c.tolist(), k.tolist(), strict=True) if few else ():
        axes.text(x, y, str(own[y, x]), ha="center", va="center", fontsize=6)
    axes.set(ylim=(clients - 0.4, -0.6), xlim=(-0.6, classes - 0.4), ylabel="client", xlabel="class")
    style.ticks(axes, labels, beside)
    at = np.unique(np.linspace(0, clients - 1, min(clients, 11)).astype(int))
    axes.set_yticks(at, [str(ds["client"].values[shown[i]]) for i in at])
    axes.set_title(f"training images, seed {ds['seed'].values[0]}; largest dot {largest}")
    return figure

"""How every figure looks: one column (3.3 in) or a page (6.9 in) wide, or as wide as is asked for with the same size of
letters; Okabe and Ito's colours, readable in print.

matplotlib is imported when the first figure is drawn. Figures are objects of their own and are drawn with settings of
their own: no matplotlibrc, style or backend of the user changes them, and nothing stays set afterwards.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import cache
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any, TypeVar

from fedmi_jax.files import replacing
from fedmi_jax.results.schema import conv_layers

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

T = TypeVar("T")
COLUMN, PAGE, PAGE_HEIGHT = 3.3, 6.9, 9.5
"""Widths in inches, and how high a page of panels or rows may be; what does not fit goes on the next page."""
WIDTHS = {"single": COLUMN, "double": PAGE}
"""By name."""
NARROWEST = 2.0
_WIDTH: ContextVar[float] = ContextVar("width", default=PAGE)


def page() -> float:
    """How wide a page is: 6.9 in, unless another width is asked for (`styled`)."""
    return _WIDTH.get()


def column() -> float:
    """How wide a column is: no wider than the page."""
    return min(COLUMN, page())


BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, "#332288", "#8B4513", "#882255", "#999933")
"""Okabe and Ito's, without the yellow that print loses and the black whose band would be grey, as chance is; for up to
ten classes a brown and three of Paul Tol's."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
"""Beside the colour, for whoever sees none."""
NULL = "#999999"
EMPTY_COUNT = "two empty sets count as 1"
DEGENERATE = "degenerate"
HOLLOW = "hollow: at least half of the circuits degenerate (no channel in some layer)"
BOTH_EMPTY = "both empty, counted as 1"
NO_CURVE = ("random sets", "random masks", "empty mask", DEGENERATE, BOTH_EMPTY)
"""What labels begin with that stand last in a legend."""
ORIGINS = {"local": BLUE, "global": ORANGE}

_STYLE: dict[str, Any] = {
    "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "xtick.labelsize": 6.5, "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5, "font.family": "sans-serif", "axes.linewidth": 0.6, "xtick.major.width": 0.6,
    "ytick.major.width": 0.6, "xtick.major.size": 2.5, "ytick.major.size": 2.5, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.0, "lines.markersize": 3.0, "legend.frameon": False,
    "axes.titlepad": 3.0, "axes.labelpad": 2.0, "svg.hashsalt": "fedmi", "pdf.fonttype": 42, "savefig.dpi": 200,
    "text.parse_math": False,
}  # fmt: skip


@contextmanager
def styled(width: float | None = None) -> Iterator[None]:
    """Within it figures are made in this style, on top of matplotlib's own defaults instead of the user's.

    width: of a page in inches; None: as around it."""
    _import_matplotlib()
    import matplotlib as mpl

    asked = _WIDTH.set(page() if width is None else width)
    try:
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_STYLE)  # type: ignore[arg-type]
            yield
    finally:
        _WIDTH.reset(asked)


def _import_matplotlib() -> None:
    """The first import reads MPLBACKEND, and fails when matplotlib does not know the name. Figures need no backend, so
    such a name is passed over."""
    if "matplotlib" in sys.modules:
        return
    named = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib as mpl
    finally:
        if named is not None:
            os.environ["MPLBACKEND"] = named
    if named:
        with suppress(ValueError):
            mpl.rcParams["backend"] = named


@cache
def width(text: str, size: float = 7) -> float:
    """Of a line of text in this size, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    return text_to_path.get_text_width_height_descent(text, FontProperties(size=size), False)[0] / 72


def widest(texts: Sequence[str], size: float = 7) -> float:
    """Width of the longest line, in inches; 0 for no text."""
    return max((width(text, size) for text in texts), default=0.0)


def columns(titles: Sequence[str], wanted: int) -> int:
    """How many panels stand side by side on a page, at most as many as wanted, so that no two of these titles touch and
    ticks have room; fewer than wanted are spread evenly over the rows."""
    wanted = max(1, min(wanted, len(titles)))
    fit = max(1, int((page() - 0.45) / max(widest(titles) + 0.08, 1.05)))
    return wanted if fit >= wanted else ceil(wanted / ceil(wanted / fit))


def in_rows(groups: Iterable[Sequence[T]], columns: int) -> list[T | None]:
    """What stands in every place of a grid of so many columns, each group in rows of its own; None: nothing."""
    return [place for group in groups for place in (*group, *(None,) * (-len(group) % columns))]


def is_lowest(places: Sequence[Any], place: int, columns: int) -> bool:
    """Whether nothing stands below this place."""
    return all(below is None for below in places[place + columns : place + columns + 1])


def chunks(items: Sequence[T], most: int) -> list[Sequence[T]]:
    """The items in parts of nearly equal length, none longer than `most`."""
    size = ceil(len(items) / max(1, ceil(len(items) / most)))
    return [items[i : i + size] for i in range(0, len(items), max(1, size))]


def grid(
    count: int, columns: int, height: float = 1.45, width: float | None = None, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`, each row so high; shared axes are labelled at the edges only.
    width: in inches, None: a page's."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width or page(), rows * height + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    for last in axes[max(0, count - columns) : count]:
        last.tick_params(labelbottom=True)
    return figure, axes[:count]


def shown(figure: Figure) -> list[Axes]:
    """The panels, without the places that stay free."""
    return [axes for axes in figure.axes if axes.axison]


def wrapped(title: str, inches: float) -> str:
    """In as many lines as it needs to be no wider."""
    wide = width(title)
    return title if wide <= inches else fill(title, int(len(title) * inches / wide), break_on_hyphens=False)


def legend(figure: Figure, axes: Sequence[Axes], columns: int | None = None) -> None:
    """One for all panels, above them: each label once, classes in their order, and what is no curve at the end."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = sorted(found, key=lambda label: (label.startswith(NO_CURVE), _number(label)))
    if not order:
        return
    room = 72 * figure.get_figwidth() / sum(3.5 * len(label) + 24 for label in order)  # in points: letters and handles
    rows = max(ceil(len(found) / 9), ceil(1 / room))
    ncols = columns or -(-len(found) // rows)
    while ncols > 1 and _legend_width(order, ncols) > figure.get_figwidth():
        ncols -= 1
    figure.legend(
        [found[label] for label in order], order, loc="outside upper center", ncols=ncols,
        handlelength=1.4, columnspacing=1.0, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip
    _grow(figure, 0.155 * max(0, ceil(len(order) / ncols) - (3 if columns else 2)))


def _legend_width(labels: Sequence[str], ncols: int) -> float:
    """In inches; a column is as wide as its longest label, and labels are laid out column by column."""
    size = -(-len(labels) // ncols)
    parts = [labels[i : i + size] for i in range(0, len(labels), size)]
    return sum(widest(part, 6.5) + 2.9 * 6.5 / 72 for part in parts)


def _grow(figure: Figure, inches: float) -> None:
    """Room for a legend or small print of many lines, which else is taken from the panels."""
    figure.set_figheight(figure.get_figheight() + inches)


def say(figure: Figure, text: str) -> None:
    """In small print at the lower edge, after what the figure says there already."""
    if not text:
        return
    before = figure.get_supxlabel()
    said = "; ".join(part for part in (before.replace("\n", " "), text) if part)
    lines = fill(said, round(21 * figure.get_figwidth()), break_on_hyphens=False)
    figure.supxlabel(lines, fontsize=6, x=0.995, ha="right")
    _grow(figure, 0.1 * (max(1, lines.count("\n")) - max(1, before.count("\n"))))


def rim(width: float) -> list[Any]:
    """Path effects: white around a line or a text, so that it is seen on what lies below."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def short(names: Sequence[str]) -> list[str]:
    """Of classes: the number that each name begins with, as in "7 - seven", or else the whole name; whole names where
    the short ones do not tell the classes apart."""
    found = [_first(name) if _first(name).isdecimal() else name for name in names]
    return found if len(set(found)) == len(found) else list(names)


def _first(name: str) -> str:
    return name.split(" ")[0]


def upright(labels: Sequence[str], room: float) -> bool:
    """Whether ticks of these names, so many inches apart, stand upright."""
    return max(map(len, labels), default=0) > 4 or widest(labels, 6.5) + 2 / 72 > room


def ticks(axes: Axes, labels: Sequence[str], room: float) -> None:
    """One on the x axis for each label, from 0 on, so many inches apart; long ones upright."""
    axes.set_xticks(range(len(labels)), labels, rotation=90 if upright(labels, room) else 0)


def _number(label: str) -> int:
    """That a class's name begins with, as in "7 - seven"; 0: none."""
    first = _first(label)
    return int(first) if first.isdecimal() else 0


def look(label: int) -> tuple[str, str]:
    """Colour and marker of a class, or of the layer of this number, the same in every figure. After ten the colours
    repeat with the next marker, so that the first hundred differ."""
    colours = len(SERIES)
    return SERIES[label % colours], MARKERS[(label + label // colours) % len(MARKERS)]


def layers(ds: xr.Dataset) -> dict[str, tuple[str, str]]:
    """Colour and marker of every convolution of this result."""
    return {layer: look(i) for i, layer in enumerate(conv_layers(ds))}


def save(figure: Figure, path: Path) -> Path:
    """In the format of the path's ending; the file appears whole, or stays as it was. Same figure, same file."""
    kind = path.suffix[1:]
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with styled(), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=undated)
    return path

"""How every figure looks: one column (3.3 in) or a page (6.9 in) wide, Okabe and Ito's colours, readable in print.

matplotlib is imported when the first figure is drawn; figures are objects of their own, so nothing is set globally.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from fedmi_jax.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.3, 6.9
"""Widths in inches."""
BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000",
)  # fmt: skip
LAYERS = {"conv1": BLUE, "conv2": VERMILLION, "conv3": GREEN}
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
def styled() -> Iterator[None]:
    """Within it figures are made in this style."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        yield


def grid(
    count: int, columns: int, height: float = 1.45, width: float = PAGE, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels in rows of `columns`, each row so high; shared axes are labelled at the edges only."""
    from matplotlib.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(width, rows * height + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel().tolist()
    for unused in axes[count:]:
        unused.set_axis_off()
    for last in axes[max(0, count - columns) : count]:
        last.tick_params(labelbottom=True)
    return figure, axes[:count]


def legend(figure: Figure, axes: Sequence[Axes], columns: int | None = None) -> None:
    """One for all panels, above them: each label once, classes in their order, and what is no curve at the end."""
    found: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    order = sorted(found, key=lambda label: (label.startswith(NO_CURVE), _number(label)))
    room = 72 * figure.get_figwidth() / sum(3.5 * len(label) + 24 for label in order)  # in points: letters and handles
    rows = max(ceil(len(found) / 9), ceil(1 / room))
    figure.legend(
        [found[label] for label in order], order, loc="outside upper center", ncols=columns or -(-len(found) // rows),
        handlelength=1.4, columnspacing=1.0, handletextpad=0.5, borderaxespad=0.2,
    )  # fmt: skip


def say(figure: Figure, text: str) -> None:
    """In small print at the lower edge, after what the figure says there already."""
    said = "; ".join(part for part in (figure.get_supxlabel().replace("\n", " "), text) if part)
    lines = fill(said, round(21 * figure.get_figwidth()), break_on_hyphens=False)
    figure.supxlabel(lines, fontsize=6, x=0.995, ha="right")


def rim(width: float) -> list[Any]:
    """Path effects: white around a line or a text, so that it is seen on what lies below."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def short(name: str) -> str:
    """Of a class: the number that its name begins with, as in "7 - seven", or else the whole name."""
    first = name.split(" ")[0]
    return first if first.isdecimal() else name


def ticks(axes: Axes, labels: Sequence[str]) -> None:
    """One on the x axis for each label, from 0 on; long ones upright."""
    axes.set_xticks(range(len(labels)), labels, rotation=90 if max(map(len, labels), default=0) > 4 else 0)


def _number(label: str) -> int:
    """That a class's name begins with, as in "7 - seven"; 0: none."""
    first = short(label)
    return int(first) if first.isdecimal() else 0


def look(label: int) -> tuple[str, str]:
    """Colour and marker of a class, the same in every figure."""
    return SERIES[label % len(SERIES)], MARKERS[label % len(MARKERS)]


def save(figure: Figure, path: Path) -> Path:
    """In the format of the path's ending; the file appears whole, or stays as it was. Same figure, same file."""
    kind = path.suffix[1:]
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with styled(), replacing(path) as temporary:
        figure.savefig(temporary, format=kind, metadata=undated)
    return path

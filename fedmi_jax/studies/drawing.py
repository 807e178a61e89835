"""A study's figure: points with their interval over seeds, random sets in grey beside them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmi_jax.errors import FedmiError
from fedmi_jax.report import style
from fedmi_jax.studies.base import Panel, Study
from fedmi_jax.studies.tidy import LABELS, Cells, Row, over_seeds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NULL_LABEL = "random sets as large: mean, and where 95 % of them lie"
WIDEST = 90
"""Points side by side in a frame; what is beyond goes into the next one."""
_Frame = tuple[str, Panel, list[Any], int | None]
"""Title, what is drawn, its values of the label, and the round (None: all)."""


def draw(study: Study, rows: Sequence[Row], run: str) -> list[Figure]:
    """The figure's pages, which name the run. Raises FedmiError where there is nothing to show."""
    cells = over_seeds(rows)
    measured = {measure for _, measure, _ in cells}
    panels = [replace(one, series=tuple(s for s in one.series if s.measure in measured)) for one in study.panels]
    frames = [frame for panel in panels if panel.series for frame in _frames(panel, cells)]
    if not frames:
        raise FedmiError("there is no figure: none of its numbers is there")
    columns = max(1, min(3, len(frames), int((style.PAGE - 0.3) / max(map(_width, frames)))))
    height = 1.75
    pages = style.chunks(frames, columns * int(style.PAGE_HEIGHT / height))
    with style.styled():
        drawn = [_page(page, min(columns, len(page)), height, study, cells, rows) for page in pages]
        for page in drawn:
            style.say(page, run)
    return drawn


def _frames(panel: Panel, cells: Cells) -> list[_Frame]:
    rounds = sorted({number for number, _, _ in cells})
    if panel.by == "round":
        return [(panel.title, panel, rounds, None)] if any(_there(panel, cells, n, None) for n in rounds) else []
    found = []
    for number in rounds:
        values = _values(panel, cells, number)
        title = panel.title if len(rounds) == 1 else f"{panel.title}, round {number}"
        most = max(1, WIDEST // len(panel.series))
        found += [(title, panel, list(part), number) for part in style.chunks(values, most) if part]
    return found


def _values(panel: Panel, cells: Cells, number: int) -> list[Any]:
    """Of the label that its points are for, in their order."""
    wanted = {series.measure for series in panel.series}
    labels = {name for name in LABELS if name == panel.by or name in panel.where}
    found = [
        dict(key)[panel.by]
        for at, measure, key in cells
        if at == number and measure in wanted and set(dict(key)) == labels and panel.where.items() <= dict(key).items()
    ]
    return sorted(set(found), key=_order)


def _order(value: int | str) -> tuple[int, ...]:
    """By the numbers in it: classes, "0-3", "conv2"."""
    return tuple(map(int, re.findall(r"\d+", str(value))))


def _looks(study: Study) -> dict[str, tuple[str, str]]:
    """Colour and marker of every series, by its label: panels share one legend."""
    labels = dict.fromkeys(series.label for panel in study.panels for series in panel.series)
    return {label: style.look(i) for i, label in enumerate(labels)}


def _key(panel: Panel, value: Any) -> Any:
    of = dict(panel.where) | ({} if panel.by == "round" else {panel.by: value})
    return tuple((name, of[name]) for name in LABELS if name in of)


def _there(panel: Panel, cells: Cells, number: int, value: Any) -> bool:
    return any((number, series.measure, _key(panel, value)) in cells for series in panel.series)


def _width(frame: _Frame) -> float:
    """Inches that its points need, at least those of its title."""
    title, panel, values, _ = frame
    return max(0.75 + 0.085 * len(values) * (1 + len(panel.series)), style.width(title) + 0.3, 1.6)


def _page(
    frames: Sequence[_Frame], columns: int, height: float, study: Study, cells: Cells, rows: Sequence[Row]
) -> Figure:  # fmt: skip
    figure, grid = style.grid(len(frames), columns, height, share=False)
    for axes, frame in zip(grid, frames, strict=True):
        _fill(axes, frame, cells, rows, _looks(study))
    shown = {series.measure for _, panel, _, _ in frames for series in panel.series}
    if any(cell.null is not None for (_, measure, _), cell in cells.items() if measure in shown):
        style.say(figure, f"grey: {NULL_LABEL}")
    if len({row.seed for row in rows}) > 1:
        style.say(figure, "small: single seeds; bars: 95 % interval of the mean over seeds")
    style.say(figure, study.caption)
    style.legend(figure, grid)
    return figure


def _fill(
    axes: Axes, frame: _Frame, cells: Cells, rows: Sequence[Row], looks: Mapping[str, tuple[str, str]]
) -> None:  # fmt: skip
    title, panel, values, number = frame
    step = 0.8 / len(panel.series)
    for i, series in enumerate(panel.series):
        colour, marker = looks[series.label]
        axes.plot([], [], marker, color=colour, label=series.label)
        for place, value in enumerate(values):
            at = (number if number is not None else value, series.measure, _key(panel, value))
            if at in cells:
                _point(axes, place + (i + 0.5) * step - 0.4, cells[at], colour, marker)
                _seeds(axes, place + (i + 0.5) * step - 0.4, [row for row in rows if _is(row, at)], colour)
    axes.set(title=title, ylabel=panel.ylabel, xlim=(-0.6, len(values) - 0.4))
    axes.set_xlabel({"pair": "pair of classes", "source": "client whose weights are put in"}.get(panel.by, panel.by))
    room = (axes.figure.get_figwidth() / max(1, axes.get_subplotspec().get_gridspec().ncols) - 0.7) / len(values)  # type: ignore[union-attr]
    style.ticks(axes, [str(value) for value in values], room)
    if panel.share:
        axes.set(ylim=(-0.05, 1.05), yticks=(0, 0.5, 1))
    else:
        axes.axhline(0, color=style.NULL, lw=0.5, zorder=0)


def _is(row: Row, at: tuple) -> bool:
    return (row.round, row.measure, row.key) == at


def _point(axes: Axes, x: float, cell: Any, colour: str, marker: str) -> None:
    if cell.null is not None:
        axes.vlines(x, cell.null_low, cell.null_high, color=style.NULL, lw=2.6, alpha=0.6, zorder=1)
        axes.plot([x], [cell.null], "_", color=style.BLACK, ms=3.5, mew=0.7, zorder=2)
    if cell.low is not None:
        axes.vlines(x, cell.low, cell.high, color=colour, lw=0.9, zorder=3)
    axes.plot([x], [cell.mean], marker, color=colour, zorder=4)


def _seeds(axes: Axes, x: float, rows: Sequence[Row], colour: str) -> None:
    if len(rows) > 1:
        axes.plot([x] * len(rows), [row.value for row in rows], ".", color=colour, ms=1.6, alpha=0.8, zorder=3)


def save(pages: Sequence[Figure], paths: Sequence[Path]) -> list[Path]:
    """The first page under these paths, further ones in NAME-page-2 and so on beside them."""
    found = []
    for number, page in enumerate(pages, 1):
        own = paths if number == 1 else [path.with_name(f"{path.stem}-page-{number}{path.suffix}") for path in paths]
        found += [style.save(page, path) for path in own]
    return found

"""`fedmi study NAME DIR`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable
from tyro.conf import Positional

from fedmi_jax import files
from fedmi_jax.cli import tables, terminal
from fedmi_jax.cli.run import require_writable
from fedmi_jax.errors import ConfigError, FedmiError, say, unknown
from fedmi_jax.studies import STUDIES, Findings

if TYPE_CHECKING:
    from fedmi_jax.studies.base import Column, Table
    from fedmi_jax.studies.tidy import Cell, Cells, Key


@dataclass(frozen=True)
class Study:
    """Ask a question of the circuits and models of a stored run."""

    name: Positional[str]
    """One of those that `fedmi list` names."""
    folder: Positional[Path]
    """Folder that `fedmi run` or `fedmi import` wrote, or one that holds such folders at any depth."""
    seed: tuple[int, ...] | Literal["all"] = "all"
    """Which seeds."""
    round: tuple[int, ...] | Literal["last", "all"] = "last"
    """Which rounds."""
    experts: tuple[str, ...] = ()
    """Whose circuit stands for a class, as in --experts 0 3:1 for class 0 (its usual client) and class 3 (client 1).
    Usual is the client with the most images of the class; none given: every class that has a circuit."""
    nulls: int = 20
    """Random sets of the same size for every number that has such a null."""
    limit: int = 20
    """Patching: so many of the channels that most circuits use."""
    out: Path | None = None
    """Folder for the CSV file and the figure; by default FOLDER/figures."""
    format: tuple[Literal["svg", "png", "pdf"], ...] = ("svg",)
    """Of the figure."""


def study(option: Study) -> int:
    """Status 1 when a figure could not be drawn."""
    from fedmi_jax.analysis import runs
    from fedmi_jax.studies import study as ask

    if option.name not in STUDIES:  # before anything is read
        raise ConfigError(f"study: {unknown(option.name, STUDIES)}")
    experts = _experts(option.experts)
    home = option.folder if option.folder.is_dir() else option.folder.parent
    out = option.out or home / "figures"
    found = runs.gather([option.folder])
    require_writable(out)
    console, status = terminal.console(), 0
    for run, ds in found.items():
        findings = ask(
            option.name, ds, seeds=option.seed, rounds=option.round, nulls=option.nulls, limit=option.limit,
            experts=experts,
        )  # fmt: skip
        if len(found) > 1:
            console.print(f"\n[bold]{tables.shown(run)}[/]", highlight=False, soft_wrap=True)
        show(findings, console)
        status = max(status, _written(findings, run, out, option.format))
    return status


def _experts(words: Sequence[str]) -> dict[int, int | None] | None:
    found: dict[int, int | None] = {}
    for word in words:
        parts = re.fullmatch(r"(\d{1,6})(?::(\d{1,6}))?", word)
        if parts is None:
            raise ConfigError(f"experts: give CLASS or CLASS:CLIENT, as in 0 3:1; got {word!r}")
        if int(parts[1]) in found:
            raise ConfigError(f"experts: class {parts[1]} is named twice; give one client for it")
        found[int(parts[1])] = None if parts[2] is None else int(parts[2])
    return found or None


def _written(findings: Findings, run: str, out: Path, formats: Sequence[str]) -> int:
    """The CSV file and the figure; what is missing is said."""
    from fedmi_jax.studies import drawing

    stem = f"study-{findings.name}-{run}"
    path = out / f"{stem}.csv"
    with files.replacing(path) as temporary:
        temporary.write_text(findings.csv, "utf-8")
    print(path)
    if findings.missing:
        say(findings.missing)
    try:
        pages = drawing.draw(findings.study, findings.rows, run)
    except FedmiError as error:
        if findings.missing:  # and that has been said
            return 0
        say(f"{stem}: {error}")
        return 1
    print("\n".join(map(str, drawing.save(pages, [out / f"{stem}.{kind}" for kind in formats]))))
    return 0


# --- tables ---


MOST = 40
"""Lines of a table on the terminal; the CSV file has all."""


def show(findings: Findings, console: Console) -> None:
    """Its tables, one line for each round and value of the labels."""
    from fedmi_jax.studies.tidy import over_seeds

    cells = over_seeds(findings.rows)
    seeds = {row.seed for row in findings.rows}
    for table in findings.study.tables:
        lines = _lines(table, cells)
        if lines:
            console.print(_table(table, lines[:MOST], cells), highlight=False)
        if len(lines) > MOST:
            console.print(f"... {len(lines) - MOST} more in the CSV file", highlight=False)
    over = f"mean over {len(seeds)} seeds, [95 % interval]" if len(seeds) > 1 else "one seed"
    said = f"{over}; shares in percent; in brackets random sets as large, and where 95 % of them lie"
    console.print(said, highlight=False, markup=False)


def _lines(table: Table, cells: Cells) -> list[tuple[int, Key]]:
    """Round and labels of every line."""
    wanted = {column.measure for column in table.columns}
    found = [(number, _without_layer(table, key)) for number, measure, key in cells if measure in wanted]
    return [line for line in dict.fromkeys(found) if {name for name, _ in line[1]} == set(table.by)]


def _without_layer(table: Table, key: Key) -> Key:
    return tuple((name, value) for name, value in key if name in table.by or name != "layer")


def _table(table: Table, lines: Sequence[tuple[int, Key]], cells: Cells) -> RichTable:
    by_line = _by_line(table, cells)
    shown = [column for column in table.columns if any((*line, column.measure) in by_line for line in lines)]
    made = terminal.table("round", *table.by, *map(_title, shown), title=table.title, title_justify="left")
    for number, key in lines:
        values = [escape(str(dict(key)[name])) for name in table.by]
        texts = (_cell(by_line.get((number, key, column.measure), []), column) for column in shown)
        made.add_row(str(number), *values, *map(escape, texts))
    return made


def _title(column: Column) -> str:
    return f"{column.title} (random)" if column.null and "(random" not in column.title else column.title


def _by_line(table: Table, cells: Cells) -> Mapping[tuple[int, Key, str], list[Cell]]:
    """The cells of a line and measure: one, or one a layer."""
    found: dict[tuple[int, Key, str], list[Cell]] = {}
    for (number, measure, key), cell in cells.items():
        found.setdefault((number, _without_layer(table, key), measure), []).append(cell)
    return found


def _cell(cells: Sequence[Cell], column: Column) -> str:
    if not cells:
        return "-"
    own = " / ".join(_number(cell.mean, column.kind) for cell in cells)
    if len(cells) == 1 and cells[0].low is not None and column.kind != "flag":
        own += f" [{_number(cells[0].low, column.kind)}, {_number(cells[0].high, column.kind)}]"
    if not column.null or any(cell.null is None for cell in cells):
        return own
    random = " / ".join(_number(cell.null, column.kind) for cell in cells)
    if len(cells) == 1:
        random += f", {_number(cells[0].null_low, column.kind)} to {_number(cells[0].null_high, column.kind)}"
    return f"{own} ({random})"


def _number(value: float | None, kind: str) -> str:
    if value is None or value != value:
        return "-"
    if kind == "flag" and value in (0, 1):
        return "yes" if value else "no"
    if kind in ("percent", "flag"):
        return f"{100 * value:z.2f}"
    if kind == "points":
        return f"{100 * value:+z.2f}"
    return f"{value:.4f}" if kind == "number" else f"{value:z.1f}".removesuffix(".0")

"""`fedmi compare DIR DIR`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from tyro.conf import Positional

from fedmi_jax.cli import terminal
from fedmi_jax.errors import FedmiError

if TYPE_CHECKING:
    import xarray as xr

    from fedmi_jax.analysis.compare import Comparison, Row


@dataclass(frozen=True)
class Compare:
    """Compare two configurations over the seeds that both were run with."""

    first: Positional[Path]
    """Folder of a run, or one that holds its seeds at any depth."""
    second: Positional[Path]
    """What is compared with it: differences are second minus first."""
    json: bool = False
    """As one JSON object."""


def compare(option: Compare) -> int:
    from fedmi_jax.analysis.compare import compare as compared

    found = compared(_one(option.first), _one(option.second))
    if option.json:
        print(json.dumps(as_values(found), indent=2))
        return 0
    console = terminal.console()
    for line in _differing(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(_table(found))
    return 0


def _one(folder: Path) -> xr.Dataset:
    """The one experiment in a folder, its seeds joined."""
    from fedmi_jax.analysis import runs

    found = runs.gather([folder])
    if len(found) > 1:
        raise FedmiError(f"{folder}: holds several experiments ({', '.join(found)}); give the folder of one")
    return next(iter(found.values()))


def as_values(found: Comparison) -> dict:
    """As JSON values."""
    rows = [
        {**row.key._asdict(), "first": row.first, "second": row.second, "difference": row.difference.mean,
         "low": row.difference.low, "high": row.difference.high, "seeds": row.difference.seeds}
        for row in found.rows
    ]  # fmt: skip
    settings = {field: {"first": first, "second": second} for field, first, second in found.settings}
    return {"settings": settings, "seeds": found.seeds, "measures": rows}


def _differing(found: Comparison) -> list[str]:
    seeds = " ".join(map(str, found.seeds))
    sure = "" if len(found.seeds) > 1 else ": nothing is known about how sure the differences are"
    lines = [f"{field}: {first}, {second}" for field, first, second in found.settings]
    return [*(lines or ["the settings are the same"]), f"seeds that both have: {seeds}{sure}"]


def _table(found: Comparison):
    note = (
        "second minus first, seed by seed, in brackets its 95 % interval (bootstrap, too narrow for few seeds); of so "
        "many rows some intervals leave 0 out by chance"
    )
    table = terminal.table("last round", "circuits", "layer", "first", "second", "difference", caption=note)
    table.caption_justify = "left"
    for row in found.rows:
        measure, origin, layer = row.key
        table.add_row(measure.replace("_", " "), origin, layer, *map(escape, _cells(row)))
    return table


def _cells(row: Row) -> tuple[str, str, str]:
    digits = 1 if row.key.measure == "size" else 3
    d = row.difference
    limits = "" if d.low is None or d.high is None else f" [{d.low:+z.{digits}f}, {d.high:+z.{digits}f}]"
    return f"{row.first:z.{digits}f}", f"{row.second:z.{digits}f}", f"{d.mean:+z.{digits}f}{limits}"

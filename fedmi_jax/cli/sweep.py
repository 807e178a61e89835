"""`fedmi sweep PRESET --set FIELD=VALUE,VALUE ...`: a run for every combination of values, and a table of them."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedmi_jax import config, files
from fedmi_jax.cli import run as one_run
from fedmi_jax.cli import terminal
from fedmi_jax.config import Experiment
from fedmi_jax.devices import require_jax
from fedmi_jax.errors import ConfigError
from fedmi_jax.presets import experiment as preset_of_one
from fedmi_jax.results import store

if TYPE_CHECKING:
    import xarray as xr
    from rich.table import Table

USAGE = """usage: fedmi sweep PRESET --set FIELD=VALUE,VALUE [FIELD=VALUE,VALUE ...] --out DIR [options of fedmi run]
A run for every combination of the values, each in a folder of its own in DIR; the same words again go on with what is
unfinished. FIELD is an option of `fedmi run PRESET --help` without its dashes, as in sparsity.target=0.9,0.99. Values
that hold commas themselves are separated by |, as in "split.class-map=0,1 2,3|0,1 1,2"."""


@dataclass(frozen=True)
class Sweep:
    """Run a preset with every combination of some values, and tabulate the results."""


Point = Mapping[str, str]
"""A value, as it was written, for every field."""


def sweep(arguments: list[str]) -> int:
    """`fedmi sweep PRESET ...`."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE)
        return 0
    if not arguments or arguments[0].startswith("-"):
        raise ConfigError("preset: give one first, as in `fedmi sweep quick --set sparsity.target=0.9,0.99 --out DIR`")
    chosen = preset_of_one(arguments[0])
    fields, rest = _read(arguments[1:])
    points = [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]
    options = [one_run.parse(chosen, arguments[0], [*rest, *_words(point)]) for point in points]
    first = options[0]
    if first.out is None:
        raise ConfigError("out: give a folder for the results, as in --out runs/sweep")
    if first.dry_run or first.check_determinism or first.distributed:
        raise ConfigError(
            "sweep: takes neither --dry-run, --check-determinism nor --distributed; give them to fedmi run"
        )
    folders = [first.out / _name(point) for point in points]
    if len(set(folders)) < len(folders):
        raise ConfigError("set: two combinations are the same; give every value once")
    for option in options:
        config.refuse_unused(option.experiment)
    results = _run(first.out, folders, options, f"fedmi sweep {shlex.join(arguments)}")
    _write(first.out / "sweep.csv", points, results)
    terminal.console().print(_table(points, results))
    print(first.out / "sweep.csv")
    return 0


def _read(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """The values of every field after --set, and the other words."""
    fields: dict[str, list[str]] = {}
    rest, inside = [], False
    for word in words:
        inside = word == "--set" or (inside and not word.startswith("--"))
        if not inside:
            rest.append(word)
        elif word != "--set":
            name, values = _field(word)
            if name in fields:
                raise ConfigError(f"set: {name} is given twice; give all its values at once")
            fields[name] = values
    if not fields:
        raise ConfigError("set: give what to vary, as in --set sparsity.target=0.9,0.99")
    return fields, rest


def _field(word: str) -> tuple[str, list[str]]:
    name, equals, text = word.partition("=")
    values = [value.strip() for value in text.split("|" if "|" in text else ",")]
    if not equals or not name.strip("-") or not all(values):
        raise ConfigError(f"set: give FIELD=VALUE,VALUE, as in sparsity.target=0.9,0.99; got {word!r}")
    if name.strip("-").split(".")[0] in ("out", "seeds", "dry-run", "checkpoint"):
        raise ConfigError(f"set: {name} is no setting to vary; give --{name.strip('-')} for all runs")
    return name.strip("-"), values


def _words(point: Point) -> list[str]:
    return [word for name, value in point.items() for word in (f"--{name}", *shlex.split(value))]


def _name(point: Point) -> str:
    """Of the folder of a combination."""
    return "_".join(re.sub(r"[^\w.=+-]+", "-", f"{name}={value}") for name, value in point.items())


def _run(out: Path, folders: Sequence[Path], options: Sequence[one_run.Run], again: str) -> list[xr.Dataset]:
    """All results; those that are there are read, and every other is made or gone on with."""
    require_jax()
    one_run.require_writable(out)
    jobs: list[one_run.Job] = []
    for folder, option in zip(folders, options, strict=True):  # all are looked at before the first hour of work
        if (folder / store.FILE).exists():
            _require_same(folder, option.experiment)
        else:
            jobs.append((folder, option.experiment, _job(folder, option)))
    one_run.run_each(out, jobs, f"`{again}` goes on after the last round that was finished", brief=True)
    return [store.load(folder) for folder in folders]


def _job(folder: Path, option: one_run.Run) -> Any:
    from fedmi_jax.devices.session import session
    from fedmi_jax.federation import resumable
    from fedmi_jax.federation.setup import prepare

    with session(option.experiment.execution):
        facts = prepare(option.experiment)
    return partial(resumable.run, option.experiment, folder, facts.dataset, settings=option.checkpoint)


def _require_same(folder: Path, wanted: Experiment) -> None:
    from fedmi_jax.keeping.manifest import fixed

    there = config.from_json(store.load(folder).attrs["config"])
    changed = config.differences(fixed(there), fixed(wanted))
    if there.rounds != wanted.rounds:
        changed.append(f"rounds ({there.rounds}, now {wanted.rounds})")
    if changed:
        raise ConfigError(f"{folder}: holds a result that differs in {', '.join(changed)}; give another --out")


# --- what came out ---

_SHOWN = {
    ("local_held_accuracy", ""): "local models, classes held",
    ("global_held_accuracy", ""): "global model, classes held",
    ("cross_evaluation", "local"): "cross-evaluation", ("balanced_accuracy", "local"): "balanced accuracy",
    ("degenerate", "local"): "degenerate",
}  # fmt: skip
"""Numbers of the table, in percent."""


def _table(points: Sequence[Point], results: Sequence[xr.Dataset]) -> Table:
    from rich.markup import escape

    from fedmi_jax.analysis import compare
    from fedmi_jax.results.statistics import estimate

    found = [compare.numbers(ds) for ds in results]
    keys = {key: said for key, said in _SHOWN.items() if all((*key, "") in own for own in found)}
    note = "last round, percent, local circuits; in brackets the 95 % interval over seeds; sweep.csv has every measure"
    table = terminal.table(*points[0], "seeds", *keys.values(), caption=note)
    table.caption_justify = "left"
    for point, ds, own in zip(points, results, found, strict=True):
        cells = [str(_percent(estimate(own[compare.Key(*key)]))) for key in keys]
        table.add_row(*map(escape, (*point.values(), str(ds.sizes["seed"]), *cells)))
    return table


def _percent(found: Any) -> str:
    limits = "" if found.low is None else f" [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return "-" if found.mean != found.mean else f"{100 * found.mean:.1f}{limits}"


def _write(path: Path, points: Sequence[Point], results: Sequence[xr.Dataset]) -> None:
    """Every measure of every combination."""
    import pandas as pd

    from fedmi_jax.analysis import compare

    parts = [compare.table(ds) for ds in results]
    for point, part in zip(points, parts, strict=True):
        for at, (name, value) in enumerate(point.items()):
            part.insert(at, name, value)
    with files.replacing(path) as temporary:
        pd.concat(parts, ignore_index=True).to_csv(temporary, index=False, lineterminator="\n")

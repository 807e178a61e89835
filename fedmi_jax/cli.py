"""The `fedmi` command."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import tyro
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from fedmi_jax import interop, results
from fedmi_jax.config import ConfigError, Experiment, FedmiError
from fedmi_jax.presets import PRESETS, preset

if TYPE_CHECKING:
    from fedmi_jax.federation import Setup


@dataclass(frozen=True)
class Run:
    """Run an experiment and keep its result."""

    out: Path | None = None
    """Folder for the result (result.nc); a preset of several experiments makes one folder in it for each."""
    dry_run: bool = False
    """Print the plan and stop."""
    distributed: bool = False
    """Run as one of several processes: as SLURM or another cluster says, or as the next three options do."""
    coordinator: str | None = None
    """HOST:PORT, where process 0 listens."""
    processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is; process 0 prints and writes."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = Experiment()  # noqa: RUF009


@dataclass(frozen=True)
class Show:
    """Print the summary of a run, or of every run in a folder."""

    folder: Positional[Path]
    """Folder that `fedmi run` or `fedmi import` wrote, or one that holds such folders."""
    json: bool = False
    """As one JSON object: shares and accuracies are fractions."""


@dataclass(frozen=True)
class Import:
    """Turn a results file of the paper's authors into a result."""

    file: Positional[Path]
    """FILE.json or FILE.json.gz."""
    out: Path


@dataclass(frozen=True)
class Export:
    """Write a result in the schema of the paper's authors."""

    folder: Positional[Path]
    out: Path
    """FILE.json or FILE.json.gz."""
    seed: int | None = None
    """Which seed, where the result has several."""


@dataclass(frozen=True)
class Claims:
    """Judge the paper's claims on results."""

    folders: Positional[tuple[Path, ...]]
    """Folders of runs or of imported files, or folders that hold such folders at any depth."""
    json: bool = False
    """As one JSON object."""
    out: Path | None = None
    """Also write the table as markdown to this file."""


@dataclass(frozen=True)
class Figures:
    """Draw the paper's figures, and more, from results."""

    folder: Positional[Path]
    """Folder of a run, or one that holds such folders at any depth."""
    only: tuple[str, ...] = ()
    """These figures only, as in --only fig07; none given: all that belong to the results."""
    format: tuple[Literal["svg", "png", "pdf"], ...] = ("svg",)
    out: Path | None = None
    """Folder for the figures; by default FOLDER/figures."""


@dataclass(frozen=True)
class List:
    """List the presets."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status: 0, or 2 after a one-line error."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(arguments)
    except FedmiError as error:
        print(f"fedmi: {error}", file=sys.stderr)
    return 2


COMMANDS: dict[str, type] = {
    "run": Run, "show": Show, "figures": Figures, "claims": Claims, "import": Import, "export": Export, "list": List,
}  # fmt: skip


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        _help()
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise ConfigError(f"command: unknown name {name!r}; there are {', '.join(COMMANDS)}")
    if name == "run":
        return _run(rest)
    action: Callable = {
        "show": _show, "figures": _figures, "claims": _claims, "import": _import, "export": _export, "list": _list,
    }[name]  # fmt: skip
    return action(_parsed(COMMANDS[name], rest, prog=f"fedmi {name}"))


def _help() -> None:
    table = Table(box=None, show_header=False)
    for name, kind in COMMANDS.items():
        table.add_row(f"  fedmi {name}", (kind.__doc__ or "").splitlines()[0])
    console = Console()
    console.print("Circuits of sparse networks under federated averaging. Commands (each has --help):")
    console.print(table)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        if {"-h", "--help"} & set(arguments):
            print("usage: fedmi run PRESET [--out DIR] [--dry-run] [--seeds 0 1 2] [--rounds N] [options]")
            print("`fedmi list` lists the presets; `fedmi run PRESET --help` the options with the preset's values.")
            return 0
        raise ConfigError("preset: give one first, as in `fedmi run quick --out runs/quick`; `fedmi list` lists them")
    chosen, rest = preset(arguments[0]), arguments[1:]
    options = [_parse(experiment, arguments[0], rest) for experiment in chosen.experiments]
    several = len(options) > 1
    if not options[0].dry_run and options[0].out is None:
        raise ConfigError("out: give a folder for the result, as in --out runs/quick, or --dry-run")
    folders = [_folder(option, several) for option in options]
    for folder in folders:  # all of them before the first hour of work
        if folder is not None:
            results.refuse_taken(folder)
    _join(options[0])
    for option, folder in zip(options, folders, strict=True):
        _run_one(option, folder)
    return 0


def _join(option: Run) -> None:
    """Meet the other processes, where there are any."""
    named = (option.coordinator, option.processes, option.process_id)
    if option.distributed:
        from fedmi_jax import processes

        processes.join(*named)
    elif any(value is not None for value in named):
        raise ConfigError("distributed: --coordinator, --processes and --process-id go with --distributed")


def _parse(experiment: Experiment, name: str, arguments: list[str]) -> Run:
    return _parsed(Run, arguments, default=Run(experiment=experiment), prog=f"fedmi run {name}", registry=_CLASS_MAPS)


def _parsed(kind: type, arguments: list[str], prog: str, **options: Any) -> Any:
    """tyro.cli, with its boxed errors in one line."""
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(kind, args=arguments, prog=prog, **options)
    except SystemExit as ended:
        if not ended.code:  # --help
            raise
    rows = [row.strip("│ ") for row in boxed.getvalue().splitlines()][1:]  # below the title
    problem = itertools.takewhile(_says_something, itertools.dropwhile(lambda row: not _says_something(row), rows))
    raise ConfigError(f"{' '.join(problem)}; see `{prog} --help`")


def _says_something(row: str) -> bool:
    """And is no rule or frame; a terminal without box characters gets plain ones."""
    return bool(row.strip("-─╰╯ "))


_CLASS_MAPS = ConstructorRegistry()


@_CLASS_MAPS.primitive_rule
def _class_map(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A class map on the command line: --split.class-map 0,1 3,4 6,7, one word per client."""
    parts = [part for part in get_args(info.type) if part is not Ellipsis]
    if get_origin(info.type) is not tuple or not parts or any(get_origin(part) is not tuple for part in parts):
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="CLASS,CLASS...",
        instance_from_str=lambda words: tuple(tuple(int(c) for c in word.split(",")) for word in words),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, classes)) for classes in value],
    )


def _folder(option: Run, several: bool) -> Path | None:
    if option.out is None or not several:
        return option.out
    return option.out / option.experiment.name


def _run_one(option: Run, folder: Path | None) -> None:
    import fedmi_jax
    from fedmi_jax import execution, federation, processes

    experiment = option.experiment
    with execution.session(experiment.execution):
        first = processes.is_first()
        console = Console(quiet=not first)
        setup = federation.prepare(experiment)
        print_plan(setup, console)
    if option.dry_run or folder is None:
        return
    _require_writable(folder)
    began = time.monotonic()
    with processes.ending_together():
        result = fedmi_jax.run(experiment, setup.dataset, progress=first)
        if first:
            path = results.save(result, folder)
            results.print_summary(results.summary(result), console)
            console.print(f"{path}, {time.monotonic() - began:.0f} s", highlight=False)


def _require_writable(folder: Path) -> None:
    """Found out before hours of work, not after."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"out: cannot write to {existing}; give a folder that can be made")


def print_plan(setup: Setup, console: Console) -> None:
    """Who holds what, and how much work and memory a round takes."""
    import numpy as np

    from fedmi_jax.data import partition
    from fedmi_jax.federation import memory

    e, dataset = setup.experiment, setup.dataset
    whole = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    console.print(f"[bold]{e.name}[/]: {dataset.name}, seeds {list(e.seeds)}, {e.rounds} rounds", highlight=False)
    console.print(f"training images per client and class (seed {e.seeds[0]}); skew: distance of the label distribution")
    print(partition.table(setup.counts[0], whole, [n.split(" ")[0] for n in dataset.class_names]))
    first, how = setup.round(1), setup.layout
    steps, found = int(setup.steps[first.models].sum()), 2 * first.found
    some = "" if e.participation == 1 else f"{first.clients.shape[1]} of {e.split.clients} clients, "
    console.print(
        f"a round: {some}{steps} local steps of up to {e.local.batch_size} images ({setup.steps.min()} to "
        f"{setup.steps.max()} a client), {found} circuits of {e.discovery.steps} steps",
        highlight=False,
    )
    beside = "one client after the other" if how.one_by_one else f"{how.chunk} clients side by side on each"
    shared = "whole clients" if how.shard == "clients" else "every batch"
    sharing = f", which share out {shared}" if how.devices > 1 else ""
    console.print(
        f"on {how.devices} {how.mesh.devices.flat[0].platform} device(s){sharing}; {beside}; about "
        f"{memory(setup) / 2**20:.0f} MiB",
        highlight=False,
    )
    if e.execution.precision == "float64" and how.mesh.devices.flat[0].platform == "gpu":
        console.print("float64 on a GPU: exact to the last digits, and many times slower than float32")


def _show(option: Show) -> int:
    if not option.folder.is_dir():
        found = [option.folder]
    else:
        found = [option.folder] if (option.folder / results.FILE).exists() else _runs_in(option.folder)
    summaries = {path.name: results.summary(results.load(path)) for path in found or [option.folder]}
    if option.json:
        only = next(iter(summaries.values()))
        print(json.dumps(only if len(summaries) == 1 else {"runs": summaries}, indent=2))
    else:
        for short in summaries.values():
            results.print_summary(short)
    return 0


def _runs_in(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{results.FILE}"))


def _claims(option: Claims) -> int:
    from fedmi_jax.analysis import claims, runs
    from fedmi_jax.report import claims_table

    if not option.folders:
        raise ConfigError("folders: give at least one folder of runs, as in `fedmi claims runs`")
    found = runs.gather(option.folders, paper_only=True)
    rows = claims.judge(found)
    if option.json:
        print(json.dumps(claims_table.as_values(rows, found), indent=2))
    else:
        Console().print(claims_table.render(rows, found))
    if option.out is not None:
        with results.replacing(option.out) as temporary:
            temporary.write_text(claims_table.markdown(rows, found))
    return 0


def _figures(option: Figures) -> int:
    """Status 1 when a figure could not be drawn."""
    from fedmi_jax.analysis import runs
    from fedmi_jax.report import figures

    found = runs.gather([option.folder])
    home = option.folder if option.folder.is_dir() else option.folder.parent
    out = option.out or home / "figures"
    _require_writable(out)
    drawn, problems = figures.draw_all(found, out, option.only, option.format)
    print("\n".join(map(str, drawn)))
    for problem in problems:
        print(f"fedmi: {problem}", file=sys.stderr)
    return 1 if problems else 0


def _import(option: Import) -> int:
    results.refuse_taken(option.out)
    _require_writable(option.out)
    result = interop.import_authors(option.file)
    print(results.save(result, option.out))
    return 0


def _export(option: Export) -> int:
    print(interop.export_authors(results.load(option.folder), option.out, option.seed))
    return 0


def _list(option: List) -> int:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column, wrap in (("preset", True), ("what", False), ("paper's figures", True), ("rounds", True)):
        table.add_column(column, no_wrap=wrap)
    for name, one in PRESETS.items():
        table.add_row(name, one.summary, one.figures, str(one.experiments[0].rounds))
    Console().print(table, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

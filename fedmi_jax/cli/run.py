"""`fedmi run` and `fedmi resume`."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.console import Console
from tyro.conf import Positional

from fedmi_jax.cli import signals, tables
from fedmi_jax.cli.parse import CLASS_MAPS, parsed
from fedmi_jax.cli.progress import bar
from fedmi_jax.config import Checkpoint, Experiment
from fedmi_jax.errors import ConfigError
from fedmi_jax.presets import preset
from fedmi_jax.results import store, summary

if TYPE_CHECKING:
    import xarray as xr

    from fedmi_jax.federation.setup import Facts
    from fedmi_jax.federation.simulation import Progress


@dataclass(frozen=True)
class Run:
    """Run an experiment and keep its result."""

    out: Path | None = None
    """Folder for the result (result.nc); a preset of several experiments makes one folder in it for each."""
    dry_run: bool = False
    """Print the plan and stop."""
    check_determinism: bool = False
    """Compute the first round twice, compare every bit, say so and stop."""
    checkpoint: Checkpoint = Checkpoint()
    """What a run in a folder keeps to go on from."""
    distributed: bool = False
    """Run as one of several processes: as SLURM or another cluster says, or as the next three options do."""
    coordinator: str | None = None
    """HOST:PORT, where process 0 listens."""
    processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """Which of them this is; process 0 prints and writes."""
    experiment: Annotated[Experiment, tyro.conf.arg(name="")] = Experiment()


@dataclass(frozen=True)
class Resume:
    """Go on with a run that was interrupted."""

    folder: Positional[Path]
    """Folder that `fedmi run` was given; of a preset of several experiments, all that are unfinished."""
    rounds: int | None = None
    """How many in all, when more are wanted."""
    client_chunk: int | None = None
    """Clients side by side, when memory ran out; last digits may differ."""
    micro_batch: int | None = None
    """Images per piece of a batch, likewise."""
    distributed: bool = False
    """Several processes, as for `fedmi run`; all of them must see the folder."""
    coordinator: str | None = None
    processes: int | None = None
    process_id: int | None = None


def run(arguments: list[str]) -> int:
    """`fedmi run PRESET ...`."""
    if not arguments or arguments[0].startswith("-"):
        return _help(arguments)
    chosen, rest = preset(arguments[0]), arguments[1:]
    options = [_parse(experiment, arguments[0], rest) for experiment in chosen.experiments]
    first = options[0]
    if not (first.dry_run or first.check_determinism) and first.out is None:
        raise ConfigError("out: give a folder for the result, as in --out runs/quick, or --dry-run")
    folders = [_folder(option, len(options) > 1) for option in options]
    for folder in filter(None, folders):  # all of them before the first hour of work
        _require_free(folder)
    _join(first)
    prepared = [_prepared(option) for option in options]
    if first.check_determinism:
        return max(map(_check_determinism, prepared))
    if first.out is not None and not first.dry_run:
        _run_all(first.out, [folder for folder in folders if folder], prepared, first.checkpoint)
    return 0


def _help(arguments: list[str]) -> int:
    if not {"-h", "--help"} & set(arguments):
        raise ConfigError("preset: give one first, as in `fedmi run quick --out runs/quick`; `fedmi list` lists them")
    print("usage: fedmi run PRESET [--out DIR] [--dry-run] [--seeds 0 1 2] [--rounds N] [options]")
    print("`fedmi list` lists the presets; `fedmi run PRESET --help` the options with the preset's values.")
    return 0


def _require_free(folder: Path) -> None:
    from fedmi_jax.federation import resumable

    store.refuse_taken(folder)
    resumable.refuse(folder)


def _run_all(out: Path, folders: list[Path], prepared: list[Facts], settings: Checkpoint) -> None:
    """All are noted before the first is run, so that all of them can be resumed."""
    from fedmi_jax.devices import processes
    from fedmi_jax.federation import resumable

    for folder in folders:
        require_writable(folder)
    if processes.is_first():
        for folder, facts in zip(folders, prepared, strict=True):
            resumable.begin(folder, facts.experiment, facts.dataset, settings)
    _go(out, [
        (folder, facts.experiment, partial(_run_one, facts, folder, settings))
        for folder, facts in zip(folders, prepared, strict=True)
    ])  # fmt: skip


def _run_one(facts: Facts, folder: Path, settings: Checkpoint, progress: Progress) -> xr.Dataset:
    from fedmi_jax.federation import resumable

    return resumable.run(facts.experiment, folder, facts.dataset, progress, settings)


def resume(option: Resume) -> int:
    """`fedmi resume DIR`."""
    from fedmi_jax.federation import resumable

    _join(option)
    changes = {name: value for name in CHANGES if (value := getattr(option, name)) is not None}
    _go(option.folder, [
        (folder, resumable.experiment_in(folder, **changes), partial(resumable.resume, folder, **changes))
        for folder in resumable.below(option.folder)
    ])  # fmt: skip
    return 0


CHANGES = ("rounds", "client_chunk", "micro_batch")
"""What a run that goes on may be given anew."""


def _join(option: Run | Resume) -> None:
    """Meet the other processes, where there are any."""
    named = (option.coordinator, option.processes, option.process_id)
    if option.distributed:
        from fedmi_jax.devices import processes

        processes.join(*named)
    elif any(value is not None for value in named):
        raise ConfigError("distributed: --coordinator, --processes and --process-id go with --distributed")


def _parse(experiment: Experiment, name: str, arguments: list[str]) -> Run:
    return parsed(Run, arguments, default=Run(experiment=experiment), prog=f"fedmi run {name}", registry=CLASS_MAPS)


def _folder(option: Run, several: bool) -> Path | None:
    if option.out is None or not several:
        return option.out
    return option.out / option.experiment.name


def _prepared(option: Run) -> Facts:
    """The experiment on its data, its plan printed."""
    from fedmi_jax.devices import processes
    from fedmi_jax.devices.session import session
    from fedmi_jax.federation.setup import prepare

    with session(option.experiment.execution):
        facts = prepare(option.experiment)
        print_plan(facts, Console(quiet=not processes.is_first()))
    return facts


def _check_determinism(facts: Facts) -> int:
    """Says whether two computations of the first round agree; 0 if so, 1 if not."""
    from fedmi_jax.devices.session import session
    from fedmi_jax.federation import simulation
    from fedmi_jax.federation.setup import place

    with session(facts.experiment.execution):
        setup = place(facts)
        differing = simulation.differing_when_repeated(setup)
    said = f"differ in {', '.join(differing[:5])}" if differing else "agree in every bit"
    devices = setup.layout.mesh.devices
    print(f"{facts.experiment.name}: round 1, computed twice on {devices.size} {devices.flat[0].device_kind}: {said}")
    return 1 if differing else 0


Job = tuple[Path, Experiment | None, Callable[..., "xr.Dataset"]]
"""A folder, the experiment that is to be run there (None: it is finished), and what runs it, given a progress."""


def _go(out: Path, jobs: list[Job]) -> None:
    """Run or resume each with a bar, until all are finished or told to stop. out: the folder that the user named."""
    from fedmi_jax.devices import processes

    first = processes.is_first()
    console = Console(quiet=not first)
    advice = f"`fedmi resume {shlex.quote(str(out))}` continues after the last round that was finished"
    with processes.ending_together(), signals.stopping(advice) as stop:
        for folder, experiment, work in jobs:
            stop.check(None, 0, "begin")
            began = time.monotonic()
            with bar(experiment if first else None) as advance:
                result = work(progress=partial(stop.check, advance))
            tables.print_summary(summary.summary(result), console)
            said = f"{folder / store.FILE}, {time.monotonic() - began:.0f} s"
            console.print(said, highlight=False, markup=False)


def require_writable(folder: Path) -> None:
    """Found out before hours of work, not after."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"out: cannot write to {existing}; give a folder that can be made")


def print_plan(facts: Facts, console: Console) -> None:
    """Who holds what, and how much work and memory a round takes."""
    import numpy as np

    from fedmi_jax.data import partition
    from fedmi_jax.federation.setup import lay_out, memory

    e, dataset = facts.experiment, facts.dataset
    whole = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    console.print(f"[bold]{e.name}[/]: {dataset.name}, seeds {list(e.seeds)}, {e.rounds} rounds", highlight=False)
    console.print(f"training images per client and class (seed {e.seeds[0]}); skew: distance of the label distribution")
    print(partition.table(facts.counts[0], whole, [n.split(" ")[0] for n in dataset.class_names]))
    first, how = facts.round(1), lay_out(facts)
    steps, found = int(facts.steps[first.models].sum()), int(facts.cases(first).real.sum())
    some = "" if e.participation == 1 else f"{first.clients.shape[1]} of {e.split.clients} clients, "
    console.print(
        f"a round: {some}{steps} local steps of up to {e.local.batch_size} images ({facts.steps.min()} to "
        f"{facts.steps.max()} a client), {found} circuits of {e.discovery.steps} steps",
        highlight=False,
    )
    beside = "one client after the other" if how.one_by_one else f"{how.chunk} clients side by side on each"
    shared = "whole clients" if how.shard == "clients" else "every batch"
    sharing = f", which share out {shared}" if how.devices > 1 else ""
    console.print(
        f"on {how.devices} {how.mesh.devices.flat[0].platform} device(s){sharing}; {beside}; about "
        f"{memory(facts, how) / 2**20:.0f} MiB",
        highlight=False,
    )
    if e.execution.precision == "float64" and how.mesh.devices.flat[0].platform == "gpu":
        console.print("float64 on a GPU: exact to the last digits, and many times slower than float32")

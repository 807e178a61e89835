"""`fedmi run` and `fedmi resume`."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import tyro
from rich.console import Console
from tyro.conf import Positional

from fedmi_jax.cli import signals, tables, terminal
from fedmi_jax.cli.parse import parsed
from fedmi_jax.cli.progress import following
from fedmi_jax.config import (
    AblationKind,
    Checkpoint,
    Discovery,
    Experiment,
    GateKind,
    ObjectiveKind,
    SplitKind,
    flat,
    refuse_unused,
    replace,
    to_dict,
)
from fedmi_jax.devices import require_jax
from fedmi_jax.errors import ConfigError
from fedmi_jax.presets import preset
from fedmi_jax.results import labels, store, summary

if TYPE_CHECKING:
    import xarray as xr

    from fedmi_jax.federation.metrics import OnRound
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
    """Folder that `fedmi run` was given, or one that holds such folders at any depth: all that are unfinished."""
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
    options = [parse(experiment, arguments[0], rest) for experiment in chosen.experiments]
    _refuse_what_differs(chosen.experiments, [option.experiment for option in options], arguments[0])
    for option in options:
        refuse_unused(option.experiment)
    first = options[0]
    if first.dry_run and first.check_determinism:
        raise ConfigError("dry-run: stops before anything is computed; give it or --check-determinism, not both")
    if not (first.dry_run or first.check_determinism) and first.out is None:
        raise ConfigError("out: give a folder for the result, as in --out runs/quick, or --dry-run")
    folders = [_folder(option, len(options) > 1) for option in options]
    require_jax()
    for folder in filter(None, folders):  # all of them before the first hour of work
        require_free(folder)
    _join(first)
    prepared = [
        _prepared(option, _dropped(before, option.experiment))
        for before, option in zip(chosen.experiments, options, strict=True)
    ]
    if first.check_determinism:
        return max(map(_check_determinism, prepared))
    if first.out is not None and not first.dry_run:
        _run_all(first.out, [folder for folder in folders if folder], prepared, first.checkpoint)
    return 0


def _refuse_what_differs(before: Sequence[Experiment], now: Sequence[Experiment], name: str) -> None:
    """Raise ConfigError for one value of what a preset gives each of its experiments another value of."""
    old, new = ([flat(to_dict(e)) for e in some] for some in (before, now))
    for field in old[0]:
        differs = any(e[field] != old[0][field] for e in old)
        if differs and any(e[field] != own[field] for e, own in zip(new, old, strict=True)):
            raise ConfigError(
                f"{field}: the {len(before)} experiments of {name} differ in it; leave it out, or run one of them, as "
                f"in `fedmi run {before[0].name}`"
            )


def _help(arguments: list[str]) -> int:
    if not {"-h", "--help"} & set(arguments):
        raise ConfigError("preset: give one first, as in `fedmi run quick --out runs/quick`; `fedmi list` lists them")
    print("usage: fedmi run PRESET [--out DIR] [--dry-run] [--seeds 0 1 2] [--rounds N] [options]")
    print("`fedmi list` lists the presets; `fedmi run PRESET --help` the options with the preset's values.")
    return 0


def require_free(folder: Path) -> None:
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
    run_each(out, [
        (folder, facts.experiment, partial(_run_one, facts, folder, settings))
        for folder, facts in zip(folders, prepared, strict=True)
    ])  # fmt: skip


def _run_one(
    facts: Facts, folder: Path, settings: Checkpoint, progress: Progress, on_round: OnRound | None
) -> xr.Dataset:
    from fedmi_jax.federation import resumable

    return resumable.run(facts.experiment, folder, facts.dataset, progress, settings, on_round=on_round)


def resume(option: Resume) -> int:
    """`fedmi resume DIR`."""
    require_jax()
    from fedmi_jax.federation import resumable

    _join(option)
    changes = {name: value for name in CHANGES if (value := getattr(option, name)) is not None}
    run_each(option.folder, [
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


def parse(experiment: Experiment, name: str, arguments: list[str]) -> Run:
    """The options that these words of `fedmi run` give, the others as the experiment has them."""
    start = _with_clients_of_the_map(_without_class_map(experiment, arguments), arguments)
    start = replace(start, discovery=with_objective(start.discovery, arguments))
    return parsed(Run, arguments, default=Run(experiment=start), prog=f"fedmi run {name}")


def _without_class_map(experiment: Experiment, arguments: list[str]) -> Experiment:
    """The experiment to start from: a class map does not go with another kind of split, where the words ask for one."""
    kind = _said(arguments).get("--split.kind")
    if not experiment.split.class_map or kind == "class-map" or kind not in get_args(SplitKind):
        return experiment
    return replace(experiment, split=replace(experiment.split, kind=kind, class_map=()))


def _with_clients_of_the_map(experiment: Experiment, arguments: list[str]) -> Experiment:
    """The experiment to start from: with as many clients as the map in the words has, unless they say how many. The
    map itself is left for the parser to read."""
    split, said = experiment.split, _said(arguments)
    if "--split.class-map" not in arguments or "--split.clients" in said:
        return experiment
    words = takewhile(lambda word: not word.startswith("-"), arguments[arguments.index("--split.class-map") + 1 :])
    count = len(list(words))
    if said.get("--split.kind", split.kind) != "class-map" or count in (0, split.clients):
        return experiment
    return replace(experiment, split=replace(split, kind="class-map", clients=count, class_map=((0,),) * count))


_BRINGING = {"objective": ObjectiveKind, "gates": GateKind, "ablation": AblationKind}
"""Fields of `Discovery` that decide together which defaults the others have, and their kinds."""


def with_objective(settings: Discovery, arguments: list[str]) -> Discovery:
    """The search to start from: where the words ask for another objective, or other gates, with the defaults of these.
    A word that is no such kind is left for the parser to refuse."""
    said = _said(arguments)
    named = {name: said.get(f"--discovery.{name}") for name in _BRINGING}
    changes = {name: word for name, word in named.items() if word in get_args(_BRINGING[name])}
    return replace(settings, **changes) if {"objective", "gates"} & set(changes) else settings


def _said(arguments: list[str]) -> dict[str, str]:
    """What stands after each option, whether behind a space or behind "="."""
    return dict(pairwise([*arguments, ""])) | dict(word.split("=", 1) for word in arguments if "=" in word)


def _dropped(before: Experiment, now: Experiment) -> str:
    """What of the preset does not hold for this split; empty: nothing."""
    if not before.split.class_map or now.split.class_map:
        return ""
    held = " ".join("{" + ",".join(map(str, classes)) + "}" for classes in before.split.class_map)
    return f"split: {now.split.kind} in place of the preset's classes {held}, which are dropped"


def _folder(option: Run, several: bool) -> Path | None:
    if option.out is None or not several:
        return option.out
    return option.out / option.experiment.name


def _prepared(option: Run, note: str) -> Facts:
    """The experiment on its data, its plan and the note printed."""
    from fedmi_jax.devices import processes
    from fedmi_jax.devices.session import session
    from fedmi_jax.federation.setup import prepare

    with session(option.experiment.execution):
        facts = prepare(option.experiment)
        with terminal.going_on():
            print_plan(facts, terminal.console(quiet=not processes.is_first()), note)
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


def run_each(out: Path, jobs: list[Job], advice: str = "", brief: bool = False) -> None:
    """Run or resume each, followed on standard error, until all are finished or told to stop.

    out: the folder that the user named; advice: how to go on after an interruption, by default `fedmi resume`; brief:
    without a summary of every result.
    """
    from fedmi_jax.devices import processes

    first = processes.is_first()
    console = terminal.console(quiet=not first)
    advice = advice or f"`fedmi resume {shlex.quote(str(out))}` continues after the last round that was finished"
    with processes.ending_together(), signals.stopping(advice) as stop:
        for folder, experiment, work in jobs:
            stop.check(None, 0, "begin")
            began = time.monotonic()
            with following(experiment if first else None) as (advance, on_round):
                result = work(progress=partial(stop.check, advance), on_round=on_round)
            said = f"{folder / store.FILE}, {time.monotonic() - began:.0f} s"
            with terminal.going_on():
                if not brief:
                    tables.print_summary(summary.summary(result), console)
                console.print(said, highlight=False, markup=False, soft_wrap=True)


def require_writable(folder: Path) -> None:
    """Found out before hours of work, not after."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"out: cannot write to {existing}; give a folder that can be made")


def print_plan(facts: Facts, console: Console, note: str = "") -> None:
    """Who holds what, and how much work and memory a round takes. note: is printed besides."""
    from fedmi_jax.federation import doubts
    from fedmi_jax.federation.setup import lay_out, memory

    e, dataset = facts.experiment, facts.dataset
    say = partial(console.print, highlight=False, markup=False)
    say(f"{e.name}: {dataset.name}, seeds {list(e.seeds)}, {e.rounds} round{'s' * (e.rounds > 1)}", style="bold")
    for line in filter(None, (dataset.note, note)):
        say(line)
    say(f"training images per client and class (seed {e.seeds[0]}); skew: distance of the label distribution")
    say(_partition(facts, console.width), soft_wrap=True)
    first, layout = facts.round(1), lay_out(facts)
    trained = first.pooled if facts.method.pooled else first
    steps, found = int(facts.steps[trained.models].sum()), int(facts.cases(first).real.sum())
    some = "" if e.participation == 1 else f"{first.clients.shape[1]} of {e.split.clients} clients, "
    least, most = facts.steps.min(), facts.steps.max()
    each = f"{most} a client" if least == most else f"{least} to {most} a client"
    each = f"one model, {most}" if facts.method.pooled else each
    say(
        f"a round: {some}{steps} local steps of up to {e.local.batch_size} images ({each}), "
        f"{found} circuits of {e.discovery.steps} steps"
    )
    say(f"the search: {in_words(e.discovery)}")
    for line in doubts.of_search(facts):
        say(line)
    beside = "one client after the other" if layout.one_by_one else f"{layout.chunk} clients side by side on each"
    shared = "whole clients" if layout.shard == "clients" else "every batch"
    sharing = f", which share out {shared}" if layout.devices > 1 else ""
    say(
        f"on {layout.devices} {layout.mesh.devices.flat[0].platform} device(s){sharing}; {beside}; about "
        f"{memory(facts, layout) / 2**20:.0f} MiB"
    )
    if e.execution.precision == "float64" and layout.mesh.devices.flat[0].platform == "gpu":
        say("float64 on a GPU: exact to the last digits, and many times slower than float32")


def in_words(d: Discovery) -> str:
    """Which search it is."""
    said = f"objective {d.objective}, {d.gates} gates, {d.ablation} ablation, {d.steps} steps"
    if d.as_published:
        return f"{said} (the paper's)"
    return f"{said} of {d.batch_size} images; the probe has {d.probe[0]} + {d.probe[1]} images of every class"


def _partition(facts: Facts, width: int) -> str:
    """Who holds what, with as many classes as the width has room for."""
    import numpy as np

    from fedmi_jax.data import partition
    from fedmi_jax.report import style

    dataset = facts.dataset
    whole = np.bincount(dataset.train_labels, minlength=dataset.num_classes)
    names = style.short(labels.told_apart(dataset.class_names, range(dataset.num_classes)))
    tables = [partition.table(facts.counts[0], whole, names, (20, most)) for most in range(12, 2, -1)]
    return next((text for text in tables if len(text.partition("\n")[0]) <= width), tables[-1])

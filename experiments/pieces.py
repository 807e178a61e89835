"""Runs in pieces: one folder per experiment and seed, made where it is not there yet.

A long series can be stopped at any time and started again with the same command: what is there is skipped, a run that
was cut off goes on after its last finished round, and a result appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import xarray as xr
from filelock import FileLock, Timeout
from tyro.conf import Positional

import fedmi_jax
from experiments import in_time
from experiments.in_time import TimeIsUp, Until
from fedmi_jax.analysis.compact import compact
from fedmi_jax.config import Data, Experiment, Model, differences, from_json, replace
from fedmi_jax.errors import ConfigError, FedmiError, unknown
from fedmi_jax.results import store

TOGETHER = ".seeds-"
"""Begins the name of the folder in which seeds run together."""


@dataclass(frozen=True)
class Series:
    """What every series of runs can be told."""

    out: Positional[Path]
    seeds: int = 3
    """Seeds 0 to N-1."""
    at_once: int = 1
    """Seeds side by side in one compiled call."""
    rounds: int | None = 10
    """None: the preset's."""
    images_per_class: int | None = None
    """Measure on the first so many test images of each class; None: all."""
    data: Data = Data()
    model: Model = Model()
    minutes: float | None = None
    """Begin no round and no search that would end later, and pack what is there as OUT/results-1.zip and so on, each
    under 16 MiB. What is missing, figures too, is made when the command is given again."""

    def adapted(self, experiment: Experiment) -> Experiment:
        """The experiment with the rounds, images and network that were asked for."""
        evaluation = replace(experiment.evaluation, images_per_class=self.images_per_class)
        rounds = experiment.rounds if self.rounds is None else self.rounds
        return replace(experiment, rounds=rounds, evaluation=evaluation, data=self.data, model=self.model)

    def in_time(self, make: Callable[[Until], None]) -> bool:
        """Make what is missing, for no longer than was asked for. Whether all of it is there now."""
        try:
            make(Until.minutes(self.minutes))
        except TimeIsUp:
            print("experiments: the minutes are over; the same command goes on from here", file=sys.stderr)
            return False
        return True

    def pack(self) -> None:
        """Archives of what is there, where the time was limited."""
        if self.minutes is not None:
            packed = in_time.pack(self.out)
            print(f"{len(packed)} archives of results: {', '.join(path.name for path in packed) or 'none'}")


class Beside(NamedTuple):
    """Another result that is made of the same models, before their weights are dropped."""

    name: str
    """Of its folder, in the series' own: OUT/NAME/seed-N."""
    make: Callable[[xr.Dataset], xr.Dataset]
    """From the finished result of all seeds that run together, with weights."""


BesideOf = Callable[[Experiment], Sequence[Beside]]


def nothing_beside(experiment: Experiment) -> Sequence[Beside]:
    """The experiment's own result alone."""
    return ()


def folder(out: Path, experiment: Experiment, seed: int) -> Path:
    """OUT/NAME/seed-N."""
    return out / experiment.name / f"seed-{seed}"


def missing(
    out: Path, experiment: Experiment, seeds: Sequence[int], beside: BesideOf = nothing_beside
) -> list[int]:  # fmt: skip
    """Seeds of the experiment of which a result is not there yet, its own or one beside it."""
    names = [experiment.name, *(one.name for one in beside(experiment))]
    return [seed for seed in seeds if not all(_is_there(out / name, seed) for name in names)]


def _is_there(results: Path, seed: int) -> bool:
    return (results / f"seed-{seed}" / store.FILE).exists()


def load(out: Path, experiments: Sequence[Experiment]) -> dict[str, list[xr.Dataset]]:
    """Every result of these experiments that is there, by name, one per seed. Raises FedmiError for one that is not
    what its place says: with fewer rounds, say, it would be taken for a run that was never made."""
    return {e.name: [_load(out, e, seed) for seed in _there(out, e)] for e in experiments}


def _there(out: Path, experiment: Experiment) -> list[int]:
    found = (out / experiment.name).glob(f"seed-*/{store.FILE}")
    return sorted(int(path.parent.name.removeprefix("seed-")) for path in found)


def results_in(folder: Path) -> list[xr.Dataset]:
    """FOLDER/seed-N, whatever they are of."""
    return [store.load(path.parent) for path in sorted(folder.glob(f"seed-*/{store.FILE}"))]


def _load(out: Path, experiment: Experiment, seed: int) -> xr.Dataset:
    there = folder(out, experiment, seed)
    ds = store.load(there)
    if "config" not in ds.attrs or ds["seed"].values.tolist() != [seed]:
        raise FedmiError(f"{there}: not a run of seed {seed} alone; move it away")
    changed = differences(_as_asked(from_json(ds.attrs["config"]), experiment), experiment)
    if changed:
        raise FedmiError(f"{there}: of another experiment, {', '.join(changed)}; give another folder, or move it away")
    return ds


def _as_asked(there: Experiment, wanted: Experiment) -> Experiment:
    """The same but for what changes none of the numbers: seeds, how the work was laid out, where the images lie, more
    controls than asked."""
    null_samples = min(there.evaluation.null_samples, wanted.evaluation.null_samples)
    weights = there.execution.save_weights and wanted.execution.save_weights
    repeat = there.discovery.repeat
    if repeat == "always" or wanted.discovery.repeat == "never":
        repeat = wanted.discovery.repeat
    # other sets are known by their names; a file that goes by the name of mnist may hold anything
    file = there.data.file if there.data.name == "mnist" else wanted.data.file
    data = replace(there.data, data_dir=wanted.data.data_dir, file=file)
    return replace(
        there, name=wanted.name, seeds=wanted.seeds, data=data,
        execution=replace(wanted.execution, precision=there.execution.precision, save_weights=weights),
        evaluation=replace(there.evaluation, batch_size=wanted.evaluation.batch_size, null_samples=null_samples),
        discovery=replace(there.discovery, repeat=repeat),
    )  # fmt: skip


def run_missing(
    out: Path, experiments: Sequence[Experiment], seeds: Sequence[int], at_once: int = 1,
    beside: BesideOf = nothing_beside, until: Until = in_time.WITHOUT_END,
) -> None:  # fmt: skip
    """Make every result that is not there: all experiments of the first seeds, then of the next.

    at_once: seeds side by side in one compiled call, which is what a GPU likes; a seed's result does not depend on it.
    Of weights only what is measured from them is kept (`analysis.compact`); beside: what else is made of them; until:
    when it must end. Raises TimeIsUp then; what is done is kept, and the same call goes on from there.
    """
    for experiment in experiments:  # cut off while it was shared out
        for done in (out / experiment.name).glob(f"{TOGETHER}*/{store.FILE}"):
            _share_out(out, done.parent, beside(experiment), until)
    if seeds:
        load(out, experiments)  # before hours of work, not after
    for first in range(0, len(seeds), at_once):
        for experiment in experiments:
            todo = missing(out, experiment, seeds[first : first + at_once], beside)
            if todo:
                until.require()
                whole = out / experiment.name / f"{TOGETHER}{'-'.join(map(str, todo))}"
                fedmi_jax.run(replace(experiment, seeds=tuple(todo)), progress=True, folder=whole, on_round=until)
                _share_out(out, whole, beside(experiment), until)


def _share_out(out: Path, whole: Path, beside: Sequence[Beside], until: Until) -> None:
    """A result of several seeds, and those beside it, into folders of one each; it goes only when all are there. Where
    another process is at it, nothing is done: to search twice what is searched already may take an hour."""
    lock = whole.with_name(f"{whole.name}.lock")
    with contextlib.suppress(Timeout), FileLock(lock, timeout=0):
        if (whole / store.FILE).exists():
            _share_out_alone(out, whole, beside, until)
        lock.unlink()


def _share_out_alone(out: Path, whole: Path, beside: Sequence[Beside], until: Until) -> None:
    found = store.load(whole)
    seeds = found["seed"].values.tolist()
    for one in beside:
        if not all(_is_there(out / one.name, seed) for seed in seeds):
            until.require()
            _save_alone(one.make(found), out / one.name)
    _save_alone(found, whole.parent, compact if _has_weights(found) else None)
    shutil.rmtree(whole)


def _has_weights(found: xr.Dataset) -> bool:
    return from_json(found.attrs["config"]).execution.save_weights


def _save_alone(found: xr.Dataset, results: Path, change: Callable[[xr.Dataset], xr.Dataset] | None = None) -> None:
    """Every seed that is not there yet, changed."""
    experiment = from_json(found.attrs["config"])
    for seed in experiment.seeds:
        if not _is_there(results, seed):
            alone = store.stamp(found.sel(seed=[seed]), replace(experiment, seeds=(seed,)))
            store.save(alone if change is None else change(alone), results / f"seed-{seed}")


def refuse_unknown(only: Sequence[str], known: Collection[str]) -> None:
    """Raise ConfigError for a name of `--only` that there is not: before hours of work, not after."""
    for name in only:
        if name not in known:
            raise ConfigError(f"only: {unknown(name, known)}")


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *lines))


def ending(main: Callable[[], None]) -> None:
    """Run a script; an error the user can mend is one line, and status 2; Ctrl-C is 130."""
    try:
        main()
    except FedmiError as error:
        print(f"experiments: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("experiments: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)

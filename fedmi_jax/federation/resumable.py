"""A run in a folder: kept round by round, continued after any end, and finished with result.nc."""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xarray as xr

from fedmi_jax.aggregation import Method
from fedmi_jax.config import Checkpoint, Experiment, differences, replace
from fedmi_jax.data import datasets, own_split
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.data.own_split import OwnSplit
from fedmi_jax.devices import processes
from fedmi_jax.devices.layout import resolve
from fedmi_jax.devices.session import session
from fedmi_jax.errors import ConfigError, FedmiError
from fedmi_jax.federation import simulation
from fedmi_jax.federation.metrics import OnRound
from fedmi_jax.federation.setup import lay_out, prepare
from fedmi_jax.files import sweep
from fedmi_jax.keeping import lock, manifest
from fedmi_jax.keeping.checkpoint import FOLDER, Broadcasting, InMemory, OnDisk
from fedmi_jax.keeping.manifest import Manifest
from fedmi_jax.results import store

_LOG = logging.getLogger(__name__)
Progress = Callable[[int, str], None]


def begin(folder: Path, experiment: Experiment, dataset: Dataset, settings: Checkpoint) -> None:
    """Note the run in its folder, so that `resume` can make it. Raises FedmiError where the folder is taken."""
    with session(experiment.execution), _locked(folder):
        store.refuse_taken(folder)
        refuse(folder)
        manifest.write(folder / FOLDER, manifest.describe(experiment, dataset, settings))


def refuse(folder: Path) -> None:
    """Raise FedmiError, with what to do about it, when `folder` holds finished rounds of an unfinished run.

    Where no round was finished nothing is lost, and it may have failed for the very setting that is now another.
    """
    found = manifest.read(folder / FOLDER)
    if found is not None and (done := _done(folder / FOLDER, found)):
        raise FedmiError(
            f"{folder}: holds an unfinished run, {done} of {found.experiment.rounds} rounds done; "
            f"`fedmi resume {shlex.quote(str(folder))}` continues it"
        )


def _done(home: Path, found: Manifest) -> int:
    """The last round that has a checkpoint; 0: none."""
    return OnDisk(home, found.run, found.experiment.rounds, found.checkpoint).last()


def run(
    experiment: Experiment, folder: Path, dataset: Dataset | None = None, progress: Progress | None = None,
    settings: Checkpoint | None = None, method: Method | None = None, on_round: OnRound | None = None,
    split: OwnSplit | None = None,
) -> xr.Dataset:  # fmt: skip
    """Run the experiment in `folder`, or go on with what it holds of this very experiment; return the result.

    Afterwards the folder holds result.nc. method, split: in place of those that the experiment names. Raises FedmiError
    as `simulation.run` does, and when the folder holds a result, is in use, cannot be written, or holds finished rounds
    of another run: the fields that differ are named.
    """
    store.refuse_taken(folder)
    with session(experiment.execution), _locked(folder):
        store.refuse_taken(folder)  # it may have been finished a moment ago
        settings = settings or Checkpoint()
        return _continue(folder, experiment, dataset, progress, settings, method, on_round, split, begins=True)


def resume(
    folder: Path, dataset: Dataset | None = None, progress: Progress | None = None, rounds: int | None = None,
    method: Method | None = None, on_round: OnRound | None = None, split: OwnSplit | None = None, **laid_out: Any,
) -> xr.Dataset:  # fmt: skip
    """Go on with the unfinished run in `folder`; return its result, which is then there as result.nc.

    Args: dataset: the images, where the run was begun with images of one's own; rounds: how many in all, when more are
    wanted; method, split: the same as at its beginning, where that was given one; client_chunk, micro_batch: of
    `config.Execution`, where memory ran out; last digits may differ then. Raises FedmiError as `run` does, and when
    there is nothing to go on with.
    """
    found = experiment_in(folder, rounds, **laid_out)
    if found is None:
        return _finished(folder, rounds)
    with session(found.execution), _locked(folder):
        there = manifest.read(folder / FOLDER)
        if there is None:  # another process has finished it a moment ago
            return _finished(folder, rounds)
        return _continue(folder, found, dataset, progress, there.checkpoint, method, on_round, split)


def experiment_in(folder: Path, rounds: int | None = None, **laid_out: Any) -> Experiment | None:
    """The unfinished one, with so many rounds in all and these settings of its execution; None where there is none."""
    found = manifest.read(folder / FOLDER)
    if found is None:
        return None
    e = found.experiment
    rounds = e.rounds if rounds is None else rounds
    return replace(e, rounds=rounds, execution=replace(e.execution, **laid_out))


def below(folder: Path) -> list[Path]:
    """This folder, or those in it, at any depth, that hold an unfinished run. Raises FedmiError where there is none."""
    if (folder / FOLDER).exists() or (folder / store.FILE).exists():
        return [folder]
    found = sorted(path.parent.parent for path in folder.rglob(f"{FOLDER}/run.json"))
    if not found:
        raise FedmiError(f"{folder}: holds no unfinished run; `fedmi run PRESET --out DIR` begins one")
    return found


def _finished(folder: Path, rounds: int | None) -> xr.Dataset:
    """The result that is there. A process killed while it cleaned up leaves this to do."""
    if not (folder / store.FILE).exists():
        raise FedmiError(f"{folder}: holds no unfinished run; `fedmi run PRESET --out {folder}` begins one")
    result = store.load(folder)
    if rounds not in (None, result.sizes["round"]):
        raise ConfigError(
            f"rounds: {folder} is finished, its checkpoints gone; --checkpoint.after-the-end would have kept them"
        )
    _clean(folder)
    return result


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Process 0 holds the folder's lock; the others follow it."""
    if not processes.is_first():
        yield
        return
    with lock.held(folder / FOLDER):
        sweep(folder)
        sweep(folder / FOLDER)
        yield


def _continue(
    folder: Path, experiment: Experiment, dataset: Dataset | None, progress: Progress | None, settings: Checkpoint,
    method: Method | None, on_round: OnRound | None, split: OwnSplit | None, begins: bool = False,
) -> xr.Dataset:  # fmt: skip
    """The rounds that are missing, then the result. begins: another run that has no finished round is replaced."""
    home, first = folder / FOLDER, processes.is_first()
    dataset = dataset or datasets.load(experiment.data)
    experiment = own_split.settle(experiment, dataset.train_labels, split)
    here = manifest.describe(experiment, dataset, settings, method and method.name)
    here = replace(here, chunk=_chunk(home, experiment, dataset, method, split))
    if first:
        _claim(home, here, begins)
    keeper = OnDisk(home, here.run, experiment.rounds, settings) if first else InMemory()
    if jax.process_count() > 1:
        keeper = Broadcasting(keeper)
    result = simulation.run(experiment, dataset, progress, keeper, method, on_round, split, here.chunk)
    if first:
        store.save(result, folder)
        if not settings.after_the_end:
            _clean(folder)
    return result


def _chunk(
    home: Path, experiment: Experiment, dataset: Dataset, method: Method | None, split: OwnSplit | None
) -> int | None:
    """What `client_chunk` "auto" means: what it meant before or, in a run that begins, what it means here; of several
    processes, for the first, since programs must be the same. None where a number was given."""
    if experiment.execution.client_chunk != "auto":
        return None
    if jax.default_backend() == "cpu":
        return resolve(experiment.execution).chunk  # whatever is free
    found = manifest.read(home) if processes.is_first() else None
    chunk = (found and found.chunk) or lay_out(prepare(experiment, dataset, method, split)).chunk
    return chunk if jax.process_count() == 1 else int(processes.from_first(np.int64(chunk)))


def _claim(home: Path, here: Manifest, begins: bool) -> None:
    """Write run.json, or see that what is there is the same run."""
    found = manifest.read(home)
    if begins and found is not None and not _done(home, found):
        for useless in home.glob("round-*.npz"):  # without the state after it
            useless.unlink()
        found = None
    if found is not None:
        _require_same(home, found, here)
        changed = [name for name, value in here.machine.items() if found.machine.get(name, value) != value]
        before, now = found.experiment, here.experiment
        changed += differences(replace(before, rounds=now.rounds, data=now.data), now)
        here = replace(here, machine=found.machine, chunk=found.chunk or here.chunk)  # where it began
        if changed:
            _LOG.warning(
                "%s: begun with other %s: last digits may differ from a run in one piece", home, ", ".join(changed)
            )
    if found is None or found.experiment != here.experiment:
        manifest.write(home, here)


def _require_same(home: Path, found: Manifest, here: Manifest) -> None:
    before, now = found.experiment, here.experiment
    changed = differences(manifest.fixed(before), manifest.fixed(now))
    if changed:
        raise ConfigError(f"{home.parent}: holds an unfinished run that differs in {', '.join(changed)}")
    if found.method != here.method:
        raise ConfigError(f"{home.parent}: {_other_method(found.method, here.method)}")
    if found.dataset != here.dataset:
        raise ConfigError(
            f"{home.parent}: holds an unfinished run on {found.images}, but is given {here.images}; give it the images "
            "that it was begun on, as in fedmi_jax.resume(folder, dataset)"
        )
    if now.rounds < before.rounds:
        raise ConfigError(f"rounds: the run in {home.parent} has {before.rounds}; give at least as many")
    done = _done(home, found)
    once = 'discovery.repeat "last"' if now.discovery.repeat == "last" else "evaluation.null_samples"
    if now.rounds > before.rounds == done and (now.discovery.repeat == "last" or now.thorough):
        raise ConfigError(f"rounds: the last round, {done}, has had its control ({once}); begin anew")


def _other_method(before: str | None, now: str | None) -> str:
    if before is None:
        return f"holds an unfinished run with the method that its settings name; leave the method {now!r} out"
    given = "" if now is None else f", not {now!r}"
    return f"holds an unfinished run with the method {before!r}{given}; give it, as in resume(folder, method=...)"


def _clean(folder: Path) -> None:
    """Remove what is needed no more; run.json first: without it nothing is taken for an unfinished run."""
    home = folder / FOLDER
    (home / "run.json").unlink(missing_ok=True)
    shutil.rmtree(home, ignore_errors=True)

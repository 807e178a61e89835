"""Runs in pieces: one folder per experiment and seed, made where it is not there yet.

A long series can be stopped at any time and started again with the same command: what is there is skipped, a run that
was cut off goes on after its last finished round, and a result appears whole or not at all.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr
from tyro.conf import Positional

import fedmi_jax
from experiments.in_time import Until
from fedmi_jax.analysis.compact import compact
from fedmi_jax.config import Experiment, differences, from_json, replace
from fedmi_jax.errors import FedmiError
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

    def adapted(self, experiment: Experiment) -> Experiment:
        """The experiment with the rounds and the test images that were asked for."""
        evaluation = replace(experiment.evaluation, images_per_class=self.images_per_class)
        rounds = experiment.rounds if self.rounds is None else self.rounds
        return replace(experiment, rounds=rounds, evaluation=evaluation)


def folder(out: Path, experiment: Experiment, seed: int) -> Path:
    """OUT/NAME/seed-N."""
    return out / experiment.name / f"seed-{seed}"


def missing(out: Path, experiment: Experiment, seeds: Sequence[int]) -> list[int]:
    """Seeds of the experiment that have no result yet."""
    return [seed for seed in seeds if not (folder(out, experiment, seed) / store.FILE).exists()]


def load(out: Path, experiments: Sequence[Experiment]) -> dict[str, list[xr.Dataset]]:
    """Every result of these experiments that is there, by name, one per seed. Raises FedmiError for one that is not
    what its place says: with fewer rounds, say, it would be taken for a run that was never made."""
    return {e.name: [_load(out, e, seed) for seed in _there(out, e)] for e in experiments}


def _there(out: Path, experiment: Experiment) -> list[int]:
    found = (out / experiment.name).glob(f"seed-*/{store.FILE}")
    return sorted(int(path.parent.name.removeprefix("seed-")) for path in found)


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
    """The same but for what changes none of the numbers: seeds, how the work was laid out, more controls than asked."""
    null_samples = min(there.evaluation.null_samples, wanted.evaluation.null_samples)
    weights = there.execution.save_weights and wanted.execution.save_weights
    repeat = there.discovery.repeat
    if repeat == "always" or wanted.discovery.repeat == "never":
        repeat = wanted.discovery.repeat
    return replace(
        there, name=wanted.name, seeds=wanted.seeds, data=replace(there.data, data_dir=wanted.data.data_dir),
        execution=replace(wanted.execution, precision=there.execution.precision, save_weights=weights),
        evaluation=replace(there.evaluation, batch_size=wanted.evaluation.batch_size, null_samples=null_samples),
        discovery=replace(there.discovery, repeat=repeat),
    )  # fmt: skip


Beside = Callable[[xr.Dataset], None]
"""Called with a finished result, before its weights are dropped and before it counts as there."""


def run_missing(
    out: Path, experiments: Sequence[Experiment], seeds: Sequence[int], at_once: int = 1, beside: Beside | None = None,
    until: Until | None = None,
) -> None:  # fmt: skip
    """Make every result that is not there: all experiments of the first seeds, then of the next.

    at_once: seeds side by side in one compiled call, which is what a GPU likes; a seed's result does not depend on it.
    Of weights only what is measured from them is kept (`analysis.compact`); beside: what else is made of them; until:
    when it must end. Raises TimeIsUp then; what is done is kept, and the same call goes on from there.
    """
    for experiment in experiments:  # cut off while it was shared out
        for done in (out / experiment.name).glob(f"{TOGETHER}*/{store.FILE}"):
            _share_out(done.parent, beside)
    if seeds:
        load(out, experiments)  # before hours of work, not after
    for first in range(0, len(seeds), at_once):
        for experiment in experiments:
            todo = missing(out, experiment, seeds[first : first + at_once])
            if todo:
                _run(out, experiment, todo, beside, until)


def _run(out: Path, experiment: Experiment, seeds: Sequence[int], beside: Beside | None, until: Until | None) -> None:
    whole = out / experiment.name / f"{TOGETHER}{'-'.join(map(str, seeds))}"
    told: dict[str, Any] = {}
    if until is not None:
        until.require()
        told["on_round"] = until
    fedmi_jax.run(replace(experiment, seeds=tuple(seeds)), progress=True, folder=whole, **told)
    _share_out(whole, beside)


def _share_out(whole: Path, beside: Beside | None) -> None:
    """A result of several seeds into folders of one each; it goes only when all of them are there."""
    found = store.load(whole)
    if beside is not None:
        beside(found)
    experiment = from_json(found.attrs["config"])
    for seed in experiment.seeds:
        alone = store.stamp(found.sel(seed=[seed]), replace(experiment, seeds=(seed,)))
        store.save(compact(alone) if experiment.execution.save_weights else alone, whole.parent / f"seed-{seed}")
    shutil.rmtree(whole)


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

"""The runs: every row in every scenario, seed by seed, and on the models of its last round the second instrument.

What is there is not made again; a run that was cut off goes on after its last finished round.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import xarray as xr

import fedmi_jax
from experiments import pieces
from experiments.methods import rows
from fedmi_jax.config import Discovery, Experiment, from_json, replace
from fedmi_jax.errors import FedmiError
from fedmi_jax.results import store

SECOND = "decision"
"""Folder of a row's results of the second instrument."""


class Pair(NamedTuple):
    """What both instruments found in the same models, of one seed."""

    paper: xr.Dataset
    second: xr.Dataset
    """Of the last round alone."""


def run(
    out: Path, common: Mapping[str, Experiment], only: tuple[str, ...], seeds: Sequence[int], at_once: int = 1
) -> list[str]:
    """Make what is missing in OUT/SCENARIO: everything of the first seeds, then of the next. Returns what could not be
    run, and why."""
    problems = []
    for first in range(0, len(seeds), at_once):
        for scenario, one in common.items():
            for name in rows.wanted(only, one):
                try:
                    _make(out / scenario, rows.experiment(one, name), seeds[first : first + at_once])
                except FedmiError as error:  # one method's trouble is not the others'
                    problems.append(f"{scenario}, {name}: {error}")
                    print(f"experiments: {problems[-1]}", file=sys.stderr)
    return problems


def _make(out: Path, experiment: Experiment, seeds: Sequence[int]) -> None:
    pieces.run_missing(out, [experiment], seeds, len(seeds), beside=partial(search, out / experiment.name))


def search(folder: Path, result: xr.Dataset) -> None:
    """Leave what the second instrument finds in the models of the last round in FOLDER/decision/seed-N."""
    experiment = from_json(result.attrs["config"])
    places = {seed: folder / SECOND / f"seed-{seed}" for seed in experiment.seeds}
    if all((there / store.FILE).exists() for there in places.values()):
        return
    # Without random masks: with them circuits would be looked at from all sides, which is not asked for here.
    evaluation = replace(experiment.evaluation, null_samples=0)
    last = result["round"].values.tolist()[-1]
    found = fedmi_jax.search_again(result, deciding(experiment.discovery), evaluation, rounds=[last])
    searched = from_json(found.attrs["config"])
    for seed, there in places.items():
        store.save(store.stamp(found.sel(seed=[seed]), replace(searched, seeds=(seed,))), there)


def deciding(discovery: Discovery) -> Discovery:
    """The second instrument's settings: its defaults, the same classes and the client's own negatives."""
    return Discovery(objective="decision", classes=discovery.classes, negatives="own")


def load(out: Path, common: Mapping[str, Experiment]) -> Iterable[tuple[str, str, Pair]]:
    """(scenario, row, results) of everything that is there. Raises FedmiError for what is not of this experiment."""
    for scenario, one in common.items():
        for name in rows.METHODS:
            experiment = rows.experiment(one, name)
            for found in pieces.load(out / scenario, [experiment])[name]:
                seed = int(found["seed"].values[0])
                yield scenario, name, Pair(found, store.load(out / scenario / name / SECOND / f"seed-{seed}"))

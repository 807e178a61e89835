"""The runs: every row in every scenario, seed by seed, and on the models of its last round the second instrument.

What is there is not made again; a run that was cut off goes on after its last finished round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import xarray as xr

import fedmi_jax
from experiments import pieces
from experiments.in_time import WITHOUT_END, Until
from experiments.methods import one_shot, rows
from experiments.pieces import Beside
from fedmi_jax.config import Discovery, Experiment, from_json, replace
from fedmi_jax.errors import FedmiError
from fedmi_jax.results import store

SECOND = "decision"
"""Folder of a row's results of the second instrument."""
ONE_SHOT = "one-shot"
"""Folder of FedAvg's results of the controls that are made of its models."""


class Pair(NamedTuple):
    """What both instruments found in the same models, of one seed."""

    paper: xr.Dataset
    second: xr.Dataset
    """Of the last round alone."""
    one_shot: xr.Dataset | None = None
    """`one_shot.of` of this run; None: not made of it."""


def run(
    out: Path, common: Mapping[str, Experiment], only: tuple[str, ...], seeds: Sequence[int], at_once: int = 1,
    until: Until = WITHOUT_END, told: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Make what is missing in OUT/SCENARIO: everything of the first seeds, then of the next.

    told: called with what could not be run, and why. Raises TimeIsUp as `pieces.run_missing`.
    """
    for first in range(0, len(seeds), at_once):
        for scenario, one in common.items():
            for name in rows.wanted(only, one):
                some, row = seeds[first : first + at_once], rows.experiment(one, name)
                try:
                    pieces.run_missing(out / scenario, [row], some, at_once, beside, until)
                except FedmiError as error:  # one method's trouble is not the others'
                    told(f"{scenario}, {name}: {error}")


def beside(experiment: Experiment) -> list[Beside]:
    """What the second instrument finds in the models of the last round, in METHOD/decision, and of FedAvg what is put
    together from its models."""
    second = Beside(f"{experiment.name}/{SECOND}", search)
    alone = Beside(f"{experiment.name}/{ONE_SHOT}", one_shot.of)
    return [second, alone] if experiment.name == rows.BASE else [second]


def search(result: xr.Dataset) -> xr.Dataset:
    """With the second instrument, in the models of the last round."""
    experiment = from_json(result.attrs["config"])
    # Without random masks: with them circuits would be looked at from all sides, which is not asked for here.
    evaluation = replace(experiment.evaluation, null_samples=0)
    last = result["round"].values.tolist()[-1]
    return fedmi_jax.search_again(result, deciding(experiment.discovery), evaluation, rounds=[last])


def deciding(discovery: Discovery) -> Discovery:
    """The second instrument's settings: its defaults, the same classes and the client's own negatives."""
    return Discovery(objective="decision", classes=discovery.classes, negatives="own")


def load(out: Path, common: Mapping[str, Experiment]) -> Iterable[tuple[str, str, Pair]]:
    """(scenario, row, results) of everything that is there. Raises FedmiError for what is not of this experiment."""
    for scenario, one in common.items():
        for name in rows.METHODS:
            for found in pieces.load(out / scenario, [rows.experiment(one, name)])[name]:
                yield scenario, name, pair(out / scenario, name, found)


def pair(out: Path, name: str, paper: xr.Dataset) -> Pair:
    """A row's result of one seed, and what was made beside it."""
    seed = f"seed-{int(paper['seed'].values[0])}"
    alone = out / name / ONE_SHOT / seed / store.FILE
    return Pair(paper, store.load(out / name / SECOND / seed), store.load(alone) if alone.exists() else None)

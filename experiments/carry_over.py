"""Does it carry over? Both searches on other images and in narrower and wider networks, beside MNIST and the paper's.

    python -m experiments.carry_over runs/carry-over --seeds 3 --fashion /usr/share/datasets/fashion-mnist
    python -m experiments.carry_over runs/carry-over --seeds 3 --only narrow wide
    python -m experiments.carry_over runs/carry-over --seeds 3 --base experiments/beyond/deciding --fashion ...
    python -m experiments.carry_over runs/carry-over --seeds 0                 # only the table again

The runs are those of `experiments.deciding`, whose options this command has, too: iid, two-class and three-class on
Fashion-MNIST (Xiao et al. 2017; a file or folder as in docs/own-data.md), and two-class with half and with twice the
channels. Writes OUT/VARIATION/EXPERIMENT/seed-N and OUT/carry-over.md: every number of every prediction and claim, with
its interval over seeds and its null, in one column for each variation. A number carries over when its whole
interval meets the criterion, which was written for the paper's images and network; no p-value is given.

What is there is not made again. On two CPU cores two-class takes about 100 s a round, half of it in narrow and three
times as long in wide networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import tyro
import xarray as xr

from experiments import deciding, pieces
from experiments.deciding import Deciding
from experiments.in_time import Until
from fedmi_jax import files
from fedmi_jax.analysis import claims, predictions, runs
from fedmi_jax.analysis.instruments import Key
from fedmi_jax.config import Data, Model, from_json
from fedmi_jax.errors import FedmiError
from fedmi_jax.results.statistics import Estimate

FASHION, BASE = "fashion-mnist", "mnist"


class Variation(NamedTuple):
    """What differs from the paper's runs."""

    says: str
    presets: tuple[str, ...]
    data: Data = Data()
    model: Model = Model()


@dataclass(frozen=True)
class CarryOver(Deciding):
    """Search other images and other networks with both instruments."""

    presets: tuple[str, ...] = ()
    """Of these experiments only; none given: of all that a variation has."""
    only: tuple[str, ...] = ()
    """Some of the variations: mnist, fashion-mnist, narrow, wide. None given: all."""
    fashion: Path | None = None
    """File or folder of Fashion-MNIST."""
    base: Path | None = None
    """Folder of `experiments.deciding`, whose results are those of mnist; None: made in OUT like the others."""


def variations(option: CarryOver) -> dict[str, Variation]:
    """By name. Raises ConfigError for one that there is not."""
    file = None if option.fashion is None else str(option.fashion.absolute())
    every = {
        BASE: Variation("MNIST, channels (32, 64, 128)", ("iid", "two-class", "three-class")),
        FASHION: Variation("Fashion-MNIST", ("iid", "two-class", "three-class"), data=Data(name=FASHION, file=file)),
        "narrow": Variation("channels (16, 32, 64)", ("two-class",), model=Model(channels=(16, 32, 64))),
        "wide": Variation("channels (64, 128, 256)", ("two-class",), model=Model(channels=(64, 128, 256))),
    }
    pieces.refuse_unknown(option.only, every)
    return {name: every[name] for name in option.only or every}


def series(option: CarryOver, name: str, variation: Variation) -> Deciding:
    """The series of one variation."""
    presets = tuple(p for p in variation.presets if not option.presets or p in option.presets)
    data = dataclasses.replace(variation.data, images_per_client=option.data.images_per_client)
    out = option.base if name == BASE and option.base is not None else option.out / name
    given = {field.name: getattr(option, field.name) for field in dataclasses.fields(Deciding)}
    return Deciding(**given | {"out": out, "presets": presets, "data": data, "model": variation.model})


def make(option: CarryOver, until: Until) -> None:
    """Every result of the first seeds that is not there, then of the next. Raises FedmiError where Fashion-MNIST is
    asked for and its file is not known."""
    wanted = {name: series(option, name, one) for name, one in variations(option).items()}
    if FASHION in wanted and option.fashion is None and option.seeds:
        others = " ".join(name for name in wanted if name != FASHION)
        raise FedmiError(f"fashion: give the folder of Fashion-MNIST, or choose others with --only {others}".rstrip())
    for first in range(0, option.seeds, option.at_once):
        some = range(first, min(first + option.at_once, option.seeds))
        for name, one in wanted.items():
            if name != BASE or option.base is None:
                deciding.make(one, some, until)


Results = Mapping[Key, xr.Dataset]


def results(one: Deciding, objective: str) -> dict[Key, xr.Dataset]:
    """What is there of one variation, both instruments', the seeds joined."""
    found = {}
    for experiment in deciding.experiments(one):
        other = one.out / f"{experiment.name}-{objective}"
        papers = pieces.load(one.out, [experiment])[experiment.name]
        for folder, there in ((one.out / experiment.name, papers), (other, pieces.results_in(other))):
            if there:
                how = from_json(there[0].attrs["config"]).discovery
                key = Key(experiment.name, how.objective, how.negatives)
                found[key] = runs.joined([(folder, ds) for ds in there])
    return found


Row = tuple[str, str]
"""Prediction or claim, and which number."""


class Number(NamedTuple):
    """Of one variation."""

    estimate: Estimate
    null: float | None
    """What chance gives; None: there is no such thing, or it was not measured."""
    criterion: str


def numbers(found: Results, objective: str) -> dict[Row, Number]:
    """Every number of the predictions and of the claims that these results have."""
    made = {
        (row.prediction.id, part.label): Number(part.estimate, part.null, part.criterion)
        for row in predictions.judge(found, objective) for part in row.parts
    }  # fmt: skip
    papers = {key.experiment: ds for key, ds in found.items() if key.objective == "class"}
    for row in claims.judge(papers):
        for one in row.findings:
            made[row.claim.id, one.definition] = Number(one.estimate, one.null, one.rule or str(one.criterion))
    return {row: one for row, one in made.items() if one.estimate.seeds}


def markdown(columns: Mapping[str, Mapping[Row, Number]], says: Mapping[str, str]) -> str:
    """A row for every number that two variations have, or more."""
    rows = list(dict.fromkeys(row for column in columns.values() for row in column))
    shared = [row for row in rows if sum(row in column for column in columns.values()) > 1]
    head = ("", "number", "criterion", *(says[name] for name in columns))
    notes = (
        "Means and 95 % intervals over seeds; in brackets their number, and what chance gives where there is such a "
        "number. P: predictions about circuits that decide, C: the paper's claims by its own search "
        "(docs/evidence.md). A number carries over when its whole interval, over three seeds or more, meets the "
        "criterion, which was written for MNIST and the paper's network."
    )
    return pieces.markdown(head, (_line(row, columns) for row in shared)) + f"\n\n{notes}\n"


def _line(row: Row, columns: Mapping[str, Mapping[Row, Number]]) -> list[str]:
    there = [column.get(row) for column in columns.values()]
    criterion = next(one.criterion for one in there if one is not None)
    return [*row, criterion or "-", *(map(_cell, there))]


def _cell(one: Number | None) -> str:
    if one is None:
        return "-"
    chance = "" if one.null is None else f"; chance {one.null:.2f}"
    return f"{one.estimate} ({one.estimate.seeds}{chance})"


def main(option: CarryOver) -> None:
    option.in_time(partial(make, option))
    (objective,) = option.objectives
    every = variations(option)
    columns = {name: numbers(results(series(option, name, one), objective), objective) for name, one in every.items()}
    there = {name: column for name, column in columns.items() if column}
    if not there:
        raise FedmiError(f"{option.out}: no results yet; give --seeds")
    text = markdown(there, {name: one.says for name, one in every.items()})
    with files.replacing(option.out / "carry-over.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)
    option.pack()


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(CarryOver)))

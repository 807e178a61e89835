"""Which ingredient of the second search does what: objective, gates, ablation and penalty, one by one.

    python -m experiments.ingredients runs/ingredients --seeds 2
    python -m experiments.ingredients runs/again --first 0 --seeds 3 --only class-step-mean-map class-bernoulli-mean-map
    python -m experiments.ingredients runs/ingredients --seeds 0    # only the table again

Models of two-class are trained for three rounds and searched with every combination in the last one. Seeds are those
that set the defaults, 100 and 101, which are part of no verdict, unless others are asked for. Writes
OUT/two-class-HOW/seed-N and OUT/ingredients.md: means over local circuits, seed by seed. What is there is not made
again.

On one CPU core half a minute a search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import tyro
import xarray as xr

from experiments import pieces
from experiments.pieces import Beside
from fedmi_jax import files
from fedmi_jax.analysis import units
from fedmi_jax.analysis.verdicts import Criterion, decide
from fedmi_jax.config import Discovery, Experiment, from_json, replace
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation.again import search_again
from fedmi_jax.presets import preset
from fedmi_jax.results.statistics import estimate, paired

PILOT = 100
"""The first seed of those that set the defaults."""
PAPER = Discovery(negatives="own")
DECISION = replace(PAPER, objective="decision")
CONTRAST = replace(PAPER, objective="contrast")
SEARCHES: Mapping[str, Discovery] = {
    "class-step-zero": PAPER,
    "class-step-mean-map": replace(PAPER, ablation="mean-map"),
    "class-bernoulli-zero": replace(PAPER, gates="bernoulli"),
    "class-bernoulli-mean-map": replace(PAPER, gates="bernoulli", ablation="mean-map"),
    "decision-step-mean-map": replace(DECISION, gates="step"),
    "decision-bernoulli-mean-map": DECISION,
    "decision-bernoulli-zero": replace(DECISION, ablation="zero"),
    "contrast-step-mean-map": replace(CONTRAST, gates="step"),
    "contrast-bernoulli-mean-map": CONTRAST,
    "decision-half-the-penalty": replace(DECISION, l0=DECISION.l0 / 2),
    "decision-twice-the-penalty": replace(DECISION, l0=DECISION.l0 * 2),
}
"""`PAPER` is the paper's search, `DECISION` the second instrument as it is by default."""


@dataclass(frozen=True)
class Ingredients(pieces.Series):
    """Search the same models with every combination of objective, gates, ablation and penalty."""

    seeds: int = 2
    """How many."""
    rounds: int | None = 3
    first: int = PILOT
    """The first seed."""
    only: tuple[str, ...] = ()
    """These searches; none given: all."""
    null_samples: int = 0
    """Random live sets beside every circuit, closed as the search closes; the searches are then looked at closer, too,
    and take twice as long."""


def chosen(option: Ingredients) -> Mapping[str, Discovery]:
    """The searches that are asked for. Raises ConfigError for one that there is not."""
    pieces.refuse_unknown(option.only, SEARCHES)
    return {name: one for name, one in SEARCHES.items() if not option.only or name in option.only}


def trained(option: Ingredients) -> Experiment:
    """The paper's, with weights."""
    (two,) = preset("two-class").experiments
    two = option.adapted(two)
    evaluation, execution = replace(two.evaluation, decisions=True), replace(two.execution, save_weights=True)
    return replace(two, discovery=PAPER, evaluation=evaluation, execution=execution)


def beside(option: Ingredients, experiment: Experiment) -> list[Beside]:
    """A result of each search."""
    made = partial(search, option.null_samples)
    return [Beside(f"{experiment.name}-{how}", partial(made, one)) for how, one in chosen(option).items()]


def search(null_samples: int, discovery: Discovery, result: xr.Dataset) -> xr.Dataset:
    """In the models of the last round."""
    evaluation, last = from_json(result.attrs["config"]).evaluation, result["round"].values.tolist()[-1:]
    evaluation = replace(evaluation, decisions=discovery.objective == "class", null_samples=null_samples)
    return search_again(result, discovery, evaluation, rounds=last)


def _empty(ds: xr.Dataset) -> xr.DataArray:
    size = units.size(ds)
    return (size == 0).where(size.notnull()).astype(float)


OWN, ACROSS = "decision_accuracy", "cross_evaluation_decision_accuracy"
RANDOM_OWN, RANDOM_ACROSS = f"random_live_{OWN}", f"random_live_{ACROSS}"
Measure = tuple[Callable[[xr.Dataset], xr.DataArray], str]
"""What is averaged over local circuits, and how it is written."""
MEASURES: dict[str, Measure] = {
    "undefined": (partial(units.undefined, origin="local"), ".2f"),
    "empty": (_empty, ".2f"),
    "channels": (units.size, ".0f"),
    "explained": (partial(units.of, name="explained"), ".2f"),
    "balanced accuracy": (partial(units.of, name=OWN), ".2f"),
    "AUC": (partial(units.of, name="auc"), ".2f"),
    "balanced accuracy, averaged model": (partial(units.of, name=ACROSS), ".2f"),
    "AUC there": (partial(units.of, name="cross_evaluation_auc"), ".2f"),
}
"""By head of their columns."""
NULLS: dict[str, Measure] = {
    "random sets: balanced accuracy": (partial(units.of, name=RANDOM_OWN), ".2f"),
    "random sets, averaged model": (partial(units.of, name=RANDOM_ACROSS), ".2f"),
}
"""The same, where they were asked for."""
HEAD = ("objective", "gates", "ablation", "penalty", "seeds")


def row(found: Sequence[xr.Dataset], columns: Iterable[Measure]) -> list[str]:
    """Of one search: means over local circuits, seed by seed."""
    d = from_json(found[0].attrs["config"]).discovery
    seeds = ", ".join(str(int(ds["seed"].values[0])) for ds in found)
    means = [", ".join(f"{float(of(ds).mean()):{form}}" for ds in found) for of, form in columns]
    return [f"`{d.objective}`", d.gates, d.ablation, f"{d.l0:g}", seeds, *means]


Found = Mapping[str, Sequence[xr.Dataset]]
"""By search, the results of each seed."""


def there(option: Ingredients) -> Found:
    """Raises FedmiError where there is nothing."""
    name = trained(option).name
    each = {how: pieces.results_in(option.out / f"{name}-{how}") for how in SEARCHES}
    if not any(each.values()):
        raise FedmiError(f"{option.out}: no results yet; give --seeds")
    return {how: found for how, found in each.items() if found}


def markdown(found: Found) -> str:
    """What every search finds; of other seeds than the pilot's, the verdicts too."""
    nulls = all(RANDOM_ACROSS in ds for each in found.values() for ds in each)
    columns = MEASURES | NULLS if nulls else MEASURES
    table = pieces.markdown((*HEAD, *columns), (row(one, columns.values()) for one in found.values()))
    return table + "\n" + _judged(found)


# --- what was predicted (docs/evidence.md) ---


class Of(NamedTuple):
    """How well circuits of one search decide."""

    how: str
    name: str = OWN


def answers(found: Found, one: Of) -> xr.DataArray:
    """Means over local circuits, (S,), of the seeds that have this measure."""
    there = [ds for ds in found.get(one.how, ()) if one.name in ds]
    values = [float(units.of(ds, one.name).mean()) for ds in there]
    return xr.DataArray(values, {"seed": [int(ds["seed"].values[0]) for ds in there]}, "seed")


class Predicted(NamedTuple):
    """One prediction."""

    id: str
    says: str
    criterion: Criterion
    of: Of
    less: Of | None = None
    """Subtracted, seed by seed."""


ZERO_ACROSS = Of("decision-bernoulli-zero", ACROSS)
PREDICTED = (
    Predicted("I1", "class, step, own model: mean-map minus zero", Criterion(low=0.10),
              Of("class-step-mean-map"), Of("class-step-zero")),
    Predicted("I2", "class, bernoulli, mean-map, own model", Criterion(low=0.85), Of("class-bernoulli-mean-map")),
    Predicted("I3", "class, bernoulli, zero, own model", Criterion(high=0.75), Of("class-bernoulli-zero")),
    Predicted("I4", "decision, zero, averaged model", Criterion(low=0.80), ZERO_ACROSS),
    Predicted("I5", "decision, averaged model: zero minus mean-map", Criterion(low=0.15),
              ZERO_ACROSS, Of("decision-bernoulli-mean-map", ACROSS)),
    Predicted("I7", "decision, zero, averaged model: circuits minus random live sets", Criterion(low=0.15),
              ZERO_ACROSS, ZERO_ACROSS._replace(name=RANDOM_ACROSS)),
)  # fmt: skip


def _judged(found: Found) -> str:
    """Of what has been measured; empty where there are seeds that had been seen."""
    if any(int(ds["seed"].values[0]) >= PILOT for each in found.values() for ds in each):
        return ""
    lines: list[Sequence[str]] = []
    for one in PREDICTED:
        first = answers(found, one.of)
        measured = estimate(first) if one.less is None else paired(first, answers(found, one.less))
        if measured.seeds:
            lines.append((one.id, one.says, str(measured), str(one.criterion), decide(measured, one.criterion)))
    return "\n" + pieces.markdown(("", "balanced accuracy", "measured", "criterion", "verdict"), lines) + "\n"


def _refuse_without_nulls(option: Ingredients) -> None:
    """What is there is not searched again: random sets that are asked for would be left out without a word."""
    name = trained(option).name
    for how in chosen(option) if option.null_samples else ():
        for ds in pieces.results_in(option.out / f"{name}-{how}"):
            if RANDOM_ACROSS not in ds:
                raise FedmiError(f"{option.out / f'{name}-{how}'}: was made without random sets; give another folder")


def main(option: Ingredients) -> None:
    _refuse_without_nulls(option)
    seeds, made = range(option.first, option.first + option.seeds), partial(beside, option)
    option.in_time(lambda until: pieces.run_missing(option.out, [trained(option)], seeds, 1, made, until))
    text = markdown(there(option))
    with files.replacing(option.out / "ingredients.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Ingredients)))

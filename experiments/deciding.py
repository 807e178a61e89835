"""Both instruments on the same models: the paper's search, and one whose circuits decide (docs/decisions.md).

    python -m experiments.deciding runs/deciding --seeds 5
    python -m experiments.deciding runs/deciding --seeds 3 --presets two-class --objectives decision contrast
    python -m experiments.deciding runs/deciding --seeds 5 --at-once 5 --minutes 60   # on a GPU that is lent
    python -m experiments.deciding runs/deciding --seeds 0                  # only figures and verdicts again

Every experiment is trained once per seed with the paper's search, whose circuits are measured as deciding ones, too.
Its stored models are then searched for circuits that decide. A class is told from the client's own other classes; in
`iid` and `one-class` from all others, as docs/evidence.md says for each prediction. `dense` is `two-class` without
sparsity. Writes OUT/EXPERIMENT/seed-N for the paper's search and OUT/EXPERIMENT-OBJECTIVE/seed-N for the other, then
OUT/predictions.md and OUT/predictions-by-origin.md (by the first and the second registration of docs/evidence.md),
OUT/closer.md (circuits looked at from all sides), OUT/claims.md (without `dense`, which the paper has not) and
OUT/figures of all that is there. What is there is not made again, and the command can be stopped and repeated. Weights
are not kept, so that another objective trains again.

On two CPU cores a round takes about 60 s to train and 40 s to search and measure with both instruments.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import tyro
import xarray as xr

from experiments import closer, pieces
from experiments.in_time import Until
from experiments.pieces import Beside
from fedmi_jax import files
from fedmi_jax.analysis import claims, instruments, predictions, runs, second
from fedmi_jax.analysis.instruments import Found
from fedmi_jax.config import Experiment, from_json, replace
from fedmi_jax.federation.again import changed, search_again
from fedmi_jax.presets import preset
from fedmi_jax.report import claims_table, figures, predictions_table

PRESETS = ("two-class", "iid", "one-class", "shared-class", "dense", "sparsity-ablation", "three-class")
FROM_ALL_OTHERS = ("iid", "one-class")
"""Experiments in which a class is told from all other classes."""


@dataclass(frozen=True)
class Deciding(pieces.Series):
    """Search the same models with the paper's instrument and with one whose circuits decide."""

    presets: tuple[str, ...] = PRESETS
    objectives: tuple[str, ...] = ("decision",)
    """Beside the paper's."""
    null_samples: int = 5
    """Random sets beside every circuit."""
    readout_images: int = 20
    """Images of each class on which the read-out is refitted."""
    weights: Path | None = None
    """Also keep the models, in this folder, which must not be within OUT (for `experiments.averages`)."""
    draw: bool = True
    """Draw the figures."""


def experiments(option: Deciding) -> list[Experiment]:
    """With the paper's search, in the order in which they are made."""
    return [_measured(e, option) for name in option.presets for e in _preset(name)]


def _preset(name: str) -> Sequence[Experiment]:
    if name != "dense":
        return preset(name).experiments
    (two,) = preset("two-class").experiments
    return [replace(two, name=name, sparsity=replace(two.sparsity, target=0))]


def _measured(experiment: Experiment, option: Deciding) -> Experiment:
    e = option.adapted(experiment)
    negatives = "probe" if e.name in FROM_ALL_OTHERS else "own"
    return replace(
        e,
        evaluation=replace(
            e.evaluation, decisions=True, null_samples=option.null_samples, readout_images=option.readout_images
        ),
        discovery=replace(e.discovery, negatives=negatives, repeat="last"),
        execution=replace(e.execution, save_weights=True),
    )


def sister(stored: xr.Dataset, objective: str) -> Experiment:
    """The experiment of a stored result with another objective; what the read-out gives back is known already."""
    was = from_json(stored.attrs["config"])
    discovery = replace(was.discovery, objective=objective)
    return changed(stored, discovery, replace(was.evaluation, decisions=False, readout_images=0))


def search(objective: str, trained: xr.Dataset) -> xr.Dataset:
    """What this objective finds in the models of a result."""
    other = sister(trained, objective)
    return search_again(trained, other.discovery, other.evaluation)


def beside(option: Deciding, experiment: Experiment) -> list[Beside]:
    """The results of the other objectives, and the models where they are to be kept."""
    found = [Beside(f"{experiment.name}-{other}", partial(search, other)) for other in option.objectives]
    return found if option.weights is None else [*found, Beside(str(option.weights / experiment.name), models)]


def models(trained: xr.Dataset) -> xr.Dataset:
    """The result as it is, with its weights."""
    return trained


def make(option: Deciding, seeds: Sequence[int], until: Until) -> None:
    """Every result of these seeds that is not there. Raises TimeIsUp as `pieces.run_missing`."""
    pieces.run_missing(option.out, experiments(option), seeds, option.at_once, partial(beside, option), until)


def main(option: Deciding) -> None:
    """All experiments of the first seeds, then of the next; then what is made of them."""
    finished = option.in_time(partial(make, option, range(option.seeds)))
    report(replace(option, draw=option.draw and finished))
    option.pack()


class Registration(NamedTuple):
    """How predictions are judged, and on which seeds of two-class (docs/evidence.md)."""

    seeds: range
    by_origin: bool
    all_of_them: bool
    """Nothing is said of two-class before all of its seeds are there."""

    def of(self, found: Found) -> Found:
        """The results that it is about."""
        chosen = {key: self._chosen(ds) if key.experiment == "two-class" else ds for key, ds in found.results.items()}
        wanted = len(self.seeds) if self.all_of_them else 1
        return Found({k: ds for k, ds in chosen.items() if k.experiment != "two-class" or ds.sizes["seed"] >= wanted},
                     found.left_out)  # fmt: skip

    def _chosen(self, ds: xr.Dataset) -> xr.Dataset:
        return ds.sel(seed=ds["seed"].isin(list(self.seeds)))


REGISTRATIONS = {
    "": Registration(range(5), by_origin=False, all_of_them=False),
    "-by-origin": Registration(range(5, 10), by_origin=True, all_of_them=True),
}
"""By what the name of the file has more than `predictions`."""


def judged(found: Found, objective: str, registration: Registration) -> str:
    """The table of predictions."""
    of = registration.of(found)
    rows = predictions.judge(of.results, objective, registration.by_origin)
    return predictions_table.markdown(rows, of, objective, registration.by_origin)


def report(option: Deciding) -> None:
    """Predictions by both registrations, claims under both instruments, and figures, of all that is there."""
    loaded = runs.load([option.out])
    found = instruments.sort_out(loaded)
    for objective in option.objectives:
        which = "" if objective == "decision" else f"-{objective}"
        for more, registration in REGISTRATIONS.items():
            _write(option.out / f"predictions{which}{more}.md", judged(found, objective, registration))
        if looked := closer.table(found.results, objective):
            _write(option.out / f"closer{which}.md", looked + "\n")
    papers = [(path, ds) for path, ds in loaded if not runs.pruned_otherwise(ds)]
    of = runs.sort_out(papers, paper_only=True)
    _write(option.out / "claims.md", claims_table.markdown(claims.judge(of, second.of(papers)), of))
    if option.draw:
        drawn, problems = figures.draw_all(runs.sort_out(loaded), option.out / "figures", (), ("svg",))
        print(f"{len(drawn)} figures in {option.out / 'figures'}")
        print("".join(f"experiments: {problem}\n" for problem in problems), end="", file=sys.stderr)


def _write(path: Path, text: str) -> None:
    with files.replacing(path) as temporary:
        temporary.write_text(text, "utf-8")
    print(path)


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Deciding)))

"""All experiments of the paper over several seeds, every figure, and the judged claims.

    python -m experiments.paper runs/paper --seeds 3
    python -m experiments.paper runs/paper --seeds 10 --at-once 10 --minutes 60   # on a GPU that is lent for an hour
    python -m experiments.paper runs/paper --seeds 1 --presets iid two-class --images-per-class 250
    python -m experiments.paper runs/paper --seeds 0                        # only figures and claims again

Writes OUT/PRESET/seed-N/result.nc, OUT/figures/*.svg and OUT/claims.md. What is there is not run again, so the command
can be stopped and repeated; verdicts and bands use whatever seeds there are. On two CPU cores a round takes 26 s
(one-class) to 100 s (95 % sparse), most of it training; a seed of everything at 10 rounds about an hour and a half.

The sections of the paper, each with what to expect: `experiments.iid`, `label_skew`, `three_class`, `shared_class`,
`sparsity_ablation`; beyond it: `dirichlet`, `choices`.
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
from rich.console import Console

from experiments import pieces
from fedmi_jax import files
from fedmi_jax.analysis import claims, runs
from fedmi_jax.config import Experiment, replace
from fedmi_jax.presets import preset
from fedmi_jax.report import claims_table, figures
from fedmi_jax.results import store

PRESETS = ("iid", "one-class", "two-class", "shared-class", "sparsity-ablation", "three-class")


@dataclass(frozen=True)
class Paper(pieces.Series):
    """Run the paper's experiments over seeds, draw every figure, judge every claim."""

    presets: tuple[str, ...] = PRESETS
    rounds: int | None = None
    """Instead of the preset's (50 for three-class, else 10)."""
    null_samples: int = 5
    """Random masks per circuit."""
    repeat: bool = True
    """Find the last round's circuits a second time, the ceiling of every IoU."""
    weights: bool = True
    """Measure permutation-aligned IoU and the strength of edges; the weights themselves are not kept."""
    draw: bool = True
    """Draw the figures."""


def main(option: Paper) -> None:
    """Run what is missing; then figures and claims from all that is there."""
    experiments = [controlled(e, option) for name in option.presets for e in preset(name).experiments]
    seeds, at_once = range(option.seeds), option.at_once
    finished = option.in_time(lambda until: pieces.run_missing(option.out, experiments, seeds, at_once, until=until))
    if finished or any(option.out.glob(f"*/seed-*/{store.FILE}")):
        report(option.out, option.draw and finished)
    option.pack()


def controlled(experiment: Experiment, option: Paper) -> Experiment:
    """The preset's experiment with the controls, and the changes that were asked for."""
    e = option.adapted(experiment)
    return replace(
        e,
        evaluation=replace(e.evaluation, null_samples=option.null_samples),
        discovery=replace(e.discovery, repeat="last" if option.repeat else "never"),
        execution=replace(e.execution, save_weights=option.weights),
    )


def report(out: Path, draw: bool) -> tuple[runs.Runs, list[claims.Row]]:
    """Figures and claims of all the paper's experiments that are there; these, and how they were judged."""
    names = [experiment.name for name in PRESETS for experiment in preset(name).experiments]
    found = runs.gather([out / name for name in names if (out / name).exists()], paper_only=True)
    if draw:
        drawn, problems = figures.draw_all(found, out / "figures", (), ("svg",))
        print(f"{len(drawn)} figures in {out / 'figures'}")
        print("".join(f"experiments: {problem}\n" for problem in problems), end="", file=sys.stderr)
    rows = claims.judge(found)
    with files.replacing(out / "claims.md") as temporary:
        temporary.write_text(claims_table.markdown(rows, found))
    Console().print(claims_table.render(rows, found))
    return found, rows


def section(*presets: str) -> None:
    """The command of one section's script: this one's, with the section's presets."""
    option = tyro.cli(Paper)
    chosen = presets if option.presets == PRESETS else option.presets
    pieces.ending(partial(main, dataclasses.replace(option, presets=chosen)))


if __name__ == "__main__":
    section(*PRESETS)

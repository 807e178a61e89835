"""What preserves circuits and accuracy under label skew, and why? Every federated method over seeds, in one table.

    python -m experiments.methods runs/methods --seeds 3                    # everything, in the order of the question
    python -m experiments.methods runs/methods --seeds 3 --only ties fedbabu --scenarios two-class
    python -m experiments.methods runs/methods --seeds 0                    # only the table and the figures again

All methods (`experiments.methods.rows`) on two-class and on a Dirichlet split of 0.1; FedAvg and the six best of these
on three-class and iid, once the first two are there. Circuits are searched by the paper's instrument in every round,
and by the second one in the models of the last round. Writes OUT/SCENARIO/METHOD/seed-N/result.nc and, of the second
instrument, OUT/SCENARIO/METHOD/decision/seed-N/result.nc; OUT/points.csv with every number, OUT/methods.md with the
table, OUT/predictions.md and two figures. What is there is not made again, so the command can be stopped and repeated.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import tyro

from experiments import pieces
from experiments.in_time import Until
from experiments.methods import drawn, making, measured, predicted, rows, told
from experiments.methods.measured import Points
from fedmi_jax import files
from fedmi_jax.config import Experiment, replace
from fedmi_jax.errors import FedmiError


@dataclass(frozen=True)
class Methods(pieces.Series):
    """Compare every federated method."""

    only: tuple[str, ...] = ()
    """Methods; FedAvg, which they are compared with, is always among them. None given: as it says above."""
    scenarios: tuple[str, ...] = rows.SCENARIOS


def common(option: Methods) -> dict[str, Experiment]:
    """What the methods share, by scenario."""
    return {scenario: option.adapted(rows.base(scenario)) for scenario in option.scenarios}


def main(option: Methods) -> None:
    """Run what is missing; then table, predictions and figures from all that is there."""
    for one in common(option).values():
        rows.wanted(option.only, one)  # refuse an unknown name before hours of work
    problems: list[str] = []

    def told(problem: str) -> None:
        problems.append(problem)
        print(f"experiments: {problem}", file=sys.stderr)

    option.in_time(lambda until: _run(option, until, told))
    try:
        report(option, problems)
    finally:
        option.pack()


def _run(option: Methods, until: Until, told: Callable[[str], None]) -> None:
    """What is missing; told: called with what could not be run, and why."""
    shared, seeds = common(option), range(option.seeds)
    first = {name: one for name, one in shared.items() if name in rows.MAIN or option.only}
    making.run(option.out, first, option.only, seeds, option.at_once, until, told)
    others = {name: one for name, one in shared.items() if name not in first}
    if others and seeds:
        making.run(option.out, others, _best(option), seeds, option.at_once, until, told)


def _best(option: Methods) -> tuple[str, ...]:
    """FedAvg and the best of the main scenarios. Raises FedmiError where there are no results to choose from."""
    found = everything(option, rows.MAIN)
    chosen = told.best(found) if found is not None else []
    if not chosen:
        raise FedmiError(f"{option.out}: no results of {' and '.join(rows.MAIN)} to choose the best from; give --only")
    return (rows.BASE, *chosen)


def everything(option: Methods, scenarios: tuple[str, ...] = rows.SCENARIOS) -> Points | None:
    """The numbers of all results that are there, and of those that were there once."""
    shared = common(replace(option, scenarios=scenarios))
    path = option.out / measured.FILE
    new = measured.points(making.load(option.out, shared))
    return measured.together(new, measured.load(path) if path.exists() else None)


def report(option: Methods, problems: list[str]) -> None:
    """Write what is there. Raises FedmiError where there is nothing."""
    points = everything(option)
    if points is None:
        raise FedmiError(f"{option.out}: no results yet; give --seeds")
    measured.save(points, option.out / measured.FILE)
    judged = predicted.markdown(predicted.judge(points), told.cut(points))
    for name, text in (("methods.md", told.markdown(points, problems)), ("predictions.md", judged)):
        with files.replacing(option.out / name) as temporary:
            temporary.write_text(text, "utf-8")
    print(judged)
    print("\n".join(str(path) for path in drawn.draw(points, option.out)))
    if problems:
        raise FedmiError(f"{len(problems)} could not be run; see {option.out / 'methods.md'}")


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Methods)))

"""How a run goes on: a bar in a terminal, one line per round everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from fedmi_jax.config import Experiment
from fedmi_jax.errors import say

STAGES = {"train": "local training", "discover": "the search for circuits", "evaluate": "the evaluation"}
Advance = Callable[[int, str], None]
"""Called as (round, stage that begins)."""
OnRound = Callable[[int, dict[str, Any]], None]
"""Called as (round, its metrics): `fedmi_jax.federation.metrics`."""


@contextmanager
def following(
    experiment: Experiment | None, on_round: OnRound | None = None
) -> Iterator[tuple[Advance | None, OnRound | None]]:
    """What a run is to call so that it can be followed on standard error; None: it is not followed.

    on_round: is called besides.
    """
    if experiment is None:
        yield None, on_round
        return
    console = Console(stderr=True)
    if console.is_interactive or console.is_jupyter:
        with _bar(experiment, console) as advance:
            yield advance, on_round
        return
    yield _first_word(experiment), _line_per_round(experiment, on_round)


class _TwoLines(Progress):
    """What is being done, and below it how far it is: on one line they would be cut."""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from (Text(task.description) for task in self.tasks)
        yield self.make_tasks_table(self.tasks)


@contextmanager
def _bar(experiment: Experiment, console: Console) -> Iterator[Advance]:
    from fedmi_jax.devices.session import telling_when_compiling

    columns = (
        BarColumn(max(4, min(40, console.width - 48))), MofNCompleteColumn(), TextColumn("rounds"),
        TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("left"),
    )  # fmt: skip
    doing = "the preparation"
    with _TwoLines(*columns, console=console, speed_estimate_period=3600) as progress:
        task = progress.add_task(f"{experiment.name}: {doing}", total=experiment.rounds)

        def advance(round_: int, stage: str) -> None:
            nonlocal doing
            done = round_ - 1 + ([*STAGES].index(stage) / len(STAGES) if stage in STAGES else 0)
            doing = STAGES.get(stage, stage)
            progress.update(task, completed=done, description=f"{experiment.name}: {doing}")

        def tell(compiling: bool) -> None:
            now = f"compiling {doing}, once: it is kept for later runs" if compiling else doing
            progress.update(task, description=f"{experiment.name}: {now}")

        with telling_when_compiling(tell):
            yield advance


def _first_word(experiment: Experiment) -> Advance:
    """Once, before the first round that is done here."""
    said = False

    def advance(round_: int, stage: str) -> None:
        nonlocal said
        if not said and stage in STAGES:
            rest = "its programs are compiled first, unless an earlier run has kept them"
            say(f"{experiment.name}: round {round_} of {experiment.rounds} begins; {rest}")
        said = True

    return advance


def _line_per_round(experiment: Experiment, further: OnRound | None) -> OnRound:
    def on_round(number: int, metrics: dict[str, Any]) -> None:
        say(f"{experiment.name}: round {number} of {experiment.rounds}: {in_words(metrics)}")
        if further is not None:
            further(number, metrics)

    return on_round


_WORDS = {
    "train_loss": ("loss {:.4g}", 1),
    "local_held_accuracy": ("accuracy on the classes held: local models {:.1f} %", 100),
    "global_held_accuracy": ("global model {:.1f} %", 100),
    "cross_evaluation": ("cross-evaluation {:.1f} %", 100),
    "seconds": ("{:.1f} s", 1),
}
"""Metrics, how they are said, and by what they are multiplied."""


def in_words(metrics: dict[str, Any]) -> str:
    """The means over seeds and clients in one line."""
    there = {name: np.asarray(metrics[name], float) for name in _WORDS if name in metrics}
    means = {name: values[~np.isnan(values)].mean() for name, values in there.items() if not np.isnan(values).all()}
    return ", ".join(_WORDS[name][0].format(_WORDS[name][1] * mean) for name, mean in means.items())

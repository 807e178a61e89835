"""A progress bar over the stages of every round, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fedmi_jax.config import Experiment

STAGES = ("train", "discover", "evaluate")


@contextmanager
def bar(experiment: Experiment | None) -> Iterator[Callable[[int, str], None] | None]:
    """A bar on standard error, and the function that moves it: advance(round, stage that begins). None: no bar."""
    if experiment is None:
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn("rounds"),
        TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=3600) as progress:
        task = progress.add_task(experiment.name, total=experiment.rounds)

        def advance(round_: int, stage: str) -> None:
            done = round_ - 1 + (STAGES.index(stage) / len(STAGES) if stage in STAGES else 0)
            progress.update(task, completed=done, description=f"{experiment.name}: {stage}")

        yield advance

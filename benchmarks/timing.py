"""The one timing helper: contenders take turns (A B A B ...), first call and later calls apart, median and quartiles.

A machine's speed drifts, so the figure that counts is the median, over the turns, of one turn's ratio.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

Clock = Callable[[], float]


@dataclass(frozen=True)
class Contender:
    """Something whose time is taken."""

    run: Callable[[int], Any]
    """Does the work of this turn, 0, 1, ...: the same for all contenders; it may return before it is done."""
    wait: Callable[[Any], Any]
    """Returns when what `run` returned is there."""
    warm_up: Callable[[], Any] | None = None
    """A first call that is less than turn 0's work. None: turn 0's work, so that the first call less a later one is
    what compiling took."""


def on_jax(run: Callable[[int], Any]) -> Contender:
    return Contender(run, jax.block_until_ready)


@dataclass(frozen=True)
class Times:
    """Seconds of one contender."""

    first: float
    turns: tuple[float, ...]
    compiles: bool
    """Whether the first call was turn 0's work too."""

    @property
    def median(self) -> float:
        return float(np.median(self.turns))

    @property
    def quartiles(self) -> list[float]:
        return np.percentile(self.turns, [25, 75]).tolist()

    def summary(self) -> dict[str, Any]:
        compile_s = max(0.0, self.first - self.turns[0]) if self.compiles else None
        return {
            "median_s": self.median, "quartiles_s": self.quartiles, "turns_s": list(self.turns),
            "first_call_s": self.first, "compile_s": compile_s,
        }  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """How many turns: as many as fit, within bounds."""

    seconds: float = 60.0
    """No turn begins that would probably end later than this after the first call began."""
    least: int = 1
    most: int = 9


def alternate(
    contenders: Mapping[str, Contender], budget: Budget, clock: Clock = time.perf_counter
) -> dict[str, Times]:
    """Each contender's first call, then their turns, one after the other."""
    begin, longest = clock(), 0.0
    first = {name: _first_call(contender, clock) for name, contender in contenders.items()}
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(budget.most):
        start = clock()
        if turn >= budget.least and start - begin + longest > budget.seconds:
            break
        for name, contender in contenders.items():
            turns[name].append(_seconds(contender, turn, clock))
        longest = max(longest, clock() - start)
    return {name: Times(first[name], tuple(turns[name]), c.warm_up is None) for name, c in contenders.items()}


def _first_call(contender: Contender, clock: Clock) -> float:
    if contender.warm_up is None:
        return _seconds(contender, 0, clock)
    start = clock()
    contender.wait(contender.warm_up())
    return clock() - start


def _seconds(contender: Contender, turn: int, clock: Clock) -> float:
    start = clock()
    contender.wait(contender.run(turn))
    return clock() - start


def times_as_long(one: Times, other: Times) -> tuple[float, list[float]]:
    """How many times as long the one took as the other, turn by turn: median and quartiles."""
    ratios = np.divide(one.turns, other.turns)
    return float(np.median(ratios)), np.percentile(ratios, [25, 75]).tolist()


def compare(
    fedmi_jax: Contender, pytorch: Contender | None, budget: Budget, clock: Clock = time.perf_counter
) -> dict[str, Any]:
    """What every benchmark reports: both sides' times, and how many times longer PyTorch took.

    Without PyTorch the ratio is None.
    """
    contenders = {"fedmi_jax": fedmi_jax} | ({"pytorch": pytorch} if pytorch else {})
    times = alternate(contenders, budget, clock)
    found: dict[str, Any] = {"ratio": None, "ratio_quartiles": None, "turns": len(times["fedmi_jax"].turns)}
    if pytorch:
        found["ratio"], found["ratio_quartiles"] = times_as_long(times["pytorch"], times["fedmi_jax"])
    return found | {"fedmi_jax": times["fedmi_jax"].summary(), "pytorch": pytorch and times["pytorch"].summary()}


@dataclass
class Stopwatch:
    """Runs work that says when a stage begins, and keeps how long each took."""

    work: Callable[[Callable[[int, str], None]], Any]
    """Called with a `federation.Progress`; a stage lasts until the next begins."""
    clock: Clock = time.perf_counter
    laps: list[dict[str, float]] = field(default_factory=list)
    """Seconds per stage, one entry per call."""
    _begun: list[tuple[str, float]] = field(default_factory=list)

    def __call__(self, turn: int = 0) -> Any:
        self._begun = []
        result = self.work(self._begin)
        ends = [*(at for _, at in self._begun[1:]), self.clock()]
        self.laps.append({stage: end - at for (stage, at), end in zip(self._begun, ends, strict=True)})
        return result

    def _begin(self, round_: int, stage: str) -> None:
        self._begun.append((stage, self.clock()))

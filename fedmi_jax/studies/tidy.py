"""What a study finds: one number a row, with the same number of random sets beside it; as CSV, and over seeds.

Axes: S seeds, N random sets.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import xarray as xr

from fedmi_jax.results.statistics import band

LABELS = ("class", "pair", "set", "source", "layer", "channel", "client")
"""What a number may be of, besides its seed and round, in the order of the columns. pair: two classes, as in "0-3";
source: the client whose weights or activations are put in."""
RANGE = (0.025, 0.975)
"""Quantiles between which 95 % of the random sets lie."""
Key = tuple[tuple[str, int | str], ...]
"""The labels of a row and their values, in the order of `LABELS`."""


@dataclass(frozen=True)
class Row:
    """One number. NaN: it is not defined there."""

    seed: int
    round: int
    measure: str
    value: float
    of: Mapping[str, int | str] = field(default_factory=dict)
    null: np.ndarray | None = None
    """(N,): the same number of random sets of the same size; None: it has no such null."""
    interval: tuple[float, float] | None = None
    """Of a share of images: the 95 % interval of Wilson (1927). Images of one model say nothing about other seeds."""

    @property
    def key(self) -> Key:
        return tuple((name, self.of[name]) for name in LABELS if name in self.of)


class Cell(NamedTuple):
    """One number over seeds, and its null. None: there is none."""

    mean: float
    low: float | None
    """Of the 95 % bootstrap interval of the mean over seeds (`results.statistics`); None of one seed."""
    high: float | None
    null: float | None
    null_low: float | None
    """Between this and `null_high` lie 95 % of the random sets, each averaged over the seeds."""
    null_high: float | None
    seeds: int


Cells = Mapping[tuple[int, str, Key], Cell]
"""By round, measure and labels."""


def over_seeds(rows: Sequence[Row]) -> Cells:
    """Every number with its interval over seeds, in the order in which the numbers come."""
    groups: dict[tuple[int, str, Key], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.round, row.measure, row.key), []).append(row)
    seeds = {seed: i for i, seed in enumerate(sorted({row.seed for row in rows}))}
    values = np.full((len(seeds), len(groups)), np.nan)
    for column, group in enumerate(groups.values()):
        for row in group:
            values[seeds[row.seed], column] = row.value
    found = band(xr.DataArray(values, dims=("seed", "point")))
    limits = zip(*(found[name].values.tolist() for name in ("mean", "low", "high", "seeds")), strict=True)
    return {
        key: Cell(mean, _known(low), _known(high), *_null(group), int(number))
        for (key, group), (mean, low, high, number) in zip(groups.items(), limits, strict=True)
    }


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _null(rows: Sequence[Row]) -> tuple[float | None, float | None, float | None]:
    """Mean and range of the random sets: the n-th of every seed belong together."""
    nulls = [row.null for row in rows if row.null is not None and len(row.null)]
    if not nulls:
        return None, None, None
    each = np.stack([null[: min(map(len, nulls))] for null in nulls])
    some = ~np.isnan(each).all(0)
    if not some.any():
        return None, None, None
    per_set = np.nanmean(each[:, some], 0)
    low, high = np.quantile(per_set, RANGE)
    return float(per_set.mean()), float(low), float(high)


HEAD = ("study", "seed", "round")
TAIL = ("measure", "value", "low", "high", "null_mean", "null_low", "null_high", "null_sets")


def as_csv(study: str, rows: Iterable[Row]) -> str:
    """One line a number, with those columns of `LABELS` that any of them has. What is not there stays empty.

    low, high: of `Row.interval`; null_*: mean of the random sets, and between which values 95 % of them lie.
    """
    rows = list(rows)
    labels = [name for name in LABELS if any(name in row.of for row in rows)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*HEAD, *labels, *TAIL])
    for row in rows:
        mean, low, high = _null([row])
        sets = len(row.null) if mean is not None and row.null is not None else None
        numbers = [row.value, *(row.interval or (None, None)), mean, low, high]
        own = [row.of.get(name, "") for name in labels]
        writer.writerow([study, row.seed, row.round, *own, row.measure, *map(_written, numbers), sets or ""])
    return text.getvalue()


def _written(value: float | None) -> str:
    """The shortest text that reads as the same number; empty for none."""
    return "" if value is None or np.isnan(value) else repr(float(value)).removesuffix(".0")

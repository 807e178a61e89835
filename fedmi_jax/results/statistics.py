"""Means over seeds, and how sure they are.

Axes: S seeds; P points (whatever else an array has: rounds, layers, classes ...).

A seed is one independent repetition of the whole experiment, hence the only thing that is resampled: circuits of one
run share models and say nothing about another run. Intervals are 95 % bootstrap intervals of the mean over seeds (Efron
1987: bias-corrected and accelerated, `scipy.stats.bootstrap`). Where BCa is not defined, because the seeds agree or
nearly do, the percentile interval stands in. One seed has no interval. Of few seeds every bootstrap interval is too
narrow (`COVERAGE`), and it never leaves the range that was seen.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr

LEVEL = 0.95
RESAMPLES = 2000
COVERAGE = {2: 0.5, 3: 0.73, 5: 0.83, 10: 0.89, 20: 0.93}
"""Seeds, and how often these intervals hold the true mean of normal data: simulated, 1500 times each."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its interval."""

    mean: float
    """NaN where there is nothing to average."""
    low: float | None
    """None: fewer than two seeds, so nothing is known about how sure the mean is."""
    high: float | None
    seeds: int

    def __str__(self) -> str:
        if np.isnan(self.mean):
            return "-"
        if self.low is None or self.high is None:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def estimate(per_seed: xr.DataArray | np.ndarray) -> Estimate:
    """Mean and interval of one number per seed, (S,); seeds that have none (NaN) are left out. S may be 0."""
    values = np.asarray(per_seed, float)
    if not values.size:
        return Estimate(np.nan, None, None, 0)
    found = band(xr.DataArray(values, dims="seed"))
    low, high = (None if np.isnan(found[name]) else float(found[name]) for name in ("low", "high"))
    return Estimate(float(found["mean"]), low, high, int(found["seeds"]))


def paired(first: xr.DataArray, second: xr.DataArray) -> Estimate:
    """The difference first - second of two conditions, seed by seed, over the seeds that both have.

    Each has one number per seed, with the coordinate `seed`. What the conditions share (start, batches, partition)
    falls out, so the interval is narrower than that of two means.
    """
    first, second = xr.align(first, second, join="inner")
    return estimate(first - second)


def over_seeds(values: xr.DataArray) -> xr.DataArray:
    """Mean over every axis but the seeds', (S,); NaN, which stands for "no such circuit", is left out."""
    return values.astype(float).mean([dim for dim in values.dims if dim != "seed"])


def band(values: xr.DataArray) -> xr.Dataset:
    """Mean, low, high and seeds (how many have a value) of values[seed, ...], each without the seed axis.

    low and high are NaN where fewer than two seeds have a value.
    """
    values = values.astype(float).transpose("seed", ...)
    flat = values.values.reshape(values.sizes["seed"], -1)
    there = ~np.isnan(flat)
    limits = np.full((2, flat.shape[1]), np.nan)
    for pattern in np.unique(there, axis=1).T:  # which seeds have a value: mostly one pattern, and one call
        points = (there == pattern[:, None]).all(0)
        if pattern.sum() > 1:
            limits[:, points] = _interval(flat[pattern][:, points])
    return _labelled(values, limits, there.sum(0))


def _labelled(values: xr.DataArray, limits: np.ndarray, seeds: np.ndarray) -> xr.Dataset:
    mean = values.mean("seed")
    low, high = (mean.copy(data=limit.reshape(mean.shape)) for limit in limits)
    return xr.Dataset({"mean": mean, "low": low, "high": high, "seeds": mean.copy(data=seeds.reshape(mean.shape))})


def _interval(values: np.ndarray) -> np.ndarray:
    """(2, P) limits of the mean of values (S, P): BCa, and percentile where that is not defined."""
    found = _bootstrap(values, "BCa")
    undefined = np.isnan(found).any(0)
    if undefined.any():
        found[:, undefined] = _bootstrap(values[:, undefined], "percentile")
    return found


def _bootstrap(values: np.ndarray, method: str) -> np.ndarray:
    from scipy import stats  # here: it takes longer to import than a result of one seed to read

    with warnings.catch_warnings(), np.errstate(invalid="ignore", divide="ignore"):
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # its NaN is what is looked for
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.bootstrap(
            (values,), np.mean, axis=0, vectorized=True, n_resamples=RESAMPLES, batch=100, method=method,
            confidence_level=LEVEL, rng=np.random.default_rng(0),
        ).confidence_interval  # fmt: skip
    return np.stack([np.atleast_1d(found.low), np.atleast_1d(found.high)])

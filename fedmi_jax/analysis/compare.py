"""Two configurations over the seeds that both were run with: which settings differ, and what that changes.

Axes: S seeds. Every number is of the last round.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import xarray as xr

from fedmi_jax.analysis import runs
from fedmi_jax.config import flat
from fedmi_jax.errors import FedmiError
from fedmi_jax.results import store, undefined, worth
from fedmi_jax.results.schema import ORIGINS
from fedmi_jax.results.similarity import MEASURES
from fedmi_jax.results.statistics import Estimate, estimate, over_seeds, paired
from fedmi_jax.results.summary import _AVERAGES

if TYPE_CHECKING:
    import pandas as pd


class Key(NamedTuple):
    """Which number of a run."""

    measure: str
    origin: str = ""
    """"local" or "global"; empty: it has none."""
    layer: str = ""


class Row(NamedTuple):
    """A number of both runs."""

    key: Key
    first: float
    """Mean over the seeds that both have."""
    second: float
    difference: Estimate
    """second - first, seed by seed."""


class Comparison(NamedTuple):
    """Two runs beside one another."""

    settings: list[tuple[str, Any, Any]]
    """The fields that differ, with both values; seeds and name are left out."""
    seeds: list[int]
    """That both have."""
    rows: list[Row]

    def table(self) -> pd.DataFrame:
        """Columns measure, origin, layer, first, second, difference, low, high (NaN for one seed), seeds."""
        import pandas as pd

        columns = ["measure", "origin", "layer", "first", "second", "difference", "low", "high", "seeds"]
        rows = [(*r.key, r.first, r.second, *_limits(r.difference)) for r in self.rows]
        return pd.DataFrame(rows, columns=columns)


def _limits(found: Estimate) -> tuple[float, float, float, int]:
    low, high = (np.nan if limit is None else limit for limit in (found.low, found.high))
    return found.mean, low, high, found.seeds


def compare(first: xr.Dataset, second: xr.Dataset) -> Comparison:
    """The second result less the first, over the seeds that both have. Raises FedmiError where there are none.

    What both share (initial weights, batches, partition) falls out of a difference of one seed, so its interval is
    narrower than those of the two means (`statistics.paired`).
    """
    common = sorted({*first["seed"].values.tolist()} & {*second["seed"].values.tolist()})
    if not common:
        seeds = [" ".join(map(str, ds["seed"].values.tolist())) for ds in (first, second)]
        raise FedmiError(f"seeds: {seeds[0]} in the first and {seeds[1]} in the second; run both with the same")
    one, two = (numbers(ds.sel(seed=common)) for ds in (first, second))
    rows = [Row(key, *_means(one[key], two[key]), paired(two[key], one[key])) for key in one if key in two]
    return Comparison(differing(first, second), common, [row for row in rows if not np.isnan(row.difference.mean)])


def _means(one: xr.DataArray, two: xr.DataArray) -> tuple[float, float]:
    both = one.notnull() & two.notnull()
    return float(one.where(both).mean()), float(two.where(both).mean())


def differing(first: xr.Dataset, second: xr.Dataset) -> list[tuple[str, Any, Any]]:
    """The settings and images in which two results differ; nothing is known of an imported file's."""
    own, other = (flat(runs.settings(ds) or {}) for ds in (first, second))
    names = [name for name in own if name in other and own[name] != other[name] and name not in ("name", "seeds")]
    found: list[tuple[str, Any, Any]] = [(name, own[name], other[name]) for name in names]
    one, two = (store.images(ds) for ds in (first, second))
    return [("dataset", str(one), str(two)), *found] if one and two and not one.is_same(two) else found


def numbers(ds: xr.Dataset) -> dict[Key, xr.DataArray]:
    """One number per seed, (S,) each: accuracies of whole models, every measure of circuits by origin, sizes and
    similarities by layer too; without circuits of models that decide nothing (`undefined`)."""
    ds = undefined.left_out(ds)
    last, there = ds.isel(round=-1), undefined.defined(ds).isel(round=-1)
    found = {Key(name): values for name, values in worth.accuracies(ds).items()}
    for name in ("cross_evaluation", *_AVERAGES):
        if name in ds:
            found |= {Key(name, o): over_seeds(last[name].sel(origin=o)) for o in ORIGINS}
    found |= {Key("degenerate", o): over_seeds(last["degenerate"].where(there).sel(origin=o)) for o in ORIGINS}
    sizes = last["size"].where(there)
    for name, values in {"size": sizes, **{name: last[name] for name in MEASURES if name in ds}}.items():
        if "other_class" in values.dims:
            values = values.where(values["class"] != values["other_class"])
        for layer in map(str, values["layer"].values):
            one = values.sel(layer=layer)
            origins = ORIGINS if "origin" in one.dims else ("",)
            found |= {Key(name, o, layer): over_seeds(one.sel(origin=o) if o else one) for o in origins}
    return found


def table(ds: xr.Dataset) -> pd.DataFrame:
    """`numbers` as a table: measure, origin, layer, mean, low, high (NaN for one seed), seeds."""
    import pandas as pd

    rows = [(*key, *_limits(estimate(values))) for key, values in numbers(ds).items()]
    return pd.DataFrame(rows, columns=["measure", "origin", "layer", "mean", "low", "high", "seeds"])

"""The numbers that claims and figures are about, each with what chance gives; one number per seed where claims need it.

Axes: S seeds, R rounds, K clients, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fedmi_jax.analysis import nulls
from fedmi_jax.analysis.statistics import over_seeds
from fedmi_jax.circuits.similarity import held

LAST = 3
"""Rounds that "in the end" means, where a single one would be noise."""

Reduce = Callable[[xr.DataArray], xr.DataArray]
"""From an array with seeds to one number per seed."""


@dataclass(frozen=True)
class Overlap:
    """A measure of similarity under one convention for two empty sets, and its expectation by chance."""

    convention: str
    """What is to be said beside it; empty where there are no empty pairs."""
    value: xr.DataArray
    null: xr.DataArray


def overlaps(ds: xr.Dataset, measure: str, origin: str | None = None) -> list[Overlap]:
    """The measure of circuits of this origin, under both conventions where some pairs are empty.

    measure: of `similarity.MEASURES`; origin: "local" or "global", None for local_global_iou, which has none.
    """
    value, null = ds[measure], nulls.expected(ds[[*_masks(ds), measure]])[measure]
    share = ds["empty_pairs_" + measure.removesuffix("_iou")]
    if origin is not None:
        value, null, share = (part.sel(origin=origin) for part in (value, null, share))
    if not (share > 0).any():
        return [Overlap("", value, null)]
    rest = [nulls.without_empty_pairs(part, share) for part in (value, null)]
    return [Overlap("two empty sets count as 1", value, null), Overlap("empty pairs left out", *rest)]


def _masks(ds: xr.Dataset) -> list[str]:
    return ["analysed", *(n for n in ("participates",) if n in ds), *(f"mask_conv{i}" for i in (1, 2, 3))]


def cross_evaluation(ds: xr.Dataset) -> xr.DataArray:
    """Of local circuits on the global model (seed, round, client, class), NaN where there is none."""
    cross = ds["cross_evaluation"].sel(origin="local", drop=True)
    return cross.where(held(ds)).astype(float).transpose("seed", "round", "client", "class")


def balanced(ds: xr.Dataset) -> xr.DataArray | None:
    """One-vs-rest balanced accuracy of the same, if the result has it."""
    name = "cross_evaluation_balanced_accuracy"
    return ds[name].sel(origin="local", drop=True).where(held(ds)).astype(float) if name in ds else None


def random_cross_evaluation(ds: xr.Dataset) -> tuple[str, xr.DataArray] | None:
    """What stands for chance in cross-evaluation, and its name: random masks of the circuits' sizes (with `sample`),
    else the empty mask on the same model, else nothing."""
    if "random_cross_evaluation" in ds:
        random = ds["random_cross_evaluation"].sel(origin="local", drop=True)
        return "random masks", random.where(held(ds)).astype(float)
    if "empty_mask_accuracy" in ds:  # of the global model, on which local circuits are cross-evaluated
        empty = ds["empty_mask_accuracy"].sel(origin="global", drop=True)
        return "empty mask", empty.where(held(ds)).astype(float)
    return None


def shared_classes(ds: xr.Dataset) -> list[int]:
    """Classes that every client analyses."""
    everyone = ds["analysed"].astype(bool).all(("seed", "client"))
    return ds["class"].values[everyone.values].tolist()


# --- from an array to one number per seed ---

mean = over_seeds


def lowest(values: xr.DataArray) -> xr.DataArray:
    """Of all rounds, classes, layers ..."""
    return values.min([dim for dim in values.dims if dim != "seed"])


def last_rounds(values: xr.DataArray) -> xr.DataArray:
    """Mean over the last `LAST` rounds and all else."""
    return over_seeds(values.isel(round=slice(-LAST, None)))


def last_rounds_lowest_layer(values: xr.DataArray) -> xr.DataArray:
    """Of the layer where the mean over the last `LAST` rounds is lowest."""
    end = values.isel(round=slice(-LAST, None)).astype(float)
    return end.mean([dim for dim in end.dims if dim not in ("seed", "layer")]).min("layer")


def last_round_highest_layer(values: xr.DataArray) -> xr.DataArray:
    """Of the layer where the last round's mean is highest."""
    end = values.isel(round=-1).astype(float)
    return end.mean([dim for dim in end.dims if dim not in ("seed", "layer")]).max("layer")


def last_round(values: xr.DataArray) -> xr.DataArray:
    return over_seeds(values.isel(round=-1))


def highest_round(values: xr.DataArray) -> xr.DataArray:
    """Of the round whose mean is highest."""
    return values.astype(float).mean([dim for dim in values.dims if dim not in ("seed", "round")]).max("round")


def decline(values: xr.DataArray) -> xr.DataArray:
    """Mean over the second half of the rounds minus that over the first; an odd round in the middle is in neither."""
    half = values.sizes["round"] // 2
    return over_seeds(values.isel(round=slice(-half, None))) - over_seeds(values.isel(round=slice(half)))


def number(reduce: Reduce, values: xr.DataArray | None) -> float | None:
    """The reduced null's mean over seeds; None where there is no null."""
    return None if values is None else float(np.nanmean(reduce(values))) if values.notnull().any() else None

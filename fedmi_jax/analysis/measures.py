"""The numbers that claims and figures are about, each with what chance gives; one number per seed where claims need it.

Axes: S seeds, R rounds, K clients, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from fedmi_jax.analysis import alignment, nulls
from fedmi_jax.results import undefined
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import conv_layers
from fedmi_jax.results.statistics import over_seeds

LAST = 3
"""Rounds that "in the end" means, where a single one would be noise."""
ALL_ROUNDS, LAST_ROUND, LAST_ROUNDS = slice(None), slice(-1, None), slice(-LAST, None)

Reduce = Callable[[xr.DataArray], xr.DataArray]
"""From an array with seeds to one number per seed."""


@dataclass(frozen=True)
class Overlap:
    """A measure of similarity under one convention for two empty sets, and its expectation by chance."""

    convention: str
    """What is to be said beside it; empty where there are no empty pairs."""
    value: xr.DataArray
    null: xr.DataArray
    ceiling: xr.DataArray | None
    """IoU of circuits with themselves, found again on the same weights: what search noise leaves of any IoU. None: the
    run was not asked for it, or the measure compares unions of circuits."""
    empty: float
    """Share of pairs that are both empty."""


def overlaps(
    ds: xr.Dataset, measure: str, origin: str | None = None, rounds: slice = ALL_ROUNDS, aligned: bool = False
) -> list[Overlap]:
    """The measure of circuits of this origin in these rounds, under both conventions where some pairs are empty.

    measure: of `similarity.MEASURES`; origin: "local" or "global", None for local_global_iou, which has none; aligned:
    after matching channels (`alignment.aligned`), which looks at weights only and so leaves the null as it is.
    """
    null = nulls.expected(ds[[*_masks(ds), measure]])[measure]
    value = alignment.aligned(ds)[f"aligned_{measure}"] if aligned else ds[measure]
    share = ds["empty_pairs_" + measure.removesuffix("_iou")]
    value, null, share = (_of(part, origin).isel(round=rounds) for part in (value, null, share))
    again, both = (_found_again(ds, name, measure, origin, rounds) for name in REDISCOVERY)
    empty = float(share.mean())
    if not empty > 0:  # NaN: no pair at all
        return [Overlap("", value, null, again, 0.0)]
    value_rest, null_rest = (nulls.without_empty_pairs(part, share) for part in (value, null))
    again_rest = None if again is None or both is None else nulls.without_empty_pairs(again, both)
    return [
        Overlap("two empty sets count as 1", value, null, again, empty),
        Overlap("empty pairs left out", value_rest, null_rest, again_rest, empty),
    ]


REDISCOVERY = ("rediscovery_iou", "empty_pairs_rediscovery")


def _of(values: xr.DataArray, origin: str | None) -> xr.DataArray:
    return values.sel(origin=origin) if origin is not None and "origin" in values.dims else values


def _found_again(ds: xr.Dataset, name: str, measure: str, origin: str | None, rounds: slice) -> xr.DataArray | None:
    """As the measure, a mean over what it is a mean over."""
    if name not in ds or measure == "specialist_distinctness":
        return None
    found = _of(ds[name], origin).isel(round=rounds)
    return found.mean([dim for dim in found.dims if dim not in ds[measure].dims])


def _masks(ds: xr.Dataset) -> list[str]:
    return ["analysed", *(n for n in ("participates",) if n in ds), *(f"mask_{layer}" for layer in conv_layers(ds))]


def contained(ds: xr.Dataset, inner: str = "local", outer: str = "global") -> tuple[xr.DataArray, xr.DataArray]:
    """Share of one circuit's channels that the other, of the same client, class and round, has too; and the same for a
    random set of the other's size. (seed, round, client, class, layer), NaN where the one has no channel.

    IoU cannot tell a circuit that moved from one that grew: of sets of 4 and 9 channels it is at most 4/9, wherever
    they are. Local in global is what averaging has left in place, whatever it added. Both circuits must be defined.
    """
    there, layers = undefined.defined(ds).all("origin"), conv_layers(ds)
    values, nulls_ = [], []
    for layer in layers:
        masks = ds[f"mask_{layer}"].astype(bool)
        one, other = (masks.sel(origin=origin, drop=True) for origin in (inner, outer))
        channel = f"channel_{layer}"
        size = one.sum(channel).where(there)
        values.append((one & other).sum(channel) / size.where(size > 0))
        nulls_.append(other.mean(channel).where(size > 0))
    label = xr.DataArray(list(layers), dims="layer", name="layer")
    value, null = (xr.concat(parts, label).transpose(*there.dims, "layer") for parts in (values, nulls_))
    return value, null


def cross_evaluation(ds: xr.Dataset) -> xr.DataArray:
    """Of local circuits on the global model (seed, round, client, class), NaN where there is none."""
    cross = ds["cross_evaluation"].sel(origin="local", drop=True)
    return cross.where(held(ds)).astype(float).transpose("seed", "round", "client", "class")


def balanced(ds: xr.Dataset) -> xr.DataArray | None:
    """One-vs-rest balanced accuracy of the same, if the result has it."""
    name = "cross_evaluation_balanced_accuracy"
    return ds[name].sel(origin="local", drop=True).where(held(ds)).astype(float) if name in ds else None


def degenerate(ds: xr.Dataset) -> xr.DataArray:
    """Which local circuits have an empty layer, bool (seed, round, client, class)."""
    return ds["degenerate"].sel(origin="local", drop=True).transpose("seed", "round", "client", "class").astype(bool)


AT_HOME = 0.5
"""A circuit works on its own model when it is right about at least this share of its class's images."""


def works_at_home(ds: xr.Dataset) -> xr.DataArray | None:
    """Which local circuits work on the model they were found on, bool (seed, round, client, class); None: the result
    does not say. Those that do not have failed before anything was averaged."""
    if "sufficiency" not in ds:
        return None
    found = ds["sufficiency"].sel(origin="local", drop=True) >= AT_HOME
    return found.transpose("seed", "round", "client", "class")


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


def lowest_layer(values: xr.DataArray) -> xr.DataArray:
    """Of the layer whose mean is lowest."""
    return _each(values, "layer").min("layer")


def highest_layer(values: xr.DataArray) -> xr.DataArray:
    """Of the layer whose mean is highest."""
    return _each(values, "layer").max("layer")


def highest_round(values: xr.DataArray) -> xr.DataArray:
    """Of the round whose mean is highest."""
    return _each(values, "round").max("round")


def _each(values: xr.DataArray, kept: str) -> xr.DataArray:
    return values.astype(float).mean([dim for dim in values.dims if dim not in ("seed", kept)])


def decline(values: xr.DataArray) -> xr.DataArray:
    """Mean over the second half of the rounds minus that over the first; an odd round in the middle is in neither."""
    half = values.sizes["round"] // 2
    return over_seeds(values.isel(round=slice(-half, None))) - over_seeds(values.isel(round=slice(half)))


def number(reduce: Reduce, values: xr.DataArray | None) -> float | None:
    """The reduced null's, or ceiling's, mean over seeds; None where there is none."""
    found = None if values is None else float(reduce(values).mean())
    return None if found is None or np.isnan(found) else found

"""Which circuits there are to judge, and what of them survives averaging.

A circuit counts where its model decides about the class at all (*competent*: `status` is not "undefined"). Of a model
that decides nothing there is no circuit to find, so such circuits are neither empty nor collapsed.

Axes: S seeds, R rounds, O origins, K clients, C classes.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from fedmi_jax.analysis import measures
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import CIRCUIT_DIMS, STATUS, conv_layers
from fedmi_jax.results.statistics import over_seeds

OUT = 0.55
"""Balanced accuracy on the class under which a circuit is out."""
ROUNDING = 1e-6
"""A share of images is stored in single precision: one that is exactly at a limit can seem to miss it by so much."""


def competent(ds: xr.Dataset) -> xr.DataArray:
    """Which circuits are of a model that decides about the class, bool (S, R, O, K, C)."""
    decided = ds["status"].isin([STATUS.index("found"), STATUS.index("not compact")])
    return (decided & held(ds)).transpose(*CIRCUIT_DIMS)


def found(ds: xr.Dataset) -> xr.DataArray:
    """Which of them explain the target, bool (S, R, O, K, C)."""
    return competent(ds) & (ds["status"] == STATUS.index("found"))


def undefined(ds: xr.Dataset, origin: str) -> xr.DataArray:
    """1 for circuits that are undefined, 0 for the others, NaN where the client does not look for one (S, R, K, C)."""
    missing = (~competent(ds).sel(origin=origin, drop=True)).astype(float)
    return missing.where(held(ds))


def of(ds: xr.Dataset, name: str, origin: str = "local") -> xr.DataArray:
    """A measure of competent circuits of this origin, (S, R, K, C, ...), NaN elsewhere."""
    values = ds[name].astype(float).where(competent(ds)).sel(origin=origin, drop=True)
    return values.transpose("seed", "round", "client", "class", ...)


def under(values: xr.DataArray, limit: float) -> xr.DataArray:
    """Which shares of images are under the limit, by more than their rounding."""
    return values < limit - ROUNDING


def out(ds: xr.Dataset) -> xr.DataArray:
    """1 for competent local circuits that are out on the global model, 0 for the others, (S, R, K, C)."""
    across = of(ds, "cross_evaluation_decision_accuracy")
    return under(across, OUT).where(across.notnull()).astype(float)


def silent(ds: xr.Dataset) -> xr.DataArray:
    """1 where the whole global model calls a class on less than 10 % of its images, (S, R, C)."""
    rate = ds["global_class_accuracy"].rename(true_class="class").sel({"class": ds["class"].values})
    rate = rate.drop_vars("true_class_name", errors="ignore")
    return (rate < 0.1).where(rate.notnull()).astype(float)


def size(ds: xr.Dataset, origin: str = "local") -> xr.DataArray:
    """Channels of competent circuits, (S, R, K, C)."""
    return of(ds, "size", origin).sum("layer", skipna=False)


def share_of_live(ds: xr.Dataset, origin: str = "local") -> xr.DataArray:
    """Channels of competent circuits over those that are live, (S, R, K, C)."""
    return size(ds, origin) / of(ds, "live", origin).sum("layer", skipna=False)


def kept(ds: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Share of a local circuit's channels that the global one has, and the same of random sets of live channels of
    their sizes; (S, R, K, C, layer), where both models are competent and the local circuit has channels."""
    there, chances = competent(ds).all("origin"), []
    for layer in conv_layers(ds):
        live, channel = ds[f"live_{layer}"].astype(float), f"channel_{layer}"
        one, other = (live.sel(origin=origin, drop=True) for origin in ("local", "global"))
        drawn = ds[f"mask_{layer}"].sel(origin="global", drop=True).sum(channel)
        pool = one.sum(channel) * other.sum(channel)
        chances.append(drawn * (one * other).sum(channel) / pool.where(pool > 0))
    value = measures.contained(ds)[0].where(there)
    label = xr.DataArray(list(conv_layers(ds)), dims="layer", name="layer")
    return value, xr.concat(chances, label).where(value.notnull())


def given_back(ds: xr.Dataset, refit: str) -> xr.DataArray:
    """Share of the accuracy lost by averaging that a refit of the global model's read-out gives back, (S, R).

    Lost: what the global model lacks, as it is, to the mean of the local models as they are. NaN where nothing is lost.
    """
    local = ds["readout_accuracy_local"].sel(refit="none", drop=True).mean("client")
    whole = ds["readout_accuracy_global"]
    before, after = (whole.sel(refit=name, drop=True) for name in ("none", refit))
    lost = local - before
    return (after - before) / lost.where(lost > 0)


def ratio_of_means(above: xr.DataArray, below: xr.DataArray, chance: float = 0.5) -> xr.DataArray:
    """(mean of the one - chance) / (mean of the other - chance), per seed, over the circuits that have both, (S,)."""
    there = above.notnull() & below.notnull()
    dims = [dim for dim in there.dims if dim != "seed"]
    first, second = (part.where(there).mean(dims) - chance for part in (above, below))
    return first / second.where(np.abs(second) > 1e-9)


def geometric(values: xr.DataArray) -> xr.DataArray:
    """Geometric mean over every axis but the seeds', (S,); NaN is left out."""
    logs = over_seeds(values.copy(data=np.log(values.values)))
    return logs.copy(data=np.exp(logs.values))

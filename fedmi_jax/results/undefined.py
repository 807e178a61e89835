"""Circuits of models that decide nothing: there is no such circuit, which is not one without channels.

A file has their measures as of a circuit without channels. They are no part of what is averaged over circuits.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from fedmi_jax.config import from_json
from fedmi_jax.results import similarity
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import CIRCUIT_DIMS, STATUS

OF_BOTH = ("drift_gap",)
"""Measures of a circuit that compare it with the one of the other model."""


def defined(ds: xr.Dataset) -> xr.DataArray:
    """Which circuits there are, bool (S, R, O, K, C): those that are `held`, but for undefined ones. The paper's search
    finds a circuit in every model."""
    there = held(ds).expand_dims(origin=ds["origin"]).transpose(*CIRCUIT_DIMS)
    return there & (ds["status"] != STATUS.index("undefined")) if _some_are_not(ds) else there


def left_out(ds: xr.Dataset) -> xr.Dataset:
    """The result with NaN for every measure of an undefined circuit, and similarity over pairs of the others."""
    if not _some_are_not(ds):
        return ds
    there = defined(ds)
    kept = {
        str(name): values.where(there.all("origin") if name in OF_BOTH else there)
        for name, values in ds.data_vars.items()
        if values.dims[: len(CIRCUIT_DIMS)] == CIRCUIT_DIMS and np.issubdtype(values.dtype, np.floating)
    }
    return similarity.measures(ds.assign(kept), there.values)


def share(ds: xr.Dataset) -> float:
    """Of the circuits that are looked for, in models of both origins, those that are undefined."""
    found = undefined(ds)
    return float(found.mean()) if bool(found.notnull().any()) else 0.0


def undefined(ds: xr.Dataset) -> xr.DataArray:
    """1 for circuits that are looked for in a model that decides nothing, 0 for the others that are looked for, NaN for
    the rest, (S, R, O, K, C)."""
    looked_for = held(ds).expand_dims(origin=ds["origin"]).transpose(*CIRCUIT_DIMS)
    return (~defined(ds)).astype(float).where(looked_for)


def _some_are_not(ds: xr.Dataset) -> bool:
    if "status" not in ds or "config" not in ds.attrs:
        return False
    return from_json(ds.attrs["config"]).discovery.objective != "class"

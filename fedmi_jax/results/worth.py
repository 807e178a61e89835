"""What decides how much a run is worth: its settings, its models, how sure its numbers are, and what chance reaches.

Axes: S seeds, K clients, C classes. Every number is of the last round.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from fedmi_jax.config import flat, from_json, to_dict
from fedmi_jax.presets import PRESETS
from fedmi_jax.results.schema import ORIGINS
from fedmi_jax.results.statistics import estimate, over_seeds

_NO_SETTINGS = (
    "name", "seeds", "data.data_dir", "data.file", "evaluation.batch_size", "execution.client_chunk",
    "execution.devices", "execution.shard", "execution.micro_batch", "execution.save_weights",
)  # fmt: skip
"""Fields that change no measure, and the seeds, which a summary names by themselves."""
Interval = dict[str, Any]
"""An `Estimate` as JSON values: mean, low, high (None of one seed) and seeds."""


def settings(ds: xr.Dataset) -> dict[str, Any]:
    """preset, whose name the run has (None: it has another), and changed: {field: {"value": ..., "preset": ...}}."""
    own = flat(to_dict(from_json(ds.attrs["config"]))) if "config" in ds.attrs else {}
    found = PRESETS.get(str(own.get("name")))
    if found is None or len(found.experiments) != 1:
        return {"preset": None, "changed": {}}
    usual = flat(to_dict(found.experiments[0]))
    changed = {k: {"value": own[k], "preset": v} for k, v in usual.items() if own[k] != v and k not in _NO_SETTINGS}
    return {"preset": own["name"], "changed": changed}


def accuracies(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Of whole models, (S,) each: over all classes, and over those that the client, or any client, holds."""
    last = ds.isel(round=-1)
    found = {name: last[name] for name in ("global_accuracy", "local_accuracy") if name in ds}
    found |= {name: values.isel(round=-1) for name, values in on_held_classes(ds).items()}
    return {name: over_seeds(values) for name, values in found.items()}


def on_held_classes(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """Accuracy of whole models: local_held_accuracy (S, R, K), over the client's own classes, and global_held_accuracy
    (S, R), over those that any client holds. Without what the result does not know."""
    if "samples" not in ds:
        return {}
    held = ds["samples"] > 0
    who = {"local": held, "global": held.any("client")}
    return {
        f"{origin}_held_accuracy": ds[f"{origin}_class_accuracy"].astype(float).where(own).mean("true_class")
        for origin, own in who.items()
        if f"{origin}_class_accuracy" in ds
    }


def intervals(ds: xr.Dataset, names: tuple[str, ...]) -> dict[str, Any]:
    """Over seeds: of the accuracies and of cross_evaluation (local circuits), and {origin: ...} of `names`.

    Empty for one seed, of which nothing is known about how sure its numbers are.
    """
    if ds.sizes["seed"] < 2:
        return {}
    last = ds.isel(round=-1)
    found: dict[str, Any] = {name: interval(values) for name, values in accuracies(ds).items()}
    if "cross_evaluation" in ds:
        found["cross_evaluation"] = interval(over_seeds(last["cross_evaluation"].sel(origin="local")))
    return found | {name: _by_origin(last[name]) for name in names if name in ds}


def beyond_control(ds: xr.Dataset) -> dict[str, Any]:
    """By how much circuits do better than masks that know nothing: the mean difference, circuit by circuit.

    control: "random masks" with as many channels in each layer, where the run has made them; else "empty mask"; None:
    the result has neither. sufficiency and cross_evaluation: {origin: interval}, as fractions.
    """
    last = ds.isel(round=-1)
    found: dict[str, Any] = {"control": None}
    for name in ("sufficiency", "cross_evaluation"):
        control = _control(last, name)
        if name in ds and control is not None:
            found["control"] = "random masks" if f"random_{name}" in ds else "empty mask"
            found[name] = _by_origin(last[name] - control)
    return found


def _control(last: xr.Dataset, name: str) -> xr.DataArray | None:
    """What chance reaches for every circuit."""
    if f"random_{name}" in last:
        return last[f"random_{name}"].mean("sample")
    if "empty_mask_accuracy" not in last:
        return None
    empty = last["empty_mask_accuracy"]
    if name == "sufficiency":
        return empty
    return empty.sel(origin=list(reversed(ORIGINS))).assign_coords(origin=list(ORIGINS))  # of the other model


def interval(per_seed: xr.DataArray) -> Interval:
    found = asdict(estimate(per_seed))
    return found | {"mean": None if np.isnan(found["mean"]) else found["mean"]}


def _by_origin(values: xr.DataArray) -> dict[str, Interval]:
    return {str(origin): interval(over_seeds(values.sel(origin=origin))) for origin in values["origin"].values}

"""A result in short: JSON values."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from fedmi_jax.data import identity
from fedmi_jax.results import store, undefined, worth
from fedmi_jax.results.labels import class_names, held
from fedmi_jax.results.schema import CIRCUIT_DIMS, ORIGINS, VARIABLES
from fedmi_jax.results.similarity import MEASURES


def summary(ds: xr.Dataset) -> dict[str, Any]:
    """The result in short, as JSON values; fractions, not percentages; None where there is nothing to average.

    Every figure is of the last round, the mean over seeds (and over what else it has), except cross_evaluation.mean.
    Circuits of models that decide nothing (`undefined`) are part of none.
    The entries of `_AVERAGES` are there only when the result has the variable.

    - name, seeds, rounds (how many), clients (how many), classes (names, see `labels.class_names`)
    - dataset: the images (`fedmi_jax.data.identity.ImageSet`), None where they are not known
    - cross_evaluation: of local circuits on the global model: mean (all rounds), last_round,
      per_client_and_class {"0": {"0 - zero": ...}}; degenerate {"0": ["0 - zero"]}, of which circuits at least half of
      the seeds' are degenerate; undefined, the same of those whose model decides nothing
    - degenerate_share {origin}: circuits with an empty layer
    - undefined_share {origin}: of the circuits that were looked for, those whose model decides nothing
    - global_accuracy
    - circuit_size {origin: {layer}}: mean number of channels
    - specialist_distinctness, inter_client_iou, stability_iou, inter_class_iou, class_pair_iou {origin: {layer}},
      local_global_iou {layer}: similarity, class_pair_iou over different classes only
    - empty_pairs: share of pairs that were both empty, per measure of similarity, in the same shape
    - sufficiency, necessity, false_positive_rate, balanced_accuracy, target_softmax, drift_gap,
      cross_evaluation_{softmax,false_positive_rate,balanced_accuracy}, empty_mask_* {origin}
    - realised_sparsity {origin: {layer}}
    - preset, changed {field: {"value", "preset"}}: settings in which the run is not the preset of its name
    - local_accuracy, local_held_accuracy, global_held_accuracy: of whole models; held: over the classes that the
      client, or any client, holds
    - intervals: over seeds, {"mean", "low", "high", "seeds"} of accuracies and cross_evaluation, and by origin of the
      averages; empty for one seed
    - beyond_control: control, and sufficiency and cross_evaluation minus the control's {origin: interval}; see
      `fedmi_jax.results.worth`
    """
    ds = undefined.left_out(ds)
    last, there, images = ds.isel(round=-1), undefined.defined(ds).isel(round=-1), store.images(ds)
    found: dict[str, Any] = {
        "name": str(ds.attrs.get("name", "custom")),
        "seeds": [int(seed) for seed in ds["seed"].values],
        "rounds": ds.sizes["round"],
        "clients": ds.sizes["client"],
        "classes": list(class_names(ds).values()),
        "dataset": None if images is None else identity.to_values(images),
        "cross_evaluation": _cross_evaluation(ds),
        "degenerate_share": _by(last["degenerate"].where(there), "origin"),
        "undefined_share": _by(undefined.undefined(ds.isel(round=[-1])), "origin"),
        "global_accuracy": _mean(last["global_accuracy"]) if "global_accuracy" in ds else None,
        "circuit_size": _by(last["size"].where(there), "origin", "layer"),
    }
    found |= {name: _similarity(last[name]) for name in MEASURES if name in ds}
    pairs = {name: "empty_pairs_" + name.removesuffix("_iou") for name in MEASURES}
    found["empty_pairs"] = {name: _similarity(last[share]) for name, share in pairs.items() if share in ds}
    found |= {name: _by(last[name], "origin") for name in _AVERAGES if name in ds}
    sparsity = {o: f"realised_sparsity_{o}" for o in ORIGINS if f"realised_sparsity_{o}" in ds}
    if sparsity:
        found["realised_sparsity"] = {o: _by(last[name], "parameter_layer") for o, name in sparsity.items()}
    whole = {name: _mean(values) for name, values in worth.accuracies(ds).items()}
    found |= worth.settings(ds) | {name: value for name, value in whole.items() if name not in found}
    return found | {"intervals": worth.intervals(ds, _AVERAGES), "beyond_control": worth.beyond_control(ds)}


_AVERAGES = tuple(
    name
    for name, row in VARIABLES.items()
    if row.dims == CIRCUIT_DIMS and row.dtype == "float32" and name != "cross_evaluation"
)
"""Measures that have one number for every circuit; cross-evaluation has an entry of its own."""


def _mean(values: xr.DataArray) -> float | None:
    mean = float(values.astype(np.float64).mean())
    return None if np.isnan(mean) else mean


def _by(values: xr.DataArray, dim: str, *more: str) -> dict[str, Any]:
    """The mean of `values` for every label of `dim`, and below it of each further dimension."""
    parts = {str(label): values.sel({dim: label}) for label in values[dim].values}
    return {label: _by(part, *more) if more else _mean(part) for label, part in parts.items()}


def _similarity(measure: xr.DataArray) -> dict[str, Any]:
    """Per origin, where it has one, and layer."""
    if "other_class" in measure.dims:  # the diagonal is inter_client_iou
        measure = measure.where(measure["class"] != measure["other_class"])
    return _by(measure, "origin", "layer") if "origin" in measure.dims else _by(measure, "layer")


def _cross_evaluation(ds: xr.Dataset) -> dict[str, Any]:
    """See `summary`. Empty when the result has no cross-evaluation."""
    if "cross_evaluation" not in ds:
        return {}
    local = ds["cross_evaluation"].sel(origin="local")
    last, there = local.isel(round=-1), held(ds).isel(round=-1).any("seed").values
    values = last.astype(np.float64).mean("seed").transpose("client", "class").values
    names, clients = list(class_names(ds).values()), ds["client"].values.tolist()
    per_client = {
        str(client): {
            names[j]: None if np.isnan(values[i, j]) else float(values[i, j]) for j in np.flatnonzero(there[i])
        }
        for i, client in enumerate(clients)
        if there[i].any()
    }
    now = ds.isel(round=[-1])
    nothing = undefined.undefined(now).sel(origin="local", drop=True)
    empty = now["degenerate"].sel(origin="local", drop=True).where(nothing == 0)

    def most(flags: xr.DataArray) -> dict[str, list[str]]:
        flagged = flags.mean(("seed", "round")).transpose("client", "class").values >= 0.5
        listed = {str(k): [names[j] for j in np.flatnonzero(flagged[i])] for i, k in enumerate(clients)}
        return {client: classes for client, classes in listed.items() if classes}

    return {
        "mean": _mean(local),
        "last_round": _mean(last),
        "per_client_and_class": per_client,
        "degenerate": most(empty),
        "undefined": most(nothing),
    }

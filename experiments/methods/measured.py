"""From the results of both instruments to numbers, one for each seed and round, and these as one tidy table.

Axes: S seeds, R rounds. Means are over clients, the classes that each holds, and layers, each weighing the same.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import xarray as xr

from experiments.methods.making import Pair
from fedmi_jax import files
from fedmi_jax.analysis import interference, measures, nulls, skew, units
from fedmi_jax.config import from_json
from fedmi_jax.errors import FedmiError
from fedmi_jax.results.worth import on_held_classes

FILE = "points.csv"
AXES = ("scenario", "method", "seed", "round", "measure")
Points = xr.DataArray
"""float (scenario, method, seed, round, measure); NaN where there is no such number."""
Numbers = dict[str, xr.DataArray]
"""By name, (S, R) each."""
WHY = {"support ratio": "support_ratio", "sign conflict": "sign_conflict", "cancellation": "cancellation"}
"""Measures of agreement between the clients' weights, which are also given for every layer."""
BIAS = {"decision, a bias refitted, own model": "bias_accuracy",
        "decision, a bias refitted": "cross_evaluation_bias_accuracy"}  # fmt: skip
"""Of the second instrument; results of earlier releases do not have it."""
TRAINED, TESTED = "training images a client, at most", "test images a class, at most"
"""What a run was cut to. A run of all images has no such number."""


def numbers(pair: Pair) -> Numbers:
    """Of one row and seed. Those of the second instrument are of the last round."""
    paper, second = skew.where_held(pair.paper), skew.where_held(pair.second)
    found = _accuracy(paper) | _papers(paper) | _circuits(paper) | _decisions(second) | _agreement(paper)
    found |= _cut_to(paper)
    return {name: values.transpose("seed", "round") for name, values in found.items()}


def one_shot(pair: Pair) -> dict[str, Numbers]:
    """Of the rows that are made of this run without training, those of which there is a number."""
    if pair.one_shot is None:
        return {}
    made, cut_to = pair.one_shot["one_shot"], _cut_to(pair.one_shot)
    known = [name for name in made["control"].values if made.sel(control=name).notnull().any()]
    numbers = made["number"].values
    return {
        str(name): {str(n): made.sel(control=name, number=n, drop=True) for n in numbers} | cut_to for name in known
    }


def _mean(values: xr.DataArray) -> xr.DataArray:
    """(S, R)"""
    return values.astype(float).mean([dim for dim in values.dims if dim not in ("seed", "round")])


def _accuracy(ds: xr.Dataset) -> Numbers:
    """Of whole models, among all ten answers."""
    own = (ds["samples"] > 0).transpose("seed", "client", "true_class")
    given, whole = ds.get("served_class_accuracy", ds["global_class_accuracy"]), on_held_classes(ds)
    refitted = ds["readout_accuracy_global"]
    return {
        "held accuracy": whole["global_held_accuracy"],
        "own accuracy": _mean(given.where(own).mean("true_class")),
        "own accuracy, before": _mean(whole["local_held_accuracy"]),
        "among held": refitted.sel(refit="none", drop=True),
        "among held, scale and biases refitted": refitted.sel(refit="scale-and-biases", drop=True),
        "among held, linear layer refitted": refitted.sel(refit="linear", drop=True),
    }


def _papers(ds: xr.Dataset) -> Numbers:
    """How local circuits of the paper's instrument work on the averaged model."""
    local, cross = ds.sel(origin="local", drop=True), measures.cross_evaluation(ds)
    home = measures.works_at_home(ds)
    change = interference.collapse_rate(cross).expand_dims(round=ds["round"].values[-1:])
    return {
        "cross-evaluation": _mean(cross),
        "cross-evaluation, works at home": _mean(cross.where(home)),
        "cross-evaluation, random masks": _mean(local["random_cross_evaluation"]),
        "away from sufficiency": _mean(abs(cross - local["sufficiency"])),
        "out": interference.out_share(cross),
        "collapses": change,
        "balanced, own model": _mean(local["balanced_accuracy"]),
        "balanced": _mean(local["cross_evaluation_balanced_accuracy"]),
        "false positives": _mean(local["cross_evaluation_false_positive_rate"]),
        "degenerate": _mean(measures.degenerate(ds).where(cross.notnull())),
    }


def _circuits(ds: xr.Dataset) -> Numbers:
    """Which channels they are of."""
    chance, there = nulls.expected(ds)["local_global_iou"], ds["analysed"].astype(bool)
    kept, random = measures.contained(ds)
    again = ds["rediscovery_iou"].where(there)
    return {
        "IoU, corrected": _mean(nulls.corrected(ds["local_global_iou"], chance)),
        "found again, local": _mean(again.sel(origin="local", drop=True)),
        "found again, global": _mean(again.sel(origin="global", drop=True)),
        "kept": _mean(kept),
        "kept, by chance": _mean(random),
        "channels, local": _channels(ds, "local"),
        "channels, global": _channels(ds, "global"),
        "moved": _mean(ds["moved"]),
    } | ({"reordered": _mean(ds["reordered"])} if "reordered" in ds else {})


def _channels(ds: xr.Dataset, origin: str) -> xr.DataArray:
    size = ds["size"].sel(origin=origin, drop=True).sum("layer")
    return _mean(size.where(ds["analysed"].astype(bool)))


def _decisions(ds: xr.Dataset) -> Numbers:
    """Of the second instrument, over the circuits of models that decide about the class."""
    there = ds["analysed"].astype(bool)
    able = units.competent(ds).where(there)
    return {
        "competent, local": _mean(able.sel(origin="local", drop=True)),
        "competent, global": _mean(able.sel(origin="global", drop=True)),
        "explained, own model": _mean(units.of(ds, "explained")),
        "explained": _mean(units.of(ds, "cross_evaluation_explained")),
        "AUC, own model": _mean(units.of(ds, "auc")),
        "AUC": _mean(units.of(ds, "cross_evaluation_auc")),
        "decision, own model": _mean(units.of(ds, "decision_accuracy")),
        "decision": _mean(units.of(ds, "cross_evaluation_decision_accuracy")),
        **{said: _mean(units.of(ds, name)) for said, name in BIAS.items() if name in ds},
        "kept, second": _mean(units.kept(ds)[0]),
        "kept, second, by chance": _mean(units.kept(ds)[1]),
        "channels, second, local": _mean(units.size(ds)),
        "channels, second, global": _mean(units.size(ds, "global")),
    }


def _agreement(ds: xr.Dataset) -> Numbers:
    """Why: between the clients' weights, and how dense the averaged model is."""
    density = 1 - ds["realised_sparsity_global"]
    found = {"global density": _mean(density)}
    for name, variable in WHY.items():
        found[name] = _mean(ds[variable])
    for name, values in {**{name: ds[variable] for name, variable in WHY.items()}, "global density": density}.items():
        found |= {f"{name}, {layer}": values.sel(parameter_layer=layer, drop=True) for layer in _layers(ds)}
    return found


def _cut_to(ds: xr.Dataset) -> Numbers:
    """How many images the run was given, where these were not all."""
    if "config" not in ds.attrs:
        return {}
    experiment = from_json(ds.attrs["config"])
    given = {TRAINED: experiment.data.images_per_client, TESTED: experiment.evaluation.images_per_class}
    every = xr.ones_like(ds["seed"] * ds["round"], float)
    return {name: number * every for name, number in given.items() if number is not None}


def _layers(ds: xr.Dataset) -> list[str]:
    return ds["parameter_layer"].values.tolist()


# --- all of them ---


def points(found: Iterable[tuple[str, str, Pair]]) -> Points | None:
    """Of every (scenario, row, results); None where there is nothing."""
    parts = [
        _tidy(of).assign(scenario=scenario, method=name)
        for scenario, method, pair in found
        for name, of in {method: numbers(pair), **one_shot(pair)}.items()
    ]
    return _dense(pd.concat(parts)) if parts else None


def _tidy(found: Numbers) -> pd.DataFrame:
    """A row for each number that there is."""
    every = xr.concat(list(found.values()), pd.Index(list(found), name="measure"), join="outer", coords="minimal")
    return every.rename("value").to_dataframe()[["value"]].dropna().reset_index()


def _dense(rows: pd.DataFrame) -> Points:
    return rows.set_index(list(AXES))["value"].to_xarray()


def save(found: Points, path: Path) -> None:
    """As a tidy table: scenario, method, seed, round, measure, value."""
    rows = found.to_series().dropna().rename("value").reset_index()
    with files.replacing(path) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")


def load(path: Path) -> Points:
    """What `save` wrote. Raises FedmiError for another file."""
    try:
        rows = pd.read_csv(path)
        return _dense(rows)
    except (KeyError, ValueError) as error:
        why = " ".join(str(error).split())[:100]
        raise FedmiError(f"{path}: not a table of points ({why}); move it away") from None


def together(new: Points | None, old: Points | None) -> Points | None:
    """The new ones, and of the old ones those of runs that are not among them."""
    if new is None or old is None:
        return old if new is None else new
    new, old = xr.align(new, old, join="outer")
    return new.where(new.notnull().any(("round", "measure")), old)

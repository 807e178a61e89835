"""Which search made a result: the paper's, or one whose circuits decide; and the results of all of them by experiment.

A run's configuration says it, not its name or its folder. Several results of one experiment and one search are its
seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import xarray as xr

from fedmi_jax import config
from fedmi_jax.analysis import runs
from fedmi_jax.config import Experiment

PILOT = (100, 101)
"""Seeds on which the defaults of the search were set."""


class Key(NamedTuple):
    """What a result is about, and which search found its circuits."""

    experiment: str
    """As in `runs.Runs`; one that is pruned otherwise than the paper's has that behind it."""
    objective: str
    negatives: str
    """The classes that a class is told from; in IID, where every client holds all, always "probe"."""

    def __str__(self) -> str:
        return f"{self.experiment} ({self.objective}, negatives {self.negatives})"


Results = Mapping[Key, xr.Dataset]


class Found(NamedTuple):
    """The results that predictions are about, and of every other file why it is not one of them."""

    results: dict[Key, xr.Dataset]
    left_out: dict[Path, str]


def gather(folders: Iterable[Path]) -> Found:
    """Every result in these folders, the seeds of one experiment and search joined. Raises FedmiError as `runs.gather`
    does, for results of one experiment and search that differ in more than their seeds."""
    return sort_out(runs.load(folders))


def sort_out(loaded: Iterable[tuple[Path, xr.Dataset]]) -> Found:
    """The same of results that are loaded already."""
    groups: dict[Key, list[tuple[Path, xr.Dataset]]] = {}
    left_out = {}
    for path, ds in loaded:
        if why := unfit(ds):
            left_out[path] = why
        else:
            groups.setdefault(key(ds), []).append((path, ds.sel(seed=~ds["seed"].isin(PILOT))))
    return Found({name: runs.joined(group) for name, group in sorted(groups.items())}, left_out)


def unfit(ds: xr.Dataset) -> str:
    """Why a result says nothing about circuits that decide in the paper's experiments; empty: it does."""
    if "config" not in ds.attrs:
        return "does not say how it was made"
    if runs.kind(ds) is None:
        return runs.not_the_papers(ds)
    method = (runs.settings(ds) or {})["method"]
    if method != "fedavg":
        return f"made with the method {method}; predictions are about fedavg"
    return _unfit_search(ds, config.from_json(ds.attrs["config"]))


def _unfit_search(ds: xr.Dataset, experiment: Experiment) -> str:
    search = experiment.discovery
    usual = config.Discovery(objective=search.objective)
    for name in ("gates", "ablation", "target"):
        if (value := getattr(search, name)) != (other := getattr(usual, name)):
            return f"discovery.{name} is {value}; objective {search.objective} is judged with {other}"
    if "status" not in ds:
        return "says nothing of decisions; make it with --evaluation.decisions"
    if ds["seed"].isin(PILOT).all():
        return "pilot seeds only"
    return ""


def key(ds: xr.Dataset) -> Key:
    """Of a result that is not `unfit`."""
    discovery, name = config.from_json(ds.attrs["config"]).discovery, f"{runs.kind(ds)}{runs.pruned_otherwise(ds)}"
    negatives = "probe" if name.startswith("iid") else discovery.negatives
    return Key(name, discovery.objective, negatives)

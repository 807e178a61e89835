"""A result's variables as long tables: one row for each number, every label in a column of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from fedmi_jax.errors import FedmiError, did_you_mean
from fedmi_jax.files import replacing
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import CIRCUIT_DIMS, described

if TYPE_CHECKING:
    import pandas as pd

_NAMED = {"class": "class_name", "other_class": "class_name", "true_class": "true_class_name"}
"""Labels of classes, and the coordinate with their names."""
_LABELS = (*CIRCUIT_DIMS, "other_class", "true_class", "layer", "parameter_layer", "null", "refit")
"""Axes that have few entries: a table of all measures leaves out what is along others, as single weights are."""


def tidy(result: xr.Dataset, *names: str) -> pd.DataFrame:
    """These variables as a table: a column for each of their labels, names of classes included, and one for each
    variable. Several must have the same dimensions.

    Rows that would hold nothing but a fill are left out: circuits that there are not, clients that take no part in a
    round, NaN. `attrs` of the table has long_name and units of each variable. Raises FedmiError, one line, for a
    variable that the result does not have, or for variables of unlike dimensions.
    """
    if not names:
        raise FedmiError('tidy: name a variable, as in tidy(result, "cross_evaluation"); docs/results.md lists them')
    for name in names:
        if name not in result.data_vars:
            hint = did_you_mean(name, map(str, result.data_vars))
            raise FedmiError(f"variable: the result has no {name!r}; docs/results.md lists what may be there{hint}")
    result = described(result)
    first, others = result[names[0]], [result[name] for name in names[1:]]
    wrong = next((one for one in others if set(one.dims) != set(first.dims)), None)
    if wrong is not None:
        raise FedmiError(f"variable: {wrong.name} has dimensions {wrong.dims}, {first.name} {first.dims}; ask apart")
    values = [first, *(other.transpose(*first.dims) for other in others)]
    return _table(result, values, [_meant(result, one) for one in values])


def _meant(ds: xr.Dataset, values: xr.DataArray) -> np.ndarray:
    """Where the variable holds more than a fill, bool of its shape."""
    there: xr.DataArray = values.notnull() if values.dtype.kind == "f" else xr.ones_like(values, bool)
    dims = set(values.dims)
    if {"round", "client", "class"} <= dims:
        there = there & held(ds)
    elif {"round", "client"} <= dims and "participates" in ds:
        there = there & ds["participates"].astype(bool)
    if "null" in dims and "null_status" in ds:
        there = there & (ds["null_status"] > 0)
    if values.name == "curve_size" and "curve" in ds:
        there = there & ds["curve"].notnull()
    return there.transpose(*values.dims).values


def _table(ds: xr.Dataset, values: Sequence[xr.DataArray], meant: Sequence[np.ndarray]) -> pd.DataFrame:
    """Only rows that stay are ever made: the whole product of all labels may not fit in memory."""
    import pandas as pd

    dims = [str(dim) for dim in values[0].dims]
    rows = np.nonzero(np.logical_or.reduce(meant)) if dims else ()
    columns: dict[str, Any] = {}
    for dim, at in zip(dims, rows, strict=True):
        labels = ds[dim].values if dim in ds.coords else np.arange(ds.sizes[dim])
        columns[dim] = labels[at]
        if dim in _NAMED and _NAMED[dim] in ds.coords:
            columns[f"{dim}_name"] = ds[_NAMED[dim]].values[at]
    for one, own in zip(values, meant, strict=True):
        columns[str(one.name)] = one.values[rows] if own[rows].all() else np.where(own[rows], one.values[rows], np.nan)
    found = pd.DataFrame(columns, index=None if dims else [0])
    found.attrs = {str(one.name): {k: one.attrs.get(k, "") for k in ("long_name", "units")} for one in values}
    return found


def measures(ds: xr.Dataset) -> list[str]:
    """The variables of a table of everything: numbers along labels only, not along channels, samples or weights."""
    return [str(n) for n, v in ds.data_vars.items() if set(map(str, v.dims)) <= {*_LABELS} and v.dtype.kind in "biuf"]


def long(result: xr.Dataset, names: Sequence[str] = ()) -> pd.DataFrame:
    """Variables below one another, by default all `measures`: variable, every label that any of them has (empty where a
    variable does not), value and units. Raises FedmiError as `tidy`."""
    import pandas as pd

    parts = []
    for name in names or measures(result):
        part = tidy(result, name)
        value_units, value = part.attrs[name]["units"], part.pop(name)
        part.insert(0, "variable", name)
        whole = value.astype(int) if value.dtype.kind == "b" else value
        parts.append(part.assign(value=whole.astype(object), units=value_units))
    table = pd.concat(parts, ignore_index=True)
    labels = sorted((name for name in table.columns if name not in ("variable", "value", "units")), key=_place)
    numbered = {name: "Int64" for name in labels if pd.api.types.is_numeric_dtype(table[name])}
    return table.reindex(columns=["variable", *labels, "value", "units"]).astype(numbered)


def _place(label: str) -> int:
    """Of a column; the name of a class stands behind its number."""
    known = [name for label in _LABELS for name in (label, f"{label}_name")]
    return known.index(label) if label in known else len(known)


def write_csv(results: Mapping[str, xr.Dataset], path: Path, names: Sequence[str] = ()) -> Path:
    """`long` of these runs in one file, the run's name in a first column. Raises FedmiError where it cannot be
    written."""
    import pandas as pd

    parts = [long(ds, names) for ds in results.values()]
    for run, part in zip(results, parts, strict=True):
        part.insert(0, "run", run)
    table = pd.concat(parts, ignore_index=True)
    labels = [name for name in table.columns if name not in ("value", "units")]
    packed = "gzip" if path.suffix == ".gz" else None
    with replacing(path) as temporary:
        table[[*labels, "value", "units"]].to_csv(temporary, index=False, compression=packed, lineterminator="\n")
    return path

"""Controls that train nothing: what can be put together once from the models of FedAvg's last round and the circuits
that the paper's search found in them.

A cascade is one model made of circuits (`fedmi_jax.studies.cascade`); an ensemble lets every circuit speak for its
class (`fedmi_jax.studies.ensemble`). Beside each stands the same of random circuits of the same sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

import fedmi_jax
from fedmi_jax.studies.tidy import Row

if TYPE_CHECKING:
    from fedmi_jax.data.datasets import Dataset

STUDIES = {
    "cascade": {"held accuracy": "class_accuracy", "among held": "held_accuracy"},
    "ensemble": {"among held": "accuracy"},
}
"""Row of the table -> its measures -> what the study of the row's name calls them. An ensemble has no answers but its
circuits' classes, so no accuracy among all ten."""
RANDOM = "random circuits"
"""Second half of a null's name."""
NULLS = 20
"""Random circuits in place of each one."""


def of(result: xr.Dataset, dataset: Dataset | None = None) -> xr.Dataset:
    """The result's last round, without weights, with `one_shot` (seed, round, control, number): everything in `STUDIES`
    and its null. NaN where a held class has no circuit, for then a control could not know it.

    dataset: the images, where the run was made of images of one's own.
    """
    last = result.isel(round=[-1])
    asked = STUDIES if _all_have_circuits(last) else {}
    found = {study: _numbers(study, result, dataset) for study in asked}
    measures = dict.fromkeys(measure for of in STUDIES.values() for measure in of)
    names = [name for measure in measures for name in (measure, f"{measure}, {RANDOM}")]
    made = np.full((last.sizes["seed"], 1, len(STUDIES), len(names)), np.nan)
    for i, study in enumerate(STUDIES):
        for j, name in enumerate(names):
            made[:, 0, i, j] = found.get(study, {}).get(name, np.nan)
    rest = last.drop_vars([name for name in last.data_vars if str(name).startswith("weights_")])
    one_shot = xr.DataArray(made, {"control": list(STUDIES), "number": names}, ("seed", "round", "control", "number"))
    return rest.assign(one_shot=one_shot)


def _all_have_circuits(last: xr.Dataset) -> bool:
    held = (last["samples"] > 0).any(("seed", "client"))
    return set(held["true_class"].values[held.values]) <= set(last["class"].values.tolist())


def _numbers(study: str, result: xr.Dataset, dataset: Dataset | None) -> dict[str, list[float]]:
    """Of each seed."""
    rows = fedmi_jax.study(study, result, rounds="last", nulls=NULLS, dataset=dataset).rows
    found: dict[str, list[float]] = {}
    for measure, name in STUDIES[study].items():
        each = [[row for row in rows if (row.seed, row.measure) == (seed, name)] for seed in result["seed"].values]
        found[measure] = [float(np.mean([row.value for row in own])) for own in each]
        found[f"{measure}, {RANDOM}"] = [float(np.mean(_nulls(own))) for own in each]
    return found


def _nulls(rows: Sequence[Row]) -> list[np.ndarray]:
    return [row.null for row in rows if row.null is not None]

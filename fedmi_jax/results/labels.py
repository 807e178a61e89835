"""Whose circuits are in a result, and what its classes are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import xarray as xr

from fedmi_jax.errors import printable


def held(ds: xr.Dataset) -> xr.DataArray:
    """Which circuits there are, bool (seed, round, client, class): the client analyses the class and takes part in the
    round."""
    everyone = xr.ones_like(ds["round"], dtype=bool)
    there = ds["analysed"].astype(bool) & (ds["participates"].astype(bool) if "participates" in ds else everyone)
    return there.transpose("seed", "round", "client", "class")


def class_names(ds: xr.Dataset, dim: str = "class") -> dict[int, str]:
    """Of classes by label, as the data set names them; with the label before each where several have one name.

    dim: "class" or "true_class".
    """
    labels, names = ds[dim].values.tolist(), [printable(str(name)) for name in ds[f"{dim}_name"].values]
    return dict(zip(labels, told_apart(names, labels), strict=True))


def told_apart(names: Sequence[str], labels: Iterable[int]) -> list[str]:
    """The names; each with its label before it where several are the same."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{label}: {name}" for label, name in zip(labels, names, strict=True)]

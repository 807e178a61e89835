"""A result on disk: one netCDF4 file that appears whole or not at all and ends in its checksum."""

from __future__ import annotations

import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import xarray as xr

from fedmi_jax.config import Experiment, from_json, to_json
from fedmi_jax.data import identity
from fedmi_jax.data.identity import MNIST, ImageSet
from fedmi_jax.errors import FedmiError
from fedmi_jax.files import replacing, seal, sealed, user_path
from fedmi_jax.results import schema
from fedmi_jax.results.schema import SCHEMA_VERSION

FILE = "result.nc"
_PACKAGES = ("fedmi-jax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "xarray", "h5netcdf")


def stamp(
    ds: xr.Dataset, experiment: Experiment | None = None, name: str | None = None, dataset: ImageSet | None = None
) -> xr.Dataset:
    """`ds` with the attributes that every result carries, and those of its variables (`schema.described`).

    name: of the run, by default the experiment's; dataset: the images that it was made of.
    """
    found = versions()
    attrs: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created_by": f"fedmi_jax {found.get('fedmi-jax', '')}".strip(),
        "name": name or (experiment.name if experiment else "custom"),
        "versions": json.dumps(found),
    }
    if experiment is not None:
        attrs["config"] = to_json(experiment)
    if dataset is not None:
        attrs["dataset"] = json.dumps(identity.to_values(dataset))
    return schema.described(ds).assign_attrs(attrs)


def images(ds: xr.Dataset) -> ImageSet | None:
    """The images that a result was made of; None for an imported file, which does not know them.

    Files from before this was recorded are taken for what their configuration says.
    """
    if "dataset" in ds.attrs:
        return identity.from_json(str(ds.attrs["dataset"]))
    if "config" not in ds.attrs:
        return None
    name = from_json(ds.attrs["config"]).data.name
    return MNIST if name == MNIST.name else ImageSet(name)


def save(ds: xr.Dataset, folder: str | Path) -> Path:
    """Write `ds` as `folder`/result.nc, compressed, and return that path.

    The file appears whole or not at all, ends in its checksum, and replaces one that is there (`refuse_taken` guards
    another run's folder).
    Raises FedmiError when it cannot be written.
    """
    path = user_path(folder) / FILE
    packed = {str(name): {"zlib": True, "complevel": 4} for name, v in ds.variables.items() if v.dtype.kind in "biuf"}
    encoding = {name: how for name, how in packed.items() if ds[name].ndim}
    # In memory, for on a full disk HDF5 ends the process; and a copy, for xarray's own buffer complains when it is
    # collected while a traceback still looks at it.
    content = bytes(ds.to_netcdf(engine="h5netcdf", encoding=encoding))
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        seal(temporary)
    return path


def load(path: str | Path) -> xr.Dataset:
    """The result in a run folder, or in a file, fully in memory.

    Raises FedmiError, naming the file, when it is missing, truncated, changed since it was written, not netCDF4, or not
    a result of this project.
    """
    path = user_path(path)
    path = path / FILE if path.is_dir() else path
    if not path.is_file():
        raise FedmiError(f"{path}: no such result; give a run folder that holds {FILE}, or the file")
    _require_whole(path)
    try:
        ds = xr.load_dataset(path, engine="h5netcdf")
    except MemoryError:
        raise
    except Exception as error:  # on damaged files HDF5 and what reads it raise nearly anything
        raise FedmiError(f"{path}: damaged or not a netCDF4 file ({' '.join(str(error).split())[:120]})") from None
    if "schema_version" not in ds.attrs or schema.lacking(ds):
        raise FedmiError(f"{path}: a netCDF4 file, but not a result of fedmi_jax")
    version = str(ds.attrs["schema_version"])
    if not version.isdecimal() or int(version) > SCHEMA_VERSION:
        raise FedmiError(f"{path}: schema {version} is newer than this fedmi_jax reads ({SCHEMA_VERSION})")
    try:
        if "config" in ds.attrs:
            from_json(ds.attrs["config"])
    except FedmiError as error:
        raise FedmiError(f"{path}: its configuration is not one that this fedmi_jax reads ({error})") from None
    try:
        images(ds)
    except FedmiError as error:
        raise FedmiError(f"{path}: what it says of its images is not what this fedmi_jax reads ({error})") from None
    return ds


def _require_whole(path: Path) -> None:
    """Raise FedmiError unless the file ends in its checksum; before HDF5 sees a byte."""
    try:
        whole = sealed(path)
    except OSError as error:
        raise FedmiError(f"{path}: cannot be read: {error.strerror or error}") from None
    if not whole:
        how = "missing" if whole is None else "another"
        raise FedmiError(
            f"{path}: no result of fedmi_jax, cut off, or changed since it was written (its checksum is {how})"
        )


def refuse_taken(folder: str | Path) -> None:
    """Raise FedmiError when `folder` already holds a result, or is a file."""
    if (Path(folder) / FILE).exists():
        raise FedmiError(f"{folder}: already holds a result ({FILE}); choose another folder")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise FedmiError(f"{folder}: is a file; choose a folder")


def versions() -> dict[str, str]:
    """Of Python and the packages that decide a result's numbers and its file."""
    return {"python": platform.python_version(), **{p: v for p in _PACKAGES if (v := _version(p))}}


@cache
def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # run from a checkout, or an optional package
        return None

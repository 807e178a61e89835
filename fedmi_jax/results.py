"""A result: labelled arrays, one netCDF4 file `result.nc` per run, from which every table and figure can be drawn again.

The result *is* an `xarray.Dataset`; any netCDF reader opens the file. Not every variable is in every result: an
imported file of the authors has no scores, softmax, global accuracy or linear-layer connectivity.

| dimension | labels |
|---|---|
| seed | the experiment's seeds |
| round | 1 ... R |
| origin | "local", "global": circuits found on the client's local model / on the global model with its data |
| client | 0 ... K-1 |
| class, other_class | labels analysed by any client; coordinate class_name(class), as "0 - zero" |
| true_class | every label of the data set; coordinate true_class_name |
| layer, parameter_layer | conv1 conv2 conv3, and with fc |
| channel_conv1, channel_conv2, channel_conv3, image_channel | channel numbers |
| sample | which of the random masks (`evaluation.null_samples`) |

In the next table CIRCUIT stands for (seed, round, origin, client, class). Shares, accuracies and IoUs are fractions in
[0, 1], drift_gap in [-1, 1]; floats are NaN, booleans False and counts 0 where a client does not analyse the class or
does not take part in the round.

| variable | dimensions | meaning |
|---|---|---|
| analysed | seed, client, class | bool: does the client analyse the class |
| participates | seed, round, client | bool: does the client take part in the round; absent: all do |
| samples | seed, client, true_class | int: training images |
| mask_convN | CIRCUIT, channel_convN | bool: channels of the circuit |
| score_convN | CIRCUIT, channel_convN | final gate score; the circuit is score > 0 |
| size | CIRCUIT, layer | int: channels of the circuit |
| edges | CIRCUIT, layer | int: edges of its functional connectivity |
| degenerate | CIRCUIT | bool: some layer has no channel, so the output cannot depend on the image |
| sufficiency | CIRCUIT | accuracy on the class with only the circuit kept |
| necessity | CIRCUIT | accuracy on the class with exactly the circuit removed |
| cross_evaluation | CIRCUIT | accuracy of the mask on the other model: of a local circuit on the global model (the paper's), of a global circuit on the client's local model |
| cross_evaluation_softmax | CIRCUIT | of the same, mean softmax of the class over all its images |
| cross_evaluation_false_positive_rate, cross_evaluation_balanced_accuracy | CIRCUIT | of the same, as below |
| cross_evaluation_call_rate | CIRCUIT, true_class | of the same, as below |
| failure_softmax | CIRCUIT, true_class | of the same, mean softmax over the images it gets wrong |
| drift_gap | CIRCUIT | sufficiency of the client's circuit found on the other model, minus cross_evaluation |
| false_positive_rate | CIRCUIT | share of images of other classes that the masked model calls the class |
| balanced_accuracy | CIRCUIT | one-vs-rest: mean of sufficiency and 1 - false_positive_rate |
| call_rate | CIRCUIT, true_class | share of the images of each class that the masked model calls the class |
| target_softmax | CIRCUIT | mean softmax of the class over its images with only the circuit kept |
| empty_mask_accuracy, empty_mask_softmax | CIRCUIT | control: no channel kept, so biases alone decide |
| random_sufficiency, random_necessity, random_cross_evaluation | CIRCUIT, sample | on request: the same of random masks with as many channels per layer as the circuit |
| rediscovery_iou, empty_pairs_rediscovery | CIRCUIT, layer | on request (`discovery.repeat`): IoU with the circuit found again on the same weights from other batches; whether both are empty |
| aligned_local_global_iou, aligned_specialist_distinctness, moved | see `fedmi_jax.analysis.alignment.aligned` | where `fedmi_jax.analysis.compact` put them in place of the weights |
| strength_local_convN, strength_global_convN | as connected_local_convN ... | there too: uint8, norm of each edge's kernel, 255 for the layer's largest |
| inter_client_iou, stability_iou, ..., empty_pairs_* | see `fedmi_jax.circuits.similarity.measures` | similarity |
| global_accuracy, global_class_accuracy | seed, round; and true_class | full global model |
| local_accuracy, local_class_accuracy, train_loss | seed, round, client; and true_class | full local model; mean loss of the round |
| weights_local_X, weights_global_X | seed, round, (client,) and X's own | on request: every parameter |
| realised_sparsity_local, realised_sparsity_global | seed, round, (client,) parameter_layer | share of zero weights |
| connected_local_L, connected_global_L | seed, round, (client,) destination, source | bool: physical connectivity of layer L |

Attributes: schema_version, created_by, name, config (JSON, `fedmi_jax.config.from_json`; absent when unknown),
versions (JSON, of Python and the packages). The file ends in its checksum (`fedmi_jax.files`).
"""  # noqa: E501

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table

from fedmi_jax.circuits.similarity import LAYERS, MEASURES, held
from fedmi_jax.config import Experiment, FedmiError, from_json, printable, to_json
from fedmi_jax.files import replacing, seal, sealed

FILE = "result.nc"
SCHEMA_VERSION = 2
ORIGINS = ("local", "global")
_PACKAGES = ("fedmi-jax", "jax", "jaxlib", "flax", "optax", "numpy", "xarray", "h5netcdf")
_REQUIRED = ("analysed", *(f"mask_{layer}" for layer in LAYERS))


# --- on disk --------------------------------------------------------------------------------------------------------


def stamp(ds: xr.Dataset, experiment: Experiment | None = None, name: str | None = None) -> xr.Dataset:
    """`ds` with the attributes every result carries. name: of the run, by default the experiment's."""
    found = versions()
    attrs: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "created_by": f"fedmi_jax {found.get('fedmi-jax', '')}".strip(),
        "name": name or (experiment.name if experiment else "custom"),
        "versions": json.dumps(found),
    }
    if experiment is not None:
        attrs["config"] = to_json(experiment)
    return ds.assign_attrs(attrs)


def save(ds: xr.Dataset, folder: str | Path) -> Path:
    """Write `ds` as `folder`/result.nc, compressed, and return that path.

    The file appears whole or not at all, ends in its checksum, and replaces one that is there (`refuse_taken` guards
    another run's folder).
    Raises FedmiError when it cannot be written.
    """
    path = Path(folder) / FILE
    packed = {str(name): {"zlib": True, "complevel": 4} for name, v in ds.variables.items() if v.dtype.kind in "biuf"}
    encoding = {name: how for name, how in packed.items() if ds[name].ndim}
    content = ds.to_netcdf(engine="h5netcdf", encoding=encoding)  # in memory: on a full disk HDF5 ends the process
    with replacing(path) as temporary:
        temporary.write_bytes(content)
        seal(temporary)
    return path


def load(path: str | Path) -> xr.Dataset:
    """The result in a run folder, or in a file, fully in memory.

    Raises FedmiError, naming the file, when it is missing, truncated, changed since it was written, not netCDF4, or not
    a result of this project.
    """
    path = Path(path)
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
    if "schema_version" not in ds.attrs or any(name not in ds for name in _REQUIRED):
        raise FedmiError(f"{path}: a netCDF4 file, but not a result of fedmi_jax")
    schema = str(ds.attrs["schema_version"])
    if not schema.isdecimal() or int(schema) > SCHEMA_VERSION:
        raise FedmiError(f"{path}: schema {schema} is newer than this fedmi_jax reads ({SCHEMA_VERSION})")
    try:
        if "config" in ds.attrs:
            from_json(ds.attrs["config"])
    except FedmiError as error:
        raise FedmiError(f"{path}: its configuration is not one that this fedmi_jax reads ({error})") from None
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


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:  # run from a checkout, or an optional package
        return None


# --- in short -------------------------------------------------------------------------------------------------------


def summary(ds: xr.Dataset) -> dict[str, Any]:
    """The result in short, as JSON values; fractions, not percentages; None where there is nothing to average.

    Every figure is of the last round, the mean over seeds (and over what else it has), except cross_evaluation.mean.
    The entries of `_AVERAGES` are there only when the result has the variable.

    - name, seeds, rounds (how many), clients (how many), classes (names)
    - cross_evaluation: of local circuits on the global model: mean (all rounds), last_round,
      per_client_and_class {"0": {"0 - zero": ...}}; degenerate {"0": ["0 - zero"]}, of which circuits at least half of
      the seeds' are degenerate
    - degenerate_share {origin}: circuits with an empty layer
    - global_accuracy
    - circuit_size {origin: {layer}}: mean number of channels
    - specialist_distinctness, inter_client_iou, stability_iou, inter_class_iou, class_pair_iou {origin: {layer}},
      local_global_iou {layer}: similarity, class_pair_iou over different classes only
    - empty_pairs: share of pairs that were both empty, per measure of similarity, in the same shape
    - sufficiency, necessity, false_positive_rate, balanced_accuracy, target_softmax, drift_gap,
      cross_evaluation_{softmax,false_positive_rate,balanced_accuracy}, empty_mask_* {origin}
    - realised_sparsity {origin: {layer}}
    """
    last, there = ds.isel(round=-1), held(ds).isel(round=-1)
    found: dict[str, Any] = {
        "name": str(ds.attrs.get("name", "custom")),
        "seeds": [int(seed) for seed in ds["seed"].values],
        "rounds": ds.sizes["round"],
        "clients": ds.sizes["client"],
        "classes": [str(name) for name in ds["class_name"].values],
        "cross_evaluation": _cross_evaluation(ds),
        "degenerate_share": _by(last["degenerate"].where(there), "origin"),
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
    return found


_AVERAGES = (
    "sufficiency", "necessity", "false_positive_rate", "balanced_accuracy", "target_softmax", "drift_gap",
    "cross_evaluation_softmax", "cross_evaluation_false_positive_rate", "cross_evaluation_balanced_accuracy",
    "empty_mask_accuracy", "empty_mask_softmax",
)  # fmt: skip


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
    names, clients = ds["class_name"].values.tolist(), ds["client"].values.tolist()
    per_client = {
        str(client): {
            names[j]: None if np.isnan(values[i, j]) else float(values[i, j]) for j in np.flatnonzero(there[i])
        }
        for i, client in enumerate(clients)
        if there[i].any()
    }
    empty = ds["degenerate"].sel(origin="local").isel(round=-1).where(held(ds).isel(round=-1)).mean("seed")
    flagged = empty.transpose("client", "class").values >= 0.5
    degenerate = {str(k): [names[j] for j in np.flatnonzero(flagged[i])] for i, k in enumerate(clients)}
    return {
        "mean": _mean(local),
        "last_round": _mean(last),
        "per_client_and_class": per_client,
        "degenerate": {client: classes for client, classes in degenerate.items() if classes},
    }


def render(short: dict[str, Any]) -> Group:
    """A `summary` as tables for the terminal; shares in percent there."""
    title = f"{shown(short['name'])}: {short['rounds']} rounds, {short['clients']} clients, seeds {short['seeds']}"
    return Group(_figures(short, title), _similarity_table(short), *_cross_table(short["cross_evaluation"]))


def shown(name: str) -> str:
    """A name out of a file, as itself in a terminal: neither markup nor control characters."""
    return escape(printable(name))


def print_summary(short: dict[str, Any], console: Console | None = None) -> None:
    """Print a `summary` as tables."""
    (console or Console()).print(render(short))


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


_OTHER = (
    "cross evaluation: a local circuit's mask on the global model, and the reverse; drift gap: what the circuit found "
    "on that model reaches beyond it"
)


def _figures(short: dict[str, Any], title: str) -> Table:
    """What has one figure per origin."""
    table = Table(
        "last round", "local circuits", "global circuits", title=title, title_justify="left", caption=_OTHER,
        caption_justify="left",
    )  # fmt: skip
    table.add_row("global model: accuracy", "", _percent(short["global_accuracy"]))
    for name in ("degenerate_share", *_AVERAGES):
        if name in short:
            table.add_row(name.replace("_", " "), *(_percent(short[name].get(origin)) for origin in ORIGINS))
    sizes = [short["circuit_size"].get(origin, {}).values() for origin in ORIGINS]
    cells = [" / ".join("-" if v is None else f"{v:.1f}" for v in layers) for layers in sizes]
    table.add_row("channels, conv1 / conv2 / conv3", *cells)
    return table


def _similarity_table(short: dict[str, Any]) -> Table:
    """IoU per layer; beside it the share of pairs that were both empty, which count as 1.0."""
    table = Table("IoU, last round", "circuits", *LAYERS, "both empty, %", title_justify="left")
    for name in MEASURES:
        by_origin, shares = short.get(name, {}), short["empty_pairs"].get(name, {})
        if name == "local_global_iou":
            by_origin, shares = {"both": by_origin}, {"both": shares}
        for origin, layers in by_origin.items():
            if any(value is not None for value in layers.values()):
                cells = (_ratio(layers.get(layer)) for layer in LAYERS)
                empty = " / ".join(f"{100 * (share or 0):.0f}" for share in shares.get(origin, {}).values())
                table.add_row(name.removesuffix("_iou").replace("_", " "), origin, *cells, empty)
    return table


_SHOWN_CLIENTS = 20


def _cross_table(cross: dict[str, Any]) -> list[Table | str]:
    """Local circuits on the global model: one row per client, as long as that is readable."""
    if not cross:
        return []
    mean, last = _percent(cross["mean"]), _percent(cross["last_round"])
    line = f"cross-evaluation of local circuits on the global model: {mean} over all rounds, {last} in the last"
    clients = cross["per_client_and_class"]
    if len(clients) > _SHOWN_CLIENTS:
        return [line]
    marked = {client: set(classes) for client, classes in cross["degenerate"].items()}
    caption = "○ degenerate: no channel in some layer, so the answer cannot depend on the image" if marked else None
    table = Table("client", "cross-evaluation per class, last round", caption=caption, caption_justify="left")
    for client, classes in clients.items():
        cells = (
            f"{shown(name)}: {_percent(value)}{' ○' if name in marked.get(client, ()) else ''}"
            for name, value in classes.items()
        )
        table.add_row(client, "   ".join(cells))
    return [line, table]

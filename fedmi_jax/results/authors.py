"""The authors' results files: reading them as a result of this project, and writing a result as one of theirs.

Their JSON, one file per run and seed (github ha405/FedMI): "round_N" -> "clients_local_model" | "clients_global_model"
-> "client_K" -> "C - name" -> active_nodes {layer: channels}, connectivity {layer: {destination: sources}} (the
circuit's functional connectivity; destinations without an edge are not listed; fc has none) and metrics in percent:
accuracy (sufficiency), necessity and, under the global model, local_mask_on_global_weights_acc (cross-evaluation of the
*local* circuit).

What such a file lacks, the imported result lacks: scores, softmax, controls, accuracy of the models, sparsity. All
circuits of one model share its weights, so the union of their edges is kept as that model's connectivity: an edge that
lies within another circuit of the model is in that circuit's list too, hence each circuit gets back exactly its own.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fedmi_jax.config import Model
from fedmi_jax.errors import FedmiError
from fedmi_jax.files import replacing, user_path
from fedmi_jax.network.layers import conv_names
from fedmi_jax.results.authors_file import (
    IMAGE_CHANNELS,
    Circuit,
    Tree,
    final_number,
    models,
    parse,
    places,
    require_network,
)
from fedmi_jax.results.connectivity import connected, edges, functional
from fedmi_jax.results.schema import CIRCUIT_DIMS, ORIGINS, conv_layers, variables
from fedmi_jax.results.similarity import measures, sizes
from fedmi_jax.results.store import stamp

MAX_PLACES = 10_000
"""Clients times classes; the similarity of every two classes grows with its square."""

CLASS_NAMES = {
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
    "cifar10": ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
}  # fmt: skip
"""Class names without a number in the authors' files (torchvision's), by label."""

_METRICS = {
    "sufficiency": ("accuracy", ORIGINS),
    "necessity": ("necessity", ORIGINS),
    "cross_evaluation": ("local_mask_on_global_weights_acc", ("global",)),  # stored with origin "local": its circuit's
}


# --- reading --------------------------------------------------------------------------------------------------------


def import_authors(
    path: str | Path, class_names: Sequence[str] | None = None, channels: Sequence[int] | None = None
) -> xr.Dataset:
    """A results file of the authors (.json or .json.gz) as a result, with every measure of similarity.

    class_names: the data set's class names by label, needed only when the file's names carry no number ("0 - zero")
    and are not those of a data set in `CLASS_NAMES`. channels: of each convolution of the file's network, which the
    file does not say (only channels of circuits are in it); None: the paper's, 32, 64 and 128.

    Metrics become fractions, in float64; `export_authors` finds the file's exact percentages again. Raises FedmiError,
    in one line with the file and the place in it, when the file is missing, truncated, larger than MAX_BYTES, no JSON,
    not of the authors' schema, of another network than one of these channels, or contradicts itself.
    """
    path = user_path(path)
    tree = parse(path)
    widths = Model().channels if channels is None else tuple(channels)
    require_network(path, tree, widths)
    labels = _labels(path, _common_classes(path, tree), class_names)
    _require_few(path, tree, labels)
    ds = _empty(tree, labels, widths)
    for index, circuit in _circuits(tree, ds, labels):
        _fill(ds, index, circuit)
    ds["drift_gap"] = _drift_gap(ds)
    ds = edges(sizes(ds))
    _check_edges(path, tree, ds, labels)
    return stamp(measures(ds), name=re.sub(r"\.json(\.gz)?$", "", path.name))


def _common_classes(path: Path, tree: Tree) -> set[str]:
    """The names of all classes. Every round and model must analyse the same ones, client by client."""
    first, expected = "", None
    for key, origin, clients in models(tree):
        place = f"{key}.clients_{ORIGINS[origin]}_model"
        held = {client: set(classes) for client, classes in clients.items()}
        if expected is None:
            first, expected = place, held
        if held != expected:
            client = min(c for c in held.keys() | expected if held.get(c) != expected.get(c))
            raise FedmiError(
                f"{path}: {place}.{client}: other classes than in {first}; they must be the same throughout"
            )
    names = set().union(*(expected or {}).values())
    if not names:
        raise FedmiError(f"{path}: {first}: no client has a circuit")
    return names


def _labels(path: Path, names: set[str], class_names: Sequence[str] | None) -> dict[str, int]:
    """The label of every class name: the number it starts with, or else its place in a list of names."""
    labels = {name: _label(name, [class_names] if class_names else [*CLASS_NAMES.values()]) for name in names}
    for name, label in labels.items():
        if label is None:
            raise FedmiError(f'{path}: class "{name}": expected "C - name", or give the data set\'s class names')
    found = {name: label for name, label in labels.items() if label is not None}
    if len(set(found.values())) < len(found):
        raise FedmiError(f"{path}: two names for one class among {sorted(found)}")
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _label(name: str, lists: Sequence[Sequence[str]]) -> int | None:
    numbered = re.match(r"(\d{1,6})( - |$)", name)
    if numbered:
        return int(numbered[1])
    return next((list(names).index(name) for names in lists if name in names), None)


def _require_few(path: Path, tree: Tree, labels: dict[str, int]) -> None:
    _, _, clients = next(models(tree))
    if len(clients) * len(labels) > MAX_PLACES:
        raise FedmiError(
            f"{path}: {len(clients)} clients and {len(labels)} classes; at most {MAX_PLACES} places are read"
        )


def _empty(tree: Tree, labels: dict[str, int], channels: tuple[int, ...]) -> xr.Dataset:
    """The result with every place for a circuit, none filled."""
    rounds = sorted(map(final_number, tree))
    _, _, clients = next(models(tree))
    layers = conv_names(len(channels))
    counts = {f"channel_{layer}": n for layer, n in zip(layers, channels, strict=True)}
    counts["image_channel"] = _image_channels(tree)
    coords = {"seed": [0], "round": rounds, "origin": list(ORIGINS), "client": sorted(map(final_number, clients))}
    coords |= {"class": list(labels.values())} | {dim: range(n) for dim, n in counts.items()}
    size = {dim: len(values) for dim, values in coords.items()}
    rows = variables(layers)
    wires = (f"connected_{origin}_{layer}" for layer in layers for origin in ORIGINS)
    names = (*(f"mask_{layer}" for layer in layers), *wires, "analysed", *_METRICS)
    data = {k: (rows[k].dims, np.full([size[d] for d in rows[k].dims], rows[k].fill)) for k in names}
    return xr.Dataset(data, coords={**coords, "class_name": ("class", list(labels))})


def _image_channels(tree: Tree) -> int:
    """1, or 3 when an edge starts from a channel that a grey image has not."""
    used = (source for _, circuit in places(tree) for sources in circuit.edges("conv1").values() for source in sources)
    return next(n for n in IMAGE_CHANNELS if n > max(used, default=0))


_Index = tuple[int, int, int, int]  # round, origin, client, class


def _circuits(tree: Tree, ds: xr.Dataset, labels: dict[str, int]) -> Iterator[tuple[_Index, Circuit]]:
    """Every circuit with its place in the arrays."""
    where = {name: i for i, name in enumerate(labels)}
    clients_at = {f"client_{k}": i for i, k in enumerate(ds["client"].values)}
    for i, (_, origin, clients) in enumerate(models(tree)):
        for client, classes in clients.items():
            for name, circuit in classes.items():
                yield (i // 2, origin, clients_at[client], where[name]), circuit


def _fill(ds: xr.Dataset, index: _Index, circuit: Circuit) -> None:
    """Enter one circuit into the arrays."""
    r, origin, client, _ = index
    ds["analysed"].values[0, *index[2:]] = True
    model = (0, r, client) if origin == 0 else (0, r)
    for layer, nodes in circuit.active_nodes.items():
        ds[f"mask_{layer}"].values[0, *index][nodes] = True
        wires = ds[f"connected_{ORIGINS[origin]}_{layer}"].values[model]
        for destination, sources in circuit.edges(layer).items():
            wires[destination, sources] = True
    for name, (key, origins) in _METRICS.items():
        percent = getattr(circuit.metrics, key)
        if percent is not None and ORIGINS[origin] in origins:
            at = 0 if name == "cross_evaluation" else origin
            ds[name].values[0, r, at, *index[2:]] = percent / 100


def _drift_gap(ds: xr.Dataset) -> xr.DataArray:
    """Sufficiency of the circuit found on the other model, minus cross-evaluation there."""
    swapped = ds["sufficiency"].isel(origin=[1, 0]).assign_coords(origin=list(ORIGINS))
    return swapped - ds["cross_evaluation"]


def _check_edges(path: Path, tree: Tree, ds: xr.Dataset, labels: dict[str, int]) -> None:
    """Raise FedmiError unless every circuit's own edges are exactly those its model's union leaves it."""
    counts, names = ds["edges"].values, list(labels)
    for index, circuit in _circuits(tree, ds, labels):
        for i, layer in enumerate(conv_layers(ds)):
            listed = {(d, s) for d, sources in circuit.edges(layer).items() for s in sources}
            if len(listed) != counts[0, *index, i] or not _inside(listed, circuit, i + 1):
                r, origin, client, label = index
                model = f"round_{ds['round'].values[r]}.clients_{ORIGINS[origin]}_model"
                place = f"{model}.client_{ds['client'].values[client]}.{names[label]}.connectivity.{layer}"
                raise FedmiError(
                    f"{path}: {place}: must be the edges between the circuit's channels, and agree with the other "
                    "circuits of the same model"
                )


def _inside(listed: set[tuple[int, int]], circuit: Circuit, number: int) -> bool:
    """Do all edges of this convolution, 1 for the first, run between channels of the circuit?"""
    destinations = set(circuit.active_nodes[f"conv{number}"])
    sources = {s for _, s in listed} if number == 1 else set(circuit.active_nodes[f"conv{number - 1}"])
    return all(d in destinations and s in sources for d, s in listed)


# --- writing --------------------------------------------------------------------------------------------------------


def export_authors(ds: xr.Dataset, path: str | Path, seed: int | None = None) -> Path:
    """Write one seed of a result as the authors' JSON, gzip-compressed when the name ends in .gz; return the path.

    seed: which; None: the only one. The functional connectivity follows from the physical one and the masks; metrics
    are percentages, left out where they are NaN. What the schema has no place for is lost. The file appears whole or
    not at all. Raises FedmiError for a name that ends in neither .json nor .json.gz, when the seed is not in the
    result, when the result has no connectivity, and when the file cannot be written.
    """
    path = user_path(path)
    if not path.name.endswith((".json", ".json.gz")):
        raise FedmiError(f"{path}: the export is JSON; give a name that ends in .json or in .json.gz")
    text = json.dumps(_tree(_one_seed(ds, seed)), indent=2).encode()
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)
    return path


def _one_seed(ds: xr.Dataset, seed: int | None) -> xr.Dataset:
    """`ds` without its seed axis."""
    seeds = ds["seed"].values.tolist()
    if seed is None and len(seeds) > 1:
        raise FedmiError(f"seed: the result holds {seeds}; say which one to export")
    seed = seeds[0] if seed is None else seed
    if seed not in seeds:
        raise FedmiError(f"seed: {seed} is not in the result, which holds {seeds}")
    if "participates" in ds and not ds["participates"].all():
        raise FedmiError("participates: some clients sat out rounds; the authors' schema has every client in every one")
    missing = [name for layer in conv_layers(ds) for o in ORIGINS if (name := f"connected_{o}_{layer}") not in ds]
    if missing:
        raise FedmiError(f"{missing[0]}: not in the result; the authors' schema needs the models' connectivity")
    return ds.sel(seed=[seed])


def _tree(ds: xr.Dataset) -> dict[str, Any]:
    """The whole file as nested dicts."""
    layers = conv_layers(ds)
    arrays = {name: ds[name].transpose(*CIRCUIT_DIMS, ...).values for name in _METRICS if name in ds}
    arrays |= {layer: ds[f"mask_{layer}"].transpose(*CIRCUIT_DIMS, ...).values.astype(bool) for layer in layers}
    wires = {(o, layer): connected(ds, o, layer).values.astype(bool) for o in ORIGINS for layer in layers}
    held, clients = ds["analysed"].transpose("seed", "client", "class").values[0], ds["client"].values
    rows = ds["origin"].values.tolist()
    names = _names(ds)
    tree: dict[str, Any] = {}
    for r, number in enumerate(ds["round"].values):
        for origin in ORIGINS:
            model = tree.setdefault(f"round_{number}", {}).setdefault(f"clients_{origin}_model", {})
            for k, client in enumerate(clients):
                found = model.setdefault(f"client_{client}", {})
                for c in np.flatnonzero(held[k]):
                    own = {layer: wires[origin, layer][(0, r, k) if origin == "local" else (0, r)] for layer in layers}
                    values = {name: array[0, r, :, k, c] for name, array in arrays.items()}
                    found[names[c]] = _record(values, own, origin, rows)
    return tree


def _names(ds: xr.Dataset) -> list[str]:
    """The classes' names, with the label in front where nothing else would tell it."""
    pairs = zip(ds["class"].values.tolist(), ds["class_name"].values.tolist(), strict=True)
    return [name if _label(name, [*CLASS_NAMES.values()]) == label else f"{label} - {name}" for label, name in pairs]


def _record(values: dict[str, np.ndarray], wires: dict[str, np.ndarray], origin: str, rows: list[str]) -> dict:
    """One circuit in their schema. values: of every array, the circuit's entries for each origin in `rows`."""
    masks = {layer: values[layer][rows.index(origin)] for layer in wires}
    before = zip(wires, [None, *masks.values()], strict=False)  # nothing starts from the last one
    links = {layer: _listed(functional(wires[layer], masks[layer], ends)) for layer, ends in before}
    metrics = {}
    for name, (key, origins) in _METRICS.items():
        if name in values and origin in origins:
            value = values[name][rows.index("local" if name == "cross_evaluation" else origin)]
            if not np.isnan(value):
                metrics[key] = _percent(value)
    nodes = {layer: np.flatnonzero(mask).tolist() for layer, mask in masks.items()}
    return {"active_nodes": nodes, "connectivity": {**links, "fc": {}}, "metrics": metrics}


def _listed(kept: np.ndarray) -> dict[str, list[int]]:
    """Edges bool[out, in] as destination -> sources, destinations without an edge left out."""
    return {str(d): np.flatnonzero(kept[d]).tolist() for d in np.flatnonzero(kept.any(axis=1))}


def _percent(fraction: np.floating) -> float:
    """The percentage of which `fraction` is the hundredth.

    Times 100 does not undo a division by 100. Accuracies are counts, though, and the authors' figure is the double
    nearest to 100 * correct / total: the simplest ratio near the fraction gives it exactly. Any other number is taken
    times 100, whose hundredth is the same fraction again.
    """
    single = fraction.dtype == np.float32
    ratio = Fraction(float(fraction)).limit_denominator(4_000 if single else 100_000)  # unique at this precision
    exact = float(100 * ratio)
    return exact if fraction.dtype.type(exact / 100) == fraction else float(fraction) * 100

"""A result as what the circuit explorer shows: JSON values, arrays packed.

Every array keeps the order of the result's axes, S seeds, R rounds, O origins, K clients, C classes, so that it is the
result's own array, only packed. L convolutions of O_l channels; Y classes of images.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from fedmi_jax.analysis import nulls
from fedmi_jax.analysis.compact import strengths
from fedmi_jax.report.html.packing import Packed, packed
from fedmi_jax.results.connectivity import connected
from fedmi_jax.results.labels import class_names, held
from fedmi_jax.results.schema import CIRCUIT_DIMS, ORIGINS, conv_layers, source, variables

Models = dict[str, list[np.ndarray]]
"""By origin, for each convolution: axes (S, R, K, ...) of local models, (S, R, ...) of global ones."""

FIRST = (
    "sufficiency", "balanced_accuracy", "false_positive_rate", "explained", "auc", "necessity",
    "cross_evaluation",
)  # fmt: skip
"""The measures that the explorer shows before the others, in this order."""


def values(name: str, ds: xr.Dataset) -> dict[str, Any]:
    """What the explorer needs of one experiment, but for what takes weights (`channels.values`).

    JSON values; arrays are packed. `held`: which circuits there are; `masks`: their channels, a layer each; `edges`:
    strength of every edge that lies within a circuit, 0 for none; `answers`: the channels of the last layer that the
    linear layer connects with each class; `measures`, `by_class`, `by_layer`: everything that the result says of
    single circuits, and chance beside it.
    """
    layers = conv_layers(ds)
    return {
        "name": name,
        **{f"{dim}s": ds[dim].values.tolist() for dim in ("seed", "round", "client")},
        "classes": _classes(ds, "class"),
        "trueClasses": _classes(ds, "true_class"),
        "layers": [{"name": layer, "channels": ds.sizes[f"channel_{layer}"]} for layer in layers],
        "imageChannels": ds.sizes.get("image_channel", 1),
        "held": packed(held(ds).values),
        "masks": [packed(_in_order(ds[f"mask_{layer}"], f"channel_{layer}").astype(bool)) for layer in layers],
        "edges": {origin: [packed(of) for of in each] for origin, each in edges(ds).items()},
        "hasStrength": has_strength(ds),
        "answers": _answers(ds),
        "status": packed(_in_order(ds["status"].astype(np.int8))) if "status" in ds else None,
        "measures": measures(ds),
        "byClass": _by_class(ds),
        "byLayer": _by_layer(ds),
    }


def _classes(ds: xr.Dataset, dim: str) -> list[dict[str, Any]]:
    if dim not in ds.coords or f"{dim}_name" not in ds.coords:
        return []
    return [{"label": label, "name": name} for label, name in class_names(ds, dim).items()]


def _in_order(values: xr.DataArray, *more: str) -> np.ndarray:
    """With the axes of circuits in front."""
    return values.transpose(*(dim for dim in CIRCUIT_DIMS if dim in values.dims), *more).values


# --- edges ---


def has_edges(ds: xr.Dataset) -> bool:
    """Whether the result knows which channels are connected."""
    return f"connected_local_{conv_layers(ds)[0]}" in ds


def has_strength(ds: xr.Dataset) -> bool:
    """Whether the result knows how strong an edge is."""
    layer = conv_layers(ds)[0]
    return f"strength_local_{layer}" in ds or f"weights_local_{layer}_kernel" in ds


def edges(ds: xr.Dataset) -> Models:
    """uint8 (..., O_l, O_{l-1}): strength of every edge of a model that lies within one of its circuits, from 1 to
    255, the largest of the layer; 255 for all where the result does not know it. Empty where it has no connectivity."""
    layers = conv_layers(ds)
    if not has_edges(ds):
        return {}
    return {origin: [_edges(ds, origin, layer) for layer in layers] for origin in ORIGINS}


def _edges(ds: xr.Dataset, origin: str, layer: str) -> np.ndarray:
    wires, ends = connected(ds, origin, layer), (f"channel_{layer}", source(layer))
    strong: Any = 255
    if f"strength_{origin}_{layer}" in ds:
        strong = ds[f"strength_{origin}_{layer}"].transpose(*wires.dims).values
    elif has_strength(ds):
        strong = strengths(ds, origin, layer).transpose(*wires.dims).values
    out = _kept(ds, origin, ends[0])
    into = np.ones((*out.shape[:-1], wires.shape[-1])) if ends[1] == "image_channel" else _kept(ds, origin, ends[1])
    within = np.einsum("...co,...ci->...oi", out, into, optimize=True) > 0
    return np.where(wires.values.astype(bool) & within, strong, 0).astype(np.uint8)


def _kept(ds: xr.Dataset, origin: str, channel: str) -> np.ndarray:
    """Which channels every circuit of a model keeps, float (models, circuits, channels)."""
    masks = _in_order(ds[f"mask_{channel.removeprefix('channel_')}"].sel(origin=origin), channel).astype(np.float32)
    return masks if origin == "local" else masks.reshape(*masks.shape[:2], -1, masks.shape[-1])


def _answers(ds: xr.Dataset) -> dict[str, Packed]:
    """bool (..., Y, O_L)."""
    ends = ("true_class", f"channel_{conv_layers(ds)[-1]}")
    lead = {"local": ("seed", "round", "client"), "global": ("seed", "round")}
    return {
        origin: packed(ds[f"connected_{origin}_fc"].transpose(*lead[origin], *ends).values.astype(bool))
        for origin in ORIGINS
        if f"connected_{origin}_fc" in ds
    }


# --- measures ---


def measures(ds: xr.Dataset) -> list[dict[str, Any]]:
    """Every number that the result has for each circuit: name, meaning, whether it counts something, values
    (S, R, O, K, C), and of random masks as large the mean, the least and the most (`random`, None where there are
    none)."""
    found = [str(name) for name, v in ds.items() if set(v.dims) == set(CIRCUIT_DIMS) and _is_measure(str(name), v)]
    order = [*(name for name in FIRST if name in found), *(name for name in found if name not in FIRST)]
    there = held(ds).expand_dims(origin=ds["origin"])
    return [
        {
            "name": name,
            "first": name in FIRST,
            "means": _meaning(ds, name),
            "counts": ds[name].dtype.kind != "f",
            "values": packed(_in_order(ds[name].astype(float).where(there))),
            "random": _random(ds, name, there),
        }
        for name in order
    ]


def _is_measure(name: str, values: xr.DataArray) -> bool:
    """And no label, as `status` is."""
    return values.dtype.kind in "fi" and name != "status"


def _meaning(ds: xr.Dataset, name: str) -> str:
    row = variables(conv_layers(ds)).get(name)
    return str(ds[name].attrs.get("long_name", row.long_name if row else ""))


def _random(ds: xr.Dataset, name: str, there: xr.DataArray) -> dict[str, Packed] | None:
    """Of masks of live channels, where the result has them: those are the closer comparison."""
    null = next((f"{of}_{name}" for of in ("random_live", "random") if f"{of}_{name}" in ds), None)
    if null is None:
        return None
    values = ds[null].where(there)
    each = {"mean": values.mean("sample"), "least": values.min("sample"), "most": values.max("sample")}
    return {how: packed(_in_order(of)) for how, of in each.items()}


def _by_class(ds: xr.Dataset) -> dict[str, Any]:
    """Answers of the masked model, share of the images of every class: (S, R, O, K, C, Y)."""
    names = ("call_rate", "cross_evaluation_call_rate")
    return {
        name: {"means": _meaning(ds, name), "values": packed(_in_order(ds[name].astype(float), "true_class"))}
        for name in names
        if name in ds
    }


_LAYERED = {
    "stability_iou": "IoU with the round before",
    "local_global_iou": "IoU of local and global",
    "rediscovery_iou": "IoU, found again",
}
"""What is said of every layer of a circuit, beside its channels and edges."""


def _by_layer(ds: xr.Dataset) -> list[dict[str, Any]]:
    """(S, R, O, K, C, L), of local_global_iou without O; chance: the same for random circuits of the same sizes."""
    chance = nulls.expected(ds[[name for name in ds if name in _LAYERED or _is_circuit(str(name))]])
    return [
        {
            "name": name,
            "says": said,
            "means": _meaning(ds, name),
            "values": packed(_in_order(ds[name].astype(float), "layer")),
            "chance": packed(_in_order(chance[name], "layer")) if name in chance else None,
        }
        for name, said in _LAYERED.items()
        if name in ds
    ]


def _is_circuit(name: str) -> bool:
    return name.startswith("mask_") or name in ("analysed", "participates")

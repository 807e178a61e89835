"""Which channels are wired to which, in a model and within a circuit (arXiv 2512.23043, graphs of figures 11-13).

An edge runs from a source channel (of the layer before; for conv1 an image channel) to a destination channel. Plain
numpy; weights in (out, in, height, width) order, so that connected[out, in] reads "destination from source". As in the
authors' code the image is always part of a circuit, and the linear layer has no circuit channels, hence no edges.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from fedmi_jax.results.schema import CIRCUIT_DIMS, VARIABLES, conv_layers, source


def physical(weight: np.ndarray) -> np.ndarray:
    """The edges a model's weights leave: bool[..., out, in] from weight[..., out, in, height, width].

    An edge exists where any weight of the slice is not zero. A linear layer's weight must be given as
    (out, channel, height, width) too, see `unflatten`.
    """
    return np.asarray((np.asarray(weight) != 0).any(axis=(-2, -1)))


def unflatten(weight: np.ndarray, channels: int) -> np.ndarray:
    """A linear layer's weight[..., out, channels * positions], channel slowest, as [..., out, channels, positions, 1].

    Raises ValueError when the features are no multiple of the channels.
    """
    weight = np.asarray(weight)
    if weight.shape[-1] % channels:
        raise ValueError(f"{weight.shape[-1]} features are no multiple of {channels} channels")
    return weight.reshape(*weight.shape[:-1], channels, -1, 1)


def functional(connected: np.ndarray, mask_out: np.ndarray, mask_in: np.ndarray | None = None) -> np.ndarray:
    """The edges of connected[..., out, in] whose two ends are in the circuit: bool[..., out, in].

    mask_out: bool[..., out]. mask_in: bool[..., in]; None: the image, which is always in.
    """
    kept = connected & mask_out[..., :, None]
    return kept if mask_in is None else kept & mask_in[..., None, :]


def edge_counts(connected: np.ndarray, mask_out: np.ndarray, mask_in: np.ndarray | None = None) -> np.ndarray:
    """How many edges `functional` keeps, for C circuits of one model at once, without forming them.

    connected: bool[..., out, in]; mask_out: bool[..., C, out]; mask_in: bool[..., C, in] or None (the image).
    Returns int64[..., C].
    """
    sources = np.ones((*mask_out.shape[:-1], connected.shape[-1]), bool) if mask_in is None else mask_in
    reached = sources.astype(np.float32) @ connected.astype(np.float32).swapaxes(-2, -1)  # exact: counts are small
    return np.asarray(np.sum(reached, axis=-1, where=mask_out, dtype=np.float64), np.int64)


def edges(ds: xr.Dataset) -> xr.Dataset:
    """`ds` with edges(seed, round, origin, client, class, layer): edges of every circuit's functional connectivity.

    Needs mask_convN and connected_{local,global}_convN; the layers are the convolutions, see the module's text.
    """
    layers = conv_layers(ds)
    per_layer = [
        np.stack([_layer_edges(ds, str(origin), layer) for origin in ds["origin"].values], axis=2) for layer in layers
    ]
    return ds.assign_coords(layer=list(layers)).assign(edges=(VARIABLES["edges"].dims, np.stack(per_layer, axis=-1)))


def connected(ds: xr.Dataset, origin: str, layer: str) -> xr.DataArray:
    """The physical connectivity that circuits of this origin live on, with a client axis only when it is "local"."""
    lead = ("seed", "round", "client") if origin == "local" else ("seed", "round")
    return ds[f"connected_{origin}_{layer}"].transpose(*lead, f"channel_{layer}", source(layer))


def _layer_edges(ds: xr.Dataset, origin: str, layer: str) -> np.ndarray:
    """int[S, R, K, C] of one origin and layer."""
    wires = connected(ds, origin, layer).values.astype(bool)
    if origin == "global":
        wires = wires[:, :, None]  # one model for all clients
    circuits, start = ds.sel(origin=origin), source(layer)
    order = tuple(dim for dim in CIRCUIT_DIMS if dim != "origin")
    ends = circuits[f"mask_{layer}"].transpose(*order, f"channel_{layer}").values.astype(bool)
    if start == "image_channel":
        return edge_counts(wires, ends)
    before = circuits[f"mask_{start.removeprefix('channel_')}"]
    return edge_counts(wires, ends, before.transpose(*order, start).values.astype(bool))

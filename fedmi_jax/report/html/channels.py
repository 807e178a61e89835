"""What the explorer shows of single channels: their kernels, and which images excite them. Needs weights, and images.

Axes: as in `circuits`, of models (S, R, K) or (S, R); N test images that are looked at, T of each channel's best.
"""

from __future__ import annotations

import base64
import io
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from fedmi_jax import config
from fedmi_jax.data import datasets, identity
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.errors import FedmiError
from fedmi_jax.report.html.packing import packed
from fedmi_jax.results import store
from fedmi_jax.results.schema import ORIGINS, conv_layers, source

BEST = 8
"""Images shown of a channel."""
NONE = 0xFFFF
"""In the place of an image, where no further one excites the channel."""
PASSES, FEWEST, MOST = 60_000, 10, 100
"""How many images pass through models in all, about; test images of each class that are looked at, at least and at
most."""
SIDE = 32
"""Pixels of the longer side of an image in the report, at most."""


def has_weights(ds: xr.Dataset) -> bool:
    """Whether the result keeps its models."""
    return f"weights_local_{conv_layers(ds)[0]}_kernel" in ds


def values(ds: xr.Dataset, dataset: Dataset | None) -> dict[str, Any]:
    """`kernels` and, with images, `excitation` and `images` of the channels that are in a circuit of their model, this
    round or the one before: JSON values, arrays packed. The result must have weights."""
    chosen = {origin: used(ds, origin) for origin in ORIGINS}
    kernels = {o: [_kernel(ds, o, layer, chosen[o][layer]) for layer in conv_layers(ds)] for o in ORIGINS}
    return {"kernels": kernels} | (_excited(ds, dataset, chosen) if dataset else {})


Used = dict[str, np.ndarray]
"""{layer: bool (models, O_l)}."""


def used(ds: xr.Dataset, origin: str) -> Used:
    """Which channels of each model are in one of its circuits, in this round or the one before."""
    dims = ("seed", "round", "client") if origin == "local" else ("seed", "round")
    found = {}
    for layer in conv_layers(ds):
        masks = ds[f"mask_{layer}"].sel(origin=origin).astype(bool)
        now = masks.any([d for d in masks.dims if d not in (*dims, f"channel_{layer}")])
        found[layer] = (now | now.shift(round=1, fill_value=False)).transpose(*dims, f"channel_{layer}").values
    return found


def _models(values: xr.DataArray, origin: str, *rest: str) -> np.ndarray:
    lead = ("seed", "round", "client") if origin == "local" else ("seed", "round")
    return values.transpose(*lead, *rest).values


def _kernel(ds: xr.Dataset, origin: str, layer: str, chosen: np.ndarray) -> dict[str, Any]:
    """`values` int8 (..., O, I, 3, 3) in 127ths of `scale` (...), the largest weight of the model's layer; `bias`
    (..., O)."""
    order = (f"channel_{layer}", source(layer), "kernel_row", "kernel_column")
    kernel = np.nan_to_num(_models(ds[f"weights_{origin}_{layer}_kernel"], origin, *order).astype(float))
    scale = np.abs(kernel).max((-4, -3, -2, -1))
    steps = np.round(127 * kernel / np.where(scale > 0, scale, 1)[..., None, None, None, None])
    bias = _models(ds[f"weights_{origin}_{layer}_bias"], origin, f"channel_{layer}")
    return {
        "values": packed(np.where(chosen[..., None, None, None], steps, 0).astype(np.int8)),
        "scale": packed(scale),
        "bias": packed(np.where(chosen, np.nan_to_num(bias), 0)),
    }


# --- which images excite a channel ---


def images_of(ds: xr.Dataset, dataset: Dataset | None = None) -> Dataset:
    """The images that the result was made of: these, or those that it names.

    Raises FedmiError where they cannot be had, or are others than the result's.
    """
    known = store.images(ds)
    if dataset is None and "config" not in ds.attrs:
        raise FedmiError("the result does not say what its images are")
    found = dataset or datasets.load(config.from_json(ds.attrs["config"]).data)
    given = identity.describe(found)
    if known is not None and not known.is_same(given):
        raise FedmiError(f"the images are {given}, but those of the result are {known}")
    return found


class Looked(NamedTuple):
    """Test images, as many of each class as there are, at most so many."""

    places: np.ndarray
    """(N,), in the test set."""
    labels: np.ndarray
    """(N,)."""
    per_class: int


def looked_at(dataset: Dataset, models: int) -> Looked:
    """The first of each class, fewer where there are many models."""
    per_class = int(np.clip(PASSES // max(1, models * dataset.num_classes), FEWEST, MOST))
    labels = dataset.test_labels
    index = np.concatenate([np.flatnonzero(labels == c)[:per_class] for c in range(dataset.num_classes)])
    return Looked(index, labels[index], per_class)


def _excited(ds: xr.Dataset, dataset: Dataset, chosen: dict[str, Used]) -> dict[str, Any]:
    rows = {o: np.any([of.any(-1) for of in chosen[o].values()], 0) for o in ORIGINS}
    images = looked_at(dataset, sum(int(there.sum()) for there in rows.values()))
    found, wanted = {}, {}
    for origin in ORIGINS:
        each = _excitation(ds, origin, rows[origin], dataset, images)
        found[origin] = [_of_layer(each[k], chosen[origin][k], images, dataset.num_classes) for k in each]
        wanted[origin] = [best for _, best in found[origin]]
    shown = np.unique(np.concatenate([best[best != NONE] for o in ORIGINS for best in wanted[o]]))
    place = np.full(NONE + 1, NONE, np.uint16)
    place[shown] = np.arange(len(shown))
    return {
        "excitation": {
            o: [by_class | {"best": packed(place[best])} for by_class, best in found[o]] for o in ORIGINS
        },
        "images": _sheet(dataset.test_images[images.places[shown]])
        | {"labels": images.labels[shown].tolist(), "looked": len(images.places), "perClass": images.per_class},
    }  # fmt: skip


def _excitation(ds: xr.Dataset, origin: str, there: np.ndarray, dataset: Dataset, images: Looked) -> Used:
    """{layer: (models, N, O_l)}, NaN where `there` is not."""
    from fedmi_jax.circuits.excitation import excitation  # imports JAX

    params, layers = {}, conv_layers(ds)
    for layer in layers:
        ends = ("kernel_row", "kernel_column", source(layer), f"channel_{layer}")
        params[f"{layer}_kernel"] = _models(ds[f"weights_{origin}_{layer}_kernel"], origin, *ends)[there]
        params[f"{layer}_bias"] = _models(ds[f"weights_{origin}_{layer}_bias"], origin, ends[-1])[there]
    params["fc_bias"] = _models(ds[f"weights_{origin}_fc_bias"], origin, "true_class")[there]
    found = {}
    empty = {
        k: np.full((*there.shape, len(images.places), ds.sizes[f"channel_{k}"]), np.nan, np.float32) for k in layers
    }
    if there.any():
        found = excitation(params, dataset.test_images[images.places], dataset.mean, dataset.std)
    for layer, of in found.items():
        empty[layer][there] = of
    return empty


def _of_layer(each: np.ndarray, chosen: np.ndarray, images: Looked, classes: int) -> tuple[dict, np.ndarray]:
    """Of one layer: `mean` (models, O, Y) over the images of a class, in 255ths of `largest` (models, O); and the best
    images (models, O, T), in the order of `images`."""
    each = np.where(chosen[..., None, :], np.nan_to_num(each), 0).astype(np.float32)
    belongs = (images.labels[:, None] == np.arange(classes)).astype(np.float32)
    means = np.einsum("...no,ny->...oy", each, belongs / np.maximum(belongs.sum(0), 1), optimize=True)
    largest = means.max(-1)
    steps = np.round(255 * means / np.where(largest > 0, largest, 1)[..., None])
    by_image = np.moveaxis(each, -2, -1)
    order = np.argsort(-by_image, axis=-1, kind="stable")[..., :BEST]
    best = np.where(np.take_along_axis(by_image, order, -1) > 0, order, NONE).astype(np.uint16)
    return {"mean": packed(steps.astype(np.uint8)), "largest": packed(largest)}, best


def _sheet(images: np.ndarray) -> dict[str, Any]:
    """Small versions of these images on one sheet, as PNG: columns, rows, and the size of one."""
    from PIL import Image

    small = [_small(image) for image in images] or [np.zeros((1, 1, images.shape[-1]), np.uint8)]
    height, width, channels = small[0].shape
    columns = int(np.ceil(np.sqrt(len(small))))
    rows = -(-len(small) // columns)
    sheet = np.zeros((rows, columns, height, width, channels), np.uint8)
    sheet.reshape(-1, height, width, channels)[: len(small)] = small
    whole = sheet.swapaxes(1, 2).reshape(rows * height, columns * width, channels)
    content = io.BytesIO()
    Image.fromarray(whole[..., 0] if channels == 1 else whole[..., :3]).save(content, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(content.getvalue()).decode()
    return {"sheet": source, "columns": columns, "rows": rows, "height": height, "width": width}


def _small(image: np.ndarray) -> np.ndarray:
    """At most `SIDE` pixels high and wide, in one or three channels; of other numbers of channels the first."""
    from PIL import Image

    image = image if image.shape[-1] in (1, 3) else image[..., :1]
    share = SIDE / max(image.shape[:2])
    if share >= 1:
        return image
    size = [max(1, round(share * side)) for side in (image.shape[1], image.shape[0])]
    grey = image.shape[-1] == 1
    resized = np.asarray(Image.fromarray(image[..., 0] if grey else image).resize(size))  # type: ignore[arg-type]
    return resized[..., None] if grey else resized

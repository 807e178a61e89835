"""All that the explorer knows of one experiment, and what it does not know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import xarray as xr

from fedmi_jax.data.datasets import Dataset
from fedmi_jax.errors import FedmiError
from fedmi_jax.report.html import channels, circuits


def explored(name: str, ds: xr.Dataset, dataset: Dataset | None = None) -> dict[str, Any]:
    """JSON values; arrays are packed. `missing`: one line for everything that the result does not tell, with the way to
    a result that does. dataset: as of `channels.images_of`."""
    missing = [said for has, said in _WANTED if not has(ds)]
    found = circuits.values(name, ds)
    if channels.has_weights(ds):
        try:
            images = channels.images_of(ds, dataset)
        except FedmiError as error:
            images = None
            missing.append(f"The images that excite a channel are not shown: {error}.")
        found |= channels.values(ds, images)
    return found | {"missing": missing}


_WANTED: tuple[tuple[Callable[[xr.Dataset], bool], str], ...] = (
    (
        channels.has_weights,
        "Kernels, activations and the images that excite a channel need the weights of the models: "
        "fedmi run PRESET --execution.save-weights.",
    ),
    (circuits.has_edges, "The result does not say which channels are connected: there are no edges."),
    (
        lambda ds: circuits.has_strength(ds) or not circuits.has_edges(ds),
        "Every edge is drawn alike: only the weights tell how strong one is.",
    ),
    (
        lambda ds: "sample" in ds.dims,
        "There are no random masks to compare with: fedmi run PRESET --evaluation.null-samples 5.",
    ),
    (
        lambda ds: "rediscovery_iou" in ds,
        "How alike two searches on the same weights are is not known: fedmi run PRESET --discovery.repeat last.",
    ),
    (lambda ds: "call_rate" in ds, "The result does not say what the circuits answer to images of other classes."),
)

"""A result without its weights, but with what is measured from them.

Axes: O_l channels of convolution l.

Weights are most of a large file: a 50-round run of three clients has 200 models. Kept instead are the aligned measures
(`alignment.aligned`) and how strong each edge is, in 255 steps.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from fedmi_jax.analysis import alignment
from fedmi_jax.results.schema import ORIGINS, conv_layers, described, source


def compact(ds: xr.Dataset) -> xr.Dataset:
    """The result with `alignment.ALIGNED` and strength_{local,global}_convN in place of its weights.

    Raises FedmiError where it has none.
    """
    found = alignment.aligned(ds)
    strong = {f"strength_{o}_{layer}": strengths(ds, o, layer) for o in ORIGINS for layer in conv_layers(ds)}
    rest = ds.drop_vars([name for name in ds if str(name).startswith("weights_")])
    return described(rest.assign(found).assign(strong))


def strengths(ds: xr.Dataset, origin: str, layer: str) -> xr.DataArray:
    """uint8 (seed, round, (client,) destination, source): each kernel's norm, 255 for the largest of its model's layer,
    0 only where there is no edge."""
    kernel = ds[f"weights_{origin}_{layer}_kernel"].astype(float)
    norm = (kernel**2).sum(("kernel_row", "kernel_column")) ** 0.5
    ends = (f"channel_{layer}", source(layer))
    largest = norm.max(ends)
    share = norm / largest.where(largest > 0, 1)
    return xr.apply_ufunc(np.ceil, 255 * share).astype(np.uint8).transpose(..., *ends)

"""How unlike the clients' labels are: distances of label distributions.

Axes: S seeds, K clients, C classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import xarray as xr
from scipy import stats

from fedmi_jax.results import similarity
from fedmi_jax.results.schema import CIRCUIT_DIMS


def label_distance(ds: xr.Dataset) -> xr.Dataset:
    """Distance of each client's label distribution to that of all clients together, (seed, client):

    - emd, in [0, 2]: sum over classes of |p_k - p|, the earth mover's distance of Zhao et al. (2018), for whom all
      classes are equally far apart;
    - js, in [0, 1]: Jensen-Shannon divergence in bits.

    Needs samples(seed, client, true_class).
    """
    counts = ds["samples"].transpose("seed", "client", "true_class").astype(float)
    own = counts / counts.sum("true_class")
    whole = counts.sum("client") / counts.sum(("client", "true_class"))
    entropy: Any = partial(stats.entropy, base=2, axis=-1)
    mixed = (own + whole) / 2
    js = entropy(mixed) - (entropy(own) + entropy(whole)[:, None]) / 2
    emd = abs(own - whole).sum("true_class")
    return xr.Dataset({"emd": emd, "js": (emd.dims, js)}, ds["seed"].coords)


def where_held(ds: xr.Dataset) -> xr.Dataset:
    """The result as if every client were analysed for the classes that it has images of only.

    With `discovery.classes` given a client is analysed for classes that it does not hold, too, and its circuits for
    these are empty: they say nothing about how circuits fare. Measures of circuits are NaN there, `degenerate` is
    False, and measures of similarity are made anew.
    """
    images = ds["samples"].sel(true_class=ds["class"].values).rename(true_class="class") > 0
    images = images.assign_coords({"class": ds["class"].values})
    there = ds["analysed"].astype(bool) & images
    own = {
        name: (values.where(there) if values.dtype.kind == "f" else values & there).transpose(*values.dims)
        for name, values in ds.items()
        if set(CIRCUIT_DIMS) <= set(values.dims) and (values.dtype.kind == "f" or name == "degenerate")
    }
    return similarity.measures(ds.assign({**own, "analysed": there}))

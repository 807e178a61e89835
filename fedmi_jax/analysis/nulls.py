"""What chance alone would give: the expected IoU of random circuits.

Axes: S seeds, R rounds, O origins, K clients, C classes, n channels of a layer.

The null is two independent, uniformly random sets with as many channels as the two circuits have, in a layer of n.
Their intersection X follows the hypergeometric law, and IoU = X / (a + b - X), so the expectation is an exact finite
sum (`expected_iou`). Larger circuits overlap more by chance; subtracting the expectation makes layers, rounds and
experiments comparable. It is no statement about circuits that must lie among the channels a sparse model still uses;
those would overlap more.

Two empty sets: the authors count them as equal, IoU 1.0; then the expectation is 1.0 too, and such pairs say nothing.
`without_empty_pairs` gives the other convention, in which they are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import xarray as xr
from scipy import stats

from fedmi_jax.results import undefined
from fedmi_jax.results.schema import CIRCUIT_DIMS, ORIGINS, conv_layers
from fedmi_jax.results.similarity import MEASURES

Table = np.ndarray
"""float64 (n + 1, n + 1): the expected IoU for every pair of sizes."""


def expected_iou(a: int, b: int, channels: int) -> float:
    """Expected IoU of two random sets of a and b among so many channels; of two empty sets 1.0.

    Raises ValueError when a set is larger than the layer, or negative.
    """
    if not (0 <= a <= channels and 0 <= b <= channels):
        raise ValueError(f"sets of {a} and {b} among {channels} channels")
    return float(expected_table(channels)[a, b])


@lru_cache(maxsize=16)
def expected_table(channels: int) -> Table:
    """`expected_iou` of all sizes in a layer of this many channels."""
    sizes = np.arange(channels + 1)
    a, b, x = sizes[:, None, None], sizes[None, :, None], sizes[None, None, :]
    possible = (x <= np.minimum(a, b)) & (x >= a + b - channels)
    chance = np.where(possible, stats.hypergeom.pmf(x, channels, a, b), 0)
    table = (chance * x / np.maximum(a + b - x, 1)).sum(-1)
    table[0, 0] = 1.0
    return table


def corrected(iou: xr.DataArray, expected: xr.DataArray) -> xr.DataArray:
    """Chance-corrected IoU, (IoU - E) / (1 - E): 1 identical, 0 as by chance, negative: they avoid each other.

    As in the adjusted Rand index (Hubert & Arabie 1985), of means over the same pairs. NaN where E is 1.
    """
    room = 1 - expected
    return (iou - expected) / room.where(room > 1e-12)


def without_empty_pairs(mean: xr.DataArray, share: xr.DataArray) -> xr.DataArray:
    """A mean IoU in which two empty sets counted as 1.0, with those pairs left out; NaN where no other pair is left.

    share: of pairs that were both empty, the result's `empty_pairs_*`.
    """
    rest = 1 - share
    return (mean - share) / rest.where(rest > 1e-12)


def expected(ds: xr.Dataset) -> xr.Dataset:
    """Every measure of similarity as it would be for random circuits of the same sizes: the variables of
    `similarity.measures`, same names and dimensions; without undefined circuits."""
    there = undefined.defined(ds).values
    layers = [_of_layer(ds, layer, there) for layer in conv_layers(ds)]
    names = [name for name in MEASURES if name in ds]
    return xr.Dataset({name: _like(ds[name], [of[name]() for of in layers]) for name in names})


def _like(measured: xr.DataArray, layers: list[np.ndarray]) -> xr.DataArray:
    """NaN where there was no pair to measure."""
    return measured.copy(data=np.stack(layers, -1)).where(measured.notnull())


def _of_layer(ds: xr.Dataset, layer: str, there: np.ndarray) -> dict[str, Callable[[], np.ndarray]]:
    """Like `similarity._of_layer`, of expectations: only sizes matter, and only how often each occurs. Each is computed
    when it is called for."""
    masks = ds[f"mask_{layer}"].transpose(*CIRCUIT_DIMS, f"channel_{layer}").values.astype(bool)
    table, size = expected_table(masks.shape[-1]), masks.sum(-1)
    origins = [str(origin) for origin in ds["origin"].values]
    local, global_ = (size[:, :, origins.index(origin)] for origin in ORIGINS)
    union = np.any(masks & there[..., None], 4).sum(-1)
    by_class = (size.swapaxes(3, 4), there.swapaxes(3, 4))
    return {
        "inter_client_iou": lambda: _among(table, *by_class),
        "stability_iou": lambda: _stability(table, size, there),
        "local_global_iou": lambda: np.where(there.all(2), table[local, global_], np.nan),
        "specialist_distinctness": lambda: _among(table, union, np.asarray(there.any(-1))),
        "inter_class_iou": lambda: _among(table, size, there),
        "class_pair_iou": lambda: _class_pairs(table, *by_class),
    }


def _stability(table: Table, size: np.ndarray, own: np.ndarray) -> np.ndarray:
    both = own[:, 1:] & own[:, :-1]
    first = np.full((size.shape[0], 1, *size.shape[2:]), np.nan)
    return np.concatenate([first, np.where(both, table[size[:, 1:], size[:, :-1]], np.nan)], 1)


def _histogram(size: np.ndarray, own: np.ndarray, channels: int) -> np.ndarray:
    """How many sets of each size there are: [..., sets] -> [..., channels + 1]."""
    own = np.broadcast_to(own, size.shape)
    return np.sum((size[..., None] == np.arange(channels + 1)) & own[..., None], -2).astype(float)


def _among(table: Table, size: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Mean of the table over all pairs of different sets of size[..., sets] that are there."""
    own = np.broadcast_to(own, size.shape)
    count = _histogram(size, own, len(table) - 1)
    with_self = np.einsum("...i,ij,...j->...", count, table, count, optimize=True)
    itself = np.sum(table[size, size], -1, where=own)
    return _ratio(with_self - itself, own.sum(-1) * (own.sum(-1) - 1))


def _class_pairs(table: Table, size: np.ndarray, own: np.ndarray) -> np.ndarray:
    """[S,R,O,C,C] from size[S,R,O,C,K]."""
    count = _histogram(size, own, len(table) - 1)
    total = np.einsum("...ci,ij,...dj->...cd", count, table, count, optimize=True)
    holders = np.broadcast_to(own, size.shape).sum(-1)
    pairs = _ratio(total, holders[..., :, None] * holders[..., None, :])
    diagonal = np.arange(pairs.shape[-1])
    pairs[..., diagonal, diagonal] = _among(table, size, own)
    return pairs


def _ratio(total: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    return np.where(pairs > 0, total / np.maximum(pairs, 1), np.nan)

"""Circuits compared at equal size, and what chance alone gives where a model uses few of its channels.

IoU falls when one of two circuits grows. The best k channels of two rankings are of one size, so that their IoU tells
which channels they are from how many there are.

Chance: two random sets, each drawn from the channels that are *live* in its own model, as many in every layer as the
two circuits have there. In a layer, how many channels of the first set are live in the other model too is
hypergeometric, and how many of these the second set hits is so again (`intersections`); over layers the intersections
add up. With all channels live in both models this is the null of `nulls`.

Axes: S seeds, R rounds, O origins, K clients, C classes, N channels of all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import xarray as xr
from scipy import special

from fedmi_jax.analysis.nulls import corrected
from fedmi_jax.results.schema import conv_layers

SIZES = (4, 8, 16, 32)
"""At which rankings are compared."""


class Drawn(NamedTuple):
    """Two sets of channels of one layer, as far as chance is concerned."""

    first: int
    """Channels of the first set."""
    second: int
    live_first: int
    """Channels that it is drawn from."""
    live_second: int
    live_both: int


@lru_cache(maxsize=65536)
def intersections(drawn: Drawn) -> np.ndarray:
    """How many channels two random sets have in common: the probabilities of 0, 1, ... of them.

    Raises ValueError where a set is larger than what it is drawn from, or what both are drawn from larger than either.
    """
    a, b, one, other, both = drawn
    if not (0 <= a <= one and 0 <= b <= other and 0 <= both <= min(one, other)):
        raise ValueError(f"no two such sets: {drawn}")
    shared = np.arange(min(a, both) + 1)  # of the first set, live in the other model too
    common = np.arange(min(a, b, both) + 1)
    first = _hypergeometric(shared, one, both, a)
    second = _hypergeometric(common[:, None], other, shared[None], b)
    return second @ first


def _hypergeometric(hits: np.ndarray, total: int, marked: int | np.ndarray, draws: int) -> np.ndarray:
    """Probability of so many marked ones among `draws` of `total`, of which so many are marked."""
    marked, hits = np.broadcast_arrays(marked, hits)
    possible = (hits <= marked) & (draws - hits <= total - marked) & (hits <= draws)
    safe = np.where(possible, hits, np.maximum(0, draws - (total - marked)))
    log = _choices(marked, safe) + _choices(total - marked, draws - safe) - _choices(total, draws)
    return np.where(possible, np.exp(log), 0.0)


def _choices(n: np.ndarray | int, k: np.ndarray | int) -> np.ndarray:
    """Logarithm of the number of sets of k among n."""
    return special.gammaln(np.add(n, 1)) - special.gammaln(np.add(k, 1)) - special.gammaln(np.subtract(n, k) + 1.0)


@lru_cache(maxsize=65536)
def expected_iou(layers: tuple[Drawn, ...]) -> float:
    """Expected IoU of two random sets, stratified by layer; of two empty sets 1.0."""
    total, law = sum(one.first + one.second for one in layers), np.ones(1)
    if not total:
        return 1.0
    for one in layers:
        law = np.convolve(law, intersections(one))
    common = np.arange(len(law))
    return float(np.sum(law * common / np.maximum(total - common, 1)))


# --- circuits of a result ---


class Sets(NamedTuple):
    """Sets of channels: [..., channel], channels of all layers after one another; float, NaN where there is no set."""

    chosen: xr.DataArray
    live: xr.DataArray


def channels_of(ds: xr.Dataset, name: str) -> xr.DataArray:
    """`name_conv1` to `name_convN` side by side: [..., channel], with the coordinate layer(channel)."""
    parts = [ds[f"{name}_{layer}"].rename({f"channel_{layer}": "channel"}) for layer in conv_layers(ds)]
    bare = [part.drop_vars("channel", errors="ignore") for part in parts]
    layer = np.repeat(conv_layers(ds), [part.sizes["channel"] for part in bare])
    return xr.concat(bare, "channel").assign_coords(channel_layer=("channel", layer))


def circuits(ds: xr.Dataset, there: xr.DataArray) -> Sets:
    """The circuits as they are. there: which of them to compare, bool (S, R, O, K, C)."""
    live = _live(ds).where(there)
    return Sets(channels_of(ds, "mask").astype(float).where(there), live)


def best(ds: xr.Dataset, there: xr.DataArray, size: int) -> Sets:
    """The `size` best channels of every ranking; NaN where fewer are live, or where scores leave open which are best.

    Searches that choose a size keep their order of channels (`rank_*`). Otherwise scores say it, where they can: many
    may end at the same bound.
    """
    alive = _live(ds)
    score = channels_of(ds, "score") if f"rank_{conv_layers(ds)[0]}" not in ds else -channels_of(ds, "rank")
    score = score.astype(float).where(alive > 0, -np.inf).transpose(..., "channel")
    descending = -np.sort(-score.values, -1)
    last = descending[..., size - 1] if size <= descending.shape[-1] else np.full(descending.shape[:-1], -np.inf)
    after = descending[..., size] if size < descending.shape[-1] else np.full(descending.shape[:-1], -np.inf)
    clear = there & xr.DataArray(np.isfinite(last) & (last > after), dims=score.dims[:-1])
    chosen = (score >= xr.DataArray(last, dims=score.dims[:-1])).astype(float)
    return Sets(chosen.where(clear), alive.where(clear))


def _live(ds: xr.Dataset) -> xr.DataArray:
    """1 for live channels; all of them, where the result does not say."""
    if f"live_{conv_layers(ds)[0]}" in ds:
        return channels_of(ds, "live").astype(float)
    return xr.ones_like(channels_of(ds, "mask"), float)


# --- pairs of them ---

Pairs = tuple[Sets, Sets]


def local_to_global(sets: Sets) -> Pairs:
    """(S, R, K, C, channel) each."""
    return _at(sets, origin="local"), _at(sets, origin="global")


def round_before(sets: Sets) -> Pairs:
    """A circuit and itself one round before: both (S, R, O, K, C, channel), NaN in the first round and after a gap."""
    rounds = sets.chosen["round"].values
    follows = xr.DataArray(np.diff(rounds, prepend=rounds[0]) == 1, dims="round")
    return sets, Sets(*(part.shift(round=1).where(follows) for part in sets))


def between_clients(sets: Sets) -> Pairs:
    """Every two clients' circuits of one class: (pair, S, R, O, C, channel) each."""
    number = sets.chosen.sizes["client"]
    first, second = np.triu_indices(number, 1)
    return tuple(  # type: ignore[return-value]
        Sets(*(part.isel(client=xr.DataArray(rows, dims="pair")).drop_vars("client", errors="ignore") for part in sets))
        for rows in (first, second)
    )


def _at(sets: Sets, **place: str) -> Sets:
    return Sets(*(part.sel(place, drop=True) for part in sets))  # type: ignore[arg-type]


class Overlaps(NamedTuple):
    """IoU of pairs of sets and its expectation; NaN where one of the two is not there."""

    iou: xr.DataArray
    expected: xr.DataArray

    @property
    def corrected(self) -> xr.DataArray:
        """Of means over the same pairs, take `nulls.corrected` of the means."""
        return corrected(self.iou, self.expected)


def overlaps(pairs: Pairs, by_layer: bool = False) -> Overlaps:
    """Of all channels together, [...]; by_layer: of the channels of each layer, [..., layer]."""
    (one, live_one), (other, live_other) = pairs
    there = one.notnull().all("channel") & other.notnull().all("channel")
    layer = one["channel_layer"]
    sums = [
        part.fillna(0).groupby(layer).sum()
        for part in (one, other, live_one, live_other, live_one * live_other, one * other)
    ]
    names = list(dict.fromkeys(layer.values.tolist()))
    table = xr.concat(xr.broadcast(*sums), "count").rename(channel_layer="layer").sel(layer=names)
    table = table.transpose("count", ..., "layer")
    counts, common = table.isel(count=slice(5)), table.isel(count=5)
    union = counts.isel(count=0) + counts.isel(count=1) - common
    if not by_layer:
        union, common = union.sum("layer"), common.sum("layer")
    iou = xr.where(union > 0, common / union.where(union > 0), 1.0)
    chance = _expected(counts, by_layer)
    return Overlaps(iou.where(there), chance.where(there))


def _expected(counts: xr.DataArray, by_layer: bool) -> xr.DataArray:
    """counts: (5, ..., layer), as in `Drawn`; each different pair is computed once."""
    moved = counts.transpose(..., "layer", "count")
    rows = moved.values.astype(int).reshape(-1, *((1,) if by_layer else (moved.sizes["layer"],)), 5)
    different, back = np.unique(rows.reshape(len(rows), -1), axis=0, return_inverse=True)
    found = [expected_iou(tuple(Drawn(*layer) for layer in row.reshape(-1, 5).tolist())) for row in different]
    like = moved.isel(count=0) if by_layer else moved.isel(count=0, layer=0)
    return like.copy(data=np.array(found)[back.ravel()].reshape(like.shape))


def at_size(ds: xr.Dataset, there: xr.DataArray, sizes: Sequence[int] = SIZES) -> xr.Dataset:
    """Local against global circuits at equal size: iou and expected, (S, R, K, C, size)."""
    found = [overlaps(local_to_global(best(ds, there, size))) for size in sizes]
    label = xr.DataArray(list(sizes), dims="size", name="size")
    return xr.Dataset(
        {
            name: xr.concat([getattr(one, name) for one in found], label).transpose(..., "size")
            for name in ("iou", "expected")
        }
    )

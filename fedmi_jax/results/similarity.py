"""How alike circuits are: Intersection-over-Union (IoU) of their channels, per layer (arXiv 2512.23043, section 2.3).

Axes: S seeds, R rounds, O origins (local, global), K clients, C classes; n and m sets to be paired; ch channels of
one layer. Plain numpy on boolean masks: nothing here needs the weights or a device.

Two empty sets are equal, so their IoU is 1.0, as in the authors' code. A mean IoU can therefore be high because there
is nothing to compare; every measure comes with an `empty_pairs_*` variable, the share of its pairs that are both empty.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import CIRCUIT_DIMS, ORIGINS, VARIABLES, conv_layers

Pair = tuple[np.ndarray, np.ndarray]
"""A measure and the share of its pairs that were both empty."""

_BLOCK = 4_000_000  # pairs of few sets held in memory at a time: bounds memory, changes no result
_FEW = 10_000  # pairs of sets, up to which each has a term of its own in the sum; of more, equal terms are counted
_TILE = 2**18  # pairs of many sets looked at together: what a processor's cache holds


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of two sets of channels (section 2.3); two empty sets give 1.0.

    a, b: bool[..., ch], broadcast against each other. Returns float64[...] in [0, 1].
    """
    either = np.count_nonzero(a | b, axis=-1)
    return np.where(either == 0, 1.0, np.count_nonzero(a & b, axis=-1) / np.maximum(either, 1))


def sizes(ds: xr.Dataset) -> xr.Dataset:
    """`ds` with size[S,R,O,K,C,layer], the channels of each circuit, and degenerate[S,R,O,K,C].

    A circuit is degenerate when some layer has no channel: its output is then the same for every image.
    Both are 0 / False where there is no such circuit (`held`).
    """
    layers = conv_layers(ds)
    size = np.stack([np.count_nonzero(_mask(ds, layer), axis=-1) for layer in layers], axis=-1)
    found = held(ds).values[:, :, None]
    return ds.assign_coords(layer=list(layers)).assign(
        size=(VARIABLES["size"].dims, np.where(found[..., None], size, 0)),
        degenerate=(CIRCUIT_DIMS, found & (size == 0).any(axis=-1)),
    )


def measures(ds: xr.Dataset, there: np.ndarray | None = None) -> xr.Dataset:
    """`ds` with every similarity measure, per layer, on local and on global circuits alike.

    there: bool (S, R, O, K, C), which circuits there are; None: all that are `held`.

    The paper's authors compute consistency, stability and distinctness on the circuits of the *global* model only,
    where all clients share one set of weights, so agreement is partly built in; `origin` tells the two apart.

    Needs analysed(seed, client, class), participates(seed, round, client) unless all do, and
    mask_convN(seed, round, origin, client, class, channel_convN). Adds, float64 in [0, 1], NaN where there is no pair:

    - inter_client_iou(seed, round, origin, class, layer): mean over pairs of clients that both analyse the class
      (section 2.3, inter-client consistency).
    - stability_iou(seed, round, origin, client, class, layer): a circuit against itself one round *before*; round r
      holds the IoU of rounds r-1 and r, so the first round is NaN (section 2.3, intra-client stability).
    - local_global_iou(seed, round, client, class, layer): a client's local circuit against the one found on the
      global model with its data, same round (section 3.1, figures 2, 5, 8).
    - specialist_distinctness(seed, round, origin, layer): union of a client's circuits over its classes, then mean
      over pairs of clients (section 3.2, figure 3; the paper shows the last round).
    - inter_class_iou(seed, round, origin, client, layer): mean over pairs of classes within a client.
    - class_pair_iou(seed, round, origin, class, other_class, layer): mean over all pairs of one circuit of the one
      class and another circuit of the other, whichever clients hold them. Symmetric; the diagonal pairs circuits of
      different clients and so equals inter_client_iou.
    - empty_pairs_X for each of these (X without "_iou"): share of those pairs in which both sets are empty.
    """
    layers, rounds = conv_layers(ds), ds["round"].values
    origins = [str(origin) for origin in ds["origin"].values]
    if there is None:
        there = np.repeat(held(ds).values[:, :, None], len(origins), axis=2)
    found = [_of_layer(_mask(ds, layer), there, rounds, origins) for layer in layers]
    ds = ds.assign_coords(layer=list(layers), other_class=ds["class"].values)
    for name in MEASURES:
        value, empty = (np.stack([layer[name][part] for layer in found], axis=-1) for part in (0, 1))
        ds[name] = (VARIABLES[name].dims, value)
        ds["empty_pairs_" + name.removesuffix("_iou")] = (VARIABLES[name].dims, empty)
    return ds


MEASURES = (
    "inter_client_iou", "stability_iou", "local_global_iou", "specialist_distinctness", "inter_class_iou",
    "class_pair_iou",
)  # fmt: skip
"""The similarity measures that `measures` adds."""


def _mask(ds: xr.Dataset, layer: str) -> np.ndarray:
    """bool[S, R, O, K, C, ch] of one layer."""
    return ds[f"mask_{layer}"].transpose(*CIRCUIT_DIMS, f"channel_{layer}").values.astype(bool)


def _of_layer(mask: np.ndarray, held: np.ndarray, rounds: np.ndarray, origins: list[str]) -> dict[str, Pair]:
    """Every measure of one layer from mask[S,R,O,K,C,ch] and held[S,R,O,K,C], without the layer axis."""
    union, holds_any = np.any(mask & held[..., None], axis=4), np.any(held, axis=-1)
    (local, local_held), (other, other_held) = (
        (mask[:, :, place], held[:, :, place]) for place in map(origins.index, ORIGINS)
    )
    return {
        "inter_client_iou": _among(mask.swapaxes(3, 4), held.swapaxes(3, 4)),
        "stability_iou": _stability(mask, held, rounds),
        "local_global_iou": _one_to_one(local, other, local_held & other_held),
        "specialist_distinctness": _among(np.asarray(union), np.asarray(holds_any)),
        "inter_class_iou": _among(mask, held),
        "class_pair_iou": _class_pairs(mask, held),
    }


def _one_to_one(a: np.ndarray, b: np.ndarray, held: np.ndarray) -> Pair:
    """IoU of a[..., ch] with b[..., ch], NaN where not held[...]; "share" of empty pairs is then 0 or 1."""
    empty = ~(a | b).any(axis=-1)
    return np.where(held, iou(a, b), np.nan), np.where(held, empty, np.nan)


def _stability(mask: np.ndarray, held: np.ndarray, rounds: np.ndarray) -> Pair:
    """Each round of mask[S,R,O,K,C,ch] against the one before; NaN in the first, after a gap in the rounds, and where a
    client sat out one of the two."""
    follows = (np.diff(rounds) == 1)[None, :, None, None, None]
    later = _one_to_one(mask[:, :-1], mask[:, 1:], held[:, :-1] & held[:, 1:] & follows)
    first = np.full((mask.shape[0], 1, *mask.shape[2:-1]), np.nan)
    return np.concatenate([first, later[0]], axis=1), np.concatenate([first, later[1]], axis=1)


def _class_pairs(mask: np.ndarray, held: np.ndarray) -> Pair:
    """[S,R,O,C,C] from mask[S,R,O,K,C,ch]; one pair of classes at a time, to bound memory."""
    classes = mask.shape[4]
    value, empty = (np.full((*mask.shape[:3], classes, classes), np.nan) for _ in range(2))
    for i in range(classes):
        for j in range(i, classes):
            pair = _between(mask[..., i, :], mask[..., j, :], held[..., i], held[..., j], same=i == j)
            value[..., i, j], empty[..., i, j] = pair
            value[..., j, i], empty[..., j, i] = pair
    return value, empty


def _among(sets: np.ndarray, held: np.ndarray) -> Pair:
    """Mean over all pairs of different sets of sets[..., n, ch] that are both held[..., n]."""
    return _between(sets, sets, held, held, same=True)


def _between(a: np.ndarray, b: np.ndarray, held_a: np.ndarray, held_b: np.ndarray, *, same: bool) -> Pair:
    """Mean IoU over held pairs of a[..., n, ch] and b[..., m, ch], and the share of empty pairs, each float64[...].

    same: a and b are the same sets, so that a set is not paired with itself. NaN where there is no pair.
    """
    leads, (n, m) = a.shape[:-2], (a.shape[-2], b.shape[-2])
    held_a, held_b = np.broadcast_to(held_a, (*leads, n)), np.broadcast_to(held_b, (*leads, m))
    flat = [x.reshape(-1, *x.shape[len(leads) :]) for x in (a, b, held_a, held_b)]
    if n * m > _FEW:
        found = [_of_many(one[held], other[kept], same=same) for one, other, held, kept in zip(*flat, strict=True)]
        value, empty = np.array(found).reshape(-1, 2).T
        return value.reshape(leads), empty.reshape(leads)
    step = max(1, _BLOCK // max(1, n * m))
    blocks = [_block(*(x[i : i + step] for x in flat), same=same) for i in range(0, len(flat[0]), step)]
    value, empty = (np.concatenate(parts).reshape(leads) for parts in zip(*blocks, strict=True))
    return value, empty


def _of_many(a: np.ndarray, b: np.ndarray, *, same: bool) -> tuple[float, float]:
    """`_between` for sets a[n, ch] and b[m, ch], all held.

    Pairs are counted by how many channels the two sets have, added and in common, found on packed bits. The mean is
    then a sum of few terms, whatever the number of pairs.
    """
    channels, pairs = a.shape[1], len(a) * len(b) - len(a) * same
    if not pairs:
        return np.nan, np.nan
    counts = np.zeros((2 * channels + 1, channels + 1), np.int64)  # [sizes added, in common]
    size_a, size_b = (np.count_nonzero(sets, axis=1) for sets in (a, b))
    words_a, words_b, rows = _words(a), _words(b), max(1, _TILE // len(b))
    for i in range(0, len(a), rows):
        tile = words_a[:, i : i + rows, None] & words_b[:, None]
        common = np.sum(np.bitwise_count(tile), axis=0, dtype=np.intp)
        codes = (size_a[i : i + rows, None] + size_b) * (channels + 1) + common
        counts += np.bincount(codes.ravel(), minlength=counts.size).reshape(counts.shape)
    if same:
        np.subtract.at(counts, (2 * size_a, size_a), 1)  # each set paired with itself
    total, common = np.indices(counts.shape)
    overlap = np.where(total == 0, 1.0, common / np.maximum(total - common, 1))
    return float(np.sum(counts * overlap) / pairs), float(counts[0].sum() / pairs)


def _words(sets: np.ndarray) -> np.ndarray:
    """uint64[words, n]: the channels of sets[n, ch] as bits."""
    bits = np.packbits(sets, axis=1)
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 8)))
    return np.ascontiguousarray(padded.view(np.uint64).T)


def _block(a: np.ndarray, b: np.ndarray, held_a: np.ndarray, held_b: np.ndarray, *, same: bool) -> Pair:
    """`_between` for one leading axis; the intersections of all pairs are one matrix product, exact in float32."""
    pairs = held_a[:, :, None] & held_b[:, None, :]
    if same:
        pairs = pairs & ~np.eye(a.shape[1], dtype=bool)
    both = a.astype(np.float32) @ b.astype(np.float32).swapaxes(1, 2)
    either = np.count_nonzero(a, axis=-1)[:, :, None] + np.count_nonzero(b, axis=-1)[:, None, :] - both
    empty = either == 0
    overlap = np.where(empty, 1.0, both / np.maximum(either, 1))
    count = np.count_nonzero(pairs, axis=(1, 2))
    total = [np.sum(x, axis=(1, 2), where=pairs, dtype=np.float64) for x in (overlap, empty)]
    value, share = (np.where(count > 0, x / np.maximum(count, 1), np.nan) for x in total)
    return value, share

"""Which weights survive a pruning step (section 2.2 of the paper, phase A).

Axes: T local steps, L weight tensors, n weights of a tensor, O filters of a convolution.

Score (magnitude), amount (`keep_counts`), schedule (`ramp`) and structure (scope, floor) are separate functions.
Amounts are computed on the host in double precision, because int() of a product decides how many weights stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedmi_jax.config import Sparsity, replace
from fedmi_jax.network.layers import is_weight
from fedmi_jax.network.model import Params
from fedmi_jax.network.ops import by_platform
from fedmi_jax.training.radix import kth_largest_of_all, kth_largest_of_filters


def weight_sizes(params: Mapping[str, Any]) -> dict[str, int]:
    """Number of weights of each prunable tensor of ONE model, in pruning order."""
    return {name: int(np.prod(params[name].shape)) for name in sorted(params) if is_weight(name)}


def schedule(sparsity: Sparsity, steps: int) -> np.ndarray:
    """Sparsity (T,) float64 after each of a client's `steps` local steps: target * t / A for t < A = floor(T/2)."""
    t, rise = np.arange(steps, dtype=np.float64), steps // 2
    if not sparsity.ramp or rise == 0:
        return np.full(steps, sparsity.target)
    return np.where(t < rise, sparsity.target * t / rise, sparsity.target)


def keep_counts(sparsity: Sparsity, steps: int, sizes: dict[str, int]) -> np.ndarray:
    """Weights to keep after each step, max(1, int((1 - s) * n)): int32 (T, L), or (T, 1) for the global scope."""
    n = np.array(list(sizes.values()) if sparsity.scope == "layer" else [sum(sizes.values())], np.float64)
    s = np.repeat(schedule(sparsity, steps)[:, None], len(n), 1)
    if sparsity.linear is not None:
        s[:, list(sizes).index("fc_kernel")] = schedule(replace(sparsity, target=sparsity.linear), steps)
    kept = np.trunc((1 - s) * n)
    return np.maximum(1, kept).astype(np.int32)


def prune(
    params: Params, keep: Array, sparsity: Sparsity, prunable: Mapping[str, Array] | None = None
) -> dict[str, Array]:
    """The parameters with pruned weights set to 0.

    Args: params of one model; keep, one row of `keep_counts`. Every weight at least as large in magnitude as the
    k-th largest stays (ties stay too), then the floor of `sparsity` is applied. Pruning a pruned model with the same
    counts changes nothing, so the authors' additional prune after the last step needs no work of its own.

    prunable: bool, broadcasts to each of params: only these are pruned, to the share of them that `keep` is of all,
    rounded down, but to one weight at least. None: all.
    """
    if not (sparsity.target or sparsity.linear):
        return dict(params)
    names, size = list(weight_sizes(params)), {name: jnp.abs(params[name]) for name in params if is_weight(name)}
    if prunable is not None:
        size = {name: jnp.where(prunable[name], size[name], 0) for name in names}
        keep = _own_share(keep, params, prunable, sparsity)
    kept = by_platform(partial(_kept, sparsity=sparsity), partial(_kept_on_gpu, sparsity=sparsity), size, keep)
    pruned = dict(params)
    for name in names:
        own = kept[name] if prunable is None else kept[name] | ~prunable[name]
        pruned[name] = jnp.where(own, params[name], 0)
    return pruned


def _kept(size: dict[str, Array], keep: Array, sparsity: Sparsity) -> dict[str, Array]:
    """Which weights stay, bool, from their magnitudes."""
    names, kept = sorted(size), {}
    if sparsity.scope == "layer":
        threshold = {name: kth_largest(size[name].ravel(), keep[i]) for i, name in enumerate(names)}
    else:
        shared = kth_largest(jnp.concatenate([size[name].ravel() for name in names]), keep[0])
        threshold = dict.fromkeys(names, shared)
    for name in names:
        kept[name] = size[name] >= threshold[name]
        if sparsity.floor and size[name].ndim == 4:
            kept[name] |= floor_mask(size[name], kept[name], sparsity.floor)
    return kept


def _kept_on_gpu(size: dict[str, Array], keep: Array, sparsity: Sparsity) -> dict[str, Array]:
    """As `_kept`, in few launches. A filter that would keep too few has a threshold of its own, under the layer's."""
    names = sorted(size)
    tensors = [size[name] for name in names]
    if sparsity.scope == "global":
        tensors = [jnp.concatenate([values.ravel() for values in tensors])]
    found, kept = jnp.broadcast_to(kth_largest_of_all(tensors, keep), (len(names),)), {}
    for name, threshold in zip(names, found, strict=True):
        if sparsity.floor and size[name].ndim == 4:
            most = min(sparsity.floor, size[name].size // size[name].shape[-1])
            threshold = jnp.minimum(threshold, kth_largest_of_filters(size[name], most))
        kept[name] = size[name] >= threshold
    return kept


def _own_share(keep: Array, params: Params, prunable: Mapping[str, Array], sparsity: Sparsity) -> Array:
    """Weights to keep, (L,) or (1,), of those that may be pruned."""
    sizes = weight_sizes(params)
    own = [jnp.sum(jnp.broadcast_to(prunable[name], params[name].shape), dtype=jnp.int32) for name in sizes]
    total = list(sizes.values())
    if sparsity.scope == "global":
        own, total = [sum(own)], [sum(total)]
    # In the precision of the model: an integer product of two numbers of weights is too large for 32 bits.
    share = jnp.stack(own).astype(params["fc_bias"].dtype) / jnp.asarray(total, params["fc_bias"].dtype)
    return jnp.maximum(1, jnp.floor(keep * share)).astype(jnp.int32)


def kth_largest(magnitude: Array, k: Array) -> Array:
    """The k-th largest of non-negative values (n,), exactly, for a traced k in 1..n; no sort.

    The bit patterns of non-negative floats are ordered as the floats are, so the answer's bits are found from the
    highest down: a bit stays if at least k values reach the candidate.
    """
    width = magnitude.dtype.itemsize * 8
    bits = lax.bitcast_convert_type(magnitude, jnp.dtype(f"int{width}"))
    one = jnp.ones((), bits.dtype)

    def settle(i: Array, found: Array) -> Array:
        candidate = found | (one << (width - 2 - i).astype(bits.dtype))
        return jnp.where(jnp.sum(bits >= candidate, dtype=jnp.int32) >= k, candidate, found)

    found = lax.fori_loop(0, width - 1, settle, jnp.zeros((), bits.dtype))
    return lax.bitcast_convert_type(found, magnitude.dtype)


def floor_mask(magnitude: Array, kept: Array, floor: int) -> Array:
    """True for the `floor` largest weights (ties stay) of every filter that keeps fewer than `floor`.

    Args: magnitude (3, 3, I, O) >= 0; kept (3, 3, I, O). A filter with no more than `floor` weights keeps them all.
    """
    axes, (*of_filter, filters) = tuple(range(magnitude.ndim - 1)), magnitude.shape
    if floor >= np.prod(of_filter):
        return jnp.ones_like(kept)
    threshold = jnp.full((filters,), jnp.inf, magnitude.dtype)
    reached = jnp.zeros((filters,), jnp.int32)
    for _ in range(floor):  # next smaller distinct value, until `floor` values are reached
        value = jnp.max(jnp.where(magnitude < threshold, magnitude, -1), axes)
        threshold = jnp.where(reached < floor, jnp.maximum(value, 0), threshold)
        reached = jnp.sum(magnitude >= threshold, axes)
    starved = jnp.sum(kept, axes) < floor
    return starved & (magnitude >= threshold)

"""Exact k-th largest values for a GPU: of all tensors at once, several bits a pass.

A GPU waits for every launch, so a search bit by bit and tensor by tensor, which suits a CPU (`pruning.kth_largest`),
takes longer there than the network. The results are the same bits.

Axes: L tensors, R rows that they are cut into, C candidates of a pass, n weights, O filters.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

DIGIT = 5
"""Bits of a pass, nearly: 2^bits - 1 candidates are counted in one kernel."""
ROW = 8192
"""Numbers of a row; a kernel counts in every row, and the next one adds the rows of a tensor."""


def kth_largest_of_all(magnitudes: Sequence[Array], k: Array) -> Array:
    """The k-th largest of each of L tensors of non-negative values, exactly, for traced k (L,) in 1 ... n: (L,).

    The bit patterns of non-negative floats are ordered as the floats are. From the highest on, a digit of the answer is
    how many of its candidates are reached by at least k values.
    """
    width = magnitudes[0].dtype.itemsize * 8
    whole = jnp.dtype(f"int{width}")
    rows = [_rows(lax.bitcast_convert_type(values, whole)) for values in magnitudes]
    table, lengths = jnp.concatenate(rows), [len(own) for own in rows]
    owner, ends = np.repeat(np.arange(len(rows)), lengths), np.cumsum(lengths)[:-1]
    found, left = jnp.zeros(len(rows), whole), width - 1
    for size in digits(width - 1):
        left -= size
        candidates = found[owner][:, None] + (np.arange(1, 2**size).astype(whole) << left)  # (R, C)
        reached = jnp.sum(table[:, None] >= candidates[..., None], -1, dtype=jnp.int32)
        counts = jnp.stack([reduce(jnp.add, own) for own in jnp.split(reached, ends)])
        found += jnp.sum(counts >= k[:, None], -1, dtype=whole) << left
    return lax.bitcast_convert_type(found, magnitudes[0].dtype)


def digits(bits: int) -> list[int]:
    """So many bits in digits of DIGIT bits, some of them a bit wider rather than one digit more."""
    count = bits // DIGIT
    return [bits // count + (i < bits % count) for i in range(count)]


def _rows(bits: Array) -> Array:
    """Any shape as rows (r, ROW), filled up with what reaches no candidate."""
    flat = bits.ravel()
    return jnp.pad(flat, (0, -len(flat) % ROW), constant_values=-1).reshape(-1, ROW)


def kth_largest_of_filters(magnitude: Array, k: int) -> Array:
    """The k-th largest of each filter's non-negative values, (..., O) -> (O,), for a k that is known and small.

    One reduction of lists of k, each in descending order, to one. It is of bits, which are ordered as values are: as
    floats, some devices take subnormal ones for 0. A filter has at least k values.
    """
    bits = lax.bitcast_convert_type(magnitude, jnp.dtype(f"int{magnitude.dtype.itemsize * 8}"))
    values = bits.reshape(-1, magnitude.shape[-1])
    values = jnp.pad(values, ((0, -len(values) % k), (0, 0)), constant_values=-1)
    lists = reduce(partial(_merged, most=k), [[own] for own in jnp.split(values, k)])
    nothing = [jnp.full((), -1, values.dtype)] * k
    found = lax.reduce(list(lists), nothing, partial(_merged, most=k), (0,))[-1]
    return lax.bitcast_convert_type(found, magnitude.dtype)


def _merged(a: Sequence[Array], b: Sequence[Array], most: int) -> list[Array]:
    """The largest of two descending lists, descending, at most so many. The i-th is the best of all ways to take i from
    both, and a way is as good as the worse of the two last that it takes."""
    places = range(min(most, len(a) + len(b)))
    return [reduce(jnp.maximum, [_last(a, n, b, i + 1 - n) for n in _ways(i + 1, len(a), len(b))]) for i in places]


def _ways(taken: int, from_a: int, from_b: int) -> range:
    """How many of so many may come from the first list."""
    return range(max(0, taken - from_b), min(taken, from_a) + 1)


def _last(a: Sequence[Array], from_a: int, b: Sequence[Array], from_b: int) -> Array:
    """The smallest that is taken."""
    return reduce(jnp.minimum, [own[n - 1] for own, n in ((a, from_a), (b, from_b)) if n])

"""The convolution of a frozen kernel that is nearly all zeros: only its non-zero weights are visited.

Axes: N images, H x W positions, I input and O output channels; h = floor(H/2), w = floor(W/2); S runs of RUN weights.

Images come last, (I, H, W, N): what one weight adds to its output channel is then a shifted plane times a number, and
the processor's vectors run over images. At 99 % that takes a CPU a fifth of a dense convolution's time, forward and
back to the input. (The kernel's own gradient is dense whatever the kernel, since pruned weights may return:
`sparse_training`.) An accelerator would make many small operations of it.

As in `fedmi_jax.network.ops`, every output element is the same sum in the same order wherever it stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.network.ops import from_windows, fusion_barrier, windows

RUN = 4
"""Weights of one output channel that are added up in one go; also the pruning floor."""


def piece(width: int, micro_batch: int) -> int:
    """Images at a time, for a batch of `width` in pieces of `micro_batch`: a few of these together, since a plane is
    small and every run of weights is a loop to start."""
    return max(n * micro_batch for n in (1, 2, 3) if width % (n * micro_batch) == 0)


class Taps(NamedTuple):
    """The non-zero weights of a kernel in runs, one output channel after the other; zeros fill up its last run."""

    runs: Array
    """(), how many of the S are used."""
    ends: Array
    """(O,): how many are used up to and with each output channel."""
    output: Array
    """(S,)."""
    place: tuple[Array, Array, Array]
    """Input channel, row and column of the kernel, (S, RUN) each."""
    weight: Array
    """(S, RUN)."""


class Kernel(NamedTuple):
    """A kernel (3, 3, I, O) by its non-zero weights."""

    forward: Taps
    """For the convolution."""
    backward: Taps
    """For the gradient of its input."""


def compress(kernels: Sequence[Array], most: Sequence[int]) -> list[Kernel]:
    """The non-zero weights of kernels (3, 3, I, O), of each at most `most`: what is beyond them is left out."""
    orientations = [way for kernel in kernels for way in (kernel, kernel[::-1, ::-1].swapaxes(2, 3))]
    flat = [way.reshape(-1, way.shape[3]) for way in orientations]
    runs = [min(n, kernel.size) // RUN for n, kernel in zip(most, kernels, strict=True) for _ in range(2)]
    sizes = [n + way.shape[3] for n, way in zip(runs, orientations, strict=True)]
    tables, outputs, ends = _places(flat, max(sizes))  # of all kernels by one loop: it is compiled but once
    taps = [
        _taps(way, flat[i], tables[i, : sizes[i]], outputs[i, : sizes[i]], ends[i])
        for i, way in enumerate(orientations)
    ]
    return [Kernel(*pair) for pair in zip(taps[::2], taps[1::2], strict=True)]


def _places(flat: list[Array], size: int) -> tuple[Array, Array, Array]:
    """Of every kernel (9 I, O): each tap's row in it, or -1, (F, S, RUN); each run's output channel, (F, S); how many
    runs there are up to each output channel, (F, O)."""
    rows, columns = (max(one.shape[axis] for one in flat) for axis in (0, 1))
    there = [jnp.pad(one != 0, ((0, rows - one.shape[0]), (0, columns - one.shape[1]))) for one in flat]
    lengths = jnp.array([len(one) for one in flat], jnp.int32)
    return lax.map(partial(_places_of_one, size=size), (jnp.stack(there), lengths))


def _places_of_one(kernel: tuple[Array, Array], size: int) -> tuple[Array, Array, Array]:
    there, length = kernel
    runs = -(-jnp.sum(there, 0, dtype=jnp.int32) // RUN)
    end = jnp.cumsum(runs, dtype=jnp.int32)

    def put(row: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        """One row, for all output channels at once: each takes its channel's next slot."""
        table, following = carry
        slot = jnp.where(there[row], following, size * RUN)
        return table.at[slot].set(row.astype(table.dtype), mode="drop"), following + there[row]

    nowhere = jnp.full(size * RUN, -1, jnp.int32)
    table, _ = lax.fori_loop(0, length, put, (nowhere, RUN * (end - runs)))
    output = jnp.searchsorted(end, jnp.arange(size, dtype=jnp.int32), side="right")
    return table.reshape(size, RUN), output, end


def _taps(kernel: Array, flat: Array, table: Array, output: Array, ends: Array) -> Taps:
    inputs, outputs = kernel.shape[2:]
    output = jnp.minimum(output, outputs - 1).astype(jnp.int32)
    weight = jnp.where(table >= 0, flat[table, output[:, None]], 0)
    table = jnp.maximum(table, 0)
    place = (table % inputs, table // (3 * inputs), table // inputs % 3)
    return Taps(ends[-1], ends[:outputs], output, place, weight)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_windows(x: Array, kernel: Kernel, outputs: int) -> Array:
    """`ops.conv_windows` with images last and without a gradient of the kernel: x (I, H, W, N) -> (4, O, h, w, N)."""
    _, height, width, images = x.shape
    shape = (outputs, height - height % 2, width - width % 2, images)
    return windows(fusion_barrier(_convolve(padded(x), kernel.forward, shape)))


def _convolve(padded: Array, taps: Taps, shape: tuple[int, ...]) -> Array:
    """The sum of all taps' shifted planes: (I, H + 2, W + 2, N) -> `shape`, (O, rows, columns, N)."""
    plane, zero = (1, *shape[1:]), jnp.zeros((), jnp.int32)

    def add(run: Array, y: Array) -> Array:
        here = (taps.output[run], zero, zero, zero)
        seen = [lax.dynamic_slice(padded, (*(axis[run, i] for axis in taps.place), zero), plane) for i in range(RUN)]
        terms = (taps.weight[run, i] * shifted for i, shifted in enumerate(seen))
        return lax.dynamic_update_slice(y, sum(terms, lax.dynamic_slice(y, here, plane)), here)

    return lax.fori_loop(0, taps.runs, add, jnp.zeros(shape, padded.dtype))


def padded(x: Array, rows: int = 0, columns: int = 0) -> Array:
    return fusion_barrier(jnp.pad(x, ((0, 0), (1, 1 + rows), (1, 1 + columns), (0, 0))))


def _conv_forward(x: Array, kernel: Kernel, outputs: int) -> tuple[Array, tuple[Array, Kernel]]:
    return conv_windows(x, kernel, outputs), (x, kernel)


def _conv_backward(outputs: int, residuals: tuple[Array, Kernel], g: Array) -> tuple[Array, None]:
    x, kernel = residuals
    _, height, width, _ = x.shape
    whole = padded(from_windows(fusion_barrier(g)), height % 2, width % 2)
    return fusion_barrier(_convolve(whole, kernel.backward, x.shape)), None


conv_windows.defvjp(_conv_forward, _conv_backward)

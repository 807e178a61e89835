"""A whole layer of a frozen sparse model, channel by channel: convolution by its non-zero weights, bias, ReLU and pool.

Axes: N images, H x W positions, I input and O output channels; h = floor(H/2), w = floor(W/2); S runs of RUN weights.

`sparse_ops.conv_windows` writes all outputs of a convolution before they are pooled. Here one channel is finished
before the next one begins, so that its plane stays in the processor's cache and only what the pool leaves is written.
Channels without a non-zero weight cost nothing. Sums are in the same order as there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.network.ops import fusion_barrier, pool_and_winner, windows
from fedmi_jax.network.sparse_ops import RUN, Kernel, Taps, padded

IMAGES = 128
"""Images at a time, about: a plane then fits the cache, and the loops over weights are started seldom enough."""


def piece(width: int, micro_batch: int) -> int:
    """Images at a time, for a batch of `width` in pieces of `micro_batch`: as many of these as make `IMAGES`."""
    most = max(1, IMAGES // micro_batch)
    return max(n * micro_batch for n in range(1, most + 1) if width % (n * micro_batch) == 0)


@jax.custom_vjp
def conv_relu_pool(x: Array, kernel: Kernel, bias: Array, offset: Array | None) -> Array:
    """max(0, max over the window of (convolution + offset + bias)), without gradients but that of x.

    Args: x (I, H, W, N); bias (O,); offset (4, O, h, w, 1), as pooling windows, or None. Returns (O, h, w, N).
    """
    return _layer(x, kernel, bias, offset, lambda elements, bias: (_pool(elements, bias),))[0]


def _layer(
    x: Array, kernel: Kernel, bias: Array, offset: Array | None, pool: Callable[[Array, Array], tuple[Array, ...]]
) -> tuple[Array, ...]:  # fmt: skip
    """What `pool` makes of every channel's windows (4, 1, h, w, N) and its bias, each (O, h, w, N)."""
    _, height, width, images = x.shape
    h, w = height // 2, width // 2
    offset = jnp.zeros((4, len(bias), h, w, 1), x.dtype) if offset is None else offset
    seen, taps = padded(x), kernel.forward

    def channel(o: Array, done: tuple[Array, ...]) -> tuple[Array, ...]:
        y = _plane(seen, taps, o, (1, 2 * h, 2 * w, images))
        elements = windows(y) + lax.dynamic_slice_in_dim(offset, o, 1, 1)
        return jax.tree.map(partial(_put, at=o), done, pool(elements, lax.dynamic_slice_in_dim(bias, o, 1)))

    silent = pool(offset, bias[:, None, None, None])
    every = tuple(jnp.broadcast_to(one, (*one.shape[:3], images)) for one in silent)
    return fusion_barrier(lax.fori_loop(0, _channels(taps), channel, every))


def _pool(elements: Array, bias: Array) -> Array:
    a, b, c, d = (element + bias for element in elements)
    return jnp.maximum(jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d)), 0)


def forward(x: Array, kernel: Kernel, bias: Array, offset: Array | None) -> tuple[Array, tuple[Array, Kernel, Array]]:
    """The layer, and what `backward` needs: the winner of every window, the kernel and the input."""
    pooled, winner = _layer(x, kernel, bias, offset, pool_and_winner)
    return pooled, (winner, kernel, x)


def backward(residuals: tuple[Array, Kernel, Array], g: Array) -> tuple[Array, None, None, None]:
    """The gradient of the input, from that of what the layer puts out (O, h, w, N)."""
    winner, kernel, x = residuals
    _, height, width, images = x.shape
    corners = jnp.arange(4, dtype=winner.dtype).reshape(2, 1, 2, 1)
    elements = jnp.where(winner[:, :, None, :, None] == corners, g[:, :, None, :, None], 0)
    elements = fusion_barrier(elements).reshape(len(g), 2 * g.shape[1], 2 * g.shape[2], images)
    whole, taps = padded(elements, height % 2, width % 2), kernel.backward

    def channel(i: Array, d_x: Array) -> Array:
        return _put(d_x, _plane(whole, taps, i, (1, height, width, images)), i)

    return fusion_barrier(lax.fori_loop(0, _channels(taps), channel, jnp.zeros_like(x))), None, None, None


conv_relu_pool.defvjp(forward, backward)


def refreshed(
    outputs: Array, seen: Array, heard: Array, kernel: Kernel, bias: Array, offset: Array | None, replaced: Array,
    anew: Array,
) -> Array:  # fmt: skip
    """The outputs (O, h, w, N), or with a border, in which the channels `anew` bool (O,) are computed again.

    Args: seen (I, H + 2, W + 2, N), the layer's padded input, of which channels `heard` bool (I,) alone count; kernel,
    bias and offset as of `conv_relu_pool`; replaced (O, h, w, 1) or (): what is taken off what ReLU and pool leave.
    """
    taps, border = kernel.forward, outputs.shape[1] - (seen.shape[1] - 2) // 2
    taps = taps._replace(weight=jnp.where(heard[taps.place[0]], taps.weight, 0))
    shape = (1, *(n - 2 - n % 2 for n in seen.shape[1:3]), seen.shape[3])
    order = jnp.argsort(~anew, stable=True)

    def channel(i: Array, outputs: Array) -> Array:
        own = partial(lax.dynamic_slice_in_dim, start_index=order[i], slice_size=1)
        elements = windows(_plane(seen, taps, order[i], shape))
        pooled = _pool(elements if offset is None else elements + own(offset, axis=1), own(bias))
        done = pooled - (own(replaced) if replaced.ndim else replaced)
        edge = jnp.asarray(border // 2, order.dtype)
        return lax.dynamic_update_slice(outputs, done, (order[i], edge, edge, jnp.zeros_like(edge)))

    return lax.fori_loop(0, jnp.sum(anew), channel, outputs)


def _channels(taps: Taps) -> Array:
    """How many channels there are up to the last one with a weight."""
    first = jnp.concatenate([jnp.zeros(1, taps.ends.dtype), taps.ends[:-1]])
    return jnp.max(jnp.where(taps.ends > first, jnp.arange(1, len(first) + 1), 0))


def _plane(seen: Array, taps: Taps, channel: Array, shape: tuple[int, ...]) -> Array:
    """One channel of a convolution, `shape` = (1, rows, columns, N), of its padded input (I, H + 2, W + 2, N)."""
    zero = jnp.zeros((), jnp.int32)

    def add(run: Array, y: Array) -> Array:
        shifted = [lax.dynamic_slice(seen, (*(axis[run, i] for axis in taps.place), zero), shape) for i in range(RUN)]
        return sum((taps.weight[run, i] * one for i, one in enumerate(shifted)), y)

    first = jnp.where(channel > 0, taps.ends[channel - 1], 0)
    return fusion_barrier(lax.fori_loop(first, taps.ends[channel], add, jnp.zeros(shape, seen.dtype)))


def _put(done: Array, plane: Array, at: Array) -> Array:
    return lax.dynamic_update_slice_in_dim(done, plane, at, 0)

"""A layer's convolution, written for what XLA does well on a GPU. `fedmi_jax.network.ops` chooses.

Axes: N images, H x W positions, I input and O output channels; h = floor(H/2), w = floor(W/2).

- A convolution of an image (FEW input channels) is sums of a few products per element, which XLA computes within the
  kernel that pools: neither its output nor the gradient of it is ever in memory.
- Any other is patches @ kernel, one batched product for all models. The kernel's gradient is another, of the same patches,
  which XLA keeps.
- The gradient of the input is a convolution of the library's, in groups: pooling windows cannot tie there.

Forward both are, as on a CPU, the same sum in the same order for every element, wherever it stands. A convolution of the
library's is not: it may choose Winograd's or Fourier's algorithm, which round the elements of one window differently.
The kernel's gradient is no convolution of the library's either: for a stack of models it would be one with a window as
large as the image.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax
from jax.experimental.layout import Layout, with_layout_constraint

LAYOUT = ("NHWC", "HWIO", "NHWC")
FEW = 3
"""Input channels up to which products are summed within the pooling kernel."""


def forward(x: Array, kernel: Array) -> Array:
    """The convolution's pooling windows. Args: x (N, H, W, I); kernel (3, 3, I, O). Returns (4, N, h, w, O)."""
    if x.shape[-1] <= FEW:
        weights = list(kernel.reshape(-1, kernel.shape[-1]))
        return jnp.stack([_sum_of_products(own, weights) for own in _taps(x)])
    return _windows(_patches(x) @ kernel.reshape(-1, kernel.shape[-1]), x.shape)


def backward(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
    """The gradients of x and of the kernel, from that of the windows."""
    whole = _row_major(_from_windows(g))
    height, width = x.shape[1:3]
    padding = ((1, 1 + height % 2), (1, 1 + width % 2))
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    d_x = lax.conv_general_dilated(whole, turned, (1, 1), padding, dimension_numbers=LAYOUT)
    if x.shape[-1] <= FEW:
        return d_x, _kernel_gradient(_taps(x), g).reshape(kernel.shape)
    return d_x, (_patches(x).T @ whole.reshape(-1, whole.shape[-1])).reshape(kernel.shape)


def pool_and_winner(elements: Array, bias: Array) -> tuple[Array, Array]:
    """As `ops.relu_pool` keeps them: the pooled output, and which element it was; -1 where ReLU is closed.

    One reduction that begins with 0, which is at place -1: then nothing between the elements and the two results is
    ever in memory.
    """
    values = elements + bias
    places = lax.broadcasted_iota(jnp.int8, values.shape, 0)
    closed = jnp.zeros((), values.dtype), jnp.full((), -1, jnp.int8)
    return lax.optimization_barrier(lax.reduce((values, places), closed, _first_of_largest, (0,)))


def _first_of_largest(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    (value, place), (other, other_place) = a, b
    nearer = jnp.where(value > other, place, jnp.where(other > value, other_place, jnp.minimum(place, other_place)))
    return jnp.maximum(value, other), nearer


def _taps(x: Array) -> list[list[Array]]:
    """Of each of the four elements of a window: the inputs (N, h, w, 1) that its 9 I weights meet."""
    x, (_, height, width, inputs) = _row_major(x), x.shape
    h, w = height // 2, width // 2
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    def met(row: int, column: int) -> list[Array]:
        seen = padded[:, row : row + 2 * h : 2, column : column + 2 * w : 2]
        return [seen[..., i : i + 1] for i in range(inputs)]

    return [
        [one for r in range(3) for c in range(3) for one in met(i + r, j + c)] for i in range(2) for j in range(2)
    ]  # fmt: skip


def _sum_of_products(taps: list[Array], weights: list[Array]) -> Array:
    """Left to right, (N, h, w, O)."""
    total = taps[0] * weights[0]
    for tap, weight in zip(taps[1:], weights[1:], strict=True):
        total = total + tap * weight
    return total


def _kernel_gradient(taps: list[list[Array]], g: Array) -> Array:
    """(9 I, O): of the inputs that each weight met, times the gradient there, the sum over all images and windows."""
    met = [sum(taps[e][k] * g[e] for e in range(4)) for k in range(len(taps[0]))]
    return jnp.sum(jnp.stack(met, -2), (0, 1, 2))  # type: ignore[arg-type]


def _row_major(x: Array) -> Array:
    """The same, stored in this order: XLA would spread the library's order of axes over the step, and move arrays back
    and forth."""
    return with_layout_constraint(x, Layout(tuple(range(x.ndim))))


def _patches(x: Array) -> Array:
    """(N, H, W, I) -> (N * 2h * 2w, 9 * I), every output position's 3x3 neighbourhood."""
    n, height, width, inputs = x.shape
    rows, columns = height - height % 2, width - width % 2
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return jnp.concatenate(taps, -1).reshape(n * rows * columns, 9 * inputs)


def _windows(y: Array, shape: tuple[int, ...]) -> Array:
    """(N * 2h * 2w, O) -> (4, N, h, w, O)."""
    n, height, width, _ = shape
    y = y.reshape(n, height // 2, 2, width // 2, 2, -1)
    return jnp.stack([y[:, :, i, :, j] for i in range(2) for j in range(2)])


def _from_windows(g: Array) -> Array:
    """(4, N, h, w, O) -> (N, 2h, 2w, O)."""
    _, n, h, w, channels = g.shape
    rows = [jnp.stack([g[2 * i], g[2 * i + 1]], 3) for i in range(2)]
    return jnp.stack(rows, 2).reshape(n, 2 * h, 2 * w, channels)

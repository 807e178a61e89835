"""The two operations of a layer, with exactly the gradients the method asks for, fast under vmap.

Axes: N images, H x W positions, I input and O output channels; h = floor(H/2), w = floor(W/2).

A 3x3 convolution is followed by a 2x2 pool, so its output is handed over as the four elements of every pooling
window, row-major, stacked in front: (4, N, h, w, O). Rows and columns that no window covers are never computed.

- Forward, every output element is the same sum in the same order wherever it stands, so that elements that are equal
  in exact arithmetic are equal in floating point and the first-tie rule of the pool means what it says.
- Backward, both gradients go through Winograd's F(2x2, 3x3) (Lavin & Gray 2016), whose 2x2 output tiles are the
  pooling windows: 16 products where the direct form has 36. It rounds differently, and ties play no part there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from fedmi_jax.network import gpu_ops

LAYOUT = ("NHWC", "HWIO", "NHWC")
FEW = 8
"""Input channels, as of an image or a narrow layer, under which a kernel's gradient goes through patches, not tiles."""
# XLA's CPU backend otherwise fuses a transform into each of its users and computes it again for every element.
fusion_barrier = lax.optimization_barrier


def by_platform(elsewhere: Callable[..., Any], gpu: Callable[..., Any], *args: Any) -> Any:
    """One of two bodies, chosen when the program is lowered for its device, wherever that is done."""
    return lax.platform_dependent(*args, cuda=gpu, rocm=gpu, default=elsewhere)


@custom_vmap
def _convolve(x: Array, kernel: Array) -> Array:
    """3x3 convolution with padding 1, cropped to whole pooling windows: (N, H, W, I) -> (N, 2h, 2w, O)."""
    crop_h, crop_w = x.shape[1] % 2, x.shape[2] % 2
    padding, outputs = ((1, 1 - crop_h), (1, 1 - crop_w)), kernel.shape[3]
    if outputs < 32:  # XLA's CPU convolution of an image is five times slower for 16 outputs than for 32
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, 32 - outputs)))
    y = lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)
    return y[..., :outputs]


@_convolve.def_vmap
def _convolve_stack(axis_size: int, batched: list[bool], x: Array, kernel: Array) -> tuple[Array, bool]:
    """A stack of models: as patches @ kernel, one batched matmul, where XLA would make a slow grouped convolution."""
    if not batched[1]:  # one kernel for all: still a plain convolution, over more images
        flat = _convolve(x.reshape(-1, *x.shape[2:]), kernel)
        return flat.reshape(axis_size, -1, *flat.shape[1:]), True
    x = x if batched[0] else jnp.broadcast_to(x, (axis_size, *x.shape))
    return jax.vmap(_patches_matmul)(x, kernel), True


def _patches_matmul(x: Array, kernel: Array) -> Array:
    n, height, width, _ = x.shape
    out = _patches(x) @ kernel.reshape(-1, kernel.shape[-1])
    return out.reshape(n, height - height % 2, width - width % 2, -1)


def _patches(x: Array) -> Array:
    """(N, H, W, I) -> (N * 2h * 2w, 9 * I), every output position's 3x3 neighbourhood."""
    n, height, width, channels = x.shape
    rows, columns = height - height % 2, width - width % 2
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    taps = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return fusion_barrier(jnp.concatenate(taps, -1)).reshape(n * rows * columns, 9 * channels)


@jax.custom_vjp
def conv_windows(x: Array, kernel: Array) -> Array:
    """3x3 convolution, padding 1, without bias, as pooling windows.

    Args: x (N, H, W, I); kernel (3, 3, I, O). Returns (4, N, h, w, O), windows' elements in row-major order.
    """
    return _conv_forward(x, kernel)[0]


def windows(y: Array) -> Array:
    """The 2x2 pooling windows of y (N, H, W, O) as (4, N, h, w, O); an odd last row or column is in none."""
    n, rows, columns, channels = y.shape
    rows, columns = rows - rows % 2, columns - columns % 2
    y = y[:, :rows, :columns]
    y = y.reshape(n, rows // 2, 2, columns // 2, 2, channels)
    return jnp.stack([y[:, :, i, :, j] for i in range(2) for j in range(2)])


def from_windows(g: Array) -> Array:
    """(4, N, h, w, O) -> (N, 2h, 2w, O), the inverse of `windows`."""
    _, n, h, w, channels = g.shape
    rows = [jnp.stack([g[2 * i], g[2 * i + 1]], 3) for i in range(2)]
    return jnp.stack(rows, 2).reshape(n, 2 * h, 2 * w, channels)


def _conv_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return by_platform(_conv_forward_cpu, gpu_ops.forward, x, kernel), (x, kernel)


def _conv_forward_cpu(x: Array, kernel: Array) -> Array:
    return windows(fusion_barrier(_convolve(x, kernel)))


def _conv_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return by_platform(_conv_backward_cpu, gpu_ops.backward, *residuals, g)


def _conv_backward_cpu(x: Array, kernel: Array, g: Array) -> tuple[Array, Array]:
    _, height, width, channels = x.shape
    d_tiles = fusion_barrier(_output_tiles_transpose(g)).reshape(16, -1, g.shape[-1])
    k_tiles = fusion_barrier(_kernel_tiles(kernel))
    d_x_tiles = fusion_barrier(lax.dot_general(d_tiles, k_tiles, (((2,), (2,)), ((0,), (0,)))))
    d_x = fusion_barrier(_input_tiles_transpose(d_x_tiles.reshape(16, *g.shape[1:4], channels), height, width))
    if channels < FEW:  # nine columns of patches are then less work than sixteen of tiles
        return d_x, (_patches(x).T @ fusion_barrier(from_windows(g).reshape(-1, g.shape[-1]))).reshape(kernel.shape)
    x_tiles = fusion_barrier(_input_tiles(x)).reshape(16, -1, channels)
    d_k_tiles = fusion_barrier(lax.dot_general(x_tiles, d_tiles, (((1,), (1,)), ((0,), (0,)))))
    return d_x, _kernel_tiles_transpose(d_k_tiles)


conv_windows.defvjp(_conv_forward, _conv_backward)


def _kernel_tiles(kernel: Array) -> Array:
    """G k G^T: (3, 3, I, O) -> (4*4, I, O)."""
    rows = _widen([kernel[0], kernel[1], kernel[2]])
    return jnp.stack([t for r in rows for t in _widen([r[0], r[1], r[2]])])


def _kernel_tiles_transpose(g: Array) -> Array:
    """G^T g G: (4*4, I, O) -> (3, 3, I, O)."""
    columns = [jnp.stack(_widen_transpose(list(g[4 * i : 4 * i + 4]))) for i in range(4)]
    return jnp.stack(_widen_transpose(columns))


def _widen(k: list[Array]) -> list[Array]:
    """G k, along one direction of the kernel."""
    outer = (k[0] + k[2]) / 2
    return [k[0], outer + k[1] / 2, outer - k[1] / 2, k[2]]


def _widen_transpose(u: list[Array]) -> list[Array]:
    """G^T u."""
    inner = (u[1] + u[2]) / 2
    return [u[0] + inner, (u[1] - u[2]) / 2, inner + u[3]]


def _tile(d: list[Array]) -> list[Array]:
    """B^T d, along one direction of a 4x4 input tile."""
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _tile_transpose(v: list[Array]) -> list[Array]:
    """B v."""
    return [v[0], v[1] - v[2] + v[3], v[1] + v[2] - v[0], -v[3]]


def _input_tiles(x: Array) -> Array:
    """(N, H, W, I) -> (4*4, N, h, w, I): the overlapping 4x4 tiles that the windows see, transformed."""
    n, height, width, channels = x.shape
    h, w = height // 2, width // 2
    x = jnp.pad(x, ((0, 0), (1, 1 - height % 2), (1, 1 - width % 2), (0, 0)))
    x = x.reshape(n, h + 1, 2, w + 1, 2, channels)
    rows = _tile([x[:, :h, 0], x[:, :h, 1], x[:, 1:, 0], x[:, 1:, 1]])
    return jnp.stack([t for r in rows for t in _tile([r[:, :, :w, 0], r[:, :, :w, 1], r[:, :, 1:, 0], r[:, :, 1:, 1]])])


def _input_tiles_transpose(g: Array, height: int, width: int) -> Array:
    """The transpose of `_input_tiles`: (4*4, N, h, w, I) -> (N, H, W, I), overlaps added."""
    columns = []
    for i in range(4):
        d = _tile_transpose(list(g[4 * i : 4 * i + 4]))
        columns.append(jnp.stack([_overlap(d[0], d[2], 2), _overlap(d[1], d[3], 2)], 3))
    d = _tile_transpose(columns)
    x = jnp.stack([_overlap(d[0], d[2], 1), _overlap(d[1], d[3], 1)], 2)
    x = x.reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[3], x.shape[5])
    return x[:, 1 : 1 + height, 1 : 1 + width]


def _overlap(first: Array, last: Array, axis: int) -> Array:
    """Tile i's early rows plus tile i-1's late rows: they are the same rows of the image."""
    after = [(0, 1) if a == axis else (0, 0) for a in range(first.ndim)]
    before = [(1, 0) if a == axis else (0, 0) for a in range(last.ndim)]
    return jnp.pad(first, after) + jnp.pad(last, before)


def _output_tiles_transpose(g: Array) -> Array:
    """A g A^T for every window: (4, N, h, w, O) -> (4*4, N, h, w, O)."""
    left, right = _four_from_two(g[0], g[2]), _four_from_two(g[1], g[3])
    return jnp.stack([t for i in range(4) for t in _four_from_two(left[i], right[i])])


def _four_from_two(first: Array, second: Array) -> list[Array]:
    """A y, along one direction of a 2x2 output tile."""
    return [first, first + second, first - second, -second]


@jax.custom_vjp
def relu_pool(elements: Array, bias: Array) -> Array:
    """max(0, max over the window of (element + bias)): (4, N, h, w, O), (O,) -> (N, h, w, O); or any other order of
    axes after the first, with a bias that broadcasts.

    The gradient goes to the first of equal elements in row-major order, and to none where the maximum is not
    positive (ReLU's gradient at exactly 0 is 0), as in the authors' PyTorch.
    """
    return _relu_pool_forward(elements, bias)[0]


def _relu_pool_forward(elements: Array, bias: Array) -> tuple[Array, tuple[Array, Array]]:
    pooled, winner = by_platform(pool_and_winner, gpu_ops.pool_and_winner, elements, bias)
    return pooled, (winner, bias)


def pool_and_winner(elements: Array, bias: Array) -> tuple[Array, Array]:
    """The pooled output, and which element of its window it was, -1 where ReLU is closed; both (N, h, w, O)."""
    a, b, c, d = (element + bias for element in elements)
    top = jnp.maximum(jnp.maximum(a, b), jnp.maximum(c, d))
    first = jnp.where(a == top, 0, jnp.where(b == top, 1, jnp.where(c == top, 2, 3)))
    winner = jnp.where(top > 0, first, -1).astype(jnp.int8)
    return fusion_barrier((jnp.maximum(top, 0), winner))


def _relu_pool_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    winner, bias = residuals
    d_bias = sum_to(jnp.where(winner >= 0, g, 0), bias.shape)
    return jnp.stack([jnp.where(winner == i, g, 0) for i in range(4)]), d_bias


relu_pool.defvjp(_relu_pool_forward, _relu_pool_backward)


def linear(features: Array, kernel: Array, bias: Array) -> Array:
    """The linear layer: (N, F), (F, Y), (Y,) -> (N, Y)."""
    return features @ kernel + bias


def sum_to(values: Array, shape: tuple[int, ...]) -> Array:
    """The transpose of broadcasting from `shape`: what was repeated is summed."""
    values = values.sum(tuple(range(values.ndim - len(shape))))
    return values.sum([axis for axis, size in enumerate(shape) if size == 1], keepdims=True)

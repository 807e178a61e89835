"""A whole layer of a sparse model with all its gradients, that of the dense kernel too, by what is not zero.

Axes: N images, H x W positions, I input and O output channels; h = floor(H/2), w = floor(W/2) pooling windows.

Pruned weights may return, so a kernel's gradient is needed in full, however few of its weights are left. Yet few of
the O * h * w pooled outputs have a gradient then: at 99.5 % the linear layer reads 57 of the last convolution's 1152,
and a path of non-zero weights leads from a fourth of the second one's to those. An output without a gradient for all N
images adds nothing to the kernel's gradient, so only the others are visited, which is exact. The more there are, the
longer it takes: where all are live, a dense convolution's gradient is less work.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.network import sparse_layer
from fedmi_jax.network.ops import fusion_barrier
from fedmi_jax.network.sparse_ops import Kernel

TOGETHER = 4
"""Output channels whose gradients at one window become one matmul. More would save some copies of what they see, but
then zeros fill up the last ones."""


@jax.custom_vjp
def conv_relu_pool(x: Array, weights: Array, bias: Array, kernel: Kernel) -> Array:
    """`ops.relu_pool` of `ops.conv_windows`, images last, with the gradients of x, weights and bias.

    Args: x (I, H, W, N); weights (3, 3, I, O); bias (O,); kernel: the non-zero ones of weights, from
    `sparse_ops.visit`. Returns (O, h, w, N).
    """
    return sparse_layer.conv_relu_pool(x, kernel, bias, None)


def _forward(x: Array, weights: Array, bias: Array, kernel: Kernel) -> tuple[Array, tuple]:
    return sparse_layer.forward(x, kernel, bias, None)


def _backward(residuals: tuple[Array, Kernel, Array], g: Array) -> tuple[Array, Array, Array, None]:
    winner, _, x = residuals
    g = fusion_barrier(jnp.where(winner >= 0, g, 0))
    d_x, *_ = sparse_layer.backward(residuals, g)
    return d_x, kernel_gradient(x, winner, g), jnp.sum(g, (1, 2, 3)), None


conv_relu_pool.defvjp(_forward, _backward)


def kernel_gradient(x: Array, winner: Array, g: Array) -> Array:
    """The gradient (3, 3, I, O) of the weights of a convolution, window after window.

    Args: x (I, H, W, N), its input; winner (O, h, w, N), which element of its window each output was, -1 for none;
    g (O, h, w, N), the outputs' gradients, 0 where there is no winner.
    """
    (inputs, height, width, images), (outputs, h, w, _) = x.shape, g.shape
    live = jnp.any(g != 0, 3).reshape(outputs, h * w)
    first = jnp.pad(jnp.argsort(~live, 0, stable=True), ((0, -outputs % TOGETHER), (0, 0))).astype(jnp.int32)
    count = jnp.sum(live, 0, dtype=jnp.int32)
    seen = fusion_barrier(jnp.pad(x, ((0, 0), (1, 1 - height % 2), (1, 1 - width % 2), (0, 0))))
    zero = jnp.zeros((), jnp.int32)

    def window(k: Array, total: Array) -> Array:
        row, column = k // w, k % w
        patch = lax.dynamic_slice(seen, (zero, 2 * row, 2 * column, zero), (inputs, 4, 4, images))
        patch = fusion_barrier(patch).reshape(inputs * 16, images)

        def some(group: Array, total: Array) -> Array:
            at = group * TOGETHER + jnp.arange(TOGETHER)
            channels = [first[at[i], k] for i in range(TOGETHER)]
            own = partial(_planes, channels=channels, row=row, column=column)
            elements = (own(winner) == jnp.arange(4, dtype=winner.dtype)[:, None]) & (at < count[k])[:, None, None]
            elements = fusion_barrier(jnp.where(elements, own(g), 0)).reshape(-1, images)
            products = fusion_barrier(lax.dot_general(elements, patch, (((1,), (1,)), ((), ()))))
            return _added(total, channels, _taps(products.reshape(TOGETHER, 2, 2, inputs, 4, 4)))

        return lax.fori_loop(0, -(-count[k] // TOGETHER), some, total)

    total = lax.fori_loop(0, h * w, window, jnp.zeros((outputs, 9, inputs), x.dtype))
    return total.reshape(outputs, 3, 3, inputs).transpose(1, 2, 3, 0)


def _planes(values: Array, channels: list[Array], row: Array, column: Array) -> Array:
    """Of (O, h, w, N), these channels at one window: (n, 1, N)."""
    zero = jnp.zeros((), jnp.int32)
    planes = [lax.dynamic_slice(values, (o, row, column, zero), (1, 1, 1, values.shape[3])) for o in channels]
    return fusion_barrier(jnp.concatenate(planes)).reshape(len(channels), 1, -1)


def _taps(products: Array) -> Array:
    """Of each of a window's 2 x 2 elements with each of the 4 x 4 places that these see, (n, 2, 2, I, 4, 4), the nine
    sums (n, 9, I), one for each weight."""
    elements = [(i, j) for i in range(2) for j in range(2)]
    taps = [sum(products[:, i, j, :, a + i, b + j] for i, j in elements) for a in range(3) for b in range(3)]
    return fusion_barrier(jnp.stack(taps, 1))  # type: ignore[arg-type]


def _added(total: Array, channels: list[Array], values: Array) -> Array:
    """total (O, 9, I) and values (n, 9, I), those of these channels."""
    for channel, value in zip(channels, values, strict=True):
        here = lax.dynamic_index_in_dim(total, channel, 0, keepdims=False)
        total = lax.dynamic_update_index_in_dim(total, here + value, channel, 0)
    return total

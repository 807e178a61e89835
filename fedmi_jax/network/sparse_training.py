"""A whole layer of a sparse model with all its gradients, that of the dense kernel too, by what is not zero.

Axes: N images, H x W positions, I input and O output channels; h = floor(H/2), w = floor(W/2) pooling windows.

Pruned weights may return, so a kernel's gradient is needed in full, however few of its weights are left. Yet few of
the O * h * w pooled outputs have a gradient then: at 99.5 % the linear layer reads 57 of the last convolution's 1152,
and a path of non-zero weights leads from a fourth of the second one's to those. An output without a gradient for all N
images adds nothing to the kernel's gradient, so only the others are visited, which is exact. The more there are, the
longer it takes: where all are live, a dense convolution's gradient is less work.
"""

from __future__ import annotations

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
    `sparse_ops.compress`. Returns (O, h, w, N).
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
    seen = fusion_barrier(jnp.pad(x, ((0, 0), (1, 1 - height % 2), (1, 1 - width % 2), (0, 0))))
    winner, g = (values.reshape(outputs, h * w, images) for values in (winner, g))
    channels, count = _live(g)
    corners, zero = jnp.arange(4, dtype=winner.dtype)[:, None], jnp.zeros((), jnp.int32)

    def window(k: Array, total: Array) -> Array:
        at = (zero, 2 * (k // w), 2 * (k % w), zero)
        patch = fusion_barrier(lax.dynamic_slice(seen, at, (inputs, 4, 4, images))).reshape(-1, images)

        def some(n: Array, total: Array) -> Array:
            own, rest = channels[k, n], count[k] - n * TOGETHER
            there = (winner[own, k][:, None] == corners) & (jnp.arange(TOGETHER) < rest)[:, None, None]
            elements = fusion_barrier(jnp.where(there, g[own, k][:, None], 0)).reshape(-1, images)
            products = fusion_barrier(lax.dot_general(elements, patch, (((1,), (1,)), ((), ()))))
            return total.at[own].add(_taps(products.reshape(-1, 2, 2, inputs, 4, 4)))

        return lax.fori_loop(zero, -(-count[k] // TOGETHER), some, total)

    total = lax.fori_loop(zero, jnp.int32(h * w), window, jnp.zeros((outputs, 9, inputs), x.dtype))
    return total.reshape(outputs, 3, 3, inputs).transpose(1, 2, 3, 0)


def _live(g: Array) -> tuple[Array, Array]:
    """Of gradients (O, windows, N): each window's channels, those that have one first, (windows, groups, TOGETHER), and
    how many have one, (windows,)."""
    live = jnp.any(g != 0, 2).T
    order = jnp.argsort(~live, 1, stable=True).astype(jnp.int32)
    order = jnp.pad(order, ((0, 0), (0, -order.shape[1] % TOGETHER)))
    return order.reshape(len(order), -1, TOGETHER), jnp.sum(live, 1, dtype=jnp.int32)


def _taps(products: Array) -> Array:
    """Of each of a window's 2 x 2 elements with each of the 4 x 4 places that these see, (n, 2, 2, I, 4, 4), the nine
    sums (n, 9, I), one for each weight."""
    elements = [(i, j) for i in range(2) for j in range(2)]
    taps = [sum(products[:, i, j, :, a + i, b + j] for i, j in elements) for a in range(3) for b in range(3)]
    return fusion_barrier(jnp.stack(taps, 1))  # type: ignore[arg-type]

"""The convolution that visits non-zero weights only, against a plain one."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmi_jax.network import ops, sparse_ops

SHAPES = [(2, 8, 8, 1, 3), (3, 7, 7, 9, 5), (1, 6, 9, 3, 12), (17, 5, 4, 8, 2)]
"""(N, H, W, I, O): odd and even sizes; images and layers."""


def kernel_with(count, inputs, outputs, seed=0):
    """(3, 3, I, O) with so many non-zero weights."""
    rng = np.random.default_rng(seed)
    weights = np.zeros(9 * inputs * outputs)
    weights[rng.choice(weights.size, count, replace=False)] = rng.normal(size=count)
    return jnp.asarray(weights.reshape(3, 3, inputs, outputs))


@partial(jax.jit, static_argnums=2)
def visited(x, kernel, most):
    """`ops.conv_windows`' arguments and result: images first."""
    (weights,) = sparse_ops.compress([kernel], [most])
    return jnp.moveaxis(sparse_ops.conv_windows(x.transpose(3, 1, 2, 0), weights, kernel.shape[3]), (1, 4), (4, 1))


@jax.jit
def slow(x, kernel):
    return jnp.moveaxis(plain.windows(plain.conv(x, kernel)), -1, 0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("share", [0, 0.02, 0.3, 1])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_of_the_input(shape, share):
    n, height, width, inputs, outputs = shape
    rng = np.random.default_rng(0)
    count = int(share * 9 * inputs * outputs)
    x, kernel = jnp.asarray(rng.normal(size=(n, height, width, inputs))), kernel_with(count, inputs, outputs)
    g = jnp.asarray(rng.normal(size=(4, n, height // 2, width // 2, outputs)))
    found, pull = jax.vjp(lambda x: visited(x, kernel, count), x)
    expected, pull_expected = jax.vjp(lambda x: slow(x, kernel), x)
    chex.assert_trees_all_close((found, pull(g)), (expected, pull_expected(g)), rtol=1e-12, atol=1e-12)


MOST = 40


@pytest.mark.usefixtures("x64")
@settings(max_examples=40, deadline=None)
@given(st.sets(st.integers(0, 9 * 4 * 6 - 1), min_size=MOST, max_size=MOST), st.integers(0, 6))
def test_as_many_weights_as_announced_find_room_however_they_lie(places, channels):
    """Also where they all belong to the first so many output channels."""
    weights = np.zeros(9 * 4 * 6)
    weights[list(places)] = np.arange(1, MOST + 1)
    if channels:
        crowded = np.zeros((36, 6))
        crowded[:, :channels] = np.sort(weights)[::-1][: 36 * channels].reshape(36, channels)
        weights = crowded
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 4)))
    kernel = jnp.asarray(weights.reshape(3, 3, 4, 6))
    chex.assert_trees_all_close(visited(x, kernel, MOST), slow(x, kernel), atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_kernels_of_several_shapes_at_once():
    kernels = [kernel_with(7, 1, 4), kernel_with(11, 4, 9), kernel_with(30, 9, 5)]
    compress = jax.jit(sparse_ops.compress, static_argnums=1)
    together = compress(kernels, (9, 11, 40))
    for kernel, most, found in zip(kernels, (9, 11, 40), together, strict=True):
        chex.assert_trees_all_equal(found, compress([kernel], (most,))[0])


@pytest.mark.parametrize(("size", "inputs", "outputs"), [(28, 1, 32), (14, 32, 64), (7, 64, 128)])
def test_equal_inputs_give_equal_bits_wherever_they_stand(size, inputs, outputs):
    values = np.random.default_rng(0).normal(size=inputs).astype(np.float32)
    x, kernel = jnp.broadcast_to(values, (3, size, size, inputs)), kernel_with(200, inputs, outputs).astype(jnp.float32)
    inner = np.asarray(visited(x, kernel, 200))[:, :, 1:-1, 1:-1]
    np.testing.assert_array_equal(inner, np.broadcast_to(inner[:1, :1, :1, :1], inner.shape))
    assert np.abs(inner).max() > 0


def test_the_pool_is_the_same_in_any_order_of_axes():
    rng = np.random.default_rng(0)
    elements, bias = jnp.asarray(rng.normal(size=(4, 3, 2, 2, 5))), jnp.asarray(rng.normal(size=5))
    value, pull = jax.vjp(ops.relu_pool, elements, bias)
    d_elements, d_bias = pull(value)
    last = jnp.moveaxis(elements, (1, 4), (4, 1))
    turned, pull = jax.vjp(ops.relu_pool, last, bias[:, None, None, None])
    d_turned, d_turned_bias = pull(turned)
    chex.assert_trees_all_equal(jnp.moveaxis(turned, (0, 3), (3, 0)), value)
    chex.assert_trees_all_equal(jnp.moveaxis(d_turned, (1, 4), (4, 1)), d_elements)
    chex.assert_trees_all_close(d_turned_bias.ravel(), d_bias, rtol=1e-6)

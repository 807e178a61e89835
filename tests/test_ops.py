"""Convolution and pooling: value and gradients, ties included."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest

from fedmi_jax.network.ops import _convolve, conv_windows, relu_pool, windows

SHAPES = [(2, 8, 8, 1, 3), (2, 7, 7, 9, 5), (1, 6, 9, 3, 40), (3, 5, 4, 8, 2), (1, 3, 3, 10, 4), (1, 28, 28, 1, 2)]
"""(N, H, W, I, O): odd and even sizes; images and layers (fewer and more than 8 inputs); few and many outputs."""


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@partial(jax.jit, static_argnums=0)
def value_and_pull(fn, x, kernel, g):
    y, pull = jax.vjp(fn, x, kernel)
    return y, pull(g)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_value_and_gradients(shape):
    n, height, width, inputs, outputs = shape
    x, kernel = draw(n, height, width, inputs), draw(3, 3, inputs, outputs, seed=1)
    g = draw(4, n, height // 2, width // 2, outputs, seed=2)

    def slow(x, kernel):  # (4, N, h, w, O)
        return jnp.moveaxis(plain.windows(plain.conv(x, kernel)), -1, 0)

    found, expected = (value_and_pull(f, x, kernel, g) for f in (conv_windows, slow))
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-12)


def test_a_last_odd_row_and_column_are_in_no_window():
    y = jnp.arange(49.0).reshape(1, 7, 7, 1)
    assert windows(y).shape == (4, 1, 3, 3, 1)
    np.testing.assert_array_equal(windows(y)[:, 0, 2, 1, 0], [30, 31, 37, 38])
    _, pull = jax.vjp(windows, y)
    gradient = pull(jnp.ones((4, 1, 3, 3, 1)))[0][0, ..., 0]
    assert gradient[:6, :6].sum() == 36
    assert gradient.sum() == 36


@pytest.mark.usefixtures("x64")
def test_pool_value_and_gradients():
    elements, bias = draw(4, 3, 3, 2, 5), draw(5, seed=1)

    def slow(elements, bias):
        return jnp.max(jax.nn.relu(elements + bias), 0)  # no ties among these

    expected, pull_expected = jax.vjp(slow, elements, bias)
    found, pull = jax.vjp(relu_pool, elements, bias)
    chex.assert_trees_all_equal(found, expected)
    g = draw(*expected.shape, seed=2)
    chex.assert_trees_all_close(pull(g), pull_expected(g), rtol=1e-14)


@pytest.mark.parametrize(
    ("window", "winner"),
    [
        ([1, 1, 1, 1], 0),
        ([0, 2, 2, 2], 1),
        ([0, 1, 2, 2], 2),
        ([3, 1, 3, 0], 0),
        ([-1, 0.5, 0, 0.5], 1),
        ([-1, -2, -1, -3], None),  # ReLU is closed
        ([0, 0, 0, 0], None),  # its gradient at exactly 0 is 0
        ([-1, 0, 0, -1], None),
    ],
)
def test_gradient_goes_to_the_first_of_equals_and_to_none_at_zero(window, winner):
    elements, bias = jnp.asarray(window, jnp.float32).reshape(4, 1, 1, 1, 1), jnp.zeros(1)
    value, pull = jax.vjp(relu_pool, elements, bias)
    d_elements, d_bias = pull(jnp.full((1, 1, 1, 1), 7.0))
    assert value.item() == max(0, *window)
    assert d_elements.ravel().tolist() == [7.0 * (i == winner) for i in range(4)]
    assert d_bias.tolist() == [7.0 * (winner is not None)]


@pytest.mark.parametrize("stack", [False, True], ids=["one model", "stack of models"])
@pytest.mark.parametrize(("size", "inputs", "outputs"), [(28, 1, 32), (14, 32, 64), (7, 64, 128), (9, 3, 5)])
def test_equal_inputs_give_equal_bits_wherever_they_stand(size, inputs, outputs, stack):
    rng = np.random.default_rng(0)
    x = np.broadcast_to(rng.normal(size=inputs).astype(np.float32), (2, size, size, inputs))
    kernel = jnp.asarray(rng.normal(size=(3, 3, inputs, outputs)), jnp.float32)
    if stack:
        both = jax.jit(jax.vmap(conv_windows))(jnp.stack([x, x]), jnp.stack([kernel, kernel]))
    else:
        both = jax.jit(conv_windows)(x, kernel)[None]
    inner = np.asarray(both)[:, :, :, 1:-1, 1:-1]
    np.testing.assert_array_equal(inner, np.broadcast_to(inner[:, :1, :1, :1, :1], inner.shape))


def test_on_a_constant_background_the_first_of_a_window_gets_the_gradient():
    rng = np.random.default_rng(0)
    x = jnp.full((1, 14, 14, 32), 0.3, jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 32, 64)), jnp.float32)
    elements = jax.jit(conv_windows)(x, kernel)
    gradient = jax.jit(jax.grad(lambda e: relu_pool(e, jnp.full(64, 100.0)).sum()))(elements)
    inside = np.asarray(gradient)[:, :, 1:-1, 1:-1]
    assert inside[0].min() == 1
    assert not inside[1:].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("inputs", [3, 9])
@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)], ids=["both", "shared kernel", "shared images"])
def test_stacked_is_one_by_one(axes, inputs):
    x, kernel, g = draw(3, 2, 7, 6, inputs), draw(3, 3, 3, inputs, 5, seed=1), draw(3, 4, 2, 3, 3, 5, seed=2)
    own = partial(value_and_pull, conv_windows)
    x, kernel = (a if axis == 0 else a[0] for a, axis in zip((x, kernel), axes, strict=True))
    together = jax.jit(jax.vmap(own, (*axes, 0)))(x, kernel, g)
    for i in range(3):
        alone = own(*(a[i] if axis == 0 else a for a, axis in zip((x, kernel), axes, strict=True)), g[i])
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], together), alone, rtol=1e-12, atol=1e-12)


def test_a_shared_kernel_stays_a_plain_convolution():
    x, kernel = draw(3, 2, 7, 6, 3), draw(3, 3, 3, 5, seed=1)
    lifted = jax.make_jaxpr(jax.vmap(_convolve, (0, None)))(x, kernel)
    assert "conv_general_dilated" in str(lifted)
    assert "feature_group_count=1" in str(lifted)

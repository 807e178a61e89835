"""The GPU's body of a layer, run on whatever device there is: the numbers of the plain one, and its promise on ties."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest

from fedmi_jax.network import gpu_ops, ops

SHAPES = [(2, 8, 8, 1, 3), (2, 7, 7, 9, 5), (1, 6, 9, 3, 4), (3, 5, 4, 8, 2)]
"""(N, H, W, I, O): odd and even sizes; images, and layers whose kernel's gradient goes through patches."""


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("shape", SHAPES)
def test_convolution_value_and_gradients(shape):
    n, height, width, inputs, outputs = shape
    x, kernel = draw(n, height, width, inputs), draw(3, 3, inputs, outputs, seed=1)
    g = draw(4, n, height // 2, width // 2, outputs, seed=2)

    def slow(x, kernel):  # (4, N, h, w, O)
        return jnp.moveaxis(plain.windows(plain.conv(x, kernel)), -1, 0)

    expected, pull = jax.vjp(slow, x, kernel)
    found = jax.jit(gpu_ops.forward)(x, kernel), jax.jit(gpu_ops.backward)(x, kernel, g)
    chex.assert_trees_all_close(found, (expected, pull(g)), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("inputs", [1, 9])
def test_a_stack_of_models_is_one_by_one(inputs):
    x, kernel, g = draw(3, 2, 7, 6, inputs), draw(3, 3, 3, inputs, 5, seed=1), draw(3, 4, 2, 3, 3, 5, seed=2)
    found = jax.jit(jax.vmap(lambda *one: (gpu_ops.forward(*one[:2]), gpu_ops.backward(*one))))(x, kernel, g)
    for i in range(3):
        expected = gpu_ops.forward(x[i], kernel[i]), jax.jit(gpu_ops.backward)(x[i], kernel[i], g[i])
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], found), expected, rtol=1e-12, atol=1e-12)


def test_the_pool_keeps_what_the_plain_one_keeps():
    few = np.array([-1.5, -1, 0, 0.5, 0.5, 2], np.float32)  # with many ties, and many windows that ReLU closes
    elements = jnp.asarray(np.random.default_rng(0).choice(few, (4, 8, 5, 4, 6)))
    bias = jnp.asarray(few)
    found, expected = (jax.jit(pool)(elements, bias) for pool in (gpu_ops.pool_and_winner, ops.pool_and_winner))
    chex.assert_trees_all_equal(found, expected)
    assert found[1].dtype == expected[1].dtype


@pytest.mark.parametrize("stack", [False, True], ids=["one model", "stack of models"])
@pytest.mark.parametrize(("size", "inputs", "outputs"), [(28, 1, 32), (14, 32, 64), (7, 64, 128), (9, 3, 5)])
def test_equal_inputs_give_equal_bits_wherever_they_stand(size, inputs, outputs, stack):
    rng = np.random.default_rng(0)
    x = np.broadcast_to(rng.normal(size=inputs).astype(np.float32), (2, size, size, inputs))
    kernel = jnp.asarray(rng.normal(size=(3, 3, inputs, outputs)), jnp.float32)
    if stack:
        both = jax.jit(jax.vmap(gpu_ops.forward))(jnp.stack([x, x]), jnp.stack([kernel, kernel]))
    else:
        both = jax.jit(gpu_ops.forward)(x, kernel)[None]
    inner = np.asarray(both)[:, :, :, 1:-1, 1:-1]
    np.testing.assert_array_equal(inner, np.broadcast_to(inner[:, :1, :1, :1, :1], inner.shape))


def test_the_body_is_chosen_by_the_device_that_a_program_is_lowered_for():
    """Needs no compiler for a GPU. A layer's kernel gradient is no convolution of the library's: in groups it would be
    one with a window as large as the image."""

    def loss(kernels, x):
        for kernel in kernels:
            x = ops.relu_pool(ops.conv_windows(x, kernel), jnp.zeros(kernel.shape[-1]))
        return x.sum()

    kernels = [jnp.zeros((3, 3, 3, 1, 4)), jnp.zeros((3, 3, 3, 4, 5))]
    step = jax.jit(jax.vmap(jax.grad(loss))).trace(kernels, jnp.zeros((3, 2, 8, 8, 1)))
    gpu, cpu = (step.lower(lowering_platforms=(name,)).as_text() for name in ("cuda", "cpu"))
    assert gpu.count("stablehlo.dot_general") == 2  # the second layer forward, and its kernel's gradient
    windows = re.findall(r"stablehlo.convolution.*?tensor<3x3x", gpu)
    assert len(windows) == gpu.count("stablehlo.convolution") > 0
    assert "stablehlo.convolution" not in cpu

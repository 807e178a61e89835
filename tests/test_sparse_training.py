"""Training by what is not zero: a layer's gradients, and those of a whole model, against the dense ones.

Axes: N images, I input and O output channels.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from test_sparse_ops import SHAPES, kernel_with

from fedmi_jax.network import model, ops, sparse_ops, sparse_training
from fedmi_jax.training import gradient


@partial(jax.jit, static_argnums=4)
def visited(x, weights, bias, g, most):
    """Value, and gradients of x, weights and bias; images first, as in `ops`."""

    def layer(x, weights, bias):
        (kernel,) = sparse_ops.compress([weights], [most])
        return sparse_training.conv_relu_pool(x.transpose(3, 1, 2, 0), weights, bias, kernel).transpose(3, 1, 2, 0)

    value, pull = jax.vjp(layer, x, weights, bias)
    return value, pull(g)


@jax.jit
def plainly(x, weights, bias, g):
    value, pull = jax.vjp(lambda x, w, b: ops.relu_pool(ops.conv_windows(x, w), b), x, weights, bias)
    return value, pull(g)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("live", ["none", "some", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_all_gradients_of_a_layer(shape, live):
    """Also of weights that are 0. Outputs are shut by ReLU or read by nobody; from none to more than fit one matmul."""
    n, height, width, inputs, outputs = shape
    rng, count = np.random.default_rng(0), 9 * inputs * outputs // 10
    x = rng.normal(size=(n, height, width, inputs))
    x[0] = 1.0  # windows of equal elements
    x[..., : inputs // 2] = 0  # channels that are dead
    bias = rng.normal(size=outputs) + {"none": 0, "some": 1, "all": 3}[live]
    g = rng.normal(size=(n, height // 2, width // 2, outputs))
    g *= {"none": 0, "some": rng.random(g.shape[1:]) < 0.3, "all": 1}[live]
    given = [jnp.asarray(values) for values in (x, kernel_with(count, inputs, outputs), bias, g)]
    found, expected = visited(*given, count), plainly(*given)
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-12)
    assert np.any(expected[1][1]) == (live != "none")
    if live == "all":
        assert np.count_nonzero(np.any(expected[0], 0), -1).max() == outputs


def loss(network, index, weight, images):
    logits = model.apply(network, images.normalised(index))
    return jnp.sum(weight * optax.softmax_cross_entropy_with_integer_labels(logits, images.labels[index]))


@partial(jax.jit, static_argnames="visiting")
def whole(params, index, weight, images, *, visiting):
    of_images = partial(loss, images=images)
    return gradient.value_and_gradient(of_images, params, index, weight, micro_batch=4, visiting=visiting)


KERNELS = ("conv2_kernel", "conv3_kernel")


def few_paths(params):
    """Six weights in each of these kernels, which lead from channel to channel; half of the last channels are dead."""
    for name in KERNELS:
        kernel = jnp.zeros_like(params[name])
        for i in range(3):
            kernel = kernel.at[1, 1, i, i].set(1).at[0, 2, i, i + 1].set(-0.5)
        params |= {name: kernel}
    return params | {"conv3_bias": params["conv3_bias"].at[4:].set(-1)}


@pytest.mark.parametrize(("dtype", "error"), [(jnp.float64, 1e-14), (jnp.float32, 3e-6)])
def test_all_gradients_of_a_model(dtype, error):
    """By so much of the largest one of a parameter they differ from the dense ones."""
    with jax.enable_x64(dtype == jnp.float64):
        params = few_paths(tiny.params(3, dtype=dtype))
        index, weight = np.arange(24), jnp.full(24, 1 / 24, dtype)
        assert all(jnp.count_nonzero(params[k]) <= params[k].size * gradient.DENSEST for k in KERNELS)
        found, expected = (whole(params, index, weight, tiny.noise(dtype=dtype), visiting=on) for on in (True, False))
    np.testing.assert_allclose(found[0], expected[0], rtol=error)
    for name, values in expected[1].items():
        assert np.abs(values).max() > 0
        np.testing.assert_allclose(found[1][name], values, rtol=0, atol=error * np.abs(values).max())


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("more", [0, 1])
def test_a_weight_too_many_and_the_model_is_dense(more, monkeypatch):
    """A kernel may have its share of weights, or none would be lost, and none beyond."""
    monkeypatch.setattr(gradient, "_visited", lambda loss, most, micro, params, *batch: (jnp.array(-1.0), params))
    params = tiny.params(0)
    kept = int(params["conv2_kernel"].size * gradient.DENSEST) + more
    params |= {"conv2_kernel": kernel_with(kept, 4, 6), "conv3_kernel": kernel_with(1, 6, 8)}
    few = partial(gradient.value_and_gradient, lambda params: jnp.array(1.0) + 0 * params["fc_bias"][0], params)
    monkeypatch.setattr(gradient, "accumulate", lambda loss, params, *batch, micro_batch: (loss(params), params))
    assert few(micro_batch=4, visiting=True)[0] == (1 if more else -1)
    assert few(micro_batch=4, visiting=False)[0] == 1

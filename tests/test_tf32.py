"""The simulation of TF32: what is rounded, and that nothing else is."""

import chex
import jax
import numpy as np
import tiny

from benchmarks import tf32
from fedmi_jax.network import model, ops


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_numbers_have_ten_bits_and_are_the_nearest():
    x = numbers(1000)
    rounded = np.asarray(tf32.tf32(x))
    assert not (rounded.view(np.uint32) & 0x1FFF).any()
    assert (np.abs(rounded - x) <= 2.0**-11 * np.abs(x)).all()
    assert (rounded != x).mean() > 0.99


def test_the_linear_layer_is_the_same_but_for_its_factors():
    features, kernel, bias, g = numbers(5, 7), numbers(7, 3, seed=1), numbers(3, seed=2), numbers(5, 3, seed=3)
    plain, pull = jax.vjp(ops.linear, features, kernel, bias)
    found, pull_found = jax.vjp(tf32.linear(tf32.exact), features, kernel, bias)
    chex.assert_trees_all_close((found, pull_found(g)), (plain, pull(g)), rtol=1e-6, atol=1e-6)

    few, few_g = tf32.tf32(features), tf32.tf32(g)
    rounded, pull_rounded = jax.vjp(tf32.linear(tf32.tf32), features, kernel, bias)
    chex.assert_trees_all_close(rounded, few @ tf32.tf32(kernel) + bias, rtol=1e-6, atol=1e-6)
    d_features, d_kernel, d_bias = pull_rounded(g)
    chex.assert_trees_all_close(d_features, few_g @ tf32.tf32(kernel).T, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_close(d_kernel, few.T @ few_g, rtol=1e-6, atol=1e-6)
    chex.assert_trees_all_equal(d_bias, pull(g)[2])


def test_a_layer_gets_rounded_factors_an_images_does_not_and_afterwards_all_is_as_it_was():
    before = ops.by_platform, model.linear
    for inputs, rounds in ((8, True), (1, False)):
        x, kernel, g = numbers(2, 4, 4, inputs), numbers(3, 3, inputs, 8, seed=1), numbers(4, 2, 2, 2, 8, seed=2)
        with tf32.as_on_a_gpu(tf32.exact):
            plain, few = through(x, kernel, g), through(*map(tf32.tf32, (x, kernel, g)))
        with tf32.as_on_a_gpu(tf32.tf32):
            chex.assert_trees_all_equal(through(x, kernel, g), few if rounds else plain)
        assert (np.asarray(few[0]) != np.asarray(plain[0])).any()
    assert (ops.by_platform, model.linear) == before


@jax.jit
def through(x, kernel, g):
    """A layer, and its gradients."""
    windows, pull = jax.vjp(ops.conv_windows, x, kernel)
    return windows, pull(g)


def test_a_model_answers_nearly_as_before():
    params, x = tiny.params(dtype=np.float32), tiny.noise(6, dtype=np.float32).normalised(np.arange(6))
    plain = jax.jit(model.apply)(params, x)
    with tf32.as_on_a_gpu(tf32.tf32):
        found = np.asarray(jax.jit(model.apply)(params, x))
    apart = np.abs(found - plain).max() / np.abs(plain).max()
    assert 1e-6 < apart < 1e-2

"""Gates with a straight-through gradient, as a step and drawn: value and gradient."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fedmi_jax.circuits.objective import class_task, objective_of
from fedmi_jax.config import Discovery
from fedmi_jax.network.gates import THRESHOLDS, bernoulli_gate, gate_output, mix, straight_through_gate
from fedmi_jax.network.ops import relu_pool

SCORES = np.array([-8.0, -2.0, -1e-30, -0.0, 0.0, 1e-30, 0.1, 2.0, 8.0])


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_value_is_a_strict_step_and_gradient_the_sigmoids(dtype):
    scores = jnp.asarray(SCORES, dtype)
    value, pull = jax.vjp(straight_through_gate, scores)
    assert value.dtype == dtype
    assert value.tolist() == [0, 0, 0, 0, 0, 1, 1, 1, 1]
    g = jnp.arange(1.0, 10.0, dtype=dtype)
    expected = np.asarray(g) * np.exp(-np.abs(SCORES)) / (1 + np.exp(-np.abs(SCORES))) ** 2
    np.testing.assert_allclose(pull(g)[0], expected, atol=10 * np.finfo(dtype).eps)


def test_one_by_one_or_in_any_shape():
    scores = jnp.asarray(SCORES, jnp.float32).reshape(3, 3)
    gradient = jax.vmap(jax.vmap(jax.grad(straight_through_gate)))(scores)
    chex.assert_trees_all_close(gradient, jax.grad(lambda s: straight_through_gate(s).sum())(scores), rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_closing_after_the_pool_is_closing_before_relu():
    rng = np.random.default_rng(0)
    elements, bias = jnp.asarray(rng.normal(size=(4, 3, 2, 2, 6))), jnp.asarray(rng.normal(size=6))
    gate = jnp.array([1.0, 0, 1, 0, 1, 1])
    weight = jnp.asarray(rng.normal(size=(3, 2, 2, 6)))

    def after(elements, bias, gate):
        return jnp.sum(weight * gate_output(relu_pool(elements, bias), gate))

    def before(elements, bias, gate):
        return jnp.sum(weight * relu_pool(gate * elements, gate * bias))

    fast, slow = (jax.value_and_grad(f, (0, 1, 2))(elements, bias, gate) for f in (after, before))
    chex.assert_trees_all_close(fast, slow, rtol=1e-13)
    assert fast[1][2][1] == fast[1][2][3] == 0  # a closed gate gets exactly nothing


# --- gates that are drawn ---


@pytest.mark.usefixtures("x64")
def test_over_all_draws_a_gate_is_open_as_often_as_its_probability_says():
    scores = np.concatenate([np.linspace(-9, 9, 77), THRESHOLDS[[0, 100, 255]], [-np.inf, np.inf]])
    draws = np.arange(256, dtype=np.uint8)[:, None].repeat(len(scores), 1)
    gates = np.asarray(bernoulli_gate(jnp.asarray(scores), jnp.asarray(draws)))
    assert set(np.unique(gates)) == {0, 1}
    exact = [sum(s > np.log((u + 0.5) / (255.5 - u)) for u in range(256)) for s in scores]
    assert gates.sum(0).tolist() == exact
    with np.errstate(over="ignore"):
        assert np.abs(gates.mean(0) - 1 / (1 + np.exp(-scores))).max() <= 0.5 / 256 + 1e-12


@pytest.mark.usefixtures("x64")
def test_the_other_half_of_the_samples_mirrors_the_first():
    """Of a score and its negative the one is open under a draw when the other is closed under the draw's mirror."""
    settings = Discovery(objective="decision")
    gates_of = objective_of(settings, class_task(tiny.noise(4))).gates
    draws = np.random.default_rng(0).integers(0, 256, (50, 9)).astype(np.uint8)
    scores = jnp.asarray(np.random.default_rng(1).normal(size=9))
    gates = np.asarray(gates_of({"conv1": scores}, {"conv1": jnp.asarray(draws)})["conv1"])
    mirrored = np.asarray(gates_of({"conv1": -scores}, {"conv1": jnp.asarray(draws)})["conv1"])
    assert gates.shape == (100, 9)
    np.testing.assert_array_equal(gates[50:], 1 - mirrored[:50])
    np.testing.assert_array_equal(gates[:50], np.asarray(scores) > THRESHOLDS[draws])


@pytest.mark.usefixtures("x64")
def test_its_gradient_is_unbiased_where_the_loss_is_affine_in_every_gate():
    """All 64 masks of 6 gates, each with its probability: the mean estimate is the gradient of the expected loss."""
    rng = np.random.default_rng(0)
    scores, coefficients = jnp.asarray(rng.uniform(-3, 3, 6)), jnp.asarray(rng.normal(size=64))
    masks = jnp.asarray(list(itertools.product([0, 1], repeat=6)))

    def loss(gates):
        """Affine in each: a sum over all sets of gates of a number times their product."""
        return coefficients @ jnp.prod(jnp.where(masks == 1, gates, 1.0), 1)

    def likelihood(scores):
        p = jax.nn.sigmoid(scores)
        return jnp.prod(jnp.where(masks == 1, p, 1 - p), 1)

    expected = jax.grad(lambda s: likelihood(s) @ jax.vmap(loss)(masks.astype(s.dtype)))(scores)
    draws = jnp.where(masks == 1, 0, 255).astype(jnp.uint8)  # that open such gates, and close them
    estimated = jax.grad(lambda s: likelihood(scores) @ jax.vmap(loss)(bernoulli_gate(s, draws)))(scores)
    np.testing.assert_allclose(estimated, expected, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_mix_leaves_or_replaces_to_the_bit_and_has_the_gradient_of_the_line_between():
    rng = np.random.default_rng(0)
    pooled, fill = jnp.asarray(rng.random((3, 2, 2, 6))), jnp.asarray(rng.random((2, 2, 6)))
    for dtype in (jnp.float32, jnp.float64):
        parts = pooled.astype(dtype), fill.astype(dtype)
        assert (mix(parts[0], jnp.ones(6, dtype), parts[1]) == parts[0]).all()
        assert (mix(parts[0], jnp.zeros(6, dtype), parts[1]) == parts[1]).all()
    gate, weight, step = jnp.array([1.0, 0, 1, 0, 1, 0]), jnp.asarray(rng.normal(size=(3, 2, 2, 6))), 1e-5

    def loss(gate, pooled=pooled):
        return jnp.sum(jnp.sin(weight * mix(pooled, gate, fill)))

    central = [(loss(gate + step * e) - loss(gate - step * e)) / (2 * step) for e in np.eye(6)]
    np.testing.assert_allclose(jax.grad(loss)(gate), central, rtol=1e-8)
    assert (jax.grad(loss, 1)(gate, pooled)[..., 1::2] == 0).all()  # what is replaced has no say

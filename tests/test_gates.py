"""The straight-through gate: value and gradient."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedmi_jax.network.gates import gate_output, straight_through_gate
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

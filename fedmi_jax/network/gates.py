"""Channel gates: a step forward, a sigmoid backward (straight-through, section 2.2 of the paper). The step is at 0, or
at a random place.

Axes: N images, h x w positions, O channels, M samples of all gates.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedmi_jax.network.ops import sum_to


@jax.custom_vjp
def _gate(score: Array, threshold: Array) -> Array:
    return (score > threshold).astype(score.dtype)


def _gate_forward(score: Array, threshold: Array) -> tuple[Array, tuple[Array, Array]]:
    return _gate(score, threshold), (score, threshold)


def _gate_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    score, threshold = residuals
    s = jax.nn.sigmoid(score)
    return sum_to(g, score.shape) * s * (1 - s), jnp.zeros_like(threshold)


_gate.defvjp(_gate_forward, _gate_backward)


def straight_through_gate(score: Array) -> Array:
    """1 where score > 0 (strictly), else 0; gradient: the derivative of sigmoid(score). Any shape.

    Bengio et al. 2013, with the sigmoid's derivative in place of the identity's.
    """
    return _gate(score, jnp.zeros((), score.dtype))


LEVELS = 256
"""Values of a draw."""
_u = (np.arange(LEVELS) + 0.5) / LEVELS
THRESHOLDS = np.log(_u / (1 - _u))
"""(256,): the score from which on a gate is open under each draw, so that sigmoid(score) of all draws open it."""


def bernoulli_gate(score: Array, draws: Array) -> Array:
    """Gates that are open with probability sigmoid(score), to the nearest 1/256: score (O,), draws uint8 (M, O) ->
    (M, O) of 0 and 1.

    Gradient: every sample's gradient, summed, times the derivative of sigmoid(score). That is unbiased for the gradient
    of the expected loss where the loss is affine in every gate, since what a gate then adds does not depend on whether
    it is open.
    """
    return _gate(score, jnp.asarray(THRESHOLDS, score.dtype)[draws])


@jax.custom_vjp
def gate_output(pooled: Array, gate: Array) -> Array:
    """Close channels after ReLU and pool, with the gradient of a gate that stands before ReLU.

    pooled (N, h, w, O) >= 0; gate (O,), each >= 0; or another order of axes, with a gate that broadcasts. For such
    gates relu_pool(gate * y) = gate * relu_pool(y), and the gradients agree where the gate is positive. Where it is 0,
    everything before ReLU is exactly 0, so ReLU passes no gradient and a closed channel does not reopen on its own.
    """
    return pooled * gate


def _output_forward(pooled: Array, gate: Array) -> tuple[Array, tuple[Array, Array]]:
    return pooled * gate, (pooled, gate)


def _output_backward(residuals: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    pooled, gate = residuals
    return g * gate, (gate > 0) * sum_to(g * pooled, gate.shape)


gate_output.defvjp(_output_forward, _output_backward)


def mix(pooled: Array, gate: Array, fill: Array) -> Array:
    """A gate after ReLU and pool: 1 leaves the output, 0 puts `fill` in its place, both to the bit.

    A closed gate has the gradient of this line too, pooled - fill, so that its channel may reopen. Any order of axes,
    with a gate and a fill that broadcast.
    """
    return gate * pooled + (1 - gate) * fill

"""Channel gates: a step forward, a sigmoid backward (straight-through, section 2.2 of the paper).

Axes: N images, h x w positions, O channels.
"""

from __future__ import annotations

import jax
from jax import Array

from fedmi_jax.network.ops import sum_to


@jax.custom_vjp
def straight_through_gate(score: Array) -> Array:
    """1 where score > 0 (strictly), else 0; gradient: the derivative of sigmoid(score). Any shape.

    Bengio et al. 2013, with the sigmoid's derivative in place of the identity's.
    """
    return (score > 0).astype(score.dtype)


def _gate_forward(score: Array) -> tuple[Array, Array]:
    return straight_through_gate(score), score


def _gate_backward(score: Array, g: Array) -> tuple[Array]:
    s = jax.nn.sigmoid(score)
    return (g * s * (1 - s),)


straight_through_gate.defvjp(_gate_forward, _gate_backward)


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

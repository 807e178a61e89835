"""What a closed channel is replaced by: 0, or its mean output.

Each kind is a NamedTuple of arrays (none for `Zero`), so that it passes through jit, vmap and the devices as any other
pytree. A third kind is a third class with the same methods.

Axes: N images, h x w positions, O_l channels of convolution l, o_l of them in a smaller model, Y classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fedmi_jax.network.gates import gate_output
from fedmi_jax.network.ops import relu_pool

Gates = Mapping[str, Array]
"""{"conv1": (O_1,), "conv2": (O_2,), ...}; 1 keeps a channel, 0 closes it."""


class Zero(NamedTuple):
    """A closed channel's output is 0 (the paper's)."""

    def activate(self, elements: Array, bias: Array, gate: Array, layer: str) -> Array:
        """Bias, gate, ReLU and pool of a convolution's output, handed over as pooling windows."""
        return gate_output(relu_pool(elements, bias), gate)  # a gate of 0 or 1 commutes with ReLU and pool

    def may_speak(self, mask: Gates) -> dict[str, Array]:
        """Which channels can put out anything but 0, bool (O_l,) a layer, when those of `mask` are open."""
        return dict(mask)

    def of_channels(self, channels: Gates | None) -> Zero:
        """What a smaller model's channels are replaced by; None: all of them."""
        return self

    def silent_logits(self, params: Mapping[str, Array], last: str) -> Array:
        """The logits (Y,) when every channel is closed; last: name of the last convolution."""
        return params["fc_bias"]


class Mean(NamedTuple):
    """A closed channel's output is its mean output, before ReLU, over some images."""

    outputs: Gates
    """{"conv1": (O_1,), ...}, from `circuits.evaluation.mean_outputs`."""

    def activate(self, elements: Array, bias: Array, gate: Array, layer: str) -> Array:
        """As `Zero.activate`."""
        closed = (1 - gate) * self.outputs[layer]
        return relu_pool(gate * (elements + bias) + closed, jnp.zeros_like(bias))

    def may_speak(self, mask: Gates) -> dict[str, Array]:
        """As `Zero.may_speak`: a closed channel speaks when its mean passes ReLU."""
        return {layer: is_open | (self.outputs[layer] > 0) for layer, is_open in mask.items()}

    def of_channels(self, channels: Gates | None) -> Mean:
        """As `Zero.of_channels`."""
        return self if channels is None else Mean({k: v[channels[k]] for k, v in self.outputs.items()})

    def silent_logits(self, params: Mapping[str, Array], last: str) -> Array:
        """As `Zero.silent_logits`: every position of the last convolution holds the channel's mean."""
        mean = jax.nn.relu(self.outputs[last])
        positions = params["fc_kernel"].shape[0] // mean.shape[0]
        return jnp.tile(mean, positions) @ params["fc_kernel"] + params["fc_bias"]


Ablation = Zero | Mean
ZERO = Zero()

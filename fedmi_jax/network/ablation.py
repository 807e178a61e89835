"""What a closed channel is replaced by: 0, its mean output, or its mean output at every position.

Each kind is a NamedTuple of arrays (none for `Zero`), so that it passes through jit, vmap and the devices as any other
pytree. One more kind is one more class with the same methods.

Axes: N images, h x w positions, O_l channels of convolution l, o_l of them in a smaller model, Y classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from fedmi_jax.network.gates import gate_output, mix
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.ops import conv_windows, relu_pool

Gates = Mapping[str, Array]
"""{"conv1": (O_1,), "conv2": (O_2,), ...}; 1 keeps a channel, 0 closes it. Or (N, O_l), every image's own."""


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

    def folded(self, params: Mapping[str, Array]) -> tuple[Mapping[str, Array], Zero]:
        """A model and an ablation that give the same logits for gates of 0 and 1, and in which as many closed channels
        as possible are silent (`may_speak`)."""
        return params, self


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

    def folded(self, params: Mapping[str, Array]) -> tuple[Mapping[str, Array], Ablation]:
        """As `Zero.folded`."""
        return params, self


class MeanMap(NamedTuple):
    """A closed channel's output is, at every position, its mean output over some images, after ReLU and pool.

    A channel that does not depend on the image is so replaced by itself: it can neither help a circuit nor cost it
    anything. A mean over positions would not do, because the padding makes the borders differ.
    """

    outputs: Gates
    """{"conv1": (h_1, w_1, O_1), ...}, from `circuits.survey`."""

    def activate(self, elements: Array, bias: Array, gate: Array, layer: str) -> Array:
        """As `Zero.activate`; the gradient is that of `mix`."""
        return self.replace(relu_pool(elements, bias), gate, layer)

    def before_pool(self, layer: str) -> Array | None:
        """What is added to a convolution's output, as pooling windows."""
        return None

    def replace(self, pooled: Array, gate: Array, layer: str) -> Array:
        """What is put out, of what ReLU and pool leave."""
        return mix(pooled, gate, self.outputs[layer])

    def may_speak(self, mask: Gates) -> dict[str, Array]:
        """As `Zero.may_speak`."""
        return {layer: is_open | jnp.any(self.outputs[layer] > 0, (0, 1)) for layer, is_open in mask.items()}

    def of_channels(self, channels: Gates | None) -> MeanMap:
        """As `Zero.of_channels`."""
        return self if channels is None else MeanMap({k: v[..., channels[k]] for k, v in self.outputs.items()})

    def silent_logits(self, params: Mapping[str, Array], last: str) -> Array:
        """As `Zero.silent_logits`."""
        return self.outputs[last].reshape(-1) @ params["fc_kernel"] + params["fc_bias"]

    def folded(self, params: Mapping[str, Array]) -> tuple[Mapping[str, Array], Deviation]:
        """As `Zero.folded`: a channel's deviation from its mean in place of its output; what the means add is constant.

        Only rounding differs. It may break ties within a pooling window, so this is for values, not for gradients.
        """
        layers, offsets = conv_layers(params), {}
        for before, layer in pairwise(layers):
            offsets[layer] = conv_windows(self.outputs[before][None], params[f"{layer}_kernel"])
        return {**params, "fc_bias": self.silent_logits(params, layers[-1])}, Deviation(self.outputs, offsets)


class Deviation(NamedTuple):
    """`MeanMap` in a folded model: a closed channel's output, less its mean, is 0."""

    outputs: Gates
    """{"conv1": (h_1, w_1, O_1), ...}, the means."""
    offsets: Gates
    """{"conv2": (4, 1, h_2, w_2, O_2), ...}: what the means of the layer before add to a convolution's output, as
    pooling windows."""

    def activate(self, elements: Array, bias: Array, gate: Array, layer: str) -> Array:
        """As `Zero.activate`."""
        added = self.before_pool(layer)
        return self.replace(relu_pool(elements if added is None else elements + added, bias), gate, layer)

    def before_pool(self, layer: str) -> Array | None:
        """As `MeanMap.before_pool`."""
        return self.offsets.get(layer)

    def replace(self, pooled: Array, gate: Array, layer: str) -> Array:
        """As `MeanMap.replace`."""
        return gate * (pooled - self.outputs[layer])

    def may_speak(self, mask: Gates) -> dict[str, Array]:
        """As `Zero.may_speak`."""
        return dict(mask)

    def of_channels(self, channels: Gates | None) -> Deviation:
        """As `Zero.of_channels`."""
        if channels is None:
            return self
        parts = ({k: v[..., channels[k]] for k, v in part.items()} for part in self)
        return Deviation(*parts)

    def silent_logits(self, params: Mapping[str, Array], last: str) -> Array:
        """As `Zero.silent_logits`."""
        return params["fc_bias"]

    def folded(self, params: Mapping[str, Array]) -> tuple[Mapping[str, Array], Ablation]:
        """As `Zero.folded`."""
        return params, self


Ablation = Zero | Mean | MeanMap | Deviation
ZERO = Zero()

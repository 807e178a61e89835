"""The paper's three-layer CNN (section 2.1), with a gate on every convolution channel.

Axes: N images, H x W pixels, I image channels, O_l channels of convolution l, Y classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from fedmi_jax.circuits.gates import gate_output
from fedmi_jax.ops import LAYOUT, conv_windows, relu_pool, windows

CONV_LAYERS = ("conv1", "conv2", "conv3")
LAYERS = (*CONV_LAYERS, "fc")
CHANNELS = (32, 64, 128)

Params = Mapping[str, Array]
"""{"conv1_kernel": (3, 3, I, O_1), "conv1_bias": (O_1,), ..., "fc_kernel": (h * w * O_3, Y), "fc_bias": (Y,)}."""
Gates = Mapping[str, Array]
"""{"conv1": (O_1,), "conv2": (O_2,), "conv3": (O_3,)}; 1 keeps a channel, 0 closes it."""


def _uniform(fan_in: int) -> Any:
    """PyTorch's default for weights and biases alike: uniform in +-1/sqrt(fan_in). Flax's differs."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -1, 1) / math.sqrt(fan_in)

    return init


class CNN(nn.Module):
    """Three times 3x3 convolution, gate, ReLU, 2x2 max-pool; then one linear layer."""

    channels: tuple[int, ...] = CHANNELS
    classes: int = 10

    @nn.compact
    def __call__(self, x: Array, gates: Gates | None = None, fill: Gates | None = None) -> Array:
        """Logits (N, Y) of normalised images x (N, H, W, I).

        gates: as `Gates`, multiplied with the convolution's output, bias included, before ReLU (section 2.2); None: all
        open. fill: what a closed channel's output is replaced by, in the same form (mean ablation); None: 0.
        """
        for layer, width in zip(CONV_LAYERS, self.channels, strict=True):
            fan_in = 9 * x.shape[-1]
            kernel = self.param(f"{layer}_kernel", _uniform(fan_in), (3, 3, x.shape[-1], width), x.dtype)
            bias = self.param(f"{layer}_bias", _uniform(fan_in), (width,), x.dtype)
            elements = conv_windows(x, kernel)
            if gates is None:
                x = relu_pool(elements, bias)
            elif fill is None:  # a gate of 0 or 1 commutes with ReLU and pool, where there is four times less to do
                x = gate_output(relu_pool(elements, bias), gates[layer])
            else:
                mixed = gates[layer] * (elements + bias) + (1 - gates[layer]) * fill[layer]
                x = relu_pool(mixed, jnp.zeros_like(bias))
        x = x.reshape(x.shape[0], -1)
        kernel = self.param("fc_kernel", _uniform(x.shape[-1]), (x.shape[-1], self.classes), x.dtype)
        return x @ kernel + self.param("fc_bias", _uniform(x.shape[-1]), (self.classes,), x.dtype)


def init(key: Array, image_shape: Sequence[int], classes: int, dtype: Any = jnp.float32) -> Params:
    """Fresh parameters for images of shape (H, W, I), each array drawn from PyTorch's default distribution."""
    return CNN(classes=classes).init(key, jnp.zeros((1, *image_shape), dtype))["params"]


def apply(params: Params, x: Array, gates: Gates | None = None, fill: Gates | None = None) -> Array:
    """Logits (N, Y) of normalised images x (N, H, W, I); the widths are read from the parameters."""
    channels = tuple(params[f"{layer}_bias"].shape[0] for layer in CONV_LAYERS)
    return CNN(channels, params["fc_bias"].shape[0]).apply({"params": params}, x, gates, fill)  # type: ignore[return-value]


def conv_outputs(params: Params, x: Array) -> dict[str, Array]:
    """Every convolution's output, bias included, before ReLU: {"conv1": (N, H, W, O_1), ...}."""
    outputs = {}
    for layer in CONV_LAYERS:
        y = lax.conv_general_dilated(x, params[f"{layer}_kernel"], (1, 1), "SAME", dimension_numbers=LAYOUT)
        outputs[layer] = y + params[f"{layer}_bias"]
        x = relu_pool(windows(y), params[f"{layer}_bias"])
    return outputs


def narrow(params: Params, channels: Mapping[str, Array]) -> Params:
    """The smaller model that holds only these channels: indices {"conv1": (o_1,), ...}, in any order.

    With every other channel closed (zero ablation) both models give the same logits, since a closed channel's output
    is exactly 0; the small one does less work.
    """
    small, keep_in = dict(params), None
    for layer in CONV_LAYERS:
        kernel, out = params[f"{layer}_kernel"], channels[layer]
        kernel = kernel if keep_in is None else kernel[:, :, keep_in]
        small[f"{layer}_kernel"], small[f"{layer}_bias"] = kernel[..., out], params[f"{layer}_bias"][out]
        keep_in = out
    fc = params["fc_kernel"].reshape(-1, params["conv3_bias"].shape[0], params["fc_bias"].shape[0])
    small["fc_kernel"] = fc[:, keep_in].reshape(-1, fc.shape[-1])
    return small

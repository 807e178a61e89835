"""The paper's CNN (section 2.1) of any depth and width, with a gate on every convolution channel.

Axes: N images, H x W pixels, I image channels, O_l channels of convolution l = 1 ... L, Y classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array, lax

from fedmi_jax.network import sparse_ops, sparse_training
from fedmi_jax.network.ablation import ZERO, Ablation, Deviation, Gates, MeanMap
from fedmi_jax.network.layers import conv_layers, conv_names
from fedmi_jax.network.ops import LAYOUT, conv_windows, linear, relu_pool, windows
from fedmi_jax.network.sparse_layer import conv_relu_pool

Params = Mapping[str, Array]
"""{"conv1_kernel": (3, 3, I, O_1), "conv1_bias": (O_1,), ..., "fc_kernel": (h * w * O_L, Y), "fc_bias": (Y,)}."""


def _uniform(fan_in: int) -> Any:
    """PyTorch's default for weights and biases alike: uniform in +-1/sqrt(fan_in). Flax's differs."""

    def init(key: Array, shape: Sequence[int], dtype: Any = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -1, 1) / math.sqrt(fan_in)

    return init


class CNN(nn.Module):
    """L times 3x3 convolution, gate, ReLU, 2x2 max-pool; then one linear layer."""

    channels: tuple[int, ...]
    """(O_1, ..., O_L)."""
    classes: int

    @nn.compact
    def __call__(self, x: Array, gates: Gates | None = None, ablation: Ablation = ZERO) -> Array:
        """Logits (N, Y) of normalised images x (N, H, W, I).

        gates: as `Gates`, multiplied with the convolution's output, bias included, before ReLU (section 2.2); None: all
        open. ablation: what a closed channel's output is replaced by. Every layer's output, after the pool, is an
        intermediate value of flax's, for whoever asks for them (`activations`).
        """
        for layer, width in zip(conv_names(len(self.channels)), self.channels, strict=True):
            fan_in = 9 * x.shape[-1]
            kernel = self.param(f"{layer}_kernel", _uniform(fan_in), (3, 3, x.shape[-1], width), x.dtype)
            bias = self.param(f"{layer}_bias", _uniform(fan_in), (width,), x.dtype)
            elements: Any = conv_windows(x, kernel)
            if gates is None:
                x = relu_pool(elements, bias)
            else:
                x = ablation.activate(elements, bias, _of_images(gates[layer]), layer)
            self.sow("intermediates", layer, x)
        x = x.reshape(x.shape[0], -1)
        kernel = self.param("fc_kernel", _uniform(x.shape[-1]), (x.shape[-1], self.classes), x.dtype)
        return linear(x, kernel, self.param("fc_bias", _uniform(x.shape[-1]), (self.classes,), x.dtype))


def init(
    key: Array, image_shape: Sequence[int], channels: tuple[int, ...], classes: int, dtype: Any = jnp.float32
) -> Params:
    """Fresh parameters for images of shape (H, W, I), each array drawn from PyTorch's default distribution.

    Args: channels (O_1, ..., O_L); neither H nor W may be under 2^L.
    """
    fresh: Any = CNN(channels, classes).init(key, jnp.zeros((1, *image_shape), dtype))["params"]
    return dict(fresh)  # flax may be told to give a mapping of its own


def all_open(params: Params) -> dict[str, Array]:
    """Gates (O_l,) that keep every channel of a model."""
    return {layer: jnp.ones_like(params[f"{layer}_bias"]) for layer in conv_layers(params)}


class SparseModel(NamedTuple):
    """A model whose convolutions visit non-zero weights only. Without gates, the gradients of `params` are whole."""

    params: Params
    kernels: dict[str, sparse_ops.Kernel]
    """{"conv1": ..., "conv2": ..., ...}, from `sparse_ops.compress`; they stand in for those of `params`."""


def apply(
    params: Params | SparseModel, x: Array, gates: Gates | None = None, ablation: Ablation = ZERO
) -> Array:  # fmt: skip
    """Logits (N, Y) of normalised images x (N, H, W, I); depth and widths are read from the parameters."""
    if isinstance(params, SparseModel):
        return _apply_sparse(params, x, gates, ablation)
    channels = tuple(params[f"{layer}_bias"].shape[0] for layer in conv_layers(params))
    return CNN(channels, params["fc_bias"].shape[0]).apply({"params": params}, x, gates, ablation)  # type: ignore[return-value]


def _apply_sparse(model: SparseModel, x: Array, gates: Gates | None, ablation: Ablation) -> Array:
    return _sparse_activations(model, x, gates, ablation)[1]


def _sparse_activations(
    model: SparseModel, x: Array, gates: Gates | None, ablation: Ablation
) -> tuple[dict[str, Array], Array]:
    params, x, outputs = model.params, x.transpose(3, 1, 2, 0), {}  # images last
    gates, ablation = jax.tree.map(_images_last, (gates, ablation))
    for layer in conv_layers(params):
        kernel, bias = model.kernels[layer], params[f"{layer}_bias"]
        if gates is None:
            x = sparse_training.conv_relu_pool(x, params[f"{layer}_kernel"], bias, kernel)
        elif isinstance(ablation, MeanMap | Deviation):
            x = ablation.replace(conv_relu_pool(x, kernel, bias, ablation.before_pool(layer)), gates[layer], layer)
        else:
            elements: Any = sparse_ops.conv_windows(x, kernel, bias.shape[0])
            x = ablation.activate(elements, _images_last(bias), gates[layer], layer)
        outputs[layer] = x.transpose(3, 1, 2, 0)
    x = x.transpose(3, 1, 2, 0).reshape(x.shape[-1], -1)
    return outputs, linear(x, params["fc_kernel"], params["fc_bias"])


def _of_images(gate: Array) -> Array:
    """A gate (O,) as it is, or every image's own, (N, O), as (N, 1, 1, O)."""
    return gate if gate.ndim == 1 else gate[:, None, None]


def _images_last(values: Array) -> Array:
    """Channels first and images last: from (O,), gates (N, O), maps (h, w, O), or windows (4, 1, h, w, O)."""
    if values.ndim <= 2:
        return values.T[:, None, None] if values.ndim == 2 else values[:, None, None, None]
    return values.transpose(2, 0, 1)[..., None] if values.ndim == 3 else values.swapaxes(1, 4)


def activations(
    params: Params | SparseModel, x: Array, gates: Gates | None = None, ablation: Ablation = ZERO
) -> tuple[dict[str, Array], Array]:
    """What every convolution puts out, after gate, ReLU and pool, {"conv1": (N, h_1, w_1, O_1), ...}, and the logits
    (N, Y). Args: as of `apply`."""
    if isinstance(params, SparseModel):
        return _sparse_activations(params, x, gates, ablation)
    channels = tuple(params[f"{layer}_bias"].shape[0] for layer in conv_layers(params))
    network = CNN(channels, params["fc_bias"].shape[0])
    logits, seen = network.apply({"params": params}, x, gates, ablation, mutable=["intermediates"])
    return {layer: values[0] for layer, values in seen["intermediates"].items()}, logits  # type: ignore[return-value]


def conv_outputs(params: Params, x: Array) -> dict[str, Array]:
    """Every convolution's output, bias included, before ReLU: {"conv1": (N, H, W, O_1), ...}."""
    outputs = {}
    for layer in conv_layers(params):
        y = lax.conv_general_dilated(x, params[f"{layer}_kernel"], (1, 1), "SAME", dimension_numbers=LAYOUT)
        outputs[layer] = y + params[f"{layer}_bias"]
        x = relu_pool(windows(y), params[f"{layer}_bias"])
    return outputs


def features(params: Params, x: Array) -> Array:
    """What the linear layer reads of normalised images x (N, H, W, I): (N, h * w * O_L), position-major."""
    last = activations(params, x)[0][conv_layers(params)[-1]]
    return last.reshape(last.shape[0], -1)


def narrow(params: Params, channels: Mapping[str, Any]) -> Params:
    """The smaller model that holds only these channels: indices {"conv1": (o_1,), ...}, in any order, or slices.

    With every other channel closed (zero ablation) both models give the same logits, since a closed channel's output
    is exactly 0; the small one does less work.
    """
    convolutions = conv_layers(params)
    small, keep_in = dict(params), None
    for layer in convolutions:
        kernel, out = params[f"{layer}_kernel"], channels[layer]
        kernel = kernel if keep_in is None else kernel[:, :, keep_in]
        small[f"{layer}_kernel"], small[f"{layer}_bias"] = kernel[..., out], params[f"{layer}_bias"][out]
        keep_in = out
    fc = params["fc_kernel"].reshape(-1, params[f"{convolutions[-1]}_bias"].shape[0], params["fc_bias"].shape[0])
    small["fc_kernel"] = fc[:, keep_in].reshape(-1, fc.shape[-1])
    return small

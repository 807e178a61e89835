"""The CNN, its parameters and its images as tensors.

Axes: N images, H x W pixels, I image channels, O_l channels of convolution l = 1 ... L, Y classes.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedmi_jax.network.layers import conv_layers

Params = Mapping[str, Tensor]
"""{"conv1.weight": (O_1, I, 3, 3), "conv1.bias": (O_1,), ..., "fc.weight": (Y, O_L * h * w), "fc.bias": (Y,)}."""
Gates = Mapping[str, Tensor]
"""{"conv1": (O_1,), ...}; 1 keeps a channel, 0 closes it."""
Moments = tuple[Sequence[float], Sequence[float]]
"""Mean and standard deviation per image channel, of pixel / 255."""


@dataclass(frozen=True)
class Place:
    """Where, and in what form, the work is done."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = True
    """On a CPU a step takes 0.6 of the time it takes with images in PyTorch's own order (see RESULTS.md)."""
    forward_batch: int = 250
    """Images per forward pass in evaluation."""

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def tensor(self, values: Any, dtype: torch.dtype | None = None) -> Tensor:
        """A copy on the device."""
        return torch.from_numpy(np.array(values)).to(self.device, dtype or self.dtype)


def place(precision: str = "float32", device: str | None = None) -> Place:
    """A GPU where PyTorch sees one, unless a device is named."""
    chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if chosen.type == "cuda":
        torch.backends.cudnn.benchmark = True
    return Place(chosen, getattr(torch, precision), forward_batch=250 if chosen.type == "cpu" else 5000)


@dataclass(frozen=True)
class Images:
    """Normalised images on the device."""

    stored: Tensor
    """(N, H, W, I) where channels are last, else (N, I, H, W)."""
    labels: Tensor
    """int64 (N,)."""
    channels_last: bool

    def __getitem__(self, which: Tensor | slice) -> Tensor:
        """Network inputs (B, I, H, W): a copy for a tensor of indices, a view for a slice."""
        chosen = self.stored[which] if isinstance(which, slice) else self.stored.index_select(0, which)
        return chosen.permute(0, 3, 1, 2) if self.channels_last else chosen


def images(pixels: np.ndarray, labels: np.ndarray, moments: Moments, where: Place) -> Images:
    """pixels uint8 (N, H, W, I), normalised once to (pixel / 255 - mean) / std."""
    x = where.tensor(pixels).div_(255).sub_(where.tensor(moments[0])).div_(where.tensor(moments[1]))
    stored = x if where.channels_last else x.permute(0, 3, 1, 2).contiguous()
    return Images(stored, where.tensor(labels, torch.int64), where.channels_last)


def forward(params: Params, x: Tensor, gates: Gates | None = None) -> Tensor:
    """Logits (N, Y) of x (N, I, H, W); gates are multiplied with the convolutions' outputs, bias included.

    Pool, gate, ReLU stand in this order because the last two then work on a quarter of the elements. Values and
    gradients are those of gate, ReLU, pool: a gate is 0 or 1, and where a window's maximum is not positive ReLU passes
    nothing either way.
    """
    for layer in conv_layers(params):
        x = F.max_pool2d(F.conv2d(x, params[f"{layer}.weight"], params[f"{layer}.bias"], padding=1), 2)
        if gates is not None:
            x = x * gates[layer].view(-1, 1, 1)
        x = F.relu(x, inplace=True)
    return F.linear(x.flatten(1), params["fc.weight"], params["fc.bias"])


def masked(params: Params, gates: Gates) -> Params:
    """The model whose closed channels give 0 by their own weights: no gate has to be applied to its outputs."""
    closed = dict(params)
    for layer in conv_layers(params):
        gate = gates[layer].to(params["fc.bias"].dtype)
        closed[f"{layer}.weight"] = params[f"{layer}.weight"] * gate.view(-1, 1, 1, 1)
        closed[f"{layer}.bias"] = params[f"{layer}.bias"] * gate
    return closed


def from_package(params: Mapping[str, Any], where: Place) -> dict[str, Tensor]:
    """One model of fedmi_jax's, as tensors: its layouts are (3, 3, I, O), and (h * w * O_L, Y) channel fastest."""
    own, convolutions = {}, conv_layers(params)
    for layer in (*convolutions, "fc"):
        kernel = np.asarray(params[f"{layer}_kernel"])
        if layer == "fc":
            channels, classes = len(params[f"{convolutions[-1]}_bias"]), kernel.shape[-1]
            weight = kernel.reshape(-1, channels, classes).transpose(2, 1, 0).reshape(classes, -1)
            own["fc.weight"] = where.tensor(weight)
        else:
            weight = where.tensor(kernel.transpose(3, 2, 0, 1))
            own[f"{layer}.weight"] = weight.contiguous(memory_format=where.memory_format)
        own[f"{layer}.bias"] = where.tensor(params[f"{layer}_bias"])
    return own


def unstacked(models: Mapping[str, Any], where: Place) -> list[Params]:
    """A stack of fedmi_jax's models, one by one."""
    host = {name: np.asarray(leaf) for name, leaf in models.items()}
    return [from_package({name: leaf[i] for name, leaf in host.items()}, where) for i in range(len(host["fc_bias"]))]


def to_package(params: Params) -> dict[str, np.ndarray]:
    """The inverse of `from_package`."""
    theirs, convolutions = {}, conv_layers(params)
    for layer in (*convolutions, "fc"):
        weight = params[f"{layer}.weight"].numpy(force=True)
        if layer == "fc":
            channels, classes = len(params[f"{convolutions[-1]}.bias"]), len(weight)
            theirs["fc_kernel"] = weight.reshape(classes, channels, -1).transpose(2, 1, 0).reshape(-1, classes)
        else:
            theirs[f"{layer}_kernel"] = weight.transpose(2, 3, 1, 0)
        theirs[f"{layer}_bias"] = params[f"{layer}.bias"].numpy(force=True)
    return theirs

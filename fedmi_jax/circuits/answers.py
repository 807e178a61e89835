"""Answers of a frozen model as sets of its channels are tried one after the other.

Two sets that are tried in turn mostly differ in a few channels. In a sparse model each of these is read by a few
channels of the next layer, so that most outputs are still there from the time before: only what hears of a change is
computed again.

Axes: N images, L convolutions, I input and O_l output channels, C = sum of O_l, h x w positions, Y classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from fedmi_jax.circuits.evaluation import group_logits
from fedmi_jax.circuits.narrowing import of_channels
from fedmi_jax.network import sparse_layer
from fedmi_jax.network.ablation import Deviation, Gates, Zero
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params, SparseModel

Masks = Mapping[str, Array]
"""bool {"conv1": (O_1,), ...}."""


class State(NamedTuple):
    """What is there from the last set that was tried; empty where nothing is kept."""

    mask: Masks
    """The set, of the network's own channels."""
    outputs: Gates
    """What its channels put out less what replaces them when they are closed, {"conv1": (O_1, h_1, w_1, N), ...};
    the outputs of other channels mean nothing. With a border of zeros where a convolution follows."""


Answer = Callable[[State, Masks], tuple[Array, State]]
"""(state, a set of channels of the whole model) -> logits (N, Y), and the state from which to go on."""


def answers(
    network: Params | SparseModel, channels: Gates | None, ablation: Deviation | Zero, images: Images, indices: Array
) -> tuple[State, Answer]:  # fmt: skip
    """How the images (G, B) are answered, group after group (N = G * B), and the state to begin with.

    network, channels: as `on_live_channels` hands them over; its channels hold all that any set has. Model and ablation
    are folded.
    """
    if not isinstance(network, SparseModel):
        return State({}, {}), partial(_anew, network, channels, ablation, images, indices)
    ablation = ablation.of_channels(channels)
    x = images.normalised(indices.ravel()).transpose(3, 1, 2, 0)
    layers = [_layer(network, ablation, name) for name in conv_layers(network.params)]
    mask = {layer.name: jnp.zeros(layer.bias.shape, bool) for layer in layers}
    outputs, shape = {}, x.shape
    for layer in layers:
        shape = (len(layer.bias), shape[1] // 2, shape[2] // 2, shape[3])
        border = 0 if layer is layers[-1] else 2
        outputs[layer.name] = jnp.zeros((shape[0], shape[1] + border, shape[2] + border, shape[3]), x.dtype)
    return State(mask, outputs), partial(_moved, network, channels, layers, sparse_layer.padded(x))


def _anew(
    network: Params, channels: Gates | None, ablation: Deviation | Zero, images: Images, indices: Array, state: State,
    mask: Masks,
) -> tuple[Array, State]:  # fmt: skip
    gates = {layer: is_open.astype(images.mean.dtype) for layer, is_open in mask.items()}
    return group_logits(network, channels, gates, ablation, indices, images=images), state


class _Layer(NamedTuple):
    name: str
    kernel: sparse_layer.Kernel
    bias: Array
    """(O,)."""
    offset: Array | None
    """(4, O, h, w, 1), as of `sparse_layer.conv_relu_pool`."""
    replaced: Array
    """(O, h, w, 1), or a 0: what is put out when closed."""
    reads: Array
    """bool (I, O): whether there is a non-zero weight."""


def _layer(network: SparseModel, ablation: Deviation | Zero, name: str) -> _Layer:
    params, replaced, offset = network.params, jnp.zeros(()), None
    if isinstance(ablation, Deviation):
        offset, replaced = ablation.before_pool(name), ablation.outputs[name].transpose(2, 0, 1)[..., None]
        offset = None if offset is None else offset.swapaxes(1, 4)
    reads = jnp.any(params[f"{name}_kernel"] != 0, (0, 1))
    return _Layer(name, network.kernels[name], params[f"{name}_bias"], offset, replaced, reads)


def _moved(
    network: SparseModel, channels: Gates | None, layers: list[_Layer], seen: Array, state: State, mask: Masks
) -> tuple[Array, State]:  # fmt: skip
    """From the set of the state to another one."""
    mask, outputs = dict(of_channels(mask, channels)), {}
    heard, changed = jnp.ones(seen.shape[0], bool), jnp.zeros(seen.shape[0], bool)
    for layer in layers:
        now, before = mask[layer.name], state.mask[layer.name]
        anew = now & (~before | jnp.any(layer.reads & changed[:, None], 0))
        outputs[layer.name] = seen = sparse_layer.refreshed(
            state.outputs[layer.name], seen, heard, layer.kernel, layer.bias, layer.offset, layer.replaced, anew
        )
        heard, changed = now, (now != before) | anew
    fc = network.params["fc_kernel"].reshape(*seen.shape[1:3], len(heard), -1) * heard[:, None]
    logits = jnp.einsum("ohwn,hwoy->ny", seen, fc) + network.params["fc_bias"]
    return logits, State(mask, outputs)

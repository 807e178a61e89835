"""Working on the channels, and on the weights, that matter only.

A closed channel is replaced before ReLU, by 0 or by its mean. Where that is not positive its output is exactly 0, and
its score never recovers (its only gradient, the L0 term's, keeps pushing it down). A channel without a non-zero
outgoing weight has no say either, open or not. In a sparse model that leaves few channels, and few non-zero weights
between them, so a smaller model that visits just those gives the same numbers, up to the order of sums, for a fraction
of the work. Where circuits stand side by side, as on a GPU, all of them take the smallest model that holds the widest,
without a look at single weights.

Axes: O_l channels of layer l, o_l of them in the smaller model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.network import model, sparse_ops
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Gates, Params, SparseModel
from fedmi_jax.network.ops import fusion_barrier

Widths = Sequence[tuple[int, int]]
"""Smaller models, from the largest to the smallest: how many times the width of the first convolution is halved, and
that of the last one. In between the number grows evenly."""
WIDTHS: Widths = ((0, 0), (1, 2), (1, 3))
"""All are compiled; the smallest that fits is run. Of (32, 64, 128) channels: all, (16, 32, 32) and (16, 16, 16)."""
DENSEST = 1 / 8
"""Share of a full kernel's weights up to which visiting the non-zero ones is less work than a dense convolution."""
Narrowing = bool | Literal["sparse"]
"""Whether to leave out what does not matter. "sparse": no model has more weights than `is_sparse` says, so that nothing
is compiled for those that have."""


def of_channels(values: Gates, channels: Gates | None) -> Gates:
    """The values (..., O_l) that belong to a smaller model's `channels` (o_l,). None stands for all channels."""
    return values if channels is None else {layer: value[..., channels[layer]] for layer, value in values.items()}


def menu(full: Sequence[int], widths: Widths) -> list[tuple[int, ...]]:
    """The channels of the smaller models in each convolution, no model twice. Args: full (O_1, ..., O_L)."""
    steps = max(1, len(full) - 1)
    found = [tuple(max(1, n >> a + (b - a) * i // steps) for i, n in enumerate(full)) for a, b in widths]
    return list(dict.fromkeys(found))


def on_live_channels(
    fn: Callable[..., Any], params: Params, speaking: Gates, *args: Any, widths: Widths = WIDTHS,
    narrowing: Narrowing = True, beside: str | None = None,
) -> Any:  # fmt: skip
    """fn(model, channels, *args) for the smallest model that holds every channel that can speak and is heard.

    speaking: bool {"conv1": (O_1,), ...}, from `Ablation.may_speak`; model: a `SparseModel`, or parameters of full
    width where too many weights are left, unless `narrowing` rules that out; channels: {"conv1": (o_1,), ...}, its
    channels, those that matter first; beside: the name of the mapped axis along which others are worked on too: then
    the model is parameters of one width for all of them.
    """
    layers = conv_layers(params)
    live = {layer: speaking[layer] & has_outgoing(params, layer) for layer in layers}
    channels = {layer: jnp.argsort(~live[layer], stable=True) for layer in layers}
    params = model.narrow(_without_dead_weights(live, params), channels)
    needed = jnp.stack([jnp.sum(live[layer]) for layer in layers])
    smaller = menu([params[f"{layer}_bias"].shape[0] for layer in layers], widths)
    if beside is not None:
        fits = jnp.all(lax.pmax(needed, beside) <= jnp.array(smaller), -1)  # the same for all, so one branch is run
        return lax.switch(jnp.sum(fits) - 1, [partial(_first, fn, one) for one in smaller], params, channels, *args)
    convolutions = [params[f"{layer}_kernel"] for layer in layers]
    kernels = fusion_barrier(dict(zip(layers, sparse_ops.compress(convolutions, _most(convolutions)), strict=True)))
    smallest = jnp.sum(jnp.all(needed <= jnp.array(smaller), -1))
    forms = [partial(_narrow, fn, one, kernels) for one in smaller]
    if narrowing == "sparse":
        return lax.switch(smallest - 1, forms, params, channels, *args)
    return lax.switch(jnp.where(is_sparse(params), smallest, 0), [fn, *forms], params, channels, *args)


def is_sparse(params: Params) -> Array:
    """Whether visiting the non-zero weights of its convolutions is less work than all of them, () bool."""
    kernels = [params[f"{layer}_kernel"] for layer in conv_layers(params)]
    return jnp.all(jnp.stack([jnp.count_nonzero(k) <= n for k, n in zip(kernels, _most(kernels), strict=True)]))


def _most(kernels: Sequence[Array]) -> list[int]:
    """How many weights of each convolution can be visited; of the first one, whose input is the image, all."""
    return [kernels[0].size, *(int(kernel.size * DENSEST) for kernel in kernels[1:])]


def _narrow(
    fn: Callable[..., Any], widths: tuple[int, ...], kernels: dict[str, sparse_ops.Kernel], params: Params,
    channels: Gates, *args: Any,
) -> Any:  # fmt: skip
    def sparse(params: Params, channels: Gates, *args: Any) -> Any:
        return fn(SparseModel(params, kernels), channels, *args)

    return _first(sparse, widths, params, channels, *args)


def _first(fn: Callable[..., Any], widths: tuple[int, ...], params: Params, channels: Gates, *args: Any) -> Any:
    """fn of the first so many channels alone."""
    first = {layer: slice(width) for layer, width in zip(conv_layers(params), widths, strict=True)}
    return fn(model.narrow(params, first), {layer: channels[layer][own] for layer, own in first.items()}, *args)


def has_outgoing(params: Params, layer: str) -> Array:
    """Which channels of a convolution have a non-zero weight to the next layer, (O,) bool."""
    layers = conv_layers(params)
    if layer == layers[-1]:  # rows of the linear layer are position-major, channel fastest
        fc = params["fc_kernel"]
        kernel = fc.reshape(-1, params[f"{layer}_bias"].shape[0], fc.shape[-1])
    else:
        kernel = params[f"{layers[layers.index(layer) + 1]}_kernel"]
    return jnp.any(kernel != 0, tuple(axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2))


def _without_dead_weights(live: Gates, params: Params) -> dict[str, Array]:
    """The parameters with only those weights of the convolutions that lead from a live channel to a live channel."""
    kept, before = dict(params), jnp.ones(params["conv1_kernel"].shape[2], bool)
    for layer in conv_layers(params):
        kept[f"{layer}_kernel"] = jnp.where(before[:, None] & live[layer], params[f"{layer}_kernel"], 0)
        before = live[layer]
    return kept


def heard(params: Params) -> dict[str, Array]:
    """Which channels have a path of non-zero weights to the linear layer, bool (O_l,) a layer."""
    found, after, layers = {}, None, conv_layers(params)
    for layer in reversed(layers):
        found[layer] = after = has_outgoing(params if after is None else _into(params, layer, after), layer)
    return {layer: found[layer] for layer in layers}


def seeing(params: Params) -> dict[str, Array]:
    """Which channels have a path of non-zero weights from the image, bool (O_l,) a layer. The output of any other one
    is constant."""
    found, before = {}, jnp.ones(params["conv1_kernel"].shape[2], bool)
    for layer in conv_layers(params):
        found[layer] = before = jnp.any((params[f"{layer}_kernel"] != 0) & before[:, None], (0, 1, 2))
    return found


def _into(params: Params, layer: str, after: Array) -> Params:
    """The parameters with only those kernels of the next layer that lead to these of its channels."""
    layers = conv_layers(params)
    name = f"{layers[layers.index(layer) + 1]}_kernel"
    return {**params, name: jnp.where(after, params[name], 0)}

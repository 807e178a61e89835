"""Working on the channels that matter only.

Under zero ablation a closed channel's output is exactly 0, and a closed score never recovers (its only gradient, the
L0 term's, keeps pushing it down). A channel without a non-zero outgoing weight has no say either, open or not. In a
sparse model that leaves few, so a smaller model that holds just those gives the same numbers, up to the order of sums,
for a fraction of the work.

Axes: O_l channels of layer l, o_l of them in the smaller model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax import model
from fedmi_jax.model import CONV_LAYERS, LAYERS, Gates, Params

DIVISORS = ((1, 1, 1), (1, 2, 2), (2, 2, 4), (2, 4, 8))
"""The smaller models' widths are the full ones over these; all are compiled, the smallest that fits is run."""


def on_live_channels(fn: Callable[..., Any], params: Params, is_open: Gates, *args: Any) -> Any:
    """fn(small params, channels, *args) for the smallest model that holds every open channel that has a say.

    is_open: bool {"conv1": (O_1,), ...}; channels: {"conv1": (o_1,), ...}, indices, those that matter first.
    """
    live = {layer: is_open[layer] & has_outgoing(params, layer) for layer in CONV_LAYERS}
    full = [params[f"{layer}_bias"].shape[0] for layer in CONV_LAYERS]
    menu = [[max(1, n // d) for n, d in zip(full, divisors, strict=True)] for divisors in DIVISORS]
    needed = jnp.stack([jnp.sum(live[layer]) for layer in CONV_LAYERS])
    smallest = jnp.sum(jnp.all(needed <= jnp.array(menu[1:]), -1))
    return lax.switch(smallest, [partial(_narrowed, fn, widths) for widths in menu], params, live, *args)


def has_outgoing(params: Params, layer: str) -> Array:
    """Which channels of a convolution have a non-zero weight to the next layer, (O,) bool."""
    following = LAYERS[LAYERS.index(layer) + 1]
    kernel = params[f"{following}_kernel"]
    if following == "fc":
        kernel = kernel.reshape(-1, params[f"{layer}_bias"].shape[0], kernel.shape[-1])
    return jnp.any(kernel != 0, tuple(axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2))


def _narrowed(fn: Callable[..., Any], widths: list[int], params: Params, live: Gates, *args: Any) -> Any:
    channels = {k: _live_first(live[k], width) for k, width in zip(CONV_LAYERS, widths, strict=True)}
    return fn(model.narrow(params, channels), channels, *args)


def _live_first(live: Array, width: int) -> Array:
    return jnp.argsort(~live, stable=True)[:width]

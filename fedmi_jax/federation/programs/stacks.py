"""Stacks of models: cut, joined, repeated, brought to the host; and what their weights tell by themselves.

Axes: S seeds, M models, N images.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fedmi_jax.circuits.narrowing import is_sparse
from fedmi_jax.devices.layout import AXIS, Layout
from fedmi_jax.devices.lift import deal, gathered, lift
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params


def first(models: Params, count: int) -> Params:
    """What is dealt out evenly may have some more."""
    return jax.tree.map(lambda leaf: leaf[:count], models)


@partial(jax.jit, static_argnames=("rows", "layout"))
def repeated(models: Params, *, rows: tuple[int, ...], layout: Layout) -> Params:
    """These of the models, one after the other, where such a round's models are."""
    chosen = jax.tree.map(lambda leaf: leaf[np.array(rows)], models)
    spec = NamedSharding(layout.mesh, P(AXIS)) if layout.homes > 1 else layout.everywhere
    return jax.lax.with_sharding_constraint(chosen, spec)


@partial(jax.jit, static_argnames=("layout",))
def seen_images(images: Images, index: Array, labels: Array, *, layout: Layout) -> tuple[Array, Array]:
    """What a server sees of every seed: images (S, N, H, W, I), normalised, from indices (S, N); and labels (S, N)."""
    return gathered((images.normalised(index), labels), layout)


@partial(jax.jit, static_argnames=("count", "layout"))
def whole(models: Params, *, count: int, layout: Layout) -> Params:
    """The first so many models, on every device, where the host can read them."""
    return gathered(first(models, count), layout)


@partial(jax.jit, static_argnames=("layout",))
def finite(models: Params, *, layout: Layout) -> Array:
    """Whether all parameters of each model are finite: (M,) bool."""

    def one(params: Params) -> Array:
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in params.values()]))

    return _of_each(one, models, layout)


@partial(jax.jit, static_argnames=("layout",))
def sparse(models: Params, *, layout: Layout) -> Array:
    """Whether each model has so few weights that it pays to visit those alone (`circuits.narrowing`): (M,) bool."""
    return _of_each(is_sparse, models, layout)


@partial(jax.jit, static_argnames=("layout",))
def wiring(models: Params, *, layout: Layout) -> tuple[dict[str, Array], dict[str, Array]]:
    """Per layer, of all models: share of zero weights (M,), and physical connectivity (M, destination, source) bool.

    Model after model: to compare all weights with 0 at once would take a fourth of the memory of all models, or more.
    """
    return _of_each(_wiring, models, layout)


def _of_each(fn: Callable[..., Any], models: Params, layout: Layout) -> Any:
    """fn of every model, where it is: by the device that has it, or by every device that has them all. So little work
    is done sooner than it is dealt out, and is compiled five times as fast."""
    found = lift(fn, layout, models) if layout.homes == 1 else deal(fn, layout, (models,), ())
    return gathered(found, layout)


def _wiring(params: Params) -> tuple[dict[str, Array], dict[str, Array]]:
    zeros, connected, convolutions = {}, {}, conv_layers(params)
    for layer in (*convolutions, "fc"):
        kernel = params[f"{layer}_kernel"]
        zeros[layer] = jnp.mean(kernel == 0)
        if layer == "fc":  # rows are position-major, channel fastest
            kernel = kernel.reshape(1, -1, params[f"{convolutions[-1]}_bias"].shape[-1], kernel.shape[-1])
        connected[layer] = jnp.any(kernel != 0, (0, 1)).T
    return zeros, connected

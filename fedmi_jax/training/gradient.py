"""The loss of a batch and its gradient, with the work that the model's zeros save.

Axes: B images of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.network import sparse_layer, sparse_ops
from fedmi_jax.network.images import accumulate
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params, SparseModel
from fedmi_jax.network.ops import fusion_barrier

DENSEST = 1 / 16
"""Share of a kernel's weights up to which visiting the non-zero ones is less work than dense layers. The image's
convolution is visited in any case: the floor alone leaves it 44 % of its weights."""
Loss = Callable[..., Array]
"""loss(params or a SparseModel, *batch), a sum over the images."""


def value_and_gradient(
    loss: Loss, params: Params, *batch: Array, micro_batch: int, visiting: bool
) -> tuple[Array, Any]:  # fmt: skip
    """Value and gradient of loss(params, *batch), over pieces of so many images one after the other.

    visiting: where few weights are left, visit those alone; the pieces are larger then. This differs by rounding. It is
    for a CPU that runs one model at a time: side by side, every model would be computed both ways.
    """
    densely = partial(accumulate, loss, micro_batch=micro_batch)
    if not visiting:
        return densely(params, *batch)
    kernels = [params[f"{layer}_kernel"] for layer in conv_layers(params)]
    most = [kernels[0].size, *(int(kernel.size * DENSEST) for kernel in kernels[1:])]
    few = jnp.all(jnp.stack([jnp.count_nonzero(k) <= n for k, n in zip(kernels, most, strict=True)]))
    return lax.cond(few, partial(_visited, loss, most, micro_batch), densely, params, *batch)


def _visited(loss: Loss, most: list[int], micro_batch: int, params: Params, *batch: Array) -> tuple[Array, Any]:
    layers = conv_layers(params)
    found = sparse_ops.compress([params[f"{layer}_kernel"] for layer in layers], most)
    kernels = fusion_barrier(dict(zip(layers, found, strict=True)))

    def visited(params: Params, *batch: Array) -> Array:
        return loss(SparseModel(params, kernels), *batch)

    return accumulate(visited, params, *batch, micro_batch=sparse_layer.piece(len(batch[0]), micro_batch))

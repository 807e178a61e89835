"""Images on the device, and gradients summed over pieces of a batch of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax


class Images(NamedTuple):
    """A set of images on the device, and how to normalise them."""

    pixels: Array
    """uint8 (N, H, W, I)."""
    labels: Array
    """int32 (N,)."""
    mean: Array
    """(I,), after pixel / 255; its dtype is the computation's."""
    std: Array
    """(I,)."""

    def normalised(self, index: Array) -> Array:
        """Network inputs of these images, (B, H, W, I)."""
        return (self.pixels[index].astype(self.mean.dtype) / 255 - self.mean) / self.std


def weights(counts: Array, width: int, dtype: Any, axis: str | None = None) -> Array:
    """Every image's weight in the mean over its batch, (T, B): 1 / count for the first `count` images, then 0.

    Args: counts (T,), images of each batch; width: B; axis: name of a device axis over which a batch is split into
    pieces of this width. The shares are divided in double precision, whatever the dtype, and rounded once.
    """
    whole, first = (width, 0) if axis is None else (width * lax.axis_size(axis), width * lax.axis_index(axis))
    share = jnp.asarray(np.concatenate([[0.0], 1 / np.arange(1, whole + 1)]), dtype)[counts]
    return jnp.where(first + jnp.arange(width) < counts[:, None], share[:, None], 0)


def accumulate(
    loss: Callable[..., Array], params: Any, *batch: Array, micro_batch: int
) -> tuple[Array, Any]:  # fmt: skip
    """Value and gradient of loss(params, *batch), which is a sum over (B,) images, as the sum over B / micro_batch
    pieces one after the other. Every array of the batch has the leading axis B."""
    value_and_gradient = jax.value_and_grad(loss)
    if micro_batch >= batch[0].shape[0]:
        return value_and_gradient(params, *batch)

    def piece(total: tuple, part: tuple) -> tuple[tuple, None]:
        return jax.tree.map(jnp.add, total, value_and_gradient(params, *part)), None

    value, gradient = jax.eval_shape(loss, params, *batch), jax.tree.map(jnp.zeros_like, params)
    parts = tuple(leaf.reshape(-1, micro_batch, *leaf.shape[1:]) for leaf in batch)
    return lax.scan(piece, (jnp.zeros((), value.dtype), gradient), parts)[0]

"""What one client does in a round: sparse training (section 2.2 of the paper, phase A), a pure function.

Axes: T steps, B images of a batch, M micro-batches, Y classes, L weight tensors.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedmi_jax.config import Local, Sparsity
from fedmi_jax.data.batches import Plan
from fedmi_jax.network import model
from fedmi_jax.network.images import Images, accumulate
from fedmi_jax.network.model import Params
from fedmi_jax.training import pruning


def train(
    params: Params,
    images: Images,
    plan: Plan,
    keep: Array,
    class_counts: Array,
    *,
    local: Local,
    sparse: Sparsity,
    micro_batch: int,
    axis: str | None = None,
) -> tuple[Params, Array]:
    """The client's model after its own `plan.steps` steps from `params`, and its mean loss in each step, (T,).

    Args: keep int32 (T, L) from `pruning.keep_counts`; class_counts (Y,), the client's images per class (for FedRS);
    micro_batch divides B: gradients are summed over pieces of this many images, so that activations stay in cache;
    axis: name of a device axis over which B is split; gradients are summed over it.
    Steps from `plan.steps` on change nothing and report a loss of 0.
    """
    counts = jnp.asarray(class_counts, images.mean.dtype)
    scale = local.fedrs + (1 - local.fedrs) * counts / jnp.max(counts)
    loss = partial(batch_loss, images=images, scale=scale, fedrs=local.fedrs < 1)
    optimiser = optax.adam(local.learning_rate)
    step = partial(_step, loss=loss, optimiser=optimiser, anchor=params, fedprox=local.fedprox, sparse=sparse,
                   micro_batch=micro_batch, axis=axis)  # fmt: skip
    weight = jnp.asarray(plan.weight, images.mean.dtype)
    own = jnp.arange(plan.indices.shape[0]) < plan.steps
    start = dict(params)
    (trained, _), losses = lax.scan(
        partial(_own_step, step=step), (start, optimiser.init(start)), (own, (plan.indices, weight, keep))
    )
    return trained, losses


def _own_step(carry: tuple, work: tuple, *, step: partial) -> tuple[tuple, Array]:
    """A step that is this client's own, or none."""
    own, batch = work
    return lax.cond(own, step, _no_step, carry, batch)


def _no_step(carry: tuple, batch: tuple) -> tuple[tuple, Array]:
    return carry, jnp.zeros((), batch[1].dtype)


def _step(
    carry: tuple, batch: tuple, *, loss: partial, optimiser: optax.GradientTransformation, anchor: Params,
    fedprox: float, sparse: Sparsity, micro_batch: int, axis: str | None,
) -> tuple[tuple, Array]:  # fmt: skip
    """Gradient, Adam, prune."""
    params, state = carry
    index, weight, keep = batch
    value, gradient = accumulate(loss, params, index, weight, micro_batch)
    if axis is not None:
        value, gradient = lax.psum((value, gradient), axis)
    if fedprox:
        gradient = jax.tree.map(lambda g, w, w0: g + fedprox * (w - w0), gradient, params, dict(anchor))
    updates, state = optimiser.update(gradient, state)
    moved: Any = optax.apply_updates(params, updates)
    return (pruning.prune(moved, keep, sparse), state), value


def batch_loss(params: Params, index: Array, weight: Array, *, images: Images, scale: Array, fedrs: bool) -> Array:
    """Weighted sum of the cross-entropies of these images; scale (Y,) restricts the softmax (FedRS)."""
    logits = model.apply(params, images.normalised(index))
    logits = logits * scale if fedrs else logits
    return jnp.sum(weight * optax.softmax_cross_entropy_with_integer_labels(logits, images.labels[index]))

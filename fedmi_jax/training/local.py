"""What one client does in a round: sparse training (section 2.2 of the paper, phase A), a pure function.

Axes: T steps, B images of a batch, M micro-batches, Y classes, L weight tensors.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import optax
from jax import Array, lax

from fedmi_jax.aggregation.base import Method, State
from fedmi_jax.config import Local, Sparsity
from fedmi_jax.data.batches import Plan
from fedmi_jax.network import model
from fedmi_jax.network.images import Images, weights
from fedmi_jax.network.model import Params, SparseModel
from fedmi_jax.training import pruning
from fedmi_jax.training.gradient import DENSEST, value_and_gradient


def train(
    params: Params,
    images: Images,
    plan: Plan,
    keep: Array,
    class_counts: Array,
    state: State,
    *,
    local: Local,
    sparse: Sparsity,
    method: Method,
    micro_batch: int,
    axis: str | None = None,
    visiting: bool = False,
) -> tuple[Params, Array]:
    """The client's model after its own `plan.steps` steps from `params`, and its mean loss in each step, (T,).

    Args: keep int32 (T, L) from `pruning.keep_counts`; class_counts (Y,), the client's images per class; state and
    method: whose hooks change the loss and the gradient, `state.clients` this client's entry; micro_batch divides B:
    gradients are summed over pieces of this many images, so that activations stay in cache; axis: name of a device axis
    over which B is split; gradients are summed over it; visiting: as of `gradient.value_and_gradient`.
    Steps from `plan.steps` on change nothing and report a loss of 0.
    """
    dtype, start = images.mean.dtype, dict(params)
    counts = jnp.asarray(class_counts, dtype)
    trainable = None if method.trainable is None else method.trainable(start, state)
    prunable = None if method.prunes_all else trainable
    optimiser = optax.adam(local.learning_rate)
    visiting = visiting and 1 - sparse.target <= DENSEST  # otherwise there is never an occasion to compile for
    gradient_of = partial(value_and_gradient, micro_batch=micro_batch, visiting=visiting)

    def loss(network: Params | SparseModel, index: Array, weight: Array) -> Array:
        """Weighted sum of the cross-entropies of these images."""
        logits = method.logits(model.apply(network, images.normalised(index)), counts)
        return jnp.sum(weight * optax.softmax_cross_entropy_with_integer_labels(logits, images.labels[index]))

    def step(carry: tuple, batch: tuple) -> tuple[tuple, Array]:
        """Gradient, Adam, prune."""
        (params, moments), (index, weight, keep) = carry, batch
        value, gradient = gradient_of(loss, params, index, weight)
        if axis is not None:
            value, gradient = lax.psum((value, gradient), axis)
        gradient: Any = method.correct(gradient, params, start, state)
        if trainable is not None:  # a fresh Adam moves nothing whose gradient is always 0
            gradient = {name: jnp.where(trainable[name], gradient[name], 0) for name in params}
        updates, moments = optimiser.update(gradient, moments)
        moved: Any = optax.apply_updates(params, updates)
        return (pruning.prune(moved, keep, sparse, prunable), moments), value

    def no_step(carry: tuple, batch: tuple) -> tuple[tuple, Array]:
        return carry, jnp.zeros((), dtype)

    def own_step(carry: tuple, work: tuple) -> tuple[tuple, Array]:
        """Run the step, or, on padding, leave everything as it is."""
        own, batch = work
        return lax.cond(own, step, no_step, carry, batch)

    own = jnp.arange(plan.indices.shape[0]) < plan.steps
    weight = weights(jnp.asarray(plan.counts), plan.indices.shape[1], dtype, axis)
    work = (own, (plan.indices, weight, keep))
    (trained, _), losses = lax.scan(own_step, (start, optimiser.init(start)), work)
    return trained, losses

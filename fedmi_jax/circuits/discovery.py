"""Finding a circuit: the channels of one model that suffice for one class (section 2.2 of the paper, phase B).

Axes: T steps, B images of a batch, O_l channels of convolution l.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedmi_jax.circuits.narrowing import WIDTHS, Widths, in_play, of_channels, on_live_channels
from fedmi_jax.config import Discovery
from fedmi_jax.data.batches import Plan
from fedmi_jax.network import model, sparse_ops
from fedmi_jax.network.gates import straight_through_gate
from fedmi_jax.network.images import Images, accumulate
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Gates, Params, SparseModel

SEGMENT = 20
"""Steps between two looks at which channels are still open. The first can close after 2.0 / 0.1 = 20 steps."""


def discover(
    params: Params,
    images: Images,
    plan: Plan,
    fill: Gates | None,
    *,
    settings: Discovery,
    micro_batch: int,
    narrowing: bool,
    widths: Widths = WIDTHS,
) -> dict[str, Array]:
    """Final scores {"conv1": (O_1,), ...} of one circuit; its channels are those with score > 0.

    Args: params of one frozen model; plan (T, B) of images of the class; fill: mean outputs for mean ablation, None
    for zero ablation; narrowing: leave out channels where that changes nothing; widths: of the smaller models.
    A plan without steps (the client has no image of the class) gives an empty circuit: all scores are -inf.
    """
    optimiser = optax.adam(settings.learning_rate)
    dtype = images.mean.dtype
    scores = {k: jnp.full(params[f"{k}_bias"].shape, settings.initial_score, dtype) for k in conv_layers(params)}
    carry = (scores, optimiser.init(scores))
    run = partial(_run, images=images, fill=fill, settings=settings, optimiser=optimiser, micro_batch=micro_batch)
    work = (jnp.asarray(plan.indices), jnp.asarray(plan.weight, dtype))
    total = work[0].shape[0]
    whole, rest = divmod(total, SEGMENT) if narrowing else (0, total)
    if whole:
        segments = jax.tree.map(lambda a: a[: whole * SEGMENT].reshape(whole, SEGMENT, *a.shape[1:]), work)
        carry, _ = lax.scan(partial(_narrow_segment, run=run, params=params, fill=fill, widths=widths), carry, segments)
    if rest:
        carry = run(params, None, carry, jax.tree.map(lambda a: a[whole * SEGMENT :], work))
    return {layer: jnp.where(plan.steps > 0, score, -jnp.inf) for layer, score in carry[0].items()}


def _narrow_segment(
    carry: tuple, work: tuple, *, run: partial, params: Params, fill: Gates | None, widths: Widths
) -> tuple[tuple, None]:
    return on_live_channels(run, params, in_play(carry[0], fill), carry, work, widths=widths), None


def _run(
    params: Params | SparseModel, channels: dict[str, Array] | None, carry: tuple, work: tuple, micro_batch: int,
    **fixed: Any,
) -> tuple:  # fmt: skip
    """Some steps on a model that holds these channels (None: all)."""
    if isinstance(params, SparseModel):
        micro_batch = sparse_ops.piece(work[0].shape[-1], micro_batch)
    fixed |= {"params": params, "channels": channels, "micro_batch": micro_batch}
    return lax.scan(partial(_step, **fixed), carry, work)[0]


def _step(
    carry: tuple, batch: tuple, *, params: Params | SparseModel, channels: dict[str, Array] | None, images: Images,
    fill: Gates | None, settings: Discovery, optimiser: optax.GradientTransformation, micro_batch: int,
) -> tuple[tuple, None]:  # fmt: skip
    scores, state = carry
    task = partial(class_loss, params=params, images=images, channels=channels, fill=fill)
    indices, weight = batch
    _, gradient = accumulate(task, scores, indices, weight, micro_batch)
    pressure = jax.grad(partial(l0_penalty, weight=settings.l0))(scores)
    updates, state = optimiser.update(jax.tree.map(jnp.add, gradient, pressure), state)
    return (optax.apply_updates(scores, updates), state), None


def class_loss(
    scores: Gates, index: Array, weight: Array, *, params: Params | SparseModel, images: Images,
    channels: dict[str, Array] | None, fill: Gates | None,
) -> Array:  # fmt: skip
    """Weighted cross-entropy of the masked model on images of the class (first term of the paper's objective)."""
    gates = {layer: straight_through_gate(score) for layer, score in scores.items()}
    gates, fill = of_channels(gates, channels), of_channels(fill, channels)
    logits = model.apply(params, images.normalised(index), gates, fill)
    return jnp.sum(weight * optax.softmax_cross_entropy_with_integer_labels(logits, images.labels[index]))


def l0_penalty(scores: Gates, weight: float) -> Array:
    """weight * sum over all channels of sigmoid(score) (second term)."""
    return weight * jnp.sum(jnp.concatenate([jax.nn.sigmoid(score) for score in scores.values()]))

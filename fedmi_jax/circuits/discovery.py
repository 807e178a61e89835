"""Finding a circuit: the channels of one model that suffice for one class (section 2.2 of the paper, phase B).

Axes: T steps, B images of a batch, O_l channels of convolution l.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedmi_jax.circuits.narrowing import WIDTHS, Widths, of_channels, on_live_channels
from fedmi_jax.circuits.objective import Scores, class_objective
from fedmi_jax.config import Discovery
from fedmi_jax.data.batches import Plan
from fedmi_jax.network import model, sparse_ops
from fedmi_jax.network.ablation import Ablation, Gates
from fedmi_jax.network.images import Images, accumulate
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params, SparseModel

SEGMENT = 20
"""Steps between two looks at which channels are still open; changes speed only. With the default settings the first
channel can close after 2.0 / 0.1 = 20 steps."""


class Circuit(NamedTuple):
    """What a search found."""

    score: Mapping[str, Any]
    """{"conv1": (O_1,), ...}; minus infinity where the client has no image of the class."""
    mask: Mapping[str, Any]
    """bool {"conv1": (O_1,), ...}: the channels of the circuit, as the objective says."""


def discover(
    params: Params,
    images: Images,
    plan: Plan,
    ablation: Ablation,
    *,
    settings: Discovery,
    micro_batch: int,
    narrowing: bool,
    widths: Widths = WIDTHS,
) -> Circuit:
    """Search one circuit in one frozen model.

    Args: params of the model; plan (T, B) of images of the class; ablation: what a closed channel is replaced by;
    micro_batch: images per piece of a batch; narrowing: leave out channels where that changes nothing; widths: of the
    smaller models.
    A plan without steps (the client has no image of the class) gives an empty circuit: all scores are -inf.
    """
    objective, optimiser = class_objective(settings), optax.adam(settings.learning_rate)
    dtype = images.mean.dtype

    def search(network: Params | SparseModel, channels: Gates | None, carry: tuple, work: tuple) -> tuple:
        """Some steps on a network that holds these channels (None: all)."""
        replaced, piece = ablation.of_channels(channels), _piece(network, work[0].shape[-1], micro_batch)

        def loss(scores: Scores, index: Array, weight: Array) -> Array:
            gates = of_channels(objective.gates(scores), channels)
            logits = model.apply(network, images.normalised(index), gates, replaced)
            return objective.loss(logits, images.labels[index], weight)

        def step(carry: tuple, batch: tuple) -> tuple[tuple, None]:
            (scores, state), (index, weight) = carry, batch
            _, gradient = accumulate(loss, scores, index, weight, piece)
            pressure = jax.grad(objective.penalty)(scores)
            updates, state = optimiser.update(jax.tree.map(jnp.add, gradient, pressure), state)
            return (optax.apply_updates(scores, updates), state), None

        return lax.scan(step, carry, work)[0]

    def segment(carry: tuple, work: tuple) -> tuple[tuple, None]:
        speaking = ablation.may_speak(objective.mask(carry[0]))
        return on_live_channels(search, params, speaking, carry, work, widths=widths), None

    start = {k: jnp.full(params[f"{k}_bias"].shape, objective.start, dtype) for k in conv_layers(params)}
    carry: Any = (start, optimiser.init(start))
    work = (jnp.asarray(plan.indices), jnp.asarray(plan.weight, dtype))
    total = work[0].shape[0]
    whole, rest = divmod(total, SEGMENT) if narrowing and objective.closes_for_good else (0, total)
    if whole:
        segments = jax.tree.map(lambda a: a[: whole * SEGMENT].reshape(whole, SEGMENT, *a.shape[1:]), work)
        carry, _ = lax.scan(segment, carry, segments)
    if rest:
        carry = search(params, None, carry, jax.tree.map(lambda a: a[whole * SEGMENT :], work))
    score = {layer: jnp.where(plan.steps > 0, own, -jnp.inf) for layer, own in carry[0].items()}
    return Circuit(score, objective.mask(score))


def _piece(network: Params | SparseModel, batch: int, micro_batch: int) -> int:
    """Images per piece: a sparse model prefers its own."""
    return sparse_ops.piece(batch, micro_batch) if isinstance(network, SparseModel) else micro_batch

"""Finding a circuit: the channels of one model that suffice for one class (section 2.2 of the paper, phase B).

Axes: T steps, B images of a batch, M samples of all gates, O_l channels of convolution l.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from fedmi_jax.circuits.narrowing import WIDTHS, Narrowing, Widths, heard, of_channels, on_live_channels
from fedmi_jax.circuits.objective import Objective, Scores
from fedmi_jax.data.batches import Plan
from fedmi_jax.network import model, sparse_layer, sparse_ops
from fedmi_jax.network.ablation import Ablation, Gates, MeanMap
from fedmi_jax.network.images import Images, accumulate, weights
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params, SparseModel

SEGMENT = 20
"""Steps between two looks at which channels are still open; changes speed only. With the default settings the first
channel can close after 2.0 / 0.1 = 20 steps."""
LATE = 2 / 3
"""Share of the search that is over when the mean of the marginal values begins."""


class Circuit(NamedTuple):
    """What a search found."""

    score: Mapping[str, Any]
    """{"conv1": (O_1,), ...}; minus infinity where the client has no image of the class."""
    mask: Mapping[str, Any]
    """bool {"conv1": (O_1,), ...}: the channels of the circuit, as the objective says."""


class Searched(NamedTuple):
    """A search's last state. Each {"conv1": (O_1,), ...}."""

    score: Mapping[str, Array]
    value: Mapping[str, Array]
    """What opening the channel saves of the task's loss, mean over the last third of the search."""


def discover(params: Params, images: Images, plan: Plan, ablation: Ablation, **options: Any) -> Circuit:
    """The circuit that `search` finds and the objective's own mask cuts out. Args: as of `search`.

    A plan without steps (the client has no image of the class) gives an empty circuit: all scores are -inf.
    """
    score = search(params, images, plan, ablation, **options).score
    score = {layer: jnp.where(plan.steps > 0, own, -jnp.inf) for layer, own in score.items()}
    return Circuit(score, options["objective"].mask(score))


def search(
    params: Params,
    images: Images,
    plan: Plan,
    ablation: Ablation,
    draws: Array | None = None,
    *,
    objective: Objective,
    micro_batch: int,
    narrowing: Narrowing,
    beside: str | None = None,
    widths: Widths = WIDTHS,
    late: float = LATE,
) -> Searched:
    """Search one circuit in one frozen model.

    Args: params of the model; plan (T, B), indices into `images`; ablation: what a closed channel is replaced by; draws
    uint8 (T, M / 2, sum of O_l) for gates that are sampled, the M samples taking turns of B / M images; micro_batch:
    images per piece of a batch; narrowing: leave out channels where that changes nothing; beside: the name of the axis
    along which circuits are searched side by side: channels are left out of all together; widths: of the smaller
    models; late: share of the search that is over when the mean of the marginal values begins.
    """
    (total, width), dtype = plan.indices.shape, images.mean.dtype
    weight = weights(jnp.asarray(plan.counts), width, dtype)
    work = (jnp.arange(total) / total, jnp.asarray(plan.indices), weight, draws)
    sizes = {layer: params[f"{layer}_bias"].shape[0] for layer in conv_layers(params)}

    def steps(network: Params | SparseModel, channels: Gates | None, carry: tuple, work: tuple) -> tuple:
        """Some steps on a network that holds these channels (None: all)."""
        replaced, piece = ablation.of_channels(channels), _piece(network, work[1].shape[-1], micro_batch, ablation)

        def loss(scores: Scores, index: Array, weight: Array, sample: Array, *, drawn: Mapping[str, Array]) -> Array:
            gates = of_channels(objective.gates(scores, drawn), channels)
            gates = {layer: gate if gate.ndim == 1 else gate[sample] for layer, gate in gates.items()}
            return objective.task(model.apply(network, images.normalised(index), gates, replaced), index, weight)

        def step(carry: tuple, batch: tuple) -> tuple[tuple, None]:
            (scores, state, value), (done, index, weight, draws) = carry, batch
            drawn = {} if draws is None else by_layer(draws, sizes)
            sample = jnp.asarray(_samples(len(index), 1 if draws is None else 2 * len(draws)))
            _, gradient = accumulate(partial(loss, drawn=drawn), scores, index, weight, sample, micro_batch=piece)
            pressure = jax.grad(objective.penalty)(scores, done)
            updates, state = objective.optimiser.update(jax.tree.map(jnp.add, gradient, pressure), state)
            value = jax.tree.map(lambda v, g, s: v + jnp.where(done >= late, _saved(g, s), 0), value, gradient, scores)
            return (objective.bounded(optax.apply_updates(scores, updates)), state, value), None  # type: ignore[arg-type]

        return lax.scan(step, carry, work)[0]

    def segment(carry: tuple, work: tuple) -> tuple[tuple, None]:
        speaking = ablation.may_speak(objective.mask(carry[0]))
        found = on_live_channels(
            steps, params, speaking, carry, work, widths=widths, narrowing=narrowing, beside=beside
        )
        return found, None

    start = {layer: jnp.full(size, objective.start, dtype) for layer, size in sizes.items()}
    carry: Any = (start, objective.optimiser.init(start), jax.tree.map(jnp.zeros_like, start))
    whole = total // SEGMENT if (narrowing or beside) and objective.closes_for_good else 0
    if whole:
        segments = jax.tree.map(lambda a: a[: whole * SEGMENT].reshape(whole, SEGMENT, *a.shape[1:]), work)
        carry, _ = lax.scan(segment, carry, segments)
    rest = jax.tree.map(lambda a: a[whole * SEGMENT :], work)
    if total > whole * SEGMENT and narrowing and not objective.closes_for_good:
        carry = on_live_channels(steps, params, heard(params), carry, rest, widths=widths[:1], narrowing=narrowing)
    elif total > whole * SEGMENT:
        carry = steps(params, None, carry, rest)
    counted = int(np.count_nonzero(np.arange(total) / total >= late))
    return Searched(carry[0], jax.tree.map(lambda v: v / max(counted, 1), carry[2]))


def _saved(gradient: Array, score: Array) -> Array:
    """What opening a channel saves: the gradient with respect to its gate, out of that with respect to its score; 0
    where the score is so large that the latter is 0."""
    s = jax.nn.sigmoid(score)
    slope = s * (1 - s)
    return jnp.where(slope > 0, -gradient / jnp.where(slope > 0, slope, 1), 0)


def _samples(batch: int, samples: int) -> np.ndarray:
    """Which sample of all gates each image of a batch sees."""
    return np.arange(batch, dtype=np.int32) * samples // batch


def by_layer(values: Array, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Values of all channels (..., sum of O_l) as {layer: (..., O_l)}."""
    ends = np.cumsum(list(sizes.values()))[:-1]
    return dict(zip(sizes, jnp.split(values, ends, -1), strict=True))


def _piece(network: Params | SparseModel, batch: int, micro_batch: int, ablation: Ablation) -> int:
    """Images per piece, of which a batch is a multiple: a sparse model prefers its own."""
    micro_batch = next(n for n in range(min(micro_batch, batch), 0, -1) if batch % n == 0)
    if not isinstance(network, SparseModel):
        return micro_batch
    return (sparse_layer if isinstance(ablation, MeanMap) else sparse_ops).piece(batch, micro_batch)

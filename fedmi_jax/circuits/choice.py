"""From scores to a circuit: the smallest one that explains enough, without a channel that could go.

A search orders the channels; how many of them a circuit has is decided afterwards, on images that were not searched on.

Axes: L sizes of the grid, O_l channels of convolution l, C = sum of O_l, G groups of B images, Y classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.circuits import question as q
from fedmi_jax.circuits.discovery import Searched, by_layer
from fedmi_jax.circuits.evaluation import group_logits
from fedmi_jax.circuits.narrowing import WIDTHS, heard, on_live_channels, seeing
from fedmi_jax.circuits.question import Question
from fedmi_jax.network.ablation import Ablation, Gates
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params, SparseModel

GRID = (1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181)
"""Sizes that are tried: about the powers of the square root of 2. The last one tried is every live channel."""
PASSES = 3
"""Times that every channel is tried to be left out, at most."""


class Judged(NamedTuple):
    """The images on which a size is chosen, and what is asked about them."""

    images: Images
    indices: Array
    """(G, B)."""
    question: Question
    """Of G * B images, group after group; padding has weight 0."""


class Choice(NamedTuple):
    """A circuit, and how its size was found."""

    score: Mapping[str, Any]
    """{"conv1": (O_1,), ...}: positive in the circuit, negative or 0 outside; minus infinity for dead channels."""
    mask: Mapping[str, Any]
    """bool {"conv1": (O_1,), ...}."""
    live: Mapping[str, Any]
    """bool {"conv1": (O_1,), ...}: channels that could be part of a circuit (`candidates`)."""
    rank: Mapping[str, Any]
    """int {"conv1": (O_1,), ...}: place in the order that sizes were tried in, 1 the best, over all layers; 0 for dead
    channels. Scores do not tell it: many end at the same bound, and the circuit's are made positive."""
    untrimmed: Any
    """(): channels before the ones that could go were left out."""
    compact: Any
    """() bool: whether some size explains the target, and every larger one of the grid too."""
    sizes: Any
    """(L,)."""
    curve: Any
    """(L,): the share explained by the best channels, so many of them."""
    explained: Any
    """(): by the circuit, on the same images. Its size was chosen on them, so other images say what it is worth."""


def candidates(params: Params) -> dict[str, Array]:
    """Channels with a path of non-zero weights from the image to the linear layer, bool (O_l,) a layer.

    Where a closed channel's output is not its mean, a constant channel has a say too. It is closed all the same: what
    does not depend on the image is no part of what decides.
    """
    sees, is_heard = seeing(params), heard(params)
    return {layer: is_heard[layer] & sees[layer] for layer in is_heard}


def choose(
    params: Params, searched: Searched, ablation: Ablation, judged: Judged, target: Array | float, *,
    by_size: bool = True, narrowing: bool,
) -> Choice:  # fmt: skip
    """The smallest circuit of the searched ranking that explains `target`, trimmed.

    Of the sizes of the grid, the smallest for which it and all larger ones do, since the curve need not rise
    everywhere; where none does, all live channels, which is then not compact. by_size off: the channels with a positive
    score, whatever they explain.
    """
    live, sizes = candidates(params), _sizes(params)
    alive, score, value = (jnp.concatenate(list(part.values())) for part in (live, searched.score, searched.value))
    order = jnp.lexsort((-value, -score, ~alive))  # last key first: live ones, by score, then by value
    rank = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
    grid, curve = ranked(params, rank, alive, ablation, judged, narrowing=narrowing)
    enough = jnp.flip(jnp.cumprod(jnp.flip((curve >= target).astype(jnp.int32)))) > 0
    compact = enough[-1]
    size = jnp.where(compact, grid[jnp.argmax(enough)], grid[-1])
    if by_size:
        mask, reached = (rank < size) & alive, jnp.where(compact, curve[jnp.argmax(enough)], curve[-1])
        kept, reached = trimmed(
            params, mask, reached, order, jnp.where(compact, size, 0), ablation, judged, target, narrowing=narrowing
        )
    else:
        kept, size = (score > 0) & alive, jnp.sum((score > 0) & alive)
        reached = of_masks(params, kept[None], alive, ablation, judged, narrowing=narrowing)[0]
    tiny = jnp.finfo(score.dtype).tiny
    final = jnp.where(kept, jnp.maximum(score, tiny), jnp.minimum(score, 0))
    final = jnp.where(alive, final, -jnp.inf)
    places = by_layer(jnp.where(alive, rank + 1, 0), sizes)
    return Choice(by_layer(final, sizes), by_layer(kept, sizes), live, places, size, compact, grid, curve, reached)


def ranked(
    params: Params, rank: Array, alive: Array, ablation: Ablation, judged: Judged, *, narrowing: bool
) -> tuple[Array, Array]:
    """The sizes of the grid (L,), and what the channels of the lowest ranks explain, so many of them, (L,).

    rank: of every channel, (C,), live ones first; alive bool (C,).
    """
    total = len(rank)
    grid = jnp.minimum(jnp.array([*(k for k in GRID if k < total), total]), jnp.sum(alive))
    masks = (rank < grid[:, None]) & alive
    return grid, of_masks(params, masks, alive, ablation, judged, narrowing=narrowing)


def of_masks(
    params: Params, masks: Array, alive: Array, ablation: Ablation, judged: Judged, *, narrowing: bool
) -> Array:  # fmt: skip
    """What the channels of each mask explain, (n,). Args: masks bool (n, C), of channels alive bool (C,) alone."""
    (params, ablation), sizes = ablation.folded(params), _sizes(params)

    def of_each(network: Params | SparseModel, channels: Gates | None, masks: Array, ablation: Ablation) -> Array:
        explains = partial(_explains, network, channels, ablation=ablation, judged=judged, sizes=sizes)
        return lax.map(explains, masks)

    if not narrowing:
        return of_each(params, None, masks, ablation)
    return on_live_channels(
        of_each, params, ablation.may_speak(by_layer(alive, sizes)), masks, ablation, widths=WIDTHS[:1]
    )


def trimmed(
    params: Params, mask: Array, reached: Array, order: Array, size: Array, ablation: Ablation, judged: Judged,
    target: Array | float, *, narrowing: bool,
) -> tuple[Array, Array]:  # fmt: skip
    """The mask bool (C,) without channels that can go while the rest still explains `target`, and what this explains.

    They are tried one after the other, the last in the order first, until no more can go (on these images every channel
    that is left is then needed), or PASSES times. reached (): what the whole mask explains; size (): how many in front
    of the order are in the mask; 0: nothing is tried.
    """
    (params, ablation), sizes = ablation.folded(params), _sizes(params)
    work = partial(_trim, judged=judged, target=target, sizes=sizes)
    if not narrowing:
        return work(params, None, mask, reached, order, size, ablation)
    speaking = ablation.may_speak(by_layer(mask, sizes))
    return on_live_channels(work, params, speaking, mask, reached, order, size, ablation, widths=WIDTHS[::2])


def _trim(
    network: Params | SparseModel, channels: Gates | None, mask: Array, reached: Array, order: Array, size: Array,
    ablation: Ablation, judged: Judged, target: Array | float, sizes: Mapping[str, int],
) -> tuple[Array, Array]:  # fmt: skip
    explains = partial(_explains, network, channels, ablation=ablation, judged=judged, sizes=sizes)

    def leave_out(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        mask, reached = carry
        channel = order[size - 1 - i]
        without = mask.at[channel].set(False)
        rest = lax.cond(mask[channel], explains, lambda _: jnp.full_like(reached, -jnp.inf), without)
        return jnp.where(rest >= target, without, mask), jnp.where(rest >= target, rest, reached)

    def one_pass(carry: tuple) -> tuple:
        mask, reached, number, _ = carry
        shorter, reached = lax.fori_loop(0, size, leave_out, (mask, reached))
        return shorter, reached, number + 1, jnp.any(shorter != mask)

    def more(carry: tuple) -> Array:
        return (carry[2] < PASSES) & carry[3]

    begun = (mask, reached, jnp.zeros((), jnp.int32), jnp.ones((), bool))
    return lax.while_loop(more, one_pass, begun)[:2]


def _explains(
    network: Params | SparseModel, channels: Gates | None, mask: Array, *, ablation: Ablation, judged: Judged,
    sizes: Mapping[str, int],
) -> Array:  # fmt: skip
    """What the channels of a mask bool (C,) explain, (); model and ablation are folded."""
    dtype = judged.question.weights.dtype
    gates = {layer: gate.astype(dtype) for layer, gate in by_layer(mask, sizes).items()}
    logits = group_logits(network, channels, gates, ablation, judged.indices, judged.images)
    return q.explained(logits, judged.question)


def _sizes(params: Params) -> dict[str, int]:
    return {layer: params[f"{layer}_bias"].shape[0] for layer in conv_layers(params)}

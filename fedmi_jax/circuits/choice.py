"""From scores to a circuit: the smallest one that explains enough, without a channel that could go.

A search orders the channels; how many of them a circuit has is decided afterwards, on images that were not searched on.

Axes: L sizes of the grid, O_l channels of convolution l, C = sum of O_l, G groups of B images, Y classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.circuits import question as q
from fedmi_jax.circuits.answers import State, answers
from fedmi_jax.circuits.discovery import Searched, by_layer
from fedmi_jax.circuits.narrowing import WIDTHS, Narrowing, heard, on_live_channels, seeing
from fedmi_jax.circuits.question import Question
from fedmi_jax.network.ablation import Deviation, Gates, MeanMap, Zero
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
    params: Params, searched: Searched, ablation: MeanMap | Zero, judged: Judged, target: Array | float, *,
    by_size: bool = True, narrowing: Narrowing,
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
    positive = None if by_size else (score > 0) & alive
    found = _found(params, _Ranking(rank, order, alive, positive), ablation, judged, target, narrowing=narrowing)
    tiny = jnp.finfo(score.dtype).tiny
    final = jnp.where(found.mask, jnp.maximum(score, tiny), jnp.minimum(score, 0))
    final = jnp.where(alive, final, -jnp.inf)
    places = by_layer(jnp.where(alive, rank + 1, 0), sizes)
    return Choice(by_layer(final, sizes), by_layer(found.mask, sizes), live, places, *found[1:])


class _Ranking(NamedTuple):
    rank: Array
    """(C,): of every channel, live ones first."""
    order: Array
    """(C,): the channels by rank."""
    alive: Array
    """bool (C,)."""
    positive: Array | None
    """bool (C,): the circuit, where no size is chosen."""


class _Found(NamedTuple):
    """As `Choice`; mask bool (C,)."""

    mask: Array
    untrimmed: Array
    compact: Array
    sizes: Array
    curve: Array
    explained: Array


def _found(
    params: Params, ranking: _Ranking, ablation: MeanMap | Zero, judged: Judged, target: Array | float, *,
    narrowing: Narrowing,
) -> _Found:  # fmt: skip
    """The circuit, and how it was found."""
    (params, folded), sizes = ablation.folded(params), _sizes(params)
    work = partial(_choose, judged=judged, target=target, sizes=sizes)
    if not narrowing:
        return work(params, None, ranking, folded)
    speaking = folded.may_speak(by_layer(ranking.alive, sizes))
    return on_live_channels(work, params, speaking, ranking, folded, widths=WIDTHS[:1], narrowing=narrowing)


def _choose(
    network: Params | SparseModel, channels: Gates | None, ranking: _Ranking, ablation: Deviation | Zero,
    judged: Judged, target: Array | float, sizes: Mapping[str, int],
) -> _Found:  # fmt: skip
    """`_found` on a network that holds all live channels; model and ablation are folded."""
    state, answer = answers(network, channels, ablation, judged.images, judged.indices)

    def explains(state: State, mask: Array) -> tuple[State, Array]:
        logits, state = answer(state, by_layer(mask, sizes))
        return state, q.explained(logits, judged.question)

    rank, order, alive, positive = ranking
    total = len(rank)
    grid = jnp.minimum(jnp.array([*(k for k in GRID if k < total), total]), jnp.sum(alive))
    state, curve = lax.scan(explains, state, (rank < grid[:, None]) & alive)
    enough = jnp.flip(jnp.cumprod(jnp.flip((curve >= target).astype(jnp.int32)))) > 0
    compact = enough[-1]
    if positive is not None:
        _, reached = explains(state, positive)
        return _Found(positive, jnp.sum(positive), compact, grid, curve, reached)
    at = jnp.where(compact, jnp.argmax(enough), len(grid) - 1)
    mask = (rank < grid[at]) & alive
    kept, reached = trimmed(explains, state, mask, curve[at], order, jnp.where(compact, target, jnp.inf))
    return _Found(kept, grid[at], compact, grid, curve, reached)


class _Trim(NamedTuple):
    state: State
    mask: Array
    reached: Array
    place: Array
    """(): in the order, of the channel that is tried next; below 0: none is left."""
    passes: Array
    """(): that are over."""
    kept: Array
    """(): trials since a channel was last left out."""


def trimmed(
    explains: Callable[[State, Array], tuple[State, Array]], state: State, mask: Array, reached: Array, order: Array,
    target: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """The mask bool (C,) without channels that can go while the rest still explains `target`, and what this explains.

    They are tried one after the other, the last in the order first, until no more can go (on these images every channel
    that is left is then needed), or PASSES times. explains: (state, mask) -> (state, what it explains); reached ():
    what the whole mask explains; order (C,): channels; target (): with infinity nothing is tried.
    """
    places = jnp.arange(len(order))

    def last(mask: Array, before: Array | int) -> Array:
        """The last place before this one whose channel is in the mask; -1: there is none."""
        return jnp.max(jnp.where(mask[order] & (places < before), places, -1))

    def more(carry: _Trim) -> Array:
        undecided = (carry.kept < jnp.sum(carry.mask)) & (carry.passes < PASSES)
        return undecided & (carry.place >= 0) & (target < jnp.inf)

    def leave_out(carry: _Trim) -> _Trim:
        without = carry.mask.at[order[carry.place]].set(False)
        state, rest = explains(carry.state, without)
        goes = rest >= target
        mask, reached = jnp.where(goes, without, carry.mask), jnp.where(goes, rest, carry.reached)
        following = last(mask, carry.place)
        passes = carry.passes + (following < 0)
        place = jnp.where(following < 0, last(mask, len(order)), following)
        return _Trim(state, mask, reached, place, passes, jnp.where(goes, 0, carry.kept + 1))

    zero = jnp.zeros((), jnp.int32)
    done = lax.while_loop(more, leave_out, _Trim(state, mask, reached, last(mask, len(order)), zero, zero))
    return done.mask, done.reached


def _sizes(params: Params) -> dict[str, int]:
    return {layer: params[f"{layer}_bias"].shape[0] for layer in conv_layers(params)}

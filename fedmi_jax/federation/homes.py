"""Models stay on the device that trained them, and rows of work are taken to their models.

Axes: D devices, M local models of a round, S seeds, n rows, r = D * (rows of the fullest device) places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from fedmi_jax.circuits.narrowing import Narrowing
from fedmi_jax.devices import lift
from fedmi_jax.devices.layout import AXIS, Layout
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params


@partial(jax.tree_util.register_dataclass, data_fields=["parts"], meta_fields=["counts", "sparse"])
@dataclass(frozen=True)
class Stack:
    """The models of a round as `Cases.model` counts them, without a copy of any."""

    parts: tuple[Any, ...]
    """Local models (M', ...), the server's (S, ...) and, of a method that serves every client a model of its own, these
    (M', ...). Where a layout has homes, the server's are on every device and the others dealt out, M' a multiple of
    D."""
    counts: tuple[int, ...]
    """How many models of every part count: M, S, M."""
    sparse: bool = False
    """All that rows are taken from have so few weights that programs need no form for others (`circuits.narrowing`)."""

    def with_parts(self, *parts: Any) -> Stack:
        """Others in their place, of which nothing is known."""
        return replace(self, parts=parts, sparse=False)

    def specs(self, layout: Layout) -> Stack:
        """How the parts are dealt out."""
        home = P(AXIS) if layout.homes > 1 else P()
        return replace(self, parts=(home, P(), home)[: len(self.parts)])

    def narrowing(self, layout: Layout) -> Narrowing:
        return "sparse" if self.sparse and layout.narrowing else layout.narrowing

    def pick(self, which: Array, layout: Layout) -> Params:
        """One model; within a program whose device has it."""
        found, first = self.parts[0], 0
        for i, (part, count) in enumerate(zip(self.parts, self.counts, strict=True)):
            here = len(part["fc_bias"])
            start = first + (jax.lax.axis_index(AXIS) * here if layout.homes > 1 and i != SERVER else 0)
            own = _one(part, jnp.clip(which - start, 0, here - 1))
            found = own if i == 0 else {name: jnp.where(which >= first, own[name], found[name]) for name in own}
            first += count
        return found


SERVER = 1
"""The place of the server's models among the parts of a stack: every device has them."""

Models = Params | Stack


def _one(models: Params, which: Array) -> Params:
    return {name: leaf[which] for name, leaf in models.items()}


def pick(models: Models, which: Array, layout: Layout | None = None) -> Params:
    """One model of a stack. layout: where its models have homes."""
    if isinstance(models, Stack):
        assert layout is not None
        return models.pick(which, layout)
    return _one(models, which)


def narrowing(models: Models, layout: Layout) -> Narrowing:
    """What programs leave out of these models."""
    return models.narrowing(layout) if isinstance(models, Stack) else layout.narrowing


def specs(models: Models, layout: Layout) -> Any:
    """How the models are dealt out, for `shard_map`."""
    return models.specs(layout) if isinstance(models, Stack) else P()


def some(models: Models) -> Params:
    """Some of the models, (M', ...), to look at the names and widths of their layers."""
    return models.parts[0] if isinstance(models, Stack) else models


def size(models: Models) -> int:
    """How many models there are."""
    return sum(models.counts) if isinstance(models, Stack) else len(models["fc_bias"])


def all_open(models: Models) -> dict[str, np.ndarray]:
    """Gates that keep every channel of every model, (M, O_l)."""
    one, count = some(models), size(models)
    biases = {layer: one[f"{layer}_bias"] for layer in conv_layers(one)}
    return {layer: np.ones((count, bias.shape[-1]), bias.dtype) for layer, bias in biases.items()}


def at_home(run: Callable[..., Any], models: Models, which: Any, rows: Any, layout: Layout, block: int = 0) -> Any:
    """run(which, rows), whose results have the leading axis of the rows: each row on the device of its model.

    Args: which (n,), each row's model; rows: a pytree with leading axis n; block: run is called as often as needed with
    so many rows, so that their number, which is seldom the same, compiles nothing; 0: once, with all. Where models have
    homes, or with blocks, run is given rows in another order, some of them twice; what comes back is on the host, in
    the order that was given.
    """
    homes = layout.homes if isinstance(models, Stack) else 1
    if homes == 1 and not block:
        return run(which, rows)
    row = place = np.arange(len(which))
    if homes > 1:
        assert isinstance(models, Stack)
        row, place = places(owners(models, np.asarray(which), layout), homes)
    calls, where = in_blocks(row, homes, block)
    done = [run(*jax.tree.map(lambda leaf, at=at: np.asarray(leaf)[at], (which, rows))) for at in calls]
    return jax.tree.map(lambda *parts: np.concatenate([np.asarray(part) for part in parts])[where[place]], *done)


def in_blocks(row: np.ndarray, homes: int, block: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of every call, (calls, D * b), and where each place of `row` (r,) is among all of them, (r,).

    Every call has b rows of each device, that is `block` in all, or as many as D divides; with 0 there is one call. The
    last row of a device is done again where it has too few.
    """
    room = len(row) // homes
    each = max(1, block // homes) if block else room
    calls = -(-room // each)
    place = np.minimum(np.arange(calls * each), room - 1) + room * np.arange(homes)[:, None]
    device, own = np.divmod(np.arange(len(row)), room)
    where = own // each * homes * each + device * each + own % each
    return row[place].reshape(homes, calls, each).swapaxes(0, 1).reshape(calls, -1), where


def rewritten(models: Stack, rewrite: Callable[[int, dict[str, np.ndarray]], None], layout: Layout) -> Stack:
    """The stack with other local models: rewrite(which, params) changes a copy of each, in the process that has it."""
    local = models.parts[0]

    def draw(rows: np.ndarray) -> dict[str, np.ndarray]:
        own = {name: _of_device(leaf, int(rows[0])) for name, leaf in local.items()}
        for at, which in enumerate(rows[rows < models.counts[0]].tolist()):
            rewrite(which, {name: leaf[at] for name, leaf in own.items()})
        return own

    drawn = lift.drawn(draw, np.arange(len(local["fc_bias"])), layout)
    return models.with_parts(drawn if layout.homes > 1 else lift.replicate(drawn, layout), *models.parts[1:])


def _of_device(leaf: Array, first: int) -> np.ndarray:
    """A copy of the part of the array, dealt out over devices or not, that begins with this row."""
    return next(np.array(part.data) for part in leaf.addressable_shards if (part.index[0].start or 0) == first)


def owners(models: Stack, which: np.ndarray, layout: Layout) -> np.ndarray:
    """The device of every row's model, (n,); -1 for the server's models, which all have."""
    each = len(models.parts[0]["fc_bias"]) // layout.homes
    local, server = models.counts[0], sum(models.counts[: SERVER + 1])
    return np.where(which < local, which // each, np.where(which < server, -1, (which - server) // each))


def places(owner: np.ndarray, homes: int) -> tuple[np.ndarray, np.ndarray]:
    """The row that stands at every place, (r,), device after device, and every row's place, (n,).

    Rows that any device can do go where there is room. The fullest device decides how many places there are: if its
    own rows are more than its share, a few more, so that rounds with other rows seldom compile anything.
    """
    bound = np.flatnonzero(owner >= 0)
    bound = bound[np.argsort(owner[bound], kind="stable")]
    counts = np.bincount(owner[bound], minlength=homes)
    room = share = -(-len(owner) // homes)
    if (most := int(counts.max())) > share:
        step = max(1, share // 8)
        room = share + step * -(-(most - share) // step)
    place = np.full(len(owner), -1)
    place[bound] = owner[bound] * room + np.arange(len(bound)) - np.repeat(np.cumsum(counts) - counts, counts)
    empty = np.setdiff1d(np.arange(homes * room), place)
    free = np.flatnonzero(owner < 0)
    place[free] = empty[: len(free)]
    row = np.zeros(homes * room, int)  # a place without a row does the first one again
    row[place] = np.arange(len(owner))
    return row, place

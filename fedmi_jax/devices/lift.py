"""A function of one model or circuit, run over a leading axis: side by side, one by one, over devices."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fedmi_jax.devices.layout import AXIS, BESIDE, Layout


def replicate(tree: Any, layout: Layout) -> Any:
    """The arrays on every device, once: an input that moves from one device to all would be copied, and compiled for,
    a second time. With several processes each must give the same arrays."""
    if jax.process_count() == 1:
        return jax.device_put(tree, layout.everywhere)
    return jax.tree.map(partial(_from_every_process, layout=layout), tree)


def _from_every_process(leaf: Any, layout: Layout) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return leaf  # it is already
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, layout.everywhere, leaf.__getitem__)


def homed(count: int, layout: Layout) -> np.ndarray:
    """So many models as rows that the homes share out evenly: 0 .. count - 1, the last one repeated as needed."""
    return np.minimum(np.arange(layout.homes * -(-count // layout.homes)), count - 1)


def drawn(draw: Callable[[np.ndarray], Any], rows: np.ndarray, layout: Layout) -> Any:
    """draw(rows), a pytree of host arrays with their leading axis. Where models have homes, which share the rows out
    evenly, every process draws those of its own devices alone, and each is put where it is used."""
    if layout.homes == 1:
        return draw(rows)
    shares = zip(layout.mesh.devices.flat, np.split(rows, layout.homes), strict=True)
    own = [jax.device_put(draw(some), device) for device, some in shares if device.process_index == jax.process_index()]
    dealt = NamedSharding(layout.mesh, P(AXIS))

    def whole(*shares: jax.Array) -> jax.Array:
        shape = (len(rows), *shares[0].shape[1:])
        return jax.make_array_from_single_device_arrays(shape, dealt, list(shares))

    return jax.tree.map(whole, *own)


def deal_out(tree: Any, layout: Layout) -> Any:
    """Arrays (M, ...) of models on the devices, as training leaves them: on every device, or each at its home."""
    if layout.homes == 1:
        return replicate(tree, layout)
    rows = homed(jax.tree.leaves(tree)[0].shape[0], layout)
    return drawn(lambda some: jax.tree.map(lambda leaf: np.asarray(leaf)[some], tree), rows, layout)


def gathered(tree: Any, layout: Layout) -> Any:
    """Within a program: these arrays, whole, on every device of every process, so that the host can read them."""
    return jax.lax.with_sharding_constraint(tree, layout.everywhere)


def lift(fn: Callable[..., Any], layout: Layout, *stacked: Any) -> Any:
    """fn over the leading axis of every argument: one after the other, or in chunks of models side by side."""
    if layout.one_by_one:
        return jax.lax.map(partial(_call, fn), stacked)
    length = jax.tree.leaves(stacked)[0].shape[0]
    chunks = -(-length // layout.chunk)
    if chunks == 1:
        return jax.vmap(fn, axis_name=BESIDE)(*stacked)
    size = -(-length // chunks)
    parts = jax.tree.map(lambda a: a.reshape(chunks, size, *a.shape[1:]), _lengthened(stacked, chunks * size))
    done = jax.lax.map(partial(_call, jax.vmap(fn, axis_name=BESIDE)), parts)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:])[:length], done)


def _call(fn: Callable[..., Any], arguments: tuple) -> Any:
    return fn(*arguments)


def _lengthened(stacked: Any, length: int) -> Any:
    """The last entry is repeated: done again, its result is dropped."""
    return jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], length - a.shape[0], 0)]), stacked)


def deal(fn: Callable[..., Any], layout: Layout, stacked: tuple, shared: tuple, specs: Any = None) -> Any:
    """fn(*one of stacked, *shared) over the leading axis of `stacked`, dealt out over the devices.

    Where the devices share it out evenly the result stays where it was made; otherwise it is gathered. specs: how the
    shared arguments are dealt out; None: every device has them.
    """
    length = jax.tree.leaves(stacked)[0].shape[0]
    each = -(-length // layout.devices)

    def on_device(stacked: tuple, shared: tuple) -> Any:
        return lift(lambda *one: fn(*one, *shared), layout, *stacked)

    run = jax.shard_map(
        on_device,
        mesh=layout.mesh,
        in_specs=(P(AXIS), P() if specs is None else specs),
        out_specs=P(AXIS),
        check_vma=False,
    )
    done = run(_lengthened(stacked, each * layout.devices), shared)
    if each * layout.devices == length:
        return done
    return gathered(jax.tree.map(lambda a: a[:length], done), layout)

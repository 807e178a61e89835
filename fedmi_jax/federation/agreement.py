"""Why averaging costs what it costs: do the clients of a round keep the same weights, with the same signs?

Axes: S seeds, P clients of a round, M = S * P models of clients (seed-major), L layers with weights.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from fedmi_jax.circuits.evaluation import Fraction, divided
from fedmi_jax.devices.layout import AXIS, Layout
from fedmi_jax.devices.lift import gathered
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params


def measures(models: Params, *, shape: tuple[int, int], layout: Layout) -> dict[str, np.ndarray]:
    """The measures of the table of variables (`results.schema`), (S, L) each, from the clients' models, of which the
    first M count; NaN where there is nothing to divide by. shape: (S, P).

    - support_ratio: share of weights that any client keeps / mean share that a client keeps. 1: all keep the same ones;
      P: no two keep the same one. A mean then leaves that part, 1 / P, of every weight.
    - sign_conflict: of the weights that two clients or more keep, the share that has both signs.
    - cancellation: sum of |sum over clients| / sum over clients of ||, over all weights. 1: nothing cancels.
    """
    return divided(_measures(models, shape=shape, layout=layout))


@partial(jax.jit, static_argnames=("shape", "layout"))
def _measures(models: Params, *, shape: tuple[int, int], layout: Layout) -> dict[str, Fraction]:
    kernels = {layer: models[f"{layer}_kernel"] for layer in (*conv_layers(models), "fc")}
    added = _added(kernels, shape, layout)
    by_layer = [
        jax.vmap(of_layer)(kernel[: math.prod(shape)].reshape(*shape, *kernel.shape[1:]), *added[layer])
        for layer, kernel in kernels.items()
    ]
    return gathered(jax.tree.map(lambda *one: jnp.stack(one, -1), *by_layer), layout)


def of_layer(kernels: Array, positive: Array, negative: Array, total: Array | None = None) -> dict[str, Fraction]:
    """The measures of one layer, from the kernels (P, ...) of one seed, how many of them are of either sign, and their
    sum over clients; None: it is still to be made."""
    dtype, kept = kernels.dtype, positive + negative
    conflict = (positive > 0) & (negative > 0)
    total = jnp.sum(kernels, 0) if total is None else total
    return {
        "support_ratio": Fraction(
            jnp.mean(kept > 0, dtype=dtype), jnp.sum(kept, dtype=dtype) / jnp.asarray(kernels.size, dtype)
        ),
        "sign_conflict": Fraction(jnp.sum(conflict, dtype=dtype), jnp.sum(kept > 1, dtype=dtype)),
        "cancellation": Fraction(jnp.sum(jnp.abs(total)), jnp.sum(jnp.abs(kernels))),
    }


ALL_AT_ONCE = 1000
"""Models of a device that are summed in one go. On a CPU XLA hands such a sum to a library that copies all of them
first; more models are added model after model, which differs by rounding."""


def _added(kernels: dict[str, Array], shape: tuple[int, int], layout: Layout) -> dict[str, tuple[Array, ...]]:
    """How many of each seed's clients have a positive, and a negative, weight: int (S, ...) a layer; and the sum of all
    of them where it is not made in one go.

    They are counted model after model, each at its home: to compare all weights with 0 at once would take twice the
    memory of all models.
    """
    count = len(kernels["fc"])
    many = count > ALL_AT_ONCE * layout.homes
    seed = jnp.where(jnp.arange(count) < math.prod(shape), jnp.arange(count) // shape[1], shape[0])  # out of bounds

    def add(total: Any, one: Any) -> tuple[Any, None]:
        of, kernels = one
        parts = {layer: (kernel > 0, kernel < 0, kernel)[: 2 + many] for layer, kernel in kernels.items()}
        return jax.tree.map(lambda t, part: t.at[of].add(part, mode="drop"), total, parts), None

    def added(seed: Array, kernels: dict[str, Array]) -> Any:
        def none(kernel: Array) -> tuple[Array, ...]:
            types = (jnp.int32, jnp.int32, kernel.dtype)[: 2 + many]
            return tuple(jnp.zeros((shape[0], *kernel.shape[1:]), dtype) for dtype in types)

        total, _ = jax.lax.scan(add, {layer: none(kernel) for layer, kernel in kernels.items()}, (seed, kernels))
        return total if layout.homes == 1 else jax.lax.psum(total, AXIS)

    if layout.homes == 1:
        return added(seed, kernels)
    run = jax.shard_map(added, mesh=layout.mesh, in_specs=P(AXIS), out_specs=P(), check_vma=False)
    return run(seed, kernels)

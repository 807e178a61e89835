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


def measures(models: Params, *, shape: tuple[int, int], how: Layout) -> dict[str, np.ndarray]:
    """The measures of the table of variables (`results.schema`), (S, L) each, from the clients' models, of which the
    first M count; NaN where there is nothing to divide by. shape: (S, P).

    - support_ratio: share of weights that any client keeps / mean share that a client keeps. 1: all keep the same ones;
      P: no two keep the same one. A mean then leaves that part, 1 / P, of every weight.
    - sign_conflict: of the weights that two clients or more keep, the share that has both signs.
    - cancellation: sum of |sum over clients| / sum over clients of ||, over all weights. 1: nothing cancels.
    """
    return divided(_measures(models, shape=shape, how=how))


@partial(jax.jit, static_argnames=("shape", "how"))
def _measures(models: Params, *, shape: tuple[int, int], how: Layout) -> dict[str, Fraction]:
    kernels = {layer: models[f"{layer}_kernel"] for layer in (*conv_layers(models), "fc")}
    signs = _signs(kernels, shape, how)
    by_layer = [
        jax.vmap(of_layer)(kernel[: math.prod(shape)].reshape(*shape, *kernel.shape[1:]), *signs[layer])
        for layer, kernel in kernels.items()
    ]
    return gathered(jax.tree.map(lambda *one: jnp.stack(one, -1), *by_layer), how)


def of_layer(kernels: Array, positive: Array, negative: Array) -> dict[str, Fraction]:
    """The measures of one layer, from the kernels (P, ...) of one seed, and how many of them are of either sign."""
    dtype, kept = kernels.dtype, positive + negative
    conflict = (positive > 0) & (negative > 0)
    return {
        "support_ratio": Fraction(
            jnp.mean(kept > 0, dtype=dtype), jnp.sum(kept, dtype=dtype) / jnp.asarray(kernels.size, dtype)
        ),
        "sign_conflict": Fraction(jnp.sum(conflict, dtype=dtype), jnp.sum(kept > 1, dtype=dtype)),
        "cancellation": Fraction(jnp.sum(jnp.abs(jnp.sum(kernels, 0))), jnp.sum(jnp.abs(kernels))),
    }


def _signs(kernels: dict[str, Array], shape: tuple[int, int], how: Layout) -> dict[str, tuple[Array, Array]]:
    """How many of each seed's clients have a positive, and a negative, weight: int (S, ...) a layer.

    They are counted model after model, each at its home: to compare all weights with 0 at once would take twice the
    memory of all models.
    """
    count = len(kernels["fc"])
    seed = jnp.where(jnp.arange(count) < math.prod(shape), jnp.arange(count) // shape[1], shape[0])  # out of bounds

    def add(total: Any, one: Any) -> tuple[Any, None]:
        of, kernels = one
        signs = {layer: (kernel > 0, kernel < 0) for layer, kernel in kernels.items()}
        return jax.tree.map(lambda t, sign: t.at[of].add(sign, mode="drop"), total, signs), None

    def counted(seed: Array, kernels: dict[str, Array]) -> Any:
        none = {k: (jnp.zeros((shape[0], *kernel.shape[1:]), jnp.int32),) * 2 for k, kernel in kernels.items()}
        total, _ = jax.lax.scan(add, none, (seed, kernels))
        return total if how.homes == 1 else jax.lax.psum(total, AXIS)

    if how.homes == 1:
        return counted(seed, kernels)
    run = jax.shard_map(counted, mesh=how.mesh, in_specs=P(AXIS), out_specs=P(), check_vma=False)
    return run(seed, kernels)

"""Why averaging costs what it costs: do the clients of a round keep the same weights, with the same signs?

Axes: S seeds, P clients of a round, M = S * P models of clients (seed-major), L layers with weights.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from fedmi_jax.circuits.evaluation import Fraction, divided
from fedmi_jax.devices.layout import Layout
from fedmi_jax.devices.lift import gathered
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params


def measures(models: Params, *, seeds: int, how: Layout) -> dict[str, np.ndarray]:
    """The measures of the table of variables (`results.schema`), (S, L) each, from the clients' models (M, ...); NaN
    where there is nothing to divide by.

    - support_ratio: share of weights that any client keeps / mean share that a client keeps. 1: all keep the same ones;
      P: no two keep the same one. A mean then leaves that part, 1 / P, of every weight.
    - sign_conflict: of the weights that two clients or more keep, the share that has both signs.
    - cancellation: sum of |sum over clients| / sum over clients of ||, over all weights. 1: nothing cancels.
    """
    return divided(_measures(models, seeds=seeds, how=how))


@partial(jax.jit, static_argnames=("seeds", "how"))
def _measures(models: Params, *, seeds: int, how: Layout) -> dict[str, Fraction]:
    layers = (*conv_layers(models), "fc")
    kernels = (models[f"{layer}_kernel"] for layer in layers)
    by_layer = [jax.vmap(of_layer)(kernel.reshape(seeds, -1, *kernel.shape[1:])) for kernel in kernels]
    return gathered(jax.tree.map(lambda *one: jnp.stack(one, -1), *by_layer), how)


def of_layer(kernels: Array) -> dict[str, Fraction]:
    """The measures of one layer, from the kernels (P, ...) of one seed."""
    dtype, kept = kernels.dtype, kernels != 0
    shared = jnp.sum(kept, 0) > 1
    conflict = jnp.any(kernels > 0, 0) & jnp.any(kernels < 0, 0)
    return {
        "support_ratio": Fraction(jnp.mean(jnp.any(kept, 0), dtype=dtype), jnp.mean(kept, dtype=dtype)),
        "sign_conflict": Fraction(jnp.sum(conflict, dtype=dtype), jnp.sum(shared, dtype=dtype)),
        "cancellation": Fraction(jnp.sum(jnp.abs(jnp.sum(kernels, 0))), jnp.sum(jnp.abs(kernels))),
    }

"""Does a circuit compute what its model computes? The channels of a circuit, one by one, with and without the others.

A mask can make a network compute something that the whole network does not, or let it work through channels that are
silent in the whole network (Khakzar et al. 2021).

Axes: G groups of B images, O_l channels of convolution l, Y classes.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.circuits.evaluation import EvaluationSet
from fedmi_jax.circuits.question import balanced
from fedmi_jax.network import model
from fedmi_jax.network.ablation import Ablation, Gates
from fedmi_jax.network.model import Params

LEAST = 0.8
"""R^2 from which on a channel's output counts as the same."""


class Sameness(NamedTuple):
    """Of all channels, {"conv1": (O_1,), ...}."""

    fidelity: Gates
    """R^2 of the channel's output in the circuit, after ReLU and pool, as a prediction of its output in the whole
    model: 1 minus the squared difference over the variance around the mean at each position. A channel that does not
    vary in the whole model has 1 where it is the same in the circuit, and else minus infinity."""
    silent: Gates
    """bool: whether the channel is 0 on every image of the class in the whole model."""


def sameness(
    params: Params, gates: Gates, ablation: Ablation, label: Array, others: Array, test: EvaluationSet
) -> Sameness:
    """Of one circuit, over images with balanced weights. others bool (Y,): the classes that the class is told from."""
    images, dtype = test.images, test.images.mean.dtype
    labels = jnp.where(test.valid, images.labels[test.indices], -1)
    weights = balanced(labels.ravel(), label, others, dtype).reshape(labels.shape)
    start, _ = model.activations(params, images.normalised(test.indices[0, :1]))

    def of_group(group: tuple[Array, Array, Array]) -> dict[str, tuple[Array, ...]]:
        index, weight, own = group
        x = images.normalised(index)
        whole, kept = model.activations(params, x)[0], model.activations(params, x, gates, ablation)[0]
        return {
            layer: (
                jnp.einsum("nhwo,n->o", (kept[layer] - y) ** 2, weight),
                *(jnp.einsum("nhwo,n->hwo", (y - start[layer]) ** power, weight) for power in (1, 2)),
                jnp.max(jnp.where(own[:, None, None, None], y, 0), (0, 1, 2)),
            )
            for layer, y in whole.items()
        }

    fidelity, silent = {}, {}
    for layer, parts in lax.map(of_group, (test.indices, weights, labels == label)).items():
        error, mean, square = (part.sum(0) for part in parts[:3])
        # Of differences from one image: those of a constant channel are exactly 0.
        variance = jnp.sum(jnp.maximum(square - mean**2, 0), (0, 1))
        constant = jnp.where(error > 0, -jnp.inf, 1)
        fidelity[layer] = jnp.where(variance > 0, 1 - error / jnp.where(variance > 0, variance, 1), constant)
        silent[layer] = parts[3].max(0) == 0
    return Sameness(fidelity, silent)

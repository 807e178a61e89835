"""What a whole model makes of the probe images: its answers, and every channel's mean output at every position.

Axes: N images, G groups of B images, Y classes, h x w positions, O_l channels of convolution l.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.network import model
from fedmi_jax.network.ablation import MeanMap
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params


def survey(params: Params, images: Images, index: Array, valid: Array) -> tuple[Array, MeanMap]:
    """Logits (G * B, Y) of images (G, B), group after group, and the channels' mean outputs after ReLU and pool.

    valid bool (G, B): which entries are images and no padding. Means are taken of the difference from the first image,
    so that a channel that does not depend on the image has its very output for a mean.
    """
    first, _ = model.activations(params, images.normalised(index[0, :1]))

    def of_group(group: tuple[Array, Array]) -> tuple[Array, dict[str, Array]]:
        outputs, logits = model.activations(params, images.normalised(group[0]))
        return logits, {k: jnp.einsum("nhwo,n->hwo", y - first[k], group[1]) for k, y in outputs.items()}

    logits, sums = lax.map(of_group, (index, valid.astype(images.mean.dtype)))
    count = jnp.sum(valid).astype(images.mean.dtype)
    means = {layer: first[layer][0] + total.sum(0) / count for layer, total in sums.items()}
    return logits.reshape(-1, logits.shape[-1]), MeanMap(means)

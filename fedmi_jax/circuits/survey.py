"""What a whole model makes of the probe images: its answers, and every channel's mean output at every position.

Axes: N images, G groups of B images, Y classes, h x w positions, O_l channels of convolution l.
"""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
from jax import Array, lax

from fedmi_jax.circuits.narrowing import WIDTHS, Narrowing, heard, on_live_channels
from fedmi_jax.network import model, sparse_layer
from fedmi_jax.network.ablation import Gates, MeanMap
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params, SparseModel


def survey(
    params: Params, images: Images, index: Array, valid: Array, *, narrowing: Narrowing
) -> tuple[Array, MeanMap]:  # fmt: skip
    """Logits (G * B, Y) of images (G, B), group after group, and the channels' mean outputs after ReLU and pool.

    valid bool (G, B): the images that means are taken over. narrowing: leave out channels that nothing listens to,
    whose means then say nothing. Means are taken of the difference from the first image, so that a channel that does
    not depend on the image has its very output for a mean.
    """
    shares = valid.astype(images.mean.dtype) / jnp.sum(valid).astype(images.mean.dtype)

    def look(network: Params | SparseModel, channels: Gates | None, index: Array, shares: Array) -> tuple:
        if isinstance(network, SparseModel):  # it prefers larger groups
            index, shares = (_in_pieces(values) for values in (index, shares))
        first, _ = model.activations(network, images.normalised(index[0, :1]))

        def of_group(group: tuple[Array, Array]) -> tuple[Array, dict[str, Array]]:
            outputs, logits = model.activations(network, images.normalised(group[0]))
            return logits, {k: jnp.einsum("nhwo,n->hwo", y - first[k], group[1]) for k, y in outputs.items()}

        logits, parts = lax.map(of_group, (index, shares))
        means = {layer: first[layer][0] + part.sum(0) for layer, part in parts.items()}
        return logits.reshape(-1, logits.shape[-1]), _all_channels(means, channels, params)

    if not narrowing:
        logits, means = look(params, None, index, shares)
    else:
        leave_out = partial(on_live_channels, widths=WIDTHS[:1], narrowing=narrowing)
        logits, means = leave_out(look, params, heard(params), index, shares)
    return logits, MeanMap(means)


def _in_pieces(groups: Array) -> Array:
    """Groups (G, B) of images as fewer, larger ones, in the same order."""
    return groups.reshape(-1, sparse_layer.piece(groups.size, groups.shape[1]))


def _all_channels(means: dict[str, Array], channels: Gates | None, params: Params) -> dict[str, Array]:
    """The means (h, w, o_l) of a smaller model's channels at their places among all."""
    if channels is None:
        return means
    full = {layer: params[f"{layer}_bias"].shape[0] for layer in conv_layers(params)}
    return {
        layer: jnp.zeros((*mean.shape[:2], full[layer]), mean.dtype).at[..., channels[layer]].set(mean)
        for layer, mean in means.items()
    }

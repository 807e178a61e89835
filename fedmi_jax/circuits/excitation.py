"""How strongly images excite the channels of models, every channel open.

Axes: M models, N images, G groups of B images, O_l channels of convolution l.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedmi_jax.network import model
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params

BATCH = 250
"""Images that pass through one model at a time."""


def excitation(
    params: Params, pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]
) -> dict[str, np.ndarray]:  # fmt: skip
    """Every channel's mean output over an image, after ReLU: {"conv1": (M, N, O_1), ...}.

    params: of M models, stacked along the first axis. pixels: uint8 (N, H, W, I), which become network inputs as
    (pixel / 255 - mean) / std. One program for all models and images, in single precision.
    """
    count, single = len(pixels), np.float32
    moments = (np.asarray(mean, single), np.asarray(std, single))
    groups = (-(-count // BATCH), min(BATCH, count))
    index = np.resize(np.arange(count, dtype=np.int32), groups)  # the last one is filled up
    images = Images(*map(jnp.asarray, (pixels, np.zeros(count, np.int32), *moments)))
    found = _excitation({name: jnp.asarray(of, single) for name, of in params.items()}, images, jnp.asarray(index))
    return {layer: np.asarray(of)[:, :count] for layer, of in found.items()}


@jax.jit
def _excitation(params: Params, images: Images, index: Array) -> dict[str, Array]:
    """{"conv1": (M, G * B, O_1), ...}; one model, and one group of images, after the other."""

    def of_group(params: Params, group: Array) -> dict[str, Array]:
        outputs = model.conv_outputs(params, images.normalised(group))
        return {layer: jax.nn.relu(y).mean((1, 2)) for layer, y in outputs.items()}

    def of_model(params: Params) -> dict[str, Array]:
        grouped = lax.map(lambda group: of_group(params, group), index)
        return {layer: y.reshape(-1, y.shape[-1]) for layer, y in grouped.items()}

    return lax.map(of_model, params)

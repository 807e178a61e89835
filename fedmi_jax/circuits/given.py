"""Models, images and labels of one's own as the core wants them, or one line that says what is wrong with them.

Axes: N images, H x W pixels, I image channels, O_l channels of convolution l, Y classes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from fedmi_jax.config import Discovery
from fedmi_jax.data import probe
from fedmi_jax.errors import FedmiError
from fedmi_jax.network.ablation import Ablation
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params


def array(name: str, values: ArrayLike) -> np.ndarray:
    """Raises FedmiError for what is no array, such as lists of different lengths."""
    try:
        found = np.asarray(values)
    except ValueError:
        found = np.array(None)
    if found.dtype.kind not in "biuf" or not found.ndim:
        raise FedmiError(f"{name}: give an array of numbers")
    return found


def arrays(params: Params) -> dict[str, jax.Array]:
    """The arrays of a model. Raises FedmiError for one that is missing, does not fit the others, or is not finite."""
    if not isinstance(params, Mapping):
        raise FedmiError(f"params: give the model's arrays by name; got {type(params).__name__}")
    layers = conv_layers(params)
    names = [f"{layer}_{part}" for layer in (*layers, "fc") for part in ("kernel", "bias")]
    if not layers or not set(names) <= set(params):
        raise FedmiError(f"params: give conv1_kernel, conv1_bias, ... fc_kernel, fc_bias; got {', '.join(params)}")
    found = {name: jnp.asarray(params[name]) for name in names}
    before = (3, 3, *found["conv1_kernel"].shape[2:3])
    for layer in (*layers, "fc"):
        kernel, bias = found[f"{layer}_kernel"].shape, found[f"{layer}_bias"].shape
        wanted = (*(before if layer != "fc" else kernel[:1]), *bias)
        if len(bias) != 1 or kernel != wanted:
            raise FedmiError(
                f"params: {layer}_kernel of shape {kernel} does not fit {layer}_bias of shape {bias}"
                + ("" if layer in ("conv1", "fc") else f" and {before[-1]} channels before it")
            )
        before = (3, 3, *bias)
    for name, leaf in found.items():
        if not np.isfinite(np.asarray(leaf)).all():
            raise FedmiError(f"params: {name} holds values that are not finite")
    return found


def require_fit(params: Params, masks: Mapping[str, Any], others: np.ndarray, ablation: Ablation) -> None:
    """Raise FedmiError for a circuit, or means, of a model with other channels or classes."""
    channels = {layer: params[f"{layer}_bias"].shape[0] for layer in conv_layers(params)}
    kept = {layer: len(mask) for layer, mask in masks.items()}
    means = {layer: np.shape(leaf)[-1] for layer, leaf in getattr(ablation, "outputs", {}).items()}
    for what, found in (("circuit", kept), ("ablation", means or channels)):
        if found != channels:
            raise FedmiError(f"{what}: of a model with channels {_said(found)}; this one has {_said(channels)}")
    if len(others) != len(params["fc_bias"]):
        raise FedmiError(f"circuit: of a model with {len(others)} classes; this one has {len(params['fc_bias'])}")


def _said(channels: Mapping[str, int]) -> str:
    return " ".join(map(str, channels.values()))


def apart(label: int, others: Sequence[int] | None, classes: int) -> np.ndarray:
    """The classes (Y,) bool that the class is told from."""
    if others is not None and (isinstance(others, str) or not isinstance(others, Collection | np.ndarray)):
        raise FedmiError(f"others: give classes, as in (1, 2); got {others!r}")
    named = list(range(classes) if others is None else others)
    if not set(named) <= set(range(classes)) or set(named) <= {label}:
        raise FedmiError(f"others: give other classes than {label}, of 0 .. {classes - 1}; got {named}")
    return probe.others(label, np.isin(np.arange(classes), named), classes, "own")


def require_search(settings: Discovery, seed: int) -> None:
    if not isinstance(settings, Discovery):
        raise FedmiError(f"settings: give a fedmi_jax.config.Discovery; got {type(settings).__name__}")
    if settings.ablation == "mean":
        raise FedmiError('settings.ablation: "mean" needs a client\'s own images; give "mean-map" or "zero"')
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise FedmiError(f"seed: give a whole number, 0 or more; got {seed!r}")


def images(
    params: Params, images: ArrayLike, mean: Sequence[float] | float, std: Sequence[float] | float
) -> Images:  # fmt: skip
    """The images with moments that leave floats as they are, apart from `mean` and `std`. Labels are all 0."""
    pixels, wanted, dtype = array("images", images), params["conv1_kernel"].shape[2], params["fc_bias"].dtype
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.shape[-1] != wanted or len(pixels) == 0:
        raise FedmiError(
            f"images: give numbers of shape (N, H, W, {wanted}), as the model's first kernel; got "
            f"{pixels.dtype} of shape {pixels.shape}"
        )
    if not np.isfinite(pixels).all():
        raise FedmiError("images: some values are not finite")
    height, width = (size // 2 ** len(conv_layers(params)) for size in pixels.shape[1:3])
    features = height * width * params[f"{conv_layers(params)[-1]}_bias"].shape[0]
    if features != params["fc_kernel"].shape[0]:
        raise FedmiError(
            f"images: of {pixels.shape[1]} x {pixels.shape[2]} pixels the linear layer would get {features} features; "
            f"fc_kernel has {params['fc_kernel'].shape[0]}"
        )
    unit = 1 if pixels.dtype == np.uint8 else 1 / 255  # `Images` divides by 255
    if any(np.shape(m) not in ((), (1,), (wanted,)) for m in (mean, std)) or not np.all(np.asarray(std) > 0):
        raise FedmiError(f"mean, std: one number, or {wanted}, one a channel, and std above 0; got {mean}, {std}")
    moments = (jnp.broadcast_to(jnp.asarray(m, dtype), (wanted,)) * unit for m in (mean, std))
    return Images(jnp.asarray(pixels), jnp.zeros(len(pixels), jnp.int32), *moments)


def require_labels(labels: np.ndarray, count: int, label: int, classes: int) -> None:
    if labels.shape != (count,) or labels.dtype.kind not in "iu" or not 0 <= labels.min() <= labels.max() < classes:
        raise FedmiError(f"labels: give {count} whole numbers in 0 .. {classes - 1}, one per image")
    if not isinstance(label, int | np.integer) or isinstance(label, bool) or not 0 <= label < classes:
        raise FedmiError(f"label: the model has classes 0 .. {classes - 1}; got {label!r}")

"""Images and labels: the embedded MNIST, any image-classification set of tensorflow-datasets, files of one's own, or
arrays from Python.

Axes: N images, H height, W width, C channels. Images stay uint8 (pixels 0 to 255); the model sees
(pixel / 255 - mean) / std per channel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedmi_jax import config
from fedmi_jax.data import from_files, from_tfds, mnist
from fedmi_jax.data.canonical import MOST_CLASSES, moments
from fedmi_jax.errors import FedmiError, printable

_MOMENTS = {"mnist": (0.1307, 0.3081), "cifar10": (0.5, 0.5)}
"""Mean and standard deviation of the authors' code, per set; any other set has 0.5 and 0.5."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set of images of one size, each with one class."""

    name: str
    train_images: np.ndarray
    """uint8 [N, H, W, C]; may be memory-mapped, and read-only."""
    train_labels: np.ndarray
    """int32 [N], in 0 .. num_classes - 1."""
    test_images: np.ndarray
    """uint8 [N', H, W, C]."""
    test_labels: np.ndarray
    """int32 [N']."""
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of pixel / 255."""
    std: tuple[float, ...]
    """Per channel, of pixel / 255."""
    note: str = ""
    """What a user should know of how files were read, as where the test set comes from."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, channels = self.train_images.shape[1:]
        return height, width, channels


def load(data: config.Data) -> Dataset:
    """The set that `data` names: that in its file; "mnist", the embedded one; every other name is tensorflow-datasets'.

    Raises ConfigError for an unknown or unsuitable name, FedmiError for a damaged file, or for a set that can be
    neither found nor prepared (it says what to install, or where files may be put), and as `from_file`.
    """
    if data.file is not None:
        return from_file(data.file, name=None if data.name == "mnist" else data.name)
    if data.name == "mnist":
        return _dataset("mnist", mnist.read()._asdict(), mnist.CLASS_NAMES)
    arrays, facts = from_tfds.load(data.name, data.data_dir)
    return _dataset(facts["name"], arrays, tuple(facts["class_names"]))


def _dataset(name: str, arrays: dict[str, np.ndarray], class_names: tuple[str, ...]) -> Dataset:
    mean, std = _MOMENTS.get(name, (0.5, 0.5))
    channels = arrays["train_images"].shape[-1]
    both = {"mean": (mean,) * channels, "std": (std,) * channels}
    return Dataset(name=name, class_names=class_names, **both, **arrays)  # type: ignore[arg-type]


def from_name(name: str, data_dir: str | None = None) -> Dataset:
    """The set of this name, as `data.name` in the settings: "mnist", the embedded one, or one of tensorflow-datasets.

    Args: data_dir: folder of prepared tensorflow-datasets; None: their default. Raises FedmiError as `load`.
    """
    return load(config.Data(name=name, data_dir=data_dir))


def from_file(
    path: str | Path, *, name: str | None = None, mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Dataset:  # fmt: skip
    """A Dataset from a file or a folder of one's own: .npz, IDX, class folders of image files, or CSV
    (docs/own-data.md says what each may look like).

    Args: name: what the set is called, None: as the file or folder; mean, std: per channel, of pixel / 255, None: those
    of the training images. Files are decoded once into the cache, and again when they change. Raises FedmiError, one
    line, for what is not there or cannot be understood.
    """
    arrays, facts = from_files.load(path)
    usual = moments(arrays["train_images"])
    named = {"name": name or facts["name"], "class_names": facts["class_names"]}
    found = from_arrays(
        **arrays, **named, mean=usual[0] if mean is None else mean, std=usual[1] if std is None else std
    )
    return replace(found, note=facts["note"])


def from_arrays(
    train_images: ArrayLike,
    train_labels: ArrayLike,
    test_images: ArrayLike,
    test_labels: ArrayLike,
    *,
    name: str = "arrays",
    class_names: Iterable[Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Dataset:
    """A Dataset from arrays: images uint8 [N, H, W] or [N, H, W, C], labels whole numbers [N] from 0 on.

    Without `class_names` there are as many classes as the largest label asks for, named "0", "1", ...; names stand in
    the order of the labels, or are a mapping from labels to names; they may be of any type that can be written as text,
    and equal. `mean` and `std` default to 0.5 per channel. Raises FedmiError naming the first argument that is wrong.
    """
    train, test = _images("train_images", train_images), _images("test_images", test_images)
    if test.shape[1:] != train.shape[1:]:
        raise FedmiError(f"test_images: shape must be [N', {_sizes(train)}], as train_images; got {test.shape}")
    names = None if class_names is None else _names(class_names)
    known = _labels("train_labels", train_labels, len(train), names)
    asked = _labels("test_labels", test_labels, len(test), names)
    channels = train.shape[-1]
    return Dataset(
        printable(str(name)), train, known, test, asked,
        names or tuple(str(c) for c in range(1 + max(known.max(), asked.max()))),
        _moment("mean", mean, channels), _moment("std", std, channels, above=0.0),
    )  # fmt: skip


def _images(argument: str, value: ArrayLike) -> np.ndarray:
    """`value` as uint8 [N, H, W, C]."""
    images = _array(argument, value)
    if images.dtype != np.uint8:
        raise FedmiError(f"{argument}: dtype must be uint8 (pixels 0 to 255); got {images.dtype}")
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise FedmiError(f"{argument}: shape must be [N, H, W] or [N, H, W, C], none of them 0; got {images.shape}")
    return images if images.ndim == 4 else images[..., None]


def _names(value: Any) -> tuple[str, ...]:
    """Of classes, as text. Of a mapping from labels to names these; a set has no order, and is refused."""
    if isinstance(value, Mapping) and set(value) == set(range(len(value))):
        value = [value[label] for label in range(len(value))]
    try:
        names = np.asarray([] if isinstance(value, Set) else list(value))
    except (TypeError, ValueError):
        names = np.empty(0)
    if names.ndim != 1 or not 0 < len(names) <= MOST_CLASSES:
        raise FedmiError(f"class_names: give 1 to {MOST_CLASSES} names, one for each class; got {str(value)[:60]!r}")
    return tuple(printable(name.decode() if isinstance(name, bytes) else str(name)) for name in names.tolist())


def _labels(argument: str, value: ArrayLike, count: int, names: tuple[str, ...] | None) -> np.ndarray:
    """`value` as int32 [count], in range."""
    labels = _array(argument, value)
    if labels.dtype.kind not in "iu":
        raise FedmiError(f"{argument}: labels must be whole numbers; got dtype {labels.dtype}")
    if labels.shape != (count,):
        raise FedmiError(f"{argument}: shape must be ({count},), one label per image; got {labels.shape}")
    most = (MOST_CLASSES if names is None else len(names)) - 1
    if labels.min() < 0 or labels.max() > most:
        why = ", for the largest says how many classes there are" if names is None else ""
        raise FedmiError(f"{argument}: labels must lie in 0 .. {most}{why}; got {labels.min()} .. {labels.max()}")
    return labels.astype(np.int32)


def _array(argument: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # nested lists of unequal lengths
        raise FedmiError(f"{argument}: must be an array, all rows of one length") from None


def _moment(argument: str, value: Sequence[float] | None, channels: int, above: float = -np.inf) -> tuple[float, ...]:
    """One finite number per channel, larger than `above`."""
    try:
        values = np.asarray([0.5] * channels if value is None else value, dtype=np.float64)
    except (TypeError, ValueError):
        values = np.full(0, np.nan)
    if values.shape != (channels,) or not np.all(np.isfinite(values) & (values > above)):
        kind = "positive numbers" if above == 0 else "numbers"
        raise FedmiError(f"{argument}: must be {channels} {kind}, one per channel; got {value}")
    return tuple(values.tolist())


def _sizes(images: np.ndarray) -> str:
    return ", ".join(map(str, images.shape[1:]))

"""Images and labels out of anybody's files in the form that the package computes with, or one line that says why not.

Axes: N images, H height, W width, C channels, Y classes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from fedmi_jax.data.formats.raw import Part, Raw, natural
from fedmi_jax.errors import FedmiError
from fedmi_jax.keys import HELD_OUT, generator

MOST_CLASSES = 2**16
"""A larger label is a slip, and every class of its own would take memory."""
TEST_SHARE = 6
"""One of so many images of every class is for testing, where the files do not say which: as in MNIST."""
_COLOURS = (1, 3)


def canonical(raw: Raw) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays as in `cache.ARRAYS` (images uint8 [N, H, W, C], labels int32 [N]); class_names and note."""
    parts = [part for part in (raw.train, raw.test) if part is not None]
    for part in parts:
        if len(part.images) != len(part.labels):
            raise FedmiError(f"{part.where}: {len(part.images)} images, but {len(part.labels)} labels")
    images, rounded = _images(parts)
    labels, names = _labels(parts, raw.class_names)
    notes = [raw.note, rounded]
    if raw.test is None:
        tested = _drawn(labels[0], len(names))
        images, labels = ([values[0][~tested], values[0][tested]] for values in (images, labels))
        notes.append(
            f"no test set is given: {tested.sum()} of {len(tested)} images, one in {TEST_SHARE} of each class, are "
            "kept for testing, the same ones every time"
        )
    whole = {"train_images": images[0], "train_labels": labels[0], "test_images": images[1], "test_labels": labels[1]}
    return whole, {"class_names": list(names), "note": "; ".join(note for note in notes if note)}


def moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of pixel / 255, from exact counts, so that they are the same everywhere.
    A channel of one value has deviation 1."""
    values, found = np.arange(256, dtype=np.float64) / 255, []
    for channel in range(images.shape[-1]):
        share = np.bincount(images[..., channel].ravel(), minlength=256) / images[..., channel].size
        mean = math.fsum(share * values)
        found.append((mean, math.sqrt(math.fsum(share * (values - mean) ** 2)) or 1.0))
    means, deviations = zip(*found, strict=True)
    return means, deviations


# --- images ---


def _images(parts: Sequence[Part]) -> tuple[list[np.ndarray], str]:
    """uint8 [N, H, W, C] each, and what rounding did to them."""
    found = [_laid_out(part) for part in parts]
    first = found[0].shape[1:]
    for part, images in zip(parts, found, strict=True):
        if images.shape[1:] != first:
            raise FedmiError(
                f"{part.where}: images of {_by(images.shape[1:])}, but those for training are {_by(first)}"
            )
    return _eight_bits(parts, found)


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _laid_out(part: Part) -> np.ndarray:
    """[N, H, W, C] from [N, H, W], [N, H, W, C], [N, C, H, W] or, where the images are square and grey, [N, H * W]."""
    images, where = part.images, part.where
    if images.dtype.kind not in "buif":
        raise FedmiError(f"{where}: pixels must be numbers; got {images.dtype}")
    if images.ndim == 2 and math.isqrt(images.shape[1]) ** 2 == images.shape[1]:
        images = images.reshape(len(images), math.isqrt(images.shape[1]), -1)
    if images.ndim == 2:
        raise FedmiError(
            f"{where}: {images.shape[1]} pixels make no square; say the shape, as [N, H, W] or, in a table, by columns "
            "named ROWxCOLUMN (1x1, 1x2, ...), for colour ROWxCOLUMNxCHANNEL"
        )
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise FedmiError(f"{where}: shape must be [N, H, W], [N, H, W, C] or [N, C, H, W]; got {part.images.shape}")
    first, last = (images.shape[axis] in _COLOURS for axis in (1, 3))
    if part.images.ndim == 3 or (last and not first):
        return images
    if first and not last:
        return np.moveaxis(images, 1, -1)
    if first:
        raise FedmiError(f"{where}: which axis of {images.shape} holds the channels? Give images of more than 3 pixels")
    raise FedmiError(f"{where}: images must be grey (1 channel) or RGB (3); got {images.shape}")


def _eight_bits(parts: Sequence[Part], found: Sequence[np.ndarray]) -> tuple[list[np.ndarray], str]:
    """Whole numbers in 0 .. 255 as they are; floats in 0 .. 1, and yes or no, times 255."""
    if all(images.dtype == np.uint8 for images in found):
        return list(found), ""
    found = [images.astype(np.float32) if images.dtype.kind == "b" else images for images in found]
    for part, images in zip(parts, found, strict=True):
        if not np.isfinite(images).all():
            raise FedmiError(f"{part.where}: some pixels are missing or not finite")
    low, high = min(images.min() for images in found), max(images.max() for images in found)
    floats = any(images.dtype.kind == "f" for images in found)
    if floats and low >= 0 and high <= 1:
        scaled = [images.astype(np.float64) * 255 for images in found]
        whole = [np.rint(images) for images in scaled]
        far = any(np.abs(a - b).max() > 0.01 for a, b in zip(scaled, whole, strict=True))
        said = "pixels are rounded to 8 bits" if far else ""
        return [images.astype(np.uint8) for images in whole], said
    if low < 0 or high > 255 or (floats and any((images % 1 != 0).any() for images in found)):
        raise FedmiError(
            f"{parts[0].where}: pixels lie in {low:g} .. {high:g}; give whole numbers in 0 .. 255, or floats in 0 .. 1"
        )
    return [images.astype(np.uint8) for images in found], ""


# --- labels ---


def _labels(parts: Sequence[Part], names: tuple[str, ...] | None) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """int32 [N] each, in 0 .. Y - 1, and the names of the Y classes."""
    columns = [_column(part) for part in parts]
    kinds = {values.dtype.kind == "U" for values, _ in columns}
    if len(kinds) > 1:
        raise FedmiError(f"{parts[-1].where}: labels are names in one part and numbers in the other; use one kind")
    found, width = [values for values, _ in columns], max(width for _, width in columns)
    if kinds == {True} and (numbers := _as_numbers(found)) is not None:
        return _numbered(parts, numbers, width, names)
    if kinds == {True}:
        names = names or _sorted_names(found)
        unknown = sorted({str(label) for values in found for label in values} - set(names))
        if unknown:
            raise FedmiError(f"{parts[0].where}: label {unknown[0]!r} is none of the class names {', '.join(names)}")
        number = {name: label for label, name in enumerate(names)}
        return [np.array([number[str(label)] for label in values], np.int32) for values in found], names
    return _numbered(parts, found, width, names)


def _column(part: Part) -> tuple[Any, int]:
    """[N], whole numbers or text, and how many classes the labels say that there are (0: nothing)."""
    labels: Any = part.labels
    where = part.where
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.dtype.kind in "buif":
        if not ((labels != 0).sum(1) == 1).all() or not (labels.max(1) == 1).all():
            raise FedmiError(f"{where}: labels of shape {labels.shape} are not one-hot; give one class per image")
        return labels.argmax(1), labels.shape[1]
    if labels.ndim != 1 or labels.dtype.kind not in "buifUS":
        raise FedmiError(f"{where}: give one label per image, a number or a name; got {labels.dtype} {labels.shape}")
    if labels.dtype.kind == "S":
        labels = np.char.decode(labels, "utf-8")
    if labels.dtype.kind == "U":
        labels = np.char.strip(labels)
        if (labels == "").any():
            raise FedmiError(f"{where}: image {int((labels == '').argmax())} (from 0) has no label")
        return labels, 0
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels % 1 == 0).all()):
        raise FedmiError(f"{where}: labels must be whole numbers; some are not, or are missing")
    return labels.astype(np.float64 if labels.dtype.kind == "f" else labels.dtype), 0


_NUMBER = re.compile(r"0|[1-9]\d{0,4}")
"""As a class is numbered in a text: 7, not 07."""


def _as_numbers(found: Sequence[np.ndarray]) -> list[np.ndarray] | None:
    """Texts as the numbers that they are, where all of them are such and count from 0 or 1; else they are names."""
    texts = {str(label) for values in found for label in values}
    if not texts & {"0", "1"} or not all(map(_NUMBER.fullmatch, texts)):
        return None
    return [values.astype(np.int64) for values in found]


def _sorted_names(found: Sequence[np.ndarray]) -> tuple[str, ...]:
    """Every name, numbers in it in the order of their values: "2 - two" before "10 - ten"."""
    return tuple(sorted({str(label) for values in found for label in values}, key=natural))


def _numbered(
    parts: Sequence[Part], found: Sequence[np.ndarray], width: int, names: tuple[str, ...] | None
) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """Labels that begin at 0 or at 1; a class keeps its number as its name."""
    low, high = (
        int(best(values)) for best, values in ((min, [v.min() for v in found]), (max, [v.max() for v in found]))
    )
    if low not in (0, 1) and not (low > 1 and (width or names)):
        raise FedmiError(f"{parts[0].where}: labels begin at {low}; number the classes from 0 or 1, or give them names")
    if high >= MOST_CLASSES:
        raise FedmiError(f"{parts[0].where}: a label is {high}; there may be {MOST_CLASSES} classes at most")
    first = int(low >= 1 and not width and (names is None or high == len(names)))
    classes = max(high - first + 1, width)
    names = names or tuple(str(label + first) for label in range(classes))
    if classes > len(names):
        raise FedmiError(f"{parts[0].where}: {classes} classes, but {len(names)} class names")
    return [(values - first).astype(np.int32) for values in found], names


# --- a test set ---


def _drawn(labels: np.ndarray, classes: int) -> np.ndarray:
    """Which images are for testing, bool [N]; a class of few images keeps them all for training."""
    rng, tested = generator(0, HELD_OUT), np.zeros(len(labels), bool)
    for label in range(classes):
        own = np.flatnonzero(labels == label)
        tested[rng.permutation(own)[: len(own) // TEST_SHARE]] = True
    if not tested.any():
        raise FedmiError(f"no test set is given, and no class has {TEST_SHARE} images to draw one from; give one")
    return tested

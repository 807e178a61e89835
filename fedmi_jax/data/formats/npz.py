"""A .npz file: arrays under the names that Keras, MedMNIST and others give them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fedmi_jax.data.formats.raw import TEST_NAMES, TRAIN_NAMES, Part, Raw
from fedmi_jax.errors import FedmiError

WHAT = "a .npz file with x_train, y_train, x_test, y_test (or train_images, train_labels, ...)"
_IMAGES, _LABELS = ("x_{}", "{}_x", "{}_images", "images_{}"), ("y_{}", "{}_y", "{}_labels", "labels_{}")
_ALL_IMAGES, _ALL_LABELS = ("x", "images", "data"), ("y", "labels", "target")
_NAMES = ("class_names", "label_names")


def is_one(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() == ".npz"


def read(path: Path) -> Raw:
    """Names are compared without regard to capitals. Raises FedmiError naming the file and the arrays that are
    missing."""
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            return _read(path, {name.lower(): name for name in file.files}, file)
    except (ValueError, zipfile.BadZipFile, zlib.error, EOFError, TypeError) as error:
        said = "holds Python objects" if "allow_pickle" in str(error) else "is damaged, or no .npz file"
        raise FedmiError(f"{path}: {said}; write it with numpy.savez(path, x_train=..., y_train=..., ...)") from None


def _read(path: Path, known: Mapping[str, str], file: Mapping[str, np.ndarray]) -> Raw:
    train, test = (_part(path, words, known, file) for words in (TRAIN_NAMES, TEST_NAMES))
    if train is None:
        train, test = _found(path, _ALL_IMAGES, _ALL_LABELS, known, file), None
    if train is None:
        raise FedmiError(f"{path}: holds no x_train and y_train (nor train_images ...); it has {', '.join(file)}")
    names = next((file[known[name]] for name in _NAMES if name in known), None)
    return Raw(train, test, None if names is None else tuple(map(str, np.ravel(names).tolist())))


def _part(path: Path, words: tuple[str, ...], known: Mapping[str, str], file: Mapping[str, np.ndarray]) -> Part | None:
    found = (_found(path, *_under(word), known, file) for word in words)
    return next((part for part in found if part is not None), None)


def _under(word: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(name.format(word) for name in _IMAGES), tuple(name.format(word) for name in _LABELS)


def _found(
    path: Path, images: tuple[str, ...], labels: tuple[str, ...], known: Mapping[str, str],
    file: Mapping[str, np.ndarray],
) -> Part | None:  # fmt: skip
    """The arrays under one of these names each; None where there are no images."""
    pixels, classes = (next((known[name] for name in names if name in known), None) for names in (images, labels))
    if pixels is None:
        return None
    if classes is None:
        raise FedmiError(f"{path}: {pixels} has no labels beside it; name them {labels[0]}")
    return Part(file[pixels], file[classes], f"{path}: {pixels}")

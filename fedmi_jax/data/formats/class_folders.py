"""A folder with a folder of image files for every class, below train/ and test/ or without these."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fedmi_jax.data.formats import pictures
from fedmi_jax.data.formats.raw import TEST_NAMES, TRAIN_NAMES, Part, Raw, natural
from fedmi_jax.errors import FedmiError

WHAT = "a folder of class folders with PNG or JPEG files (train/CLASS/*.png and test/CLASS/*.png, or CLASS/*.png)"


def is_one(path: Path) -> bool:
    return path.is_dir() and bool(_folders(path))


def read(path: Path) -> Raw:
    """Labels are the names of the folders. Files that are no images by their names, and what begins with a dot, are
    passed over. Raises FedmiError naming the folder without images, or the file that cannot be read."""
    below = {folder.name.lower(): folder for folder in _folders(path)}
    train = next((below[name] for name in TRAIN_NAMES if name in below), None)
    test = next((below[name] for name in TEST_NAMES if name in below), None)
    if train is None and test is None:
        return Raw(_part(path), None)
    if train is None or not _folders(train):
        raise FedmiError(f"{path}: holds {'/, '.join(below)}/ but no train/CLASS/ with images; name the folders so")
    return Raw(_part(train), None if test is None else _part(test))


def _part(path: Path) -> Part:
    files = [(folder.name, file) for folder in _folders(path) for file in _images(folder)]
    if not files:
        raise FedmiError(f"{path}: no class folder in it has an image ({', '.join(pictures.SUFFIXES[:3])} ...)")
    labels, paths = zip(*files, strict=True)
    return Part(pictures.pixels(paths), np.array(labels), str(path))


def _folders(path: Path) -> list[Path]:
    found = [folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
    return sorted(found, key=lambda folder: natural(folder.name))


def _images(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() in pictures.SUFFIXES and not file.name.startswith(".") and file.is_file()
    )

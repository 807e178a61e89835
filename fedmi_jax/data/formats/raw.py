"""What a reader of files hands over, before it is known whether it makes sense."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Part(NamedTuple):
    """Images and labels, as they are in the files."""

    images: np.ndarray
    """Numbers of any type; see `fedmi_jax.data.canonical` for the shapes that are known."""
    labels: np.ndarray
    """Numbers, texts or one-hot rows."""
    where: str
    """What messages call the part."""


class Raw(NamedTuple):
    """A set of images as its files have it."""

    train: Part
    test: Part | None
    """None: the files do not say which images are for testing."""
    class_names: tuple[str, ...] | None = None
    """By label; None: the files do not say."""
    files: tuple[Path, ...] = ()
    """What was read besides the file or folder itself."""
    note: str = ""
    """What a user should know of how the files were read."""


TEST_NAMES = ("test", "testing", "t10k", "val", "valid", "validation")
"""How the part for testing may be called; the first that is there is taken."""
TRAIN_NAMES = ("train", "training")


def natural(name: str) -> tuple[Any, ...]:
    """To sort names by, numbers in them by their values: "2 - two" before "10 - ten"."""
    parts = re.split(r"([0-9]+)", name)
    return (*((0, int(p), "") if p[0] in "0123456789" else (1, 0, p.lower()) for p in parts if p), (2, 0, name))

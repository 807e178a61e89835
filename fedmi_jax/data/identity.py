"""Which images a run was made of: what is written beside its numbers, and what tells one set from another.

Nothing here loads images, and a name is no proof: arrays that are passed from Python may have any. The fingerprint is.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmi_jax.config import explain
from fedmi_jax.data.mnist import CLASS_NAMES
from fedmi_jax.errors import FedmiError

if TYPE_CHECKING:
    from fedmi_jax.data.datasets import Dataset


@dataclass(frozen=True)
class ImageSet:
    """A training and a test set of images. What is not known is None or empty."""

    name: str
    image_shape: tuple[int, int, int] | None = None
    """(H, W, C)."""
    training_images: int | None = None
    test_images: int | None = None
    sha256: str | None = None
    """`fingerprint`."""
    class_names: tuple[str, ...] = ()
    """By label."""

    def __str__(self) -> str:
        return f"{self.name} (SHA-256 {self.sha256[:8]}...)" if self.sha256 else self.name

    def is_same(self, other: ImageSet) -> bool:
        """By the fingerprints; where one of them is not known, by the names."""
        if self.sha256 and other.sha256:
            return self.sha256 == other.sha256
        return self.name == other.name


_MNIST_SHA256 = "102f3e198a8375c417397432aac7e8d2aab9247dab3ed911666f9d729bbdc38b"
MNIST = ImageSet("mnist", (28, 28, 1), 60_000, 10_000, _MNIST_SHA256, CLASS_NAMES)
"""The embedded one, on which the paper's experiments run."""


def describe(dataset: Dataset) -> ImageSet:
    """Of images in memory."""
    train, test = len(dataset.train_labels), len(dataset.test_labels)
    return ImageSet(dataset.name, dataset.image_shape, train, test, fingerprint(dataset), dataset.class_names)


def fingerprint(dataset: Dataset) -> str:
    """SHA-256 of all images and labels, of the names and of how pixels are normalised, in hexadecimal."""
    found = hashlib.sha256()
    found.update(repr((dataset.name, dataset.class_names, dataset.mean, dataset.std)).encode())
    for array in (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels):
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


_IMAGES = TypeAdapter(ImageSet)


def to_values(images: ImageSet) -> dict[str, Any]:
    """As JSON values."""
    return _IMAGES.dump_python(images, mode="json")


def from_json(text: str) -> ImageSet:
    """What `to_values` gave, from JSON. Raises FedmiError for anything else."""
    try:
        return _IMAGES.validate_json(text)
    except ValidationError as error:
        raise FedmiError(explain(error, "dataset")) from None

"""MNIST as shipped inside the package: no network, no TensorFlow, checked against its SHA-256.

The MNIST database of handwritten digits is the work of Yann LeCun, Corinna Cortes and Christopher J. C. Burges
(http://yann.lecun.com/exdb/mnist/), made available under the Creative Commons Attribution-ShareAlike 3.0 licence
(CC BY-SA 3.0), under which `mnist.npz` is redistributed; see `MNIST_LICENSE.md` beside it.

Images are in the order of the original files. `mnist.npz` holds `ink` (one bit per pixel: not 0), `values` (the pixels
that are not 0, in order) and `labels`, training images first; `tools/embed_mnist.py` writes it.
"""

from __future__ import annotations

import hashlib
import io
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import NamedTuple

import numpy as np

from fedmi_jax.errors import FedmiError

SHA256 = "9e69e45fc9d2d8c0caa78be61d7620aa7df6070467e295bab0425aea4a511d1d"
TRAIN = 60_000
"""Number of training images; 10 000 test images follow."""
CLASS_NAMES = (
    "0 - zero", "1 - one", "2 - two", "3 - three", "4 - four",
    "5 - five", "6 - six", "7 - seven", "8 - eight", "9 - nine",
)  # fmt: skip
"""As in torchvision, which is what the authors' published files hold."""


class Arrays(NamedTuple):
    """Images uint8 [N, 28, 28, 1] and labels int32 [N], read-only."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def read(file: Traversable | None = None) -> Arrays:
    """The embedded MNIST, or the copy of it in `file`.

    Raises FedmiError naming the file if it is missing or its SHA-256 is not the one above.
    """
    file = files("fedmi_jax.data") / "mnist.npz" if file is None else file
    with np.load(io.BytesIO(_verified(file)), allow_pickle=False) as packed:
        ink = np.unpackbits(packed["ink"]).view(bool)
        pixels = np.zeros(ink.size, np.uint8)
        pixels[ink] = packed["values"]
        labels = packed["labels"].astype(np.int32)
    images = pixels.reshape(-1, 28, 28, 1)
    images.flags.writeable = labels.flags.writeable = False
    return Arrays(images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:])


def _verified(file: Traversable) -> bytes:
    """The bytes of `file`, whose SHA-256 is right."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FedmiError(f"{file}: cannot be read ({error.strerror}); install the package again") from None
    if (found := hashlib.sha256(content).hexdigest()) != SHA256:
        raise FedmiError(f"{file}: SHA-256 is {found}, should be {SHA256}; the file is damaged: install again")
    return content

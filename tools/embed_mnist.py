"""Write `fedmi_jax/data/mnist.npz`, the MNIST that ships inside the package, from an .npz of the plain arrays.

    python tools/embed_mnist.py mnist_plain.npz fedmi_jax/data/mnist.npz

The input holds train_images, train_labels, test_images, test_labels (uint8). Four pixels in five are 0, so the file
keeps one bit per pixel for "not 0" and the other values in a row: smaller, and faster to inflate, than the plain
arrays. Load times include the SHA-256; best of 5, one thread of a 2-core CPU:

    | encoding                                  |      size | load   |
    |-------------------------------------------|-----------|--------|
    | plain arrays, deflate 9 (.npz)            |  11.23 MB | 0.15 s |
    | non-zero bits + values, deflate 9 (.npz)  |  10.21 MB | 0.13 s | <- kept: np.load reads it
    | the same, bare zlib streams               |  10.18 MB | 0.12 s |
    | non-zero bits + row-filtered values       |  11.08 MB |        |
    | plain arrays, PNG filters sub / up        | 13.3/14.0 |        |
    | the same with values >= 250 apart         |  10.32 MB | 0.16 s |
    | plain arrays, xz                          |   9.06 MB | 0.71 s |

Prints the SHA-256 that `fedmi_jax.data.mnist` must hold.
"""

import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np


def write(arrays: dict[str, np.ndarray], file: Path) -> None:
    """An .npz at deflate level 9 with fixed time stamps, so that the same arrays give the same bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), stream.getvalue(), zipfile.ZIP_DEFLATED, 9)


def main(source: str, target: str) -> None:
    with np.load(source) as plain:
        images = np.concatenate([plain["train_images"], plain["test_images"]])
        labels = np.concatenate([plain["train_labels"], plain["test_labels"]])
    ink = images != 0
    write({"ink": np.packbits(ink), "values": images[ink], "labels": labels}, Path(target))
    print(hashlib.sha256(Path(target).read_bytes()).hexdigest())


if __name__ == "__main__":
    main(*sys.argv[1:])

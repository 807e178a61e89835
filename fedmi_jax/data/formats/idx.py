"""A folder of IDX files, as MNIST, Fashion-MNIST and EMNIST are published.

The format: two zero bytes, a byte that names the type, a byte that counts the axes, each axis' length and then the
values; all numbers are big-endian (http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import re
import zlib
from pathlib import Path

import numpy as np

from fedmi_jax.data.formats.raw import TEST_NAMES, TRAIN_NAMES, Part, Raw
from fedmi_jax.errors import FedmiError

WHAT = "a folder of IDX files (train-images-idx3-ubyte, with or without .gz, and so on)"
_NAME = re.compile(r"(.*?)(train|t10k|test)[-_.](images|labels)[-_.]idx\d-\w+(\.gz)?", re.IGNORECASE)
_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def is_one(path: Path) -> bool:
    return path.is_dir() and bool(_files(path))


def read(path: Path) -> Raw:
    """Raises FedmiError naming the file that is missing, damaged or one too many."""
    found = _files(path)
    sets = sorted({prefix for prefix, _, _ in found})
    if len(sets) > 1:
        raise FedmiError(f"{path}: holds the files of several sets ({', '.join(map(repr, sets))}); give each a folder")
    (prefix,) = sets
    parts = {word: _part(path, prefix, word, found) for word in (*TRAIN_NAMES, *TEST_NAMES)}
    train = parts["train"]
    if train is None:
        raise FedmiError(f"{path}: {prefix}train-images-idx3-ubyte is missing")
    return Raw(train, next((parts[word] for word in TEST_NAMES if parts[word] is not None), None))


def _files(path: Path) -> dict[tuple[str, str, str], Path]:
    """By what their names begin with, part and content; of a file that is there twice the one without .gz."""
    found: dict[tuple[str, str, str], Path] = {}
    for file in sorted(path.iterdir()):
        if match := _NAME.fullmatch(file.name):
            found.setdefault((match[1], match[2].lower(), match[3].lower()), file)
    return found


def _part(path: Path, prefix: str, word: str, found: dict[tuple[str, str, str], Path]) -> Part | None:
    images, labels = (found.get((prefix, word, content)) for content in ("images", "labels"))
    if images is None and labels is None:
        return None
    if images is None or labels is None:
        there, missing = (labels, "images") if images is None else (images, "labels")
        raise FedmiError(f"{path}: {there.name if there else ''} has no file of {missing} beside it")
    return Part(array(images), array(labels), str(images))


def array(file: Path) -> np.ndarray:
    """The array in an IDX file. Raises FedmiError for a file that is damaged, and OSError."""
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix.lower() == ".gz" else file.read_bytes()
        kind, axes = np.dtype(_TYPES[content[2]]), content[3]
        shape = np.frombuffer(content, ">u4", axes, offset=4).tolist()
        values = np.frombuffer(content, kind, offset=4 + 4 * axes)
        if content[:2] != b"\0\0" or not axes:
            raise ValueError
        return values.reshape(shape).astype(kind.newbyteorder("="))
    except (gzip.BadGzipFile, zlib.error, EOFError, ValueError, KeyError, IndexError):
        raise FedmiError(f"{file}: is cut off, damaged, or no IDX file") from None

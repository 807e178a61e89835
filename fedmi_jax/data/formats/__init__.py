"""Files of one's own: one module for each kind of file, and the table of them.

A module has WHAT, a line for messages; is_one(path); and read(path), which gives a `Raw`. One more kind of file is one
more module and one more row of `FORMATS`.
"""

from __future__ import annotations

from pathlib import Path

from fedmi_jax.data.formats import class_folders, idx, npz, table
from fedmi_jax.data.formats.raw import Raw
from fedmi_jax.errors import FedmiError

FORMATS = (npz, idx, table, class_folders)
"""The first that knows a path reads it."""
CLASS_NAMES = "class_names.txt"
"""In a folder of any kind: the names of the classes by label, one a line."""


def read(path: Path) -> Raw:
    """The images at `path`. Raises FedmiError, one line, where there are none, or where they cannot be read."""
    try:
        found = next((one for one in FORMATS if one.is_one(path)), None)
        if found is None:
            raise FedmiError(f"{path}: holds no images of a known kind; give {', or '.join(f.WHAT for f in FORMATS)}")
        raw, names = found.read(path), path / CLASS_NAMES
        if raw.class_names is None and names.is_file():
            lines = names.read_text("utf-8").splitlines()
            raw = raw._replace(class_names=tuple(line.strip() for line in lines if line.strip()))
        return raw
    except OSError as error:
        raise FedmiError(f"{error.filename or path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise FedmiError(f"{path}: a text in it is not UTF-8; save it so") from None

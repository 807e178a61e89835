"""Image sets from files of one's own: read and decoded once into the cache (`cache.py`), and again when the files
change."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedmi_jax.data import cache, formats
from fedmi_jax.data.canonical import canonical
from fedmi_jax.errors import FedmiError
from fedmi_jax.files import user_path

_LAYOUT = 1
"""Version of what is written into the cache."""


def load(path: str | Path) -> cache.Entry:
    """Arrays (images uint8 [N, H, W, C], labels int32 [N]; memory-mapped) and facts: name, class_names, note.

    Raises FedmiError, one line, for a path that is not there, holds no images, or holds what cannot be understood.
    """
    root = user_path(path).absolute()
    if not root.exists():
        raise FedmiError(
            f"{root}: no such file or folder of images; where they lie elsewhere on this machine, say so with "
            "--data.file, or give them from Python: fedmi_jax.from_file(PATH)"
        )
    place, valid = cache.folder({"name": name_of(root), "file": str(root), "layout": _LAYOUT}), partial(_current, root)
    return cache.read(place, valid) or cache.fetch(place, valid, partial(_decode, root))


def name_of(path: Path) -> str:
    """What the set is called: as the file without its ending, or as the folder."""
    return path.name.split(".")[0] or path.name if path.is_file() else path.name


def _current(root: Path, facts: dict[str, Any]) -> bool:
    """Whether the cached copy is that of the files as they are now."""
    return _prints(root, map(Path, facts["files"])) == facts["prints"]


def _prints(root: Path, more: Any) -> list[list[Any]]:
    """Size and time of every file."""
    own = [root] if root.is_file() else [path for path in root.rglob("*") if path.is_file()]
    found = []
    for path in sorted({*own, *more}):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append([str(path), stat.st_size, stat.st_mtime_ns])
    return found


def _decode(root: Path, draft: Path) -> dict[str, Any]:
    """Write the set's four arrays into `draft`; returns its facts."""
    raw = formats.read(root)
    prints = _prints(root, raw.files)
    try:
        arrays, facts = canonical(raw)
    except FedmiError as error:
        known = str(error).startswith(str(root))
        raise error if known else FedmiError(f"{root}: {error}") from None
    for name, values in arrays.items():
        np.save(draft / f"{name}.npy", values)
    return facts | {"name": name_of(root), "files": [str(path) for path in raw.files], "prints": prints}

"""Files that are there whole or not at all, and that say so when a bit of them has changed.

A file is written under a temporary name beside its own, flushed to disk and renamed. A sealed file ends in a line with
the SHA-256 of everything before it, which is read before anything is parsed: netCDF and zip readers ignore what follows
their own last byte, so any of them opens a sealed file as it is.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmi_jax.errors import FedmiError

_LABEL = b"sha256 "
SEAL_BYTES = len(_LABEL) + 64 + 1
_PIECE = 1 << 20


def user_path(path: str | Path) -> Path:
    """The path that a user means, "~" and "~name" at its beginning written out. Raises FedmiError for a home folder
    that cannot be found."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise FedmiError(f"{path}: there is no such user, or no home folder is known; write the path out") from None


def cache_folder() -> Path:
    """Where everything that can be made again is kept: $FEDMI_CACHE, or ~/.cache/fedmi_jax."""
    return user_path(os.environ.get("FEDMI_CACHE") or "~/.cache/fedmi_jax")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, synced to disk, when the block ends without an error.

    Makes the folder. Whatever happens no temporary file stays behind, unless the process is killed: `sweep`. Raises
    FedmiError when writing fails.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync(path.parent)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = "; make room there and go on, nothing half written is left" if full else ""
        raise FedmiError(f"{path}: cannot be written: {error.strerror or error}{hint}") from None
    finally:
        if temporary.is_file():
            temporary.unlink()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`; only for who holds its lock."""
    for left in folder.glob(".*.tmp"):
        if re.fullmatch(r"\.(result\.nc|run\.json|(round|state)-\d+\.npz)\.\d+\.tmp", left.name):
            left.unlink()


def seal(path: Path) -> None:
    """Append the line that `sealed` checks."""
    line = _LABEL + _digest(path, path.stat().st_size) + b"\n"
    with open(path, "ab") as file:
        file.write(line)


def sealed(path: Path) -> bool | None:
    """Whether what is in the file is what was sealed; None where there is no seal. Raises OSError."""
    content = path.stat().st_size - SEAL_BYTES
    if content < 0:
        return None
    with open(path, "rb") as file:
        file.seek(content)
        line = file.read()
    if not line.startswith(_LABEL):
        return None
    return line == _LABEL + _digest(path, content) + b"\n"


def _digest(path: Path, length: int) -> bytes:
    """SHA-256 of the first so many bytes, in hexadecimal; a piece at a time, for results can be large."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for start in range(0, length, _PIECE):
            found.update(file.read(min(_PIECE, length - start)))
    return found.hexdigest().encode()

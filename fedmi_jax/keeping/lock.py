"""One run at a time in a folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmi_jax.errors import FedmiError

OWNER = "owner.json"


@contextmanager
def held(home: Path) -> Iterator[None]:
    """Within it this process alone works in `home`, which is made if need be.

    The operating system holds the lock and frees it when its owner ends, however that ends: what a dead owner leaves
    behind is no lock, and neither clocks nor process ids are asked. Raises FedmiError that names the owner.
    """
    from filelock import FileLock, Timeout  # here: looking at results needs no lock

    lock = FileLock(home / "lock", timeout=0)
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise FedmiError(f"{home.parent}: in use by {_owner(home)}; wait for it, or end it first") from None
    except OSError as error:
        raise FedmiError(f"{home}: cannot be written: {error.strerror or error}") from None
    try:
        _sign(home)
        yield
    finally:
        lock.release()


def _sign(home: Path) -> None:
    try:
        (home / OWNER).write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), "utf-8")
    except OSError as error:
        raise FedmiError(f"{home}: cannot be written: {error.strerror or error}") from None


def _owner(home: Path) -> str:
    try:
        owner = json.loads((home / OWNER).read_text("utf-8"))
        return f"process {int(owner['pid'])} on {str(owner['host'])!r}"
    except (OSError, ValueError, KeyError, TypeError):  # it is just about to sign
        return "another process"

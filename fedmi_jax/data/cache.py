"""Decoded image sets on disk: one folder of memory-mapped .npy files per set, written once, whole or not at all.

The folder is $FEDMI_CACHE, or ~/.cache/fedmi_jax. Writers hold a lock and rename a finished draft into place, so two
processes that ask for the same set at once do the work once, and a reader never sees half of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fedmi_jax.errors import FedmiError
from fedmi_jax.files import cache_folder

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
Entry = tuple[dict[str, np.ndarray], dict[str, Any]]
"""The arrays by name, and the facts stored beside them."""


def folder(request: dict[str, Any]) -> Path:
    """Where the set that `request` (plain JSON values, with a "name") asks for is kept."""
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder() / "datasets" / f"{re.sub(r'[^A-Za-z0-9_]+', '-', request['name'])}-{digest}"


def read(place: Path, valid: Callable[[dict[str, Any]], bool]) -> Entry | None:
    """What is stored at `place`, memory-mapped; None if nothing is, it is damaged, or its facts are not `valid`."""
    try:
        facts = json.loads((place / "facts.json").read_text("utf-8"))
        if not valid(facts):
            return None
        return {n: np.load(place / f"{n}.npy", mmap_mode="r", allow_pickle=False) for n in ARRAYS}, facts
    except MemoryError:
        raise
    except Exception:  # on damaged headers numpy raises nearly anything, tokenizer's errors included
        return None


def fetch(place: Path, valid: Callable[[dict[str, Any]], bool], write: Callable[[Path], dict[str, Any]]) -> Entry:
    """What is stored at `place`; if nothing valid is, `write` first fills a draft folder and returns the facts.

    Raises FedmiError if the cache folder cannot be written, and whatever `write` raises.
    """
    from filelock import FileLock  # imported here: most runs only read

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{place}.lock"):
            entry = read(place, valid)  # another process may have written it while this one waited
            if entry is None:
                _store(place, write)
                entry = read(place, lambda facts: True)
    except OSError as error:
        raise FedmiError(f"{place.parent}: the cache cannot be written ({error}); set FEDMI_CACHE") from error
    if entry is None:
        raise FedmiError(f"{place}: the cache cannot be read back; delete the folder and run again")
    return entry


def _store(place: Path, write: Callable[[Path], dict[str, Any]]) -> None:
    """Write to a draft beside `place`, then rename; the draft goes if `write` fails."""
    draft = Path(tempfile.mkdtemp(prefix=f"{place.name}.draft-", dir=place.parent))
    try:
        facts = write(draft)
        (draft / "facts.json").write_text(json.dumps(facts, indent=2), "utf-8")
        if place.exists():
            shutil.rmtree(place)
        draft.rename(place)
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(draft)

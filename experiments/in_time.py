"""A series that ends by a given time, and its results in files that are small enough to carry."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmi_jax import files
from fedmi_jax.errors import FedmiError
from fedmi_jax.results import store

LIMIT = 16 * 2**20
"""Bytes, under which every archive stays."""


class TimeIsUp(Exception):
    """The series stops here; what is done is kept."""


@dataclass(frozen=True)
class Until:
    """Stops a series between two rounds: no round begins that would end later, taking as long as the one before."""

    end: float
    """As `time.monotonic` counts."""

    @classmethod
    def minutes(cls, minutes: float | None) -> Until:
        """So many from now; None: without end."""
        return cls(float("inf") if minutes is None else time.monotonic() + 60 * minutes)

    def require(self, seconds: float = 0.0) -> None:
        """Raise TimeIsUp unless so much time is left."""
        if time.monotonic() + seconds >= self.end:
            raise TimeIsUp

    def __call__(self, number: int, metrics: dict[str, Any]) -> None:
        """A round is done and kept (`fedmi_jax.federation.metrics.OnRound`)."""
        self.require(metrics["seconds"])


WITHOUT_END = Until.minutes(None)


def pack(out: Path, limit: int = LIMIT) -> list[Path]:
    """OUT/results-1.zip and so on: all results of the series that are there, and what is said of them, in archives of
    less than `limit` bytes. Raises FedmiError for a result that fits in none."""
    for old in out.glob("results-*.zip"):
        old.unlink()
    there = sorted(out.rglob(f"seed-*/{store.FILE}")) + sorted(out.glob("*.md")) + sorted(out.glob("*.csv"))
    return [_archive(out, i + 1, part) for i, part in enumerate(_parts(out, there, limit))]


def _archive(out: Path, number: int, part: list[Path]) -> Path:
    path = out / f"results-{number}.zip"
    with files.replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for one in part:  # results are compressed already
            archive.write(one, one.relative_to(out))
    return path


def _parts(out: Path, there: Iterable[Path], limit: int) -> Iterator[list[Path]]:
    part, total = [], END
    for path in there:
        size = path.stat().st_size + 2 * (ENTRY + len(str(path.relative_to(out)).encode()))
        if size + END >= limit:
            raise FedmiError(f"{path}: has {path.stat().st_size} bytes, too many for an archive of {limit}")
        if total + size >= limit:
            yield part
            part, total = [], END
        part.append(path)
        total += size
    if part:
        yield part


ENTRY, END = 46, 22
"""Bytes that a zip file adds: at most so many, and the name, twice a file; and at its end."""

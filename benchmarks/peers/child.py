"""A contestant's end of its process: says what is installed, then plays one round for every line on stdin.

    PYTHON child.py SIDE WORK PACKAGE...

SIDE is a Python file with `play(work, rounds)`: it prepares, then calls `rounds` with a function that plays one round
and returns what is to be told about it. Answers are JSON lines on what was stdout; whatever the libraries print goes
to stderr. Standard library and numpy alone, since it runs under whichever interpreter the peer needs.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

import work

Round = Callable[[], "dict[str, Any]"]
"""Plays one round; returns seconds, the accuracy of the averaged model on the test images, and the device."""
Rounds = Callable[[Round], None]
"""Plays that round whenever the parent asks, until it asks no more."""


def main(side: str, file: str, *packages: str) -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout, some from threads and from processes of their own
    found = versions(packages)
    tell(answers, {"versions": found})
    if None in found.values():
        return 1
    sys.path.insert(0, str(Path(side).parent))
    try:
        importlib.import_module(Path(side).stem).play(work.read(Path(file)), lambda one: on_request(one, answers))
    except Exception as error:
        traceback.print_exc()
        tell(answers, {"error": explain(error)})
        return 1
    return 0


def versions(packages: tuple[str, ...]) -> dict[str, str | None]:
    """The interpreter's and every package's version; None where it is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def tell(answers: TextIO, message: dict[str, Any]) -> None:
    print(json.dumps(message), file=answers, flush=True)


def on_request(one: Round, answers: TextIO) -> None:
    """A round, and what came of it, for every line on stdin."""
    for _ in sys.stdin:
        tell(answers, one())


def explain(error: BaseException) -> str:
    """The first cause in one line, as the end of its traceback has it, without the notes that libraries hang on it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(f"{type(error).__name__}: {error}".split()).rstrip(":")


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Where output goes: a terminal, in whose width words are folded, or a file, in which none is cut."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from fedmi_jax.errors import say

WIDE = 200
"""Columns of what is no terminal: enough for every table."""


def console(**options: Any) -> Console:
    """On standard output. COLUMNS, where it is set, says how wide it is."""
    found = Console(**options)
    if not (found.is_terminal or found.is_jupyter or os.environ.get("COLUMNS", "").isdigit()):
        found.width = WIDE
    return found


def table(*columns: str, **options: Any) -> Table:
    """A table whose words are never cut: what is too long goes on in the next line."""
    return Table(*(Column(name, overflow="fold") for name in columns), **options)


def accept_any_text() -> None:
    """What the encoding of standard output does not have is printed as a question mark, and is no error."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")


def flushed(status: int, further: str = "") -> int:
    """The exit status once everything is printed: this one, 141 when nobody reads on, 2 when it cannot be written.

    further: is printed besides, so that an output that takes nothing is found out though nothing waits in it.
    """
    try:
        sys.stdout.write(further)
        sys.stdout.flush()
    except BrokenPipeError:
        discard_output()
        return status or 141
    except OSError as error:
        discard_output()
        say(f"standard output cannot be written: {error.strerror or error}")
        return status or 2
    return status


def discard_output() -> None:
    """Python would complain once more about what is left when it closes its output."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

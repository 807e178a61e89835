"""Where output goes: a terminal, in whose width words are folded, or a file, in which none is cut."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from fedmi_jax.errors import FedmiWarning, say

WIDE = 200
"""Columns of what is no terminal: enough for every table."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process. A run goes on instead."""
        raise BrokenPipeError


def console(**options: Any) -> Console:
    """On standard output. COLUMNS, where it is set, says how wide it is."""
    found = _Console(**options)
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


def hold_numbers() -> None:
    """Give the numbers of closed standard streams to nothing: the next file that is opened would get one, and what a
    library writes to its standard error would end up in that file."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(number)


_LOST: list[OSError] = []
"""Why nothing can be printed any more."""


@contextmanager
def going_on() -> Iterator[None]:
    """What is printed within it is passed on at its end, to whoever follows a run of hours. Where it cannot be written
    the work goes on all the same, and `flushed` says so in the end."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        _LOST.append(error)
        discard_output()


def flushed(status: int, further: str = "") -> int:
    """The exit status once everything is printed: this one, 141 when nobody reads on, 2 when it cannot be written.

    further: is printed besides, so that an output that takes nothing is found out though nothing waits in it.
    """
    try:
        if _LOST:
            raise _LOST.pop()
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


@contextmanager
def saying_warnings() -> Iterator[None]:
    """Within it a `FedmiWarning` is one line on standard error."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", FedmiWarning)
        usual = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if issubclass(category, FedmiWarning):
                say(str(message))
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield


def discard_output() -> None:
    """Python would complain once more about what is left when it closes its output."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

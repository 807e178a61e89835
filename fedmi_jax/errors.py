"""Errors that a user can mend, each in one line."""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress


def printable(text: str) -> str:
    """With line ends and control characters, which a name out of a file may hold, as Python writes them in a string."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def say(text: str) -> None:
    """One line on standard error. Where nobody can read it (a closed pipe, a full disk) the work goes on."""
    if sys.stderr is not None:
        with suppress(OSError, ValueError):
            print(f"fedmi: {text}", file=sys.stderr, flush=True)


def unknown(word: str, known: Iterable[str]) -> str:
    """What to say of a name that there is not: the names that there are, and the one that was probably meant."""
    names = list(known)
    return f"unknown name {word!r}; there are {', '.join(names)}{did_you_mean(word, names)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The known word most like this one, as a question that ends a message; empty where none is alike."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


class FedmiWarning(UserWarning):
    """What is asked for can be done, and will come to nothing."""


class FedmiError(Exception):
    """An error the user can mend: one line that names the field or file and says what would be right."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class ConfigError(FedmiError):
    """An invalid configuration; the message starts with the field's path, as in `sparsity.target`."""


class Interrupted(FedmiError):
    """A run was told to stop; `status` is what the process should end with: 130 after Ctrl-C, 143 after SIGTERM."""

    def __init__(self, number: int, advice: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}; {advice}")
        self.status = 128 + number

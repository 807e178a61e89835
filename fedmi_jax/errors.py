"""Errors that a user can mend, each in one line."""

from __future__ import annotations

import signal


def printable(text: str) -> str:
    """With line ends and control characters, which a name out of a file may hold, as Python writes them in a string."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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

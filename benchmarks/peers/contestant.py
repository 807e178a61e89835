"""The parent's end of a contestant's process: start it, ask for rounds, learn why it failed."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from fedmi_jax.errors import FedmiError

CHILD = Path(__file__).parent / "child.py"
QUIET = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
"""Nobody takes the whole GPU; nobody calls home."""


@dataclass(frozen=True)
class Contestant:
    """Somebody who can play the work."""

    name: str
    side: Path
    """The Python file that plays its rounds (see `child.py`)."""
    packages: tuple[str, ...]
    """What it needs, the one it is named after first."""
    install: str
    """How to get it."""
    python: str
    environment: Mapping[str, str] = field(default_factory=dict)


class Failed(FedmiError):
    """A contestant cannot play, in one line."""


class Running:
    """A contestant's process. Its stderr is kept in `log`."""

    def __init__(self, who: Contestant, work: Path, log: Path, timeout: float) -> None:
        self.log, self.timeout = log, timeout
        self.process = _spawn(who, work, log)
        self.answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.reader = threading.Thread(target=_read, args=(self.process.stdout, self.answers), daemon=True)
        self.reader.start()

    def greet(self) -> dict[str, str | None]:
        """Which version of what is installed; None where something is not. Comes first."""
        return self._answer()["versions"]

    def play(self) -> dict[str, Any]:
        """One round. Raises Failed with the error's last line."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended; its last words are still to be read
            self.process.stdin.write("round\n")
            self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        try:
            line = self.answers.get(timeout=self.timeout)
        except queue.Empty:
            raise Failed(f"no answer within {self.timeout:g} s") from None
        if not line:
            raise Failed(f"{_last_line(self.log)} (exit status {self.process.wait(self.timeout)})")
        try:
            answer = json.loads(line)
        except ValueError:
            raise Failed(f"not an answer: {line.strip()[:80]}") from None
        if "error" in answer:
            raise Failed(answer["error"])
        return answer

    def stop(self, patience: float = 20) -> None:
        """Let it end by itself, then make it, and all that it started."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(patience)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.reader.join(patience)


def missing(who: Contestant, versions: dict[str, str | None]) -> str | None:
    """What is not installed, and how to get it, in one line; None where nothing is missing."""
    absent = [name for name, version in versions.items() if version is None]
    return f"not installed ({', '.join(absent)}): {who.install}" if absent else None


def _spawn(who: Contestant, work: Path, log: Path) -> subprocess.Popen[str]:
    command = [who.python, str(CHILD), str(who.side), str(work), *who.packages]
    with log.open("w") as stderr:
        try:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
                env={**os.environ, **QUIET, **who.environment}, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise Failed(f"{who.python}: not an interpreter that can be started: {error.strerror}") from None


def _read(stream: IO[str], answers: queue.SimpleQueue[str]) -> None:
    """Lines as they come, then an empty one."""
    with stream:
        for line in stream:
            answers.put(line)
    answers.put("")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it ended without a word"

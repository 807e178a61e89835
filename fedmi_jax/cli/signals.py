"""Ctrl-C and SIGTERM during a run: the first drops the current round, the second ends the process at once.

Python tells its own signal handlers nothing while a compiled program runs, which can be minutes. Hence a thread that
reads the signals from a pipe the moment they come.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from fedmi_jax.errors import Interrupted, say

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Stop:
    """The signals that came so far."""

    advice: str
    """What to do then, in words."""
    came: list[int] = field(default_factory=list)

    def check(self, progress: Callable[[int, str], None] | None, round_: int, stage: str) -> None:
        """To be called when a stage of a round begins. Raises Interrupted once a signal has come."""
        if self.came and stage != "done":  # by then every round is committed, and only the file is missing
            raise Interrupted(self.came[0], self.advice)
        if progress is not None:
            progress(round_, stage)


@contextmanager
def stopping(advice: str) -> Iterator[Stop]:
    """Within it signals stop a run between two stages. To be used from the main thread."""
    stop = Stop(advice)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(target=_watch, args=(reader, stop), daemon=True)
    before = {number: signal.signal(number, _noted) for number in SIGNALS}
    previous = signal.set_wakeup_fd(writer)
    thread.start()
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(previous)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)
        thread.join()
        os.close(reader)


def _noted(number: int, frame: FrameType | None) -> None:
    """Only there so that the signal's default is not done."""


def _watch(reader: int, stop: Stop) -> None:
    while told := os.read(reader, 1):
        if told[0] not in SIGNALS:
            continue
        stop.came.append(told[0])
        if len(stop.came) > 1:
            say(f"ended at once; {stop.advice}")
            os._exit(128 + told[0])  # every file is there whole or not at all, so nothing is to be tidied
        say("stopping after this stage; a second signal ends the run at once")

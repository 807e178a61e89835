"""What a run keeps in its folder while it is unfinished, so that it can go on after any end.

FOLDER/unfinished/
    run.json          the configuration, which images (a fingerprint), how often to checkpoint, where it began
    round-00001.npz   the record of every measure of round 1, written once; booleans as bits
    state-00001.npz   global weights and the method's state after round 1; the last few are kept
    lock, owner.json  see `fedmi_jax.keeping.lock`

There is no state of any random generator to keep: every draw is keyed by integers (`fedmi_jax.keys`), so a round is a
function of the configuration, the images, the state before it and its number. A round is committed when its state file
is there: that is written last, and each file appears whole or not at all, with its checksum (`fedmi_jax.files`).

Plain .npz, not orbax-checkpoint: a state is a few megabytes of named arrays, which one file holds bit for bit and one
rename commits; orbax would bring a folder of files per step and an asynchronous commit for models of many gigabytes.

Axes: S seeds.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from fedmi_jax.config import Checkpoint
from fedmi_jax.devices import processes
from fedmi_jax.errors import FedmiError
from fedmi_jax.keeping.stored import Record, Stored, write_arrays

FOLDER = "unfinished"
_LOG = logging.getLogger(__name__)

State = tuple[Any, Any]
"""Global params (S, ...) and the method's state (`fedmi_jax.aggregation.State`): the server's (S, ...), and that of
every client (S, K_total, ...)."""


class Keeper(Protocol):
    """Where a run's records go, and where it goes on from."""

    def start(self, fresh: State) -> tuple[int, State]:
        """How many rounds are done, and the state after them; `fresh` is the state before the first."""
        ...

    def add(self, number: int, record: Record, state: State) -> None:
        """Keep what round `number` brought."""
        ...

    def records(self, rounds: int) -> Sequence[Record]:
        """Those of rounds 1 to `rounds`."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Nothing is kept beyond this process."""

    kept: list[Record] = field(default_factory=list)

    def start(self, fresh: State) -> tuple[int, State]:
        return 0, fresh

    def add(self, number: int, record: Record, state: State) -> None:
        self.kept.append(record)

    def records(self, rounds: int) -> Sequence[Record]:
        return self.kept


@dataclass(frozen=True)
class OnDisk:
    """In a folder."""

    home: Path
    """FOLDER/unfinished."""
    run: str
    """The run's identity: files of another run are not taken for its own."""
    rounds: int
    settings: Checkpoint

    def start(self, fresh: State) -> tuple[int, State]:
        """States after those rounds are removed: damaged, or of rounds that are now done again."""
        done = self.committed()
        for number in _numbers(self.home, "state"):
            if number > done:
                _path(self.home, "state", number).unlink()
        return done, self._state(done, fresh) if done else fresh

    def committed(self) -> int:
        """The last round after which all that is needed to go on is there and whole; 0: none.

        A damaged file is passed over, with a warning, for the checkpoint before it: rounds are lost, exactness is not.
        """
        whole = self._whole_records()
        for number in sorted(_numbers(self.home, "state"), reverse=True):
            if number <= whole and self._readable(_path(self.home, "state", number)):
                return number
        return 0

    def last(self) -> int:
        """The last round that has a checkpoint, whole or not; 0: none."""
        return max(_numbers(self.home, "state"), default=0)

    def _whole_records(self) -> int:
        """So many rounds from the first on have a record that can be read."""
        number = 0
        while (path := _path(self.home, "round", number + 1)).exists() and self._readable(path):
            number += 1
        return number

    def _readable(self, path: Path) -> bool:
        try:
            Stored(path).require(self.run)
        except FedmiError as error:
            _LOG.warning("%s; going on without it", error)
            return False
        return True

    def _state(self, number: int, fresh: State) -> State:
        """Bit for bit what `add` was given. Raises FedmiError where it is not of this run's shapes."""
        path = _path(self.home, "state", number)
        stored, (places, structure) = Stored(path), jax.tree.flatten(_named(fresh))
        names = [jax.tree_util.keystr(at) for at, _ in jax.tree_util.tree_leaves_with_path(_named(fresh))]
        leaves = [stored[name] for name in names]
        for name, leaf, place in zip(names, leaves, places, strict=True):
            if (leaf.shape, leaf.dtype) != (place.shape, place.dtype):
                raise FedmiError(f"{path}: {name} is {leaf.dtype}{leaf.shape}, not {place.dtype}{place.shape}")
        found = jax.tree.unflatten(structure, leaves)
        return found["weights"], found["method"]

    def add(self, number: int, record: Record, state: State) -> None:
        write_arrays(_path(self.home, "round", number), record, self.run)
        if number % self.settings.every == 0 or number == self.rounds:
            leaves = jax.tree_util.tree_leaves_with_path(_named(state))
            arrays = {jax.tree_util.keystr(at): np.asarray(leaf) for at, leaf in leaves}
            write_arrays(_path(self.home, "state", number), arrays, self.run)
            for old in sorted(_numbers(self.home, "state"))[: -self.settings.keep]:
                _path(self.home, "state", old).unlink()

    def records(self, rounds: int) -> Sequence[Record]:
        return [Stored(_path(self.home, "round", number)) for number in range(1, rounds + 1)]


@dataclass(frozen=True)
class Broadcasting:
    """Of several processes: the first keeps on disk and tells the others, which need not see its folder."""

    own: OnDisk | InMemory
    """On disk in process 0, in memory elsewhere."""

    def start(self, fresh: State) -> tuple[int, State]:
        done, state = processes.from_first(self.own.start(fresh))
        for number in range(int(done)):
            if isinstance(self.own, InMemory):
                self.own.kept.append(processes.named_from_first({}))
            else:
                processes.named_from_first(self.own.records(number + 1)[number])
        return int(done), state

    def add(self, number: int, record: Record, state: State) -> None:
        self.own.add(number, record, state)

    def records(self, rounds: int) -> Sequence[Record]:
        return self.own.records(rounds)


def _named(state: State) -> dict[str, Any]:
    return {"weights": state[0], "method": state[1]}


def _path(home: Path, kind: str, number: int) -> Path:
    return home / f"{kind}-{number:05d}.npz"


def _numbers(home: Path, kind: str) -> list[int]:
    found = (re.fullmatch(rf"{kind}-(\d{{5,10}})\.npz", path.name) for path in home.glob(f"{kind}-*.npz"))
    return [int(match[1]) for match in found if match]

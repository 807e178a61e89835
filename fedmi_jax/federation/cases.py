"""Which circuits a round looks for: whose, of which class, on which model.

Axes: S seeds, K clients, of which P take part in a round, M = S * P models of clients (seed-major), C circuits of a
round (seed-, then client-, then class-major), n rows of a table: first the C circuits of local models, then those of
global ones. Models are stacked as (M local ones, S global ones and, of a method that serves every client a model of
its own, these M).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from fedmi_jax.results.schema import ORIGINS, fill


@dataclass(frozen=True, eq=False)
class Circuits:
    """All circuits of an experiment: rows of (seed slot, client, class)."""

    seed: np.ndarray
    client: np.ndarray
    label: np.ndarray

    @cached_property
    def classes(self) -> np.ndarray:
        """The labels analysed by anyone, ascending."""
        return np.unique(self.label)

    def by_client(self, values: np.ndarray, clients: tuple[int, int], fill: Any) -> np.ndarray:
        """Values (C, ...) of all circuits as (S, K, classes, ...); `fill` where a client does not analyse a class.

        clients: (S, K).
        """
        found = np.full((*clients, len(self.classes), *values.shape[1:]), fill, values.dtype)
        found[self.seed, self.client, np.searchsorted(self.classes, self.label)] = values
        return found

    def of(self, clients: np.ndarray) -> np.ndarray:
        """Rows of the circuits of these clients, (S, P)."""
        return np.flatnonzero(_slots(self, clients) >= 0)


def _slots(circuits: Circuits, clients: np.ndarray) -> np.ndarray:
    """Every circuit's row among the models of these clients, (S, P); -1 where its client is not among them."""
    slots = np.full((len(clients), 1 + max(circuits.client.max(), clients.max())), -1)
    np.put_along_axis(slots, clients, np.arange(clients.size).reshape(clients.shape), 1)
    return slots[circuits.seed, circuits.client]


@dataclass(frozen=True, eq=False)
class Cases:
    """One row per circuit and origin; each field but `total` is an array (n,)."""

    circuit: np.ndarray
    """Row of the experiment's `Circuits`."""
    seed: np.ndarray
    """Slot of the seed."""
    client: np.ndarray
    label: np.ndarray
    origin: np.ndarray
    """Index into `ORIGINS`: what kind of model the circuit is searched on."""
    model: np.ndarray
    """Row of the stacked models: the circuit's own."""
    other: np.ndarray
    """Row of the stacked models: the one that the circuit is crossed with."""
    mirror: np.ndarray
    """Row of this table: the same client's and class's circuit of the other origin."""
    real: np.ndarray
    """False for padding."""
    total: int
    """Circuits of the experiment."""

    def of(self, origin: str) -> Cases:
        """The rows of one origin; their `mirror` still counts in the whole table."""
        rows = self.origin == ORIGINS.index(origin)
        arrays = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "total"}
        return Cases(**arrays, total=self.total)

    def keys(self, seeds: tuple[int, ...], purposes: tuple[int, ...], number: int) -> list[tuple[int, ...]]:
        """The integers of `keys.generator` for every row: (seed, purpose of its origin, round, client, class)."""
        columns = (self.seed, self.origin, self.client, self.label)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [(seeds[s], purposes[o], number, client, label) for s, o, client, label in rows]

    def place(self, values: Any) -> np.ndarray:
        """Values (n, ...) of a whole table as (2, circuits of the experiment, ...), origins as in `ORIGINS`.

        NaN, or False, for circuits of clients that do not take part.
        """
        values = np.asarray(values)
        placed = np.full((len(ORIGINS), self.total, *values.shape[1:]), fill(values.dtype), values.dtype)
        placed[self.origin[self.real], self.circuit[self.real]] = values[self.real]
        return placed


def of_round(circuits: Circuits, clients: np.ndarray, most: int, served: bool = False) -> Cases:
    """The table of a round.

    Args: clients (S, P), who takes part; most: circuits that any round can have; served: whether every client has a
    model of its own from the server, which then stands for the global one. Shorter rounds are padded with the first
    circuit, so that every round has as many rows and nothing is compiled twice.
    """
    rows, count = circuits.of(clients), np.arange(most)
    circuit = np.concatenate([rows, np.zeros(most - len(rows), int)])
    seed, client, label = circuits.seed[circuit], circuits.client[circuit], circuits.label[circuit]
    local = np.maximum(_slots(circuits, clients)[circuit], 0)  # the client of a padding row may be absent
    server = clients.size + (len(clients) + local if served else seed)
    twice = {"circuit": circuit, "seed": seed, "client": client, "label": label, "real": count < len(rows)}
    return Cases(
        **{name: np.tile(column, 2) for name, column in twice.items()},
        origin=np.repeat([ORIGINS.index("local"), ORIGINS.index("global")], most),
        model=np.concatenate([local, server]),
        other=np.concatenate([server, local]),
        mirror=np.concatenate([most + count, count]),
        total=len(circuits.label),
    )

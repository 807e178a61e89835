"""What a study is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedmi_jax.studies.stored import Stored
from fedmi_jax.studies.tidy import Row


@dataclass(frozen=True)
class Column:
    """Of a table on the terminal."""

    title: str
    measure: str
    """Rows that have a layer are shown side by side, as in 4 / 5 / 3."""
    kind: str = "percent"
    """percent, points (a signed difference of two shares), count, number, or flag (yes or no; of seeds a share)."""
    null: bool = False
    """Beside it, what random sets give."""


@dataclass(frozen=True)
class Table:
    """What is printed: one line for each round and value of the labels."""

    title: str
    by: tuple[str, ...]
    """Labels that a line is for; other rows are not in this table, but for those of `by` and a layer."""
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Series:
    """Points of one colour in a figure."""

    label: str
    measure: str


@dataclass(frozen=True)
class Panel:
    """Points over the values of a label, or over rounds: a frame for every round, or one for all."""

    title: str
    by: str
    """A label, or "round"."""
    series: tuple[Series, ...]
    ylabel: str
    share: bool = True
    """From 0 to 1; else as the values have it."""
    where: Mapping[str, int | str] = field(default_factory=dict)
    """Other labels that its rows have."""


@dataclass(frozen=True)
class Study:
    """One study."""

    masks: Callable[[Stored], list[Row]] | None
    """What needs no weights; None: nothing."""
    weights: Callable[[Stored, Any], list[Row]]
    """All of it, where there are weights, on a `bench.Bench`."""
    tables: tuple[Table, ...]
    panels: tuple[Panel, ...]
    caption: str
    """How to read the figure, for its small print."""
    one_global_model: bool = False
    """It asks what all classes are called by one model that all clients got; where each got its own it is refused."""
    by_pairs: bool = False
    """It compares two classes whose experts are different clients; where there is no such pair it is refused."""
    every_user: bool = False
    """It asks every client that has a circuit, and no experts; they are refused."""
    needs_images: bool = True
    """Else weights are enough, and no bench is made."""

"""A round in a few numbers, for whoever follows a run while it goes on.

Axes: S seeds, K clients, C circuits, Y classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fedmi_jax.federation.recording import Record
    from fedmi_jax.federation.setup import Facts

OnRound = Callable[[int, dict[str, Any]], None]
"""Called as (round, metrics) when a round is done and kept. An exception in it ends the run, which can be resumed."""


def of_round(facts: Facts, record: Record, seconds: float) -> dict[str, Any]:
    """The metrics of one round, from its record; NaN for clients that do not take part in it.

    - seconds: float, what the round took
    - train_loss (S, K): mean over the client's local steps
    - local_accuracy (S, K), global_accuracy (S,): of whole models, over all classes
    - local_held_accuracy (S, K), global_held_accuracy (S,): mean over the classes that the client holds, or any client
    - cross_evaluation (S, K): of the client's local circuits on the global model, mean over its classes
    """
    found: dict[str, Any] = {"seconds": seconds}
    for name in ("train_loss", "local_accuracy", "global_accuracy"):
        if name in record:
            found[name] = np.array(record[name], float)
    held = facts.counts > 0
    if "local_class_accuracy" in record:
        found["local_held_accuracy"] = _mean(record["local_class_accuracy"], held)
        found["global_held_accuracy"] = _mean(record["global_class_accuracy"], np.any(held, 1))
    if "cross_evaluation" in record:
        found["cross_evaluation"] = _by_client(facts, record["cross_evaluation"][0])
    return found


def _mean(values: np.ndarray, there: Any) -> np.ndarray:
    """Over the last axis, of the entries that are there and not NaN; NaN where there are none."""
    there = there & ~np.isnan(values)
    count = there.sum(-1)
    total = np.sum(np.where(there, values, 0), -1, dtype=float)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _by_client(facts: Facts, values: np.ndarray) -> np.ndarray:
    """The mean over each client's circuits: (C,) -> (S, K)."""
    own = facts.circuits.by_client(np.asarray(values, float), facts.counts.shape[:2], np.nan)
    return _mean(own, np.ones_like(own, bool))

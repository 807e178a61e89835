"""Is the class still there, only not read out? The accuracy of every model before and after a refit of its read-out.

Axes: S seeds, M local models of a round, Y classes, R ways to refit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fedmi_jax.federation import programs
from fedmi_jax.federation.homes import at_home
from fedmi_jax.results.schema import REFITS

if TYPE_CHECKING:
    from fedmi_jax.federation.homes import Models
    from fedmi_jax.federation.recording import Record
    from fedmi_jax.federation.setup import Round, Setup


def accuracies(setup: Setup, round_: Round, models: Models) -> Record:
    """Of the first M + S stacked models: mean accuracy over the classes that the model's clients hold, among which
    alone it chooses, as it is and refitted. The refit sees the first few probe images of each of these classes."""
    facts, each = setup.facts, setup.facts.experiment.evaluation.readout_images
    if not each:
        return {}
    seed, client = round_.models
    held = facts.counts > 0
    classes = np.concatenate([held[seed, client], held.any(1)])
    seeds = np.concatenate([seed, np.arange(len(round_.clients))])
    places = _places(facts.dataset.num_classes, facts.experiment.discovery.probe, each)

    def run(which: np.ndarray, rows: Any) -> Any:
        return programs.readouts(models, which, setup.probe, *rows, places, setup.test, layout=setup.layout)

    found = np.asarray(at_home(run, models, np.arange(len(seeds)), (seeds, classes), setup.layout))
    local = np.full((*facts.counts.shape[:2], len(REFITS)), np.nan, found.dtype)
    local[seed, client] = found[: len(seed)]
    return {"readout_accuracy_local": local, "readout_accuracy_global": found[len(seed) :]}


def _places(classes: int, sizes: tuple[int, int], each: int) -> np.ndarray:
    """The first images of every class among the probe images, (Y * each,): those to search on, then the others."""
    searched, judged = sizes
    first, more = min(each, searched), max(0, each - searched)
    start = np.arange(classes)[:, None]
    parts = [start * searched + np.arange(first), classes * searched + start * judged + np.arange(more)]
    return np.concatenate([part.ravel() for part in parts])

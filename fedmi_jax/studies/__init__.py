"""Studies of a stored run: what the authors' scripts ask of one run, over seeds and rounds, with nulls.

One study is one file, with what it computes, prints and draws, and one row in `STUDIES`. docs/studies.md explains each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import xarray as xr

from fedmi_jax.errors import ConfigError, FedmiError, unknown
from fedmi_jax.studies import tidy
from fedmi_jax.studies.base import Study
from fedmi_jax.studies.stored import NO_WEIGHTS, Options, Stored, chosen, require_weights
from fedmi_jax.studies.tidy import Row

if TYPE_CHECKING:
    from fedmi_jax.data.datasets import Dataset

STUDIES = {
    "cascade": "a global model put together from circuits",
    "ablation": "one circuit of the global model alone: does it know its class?",
    "dominator": "the class that the global model knows best, without the channels that only its circuit uses",
    "ensemble": "every class spoken for by its circuit; the largest own logit wins",
    "injection": "channels that several circuits share, overwritten with one client's own",
    "pairwise": "the same for two classes at a time, on the mean of their two clients",
    "centroids": "whether two classes' features collapse into one on the mean of their clients",
    "linear": "which of two classes has the larger weights on shared and on own channels",
    "patching": "a client's activations put into the global model: where was the signal lost?",
}
"""The values of `fedmi study NAME`, and what each asks. Their code is in the file of the same name."""


@dataclass(frozen=True)
class Findings:
    """What a study found."""

    name: str
    study: Study
    rows: Sequence[Row]
    missing: str = ""
    """What could not be computed, and how to get what it needs; empty: nothing."""

    @property
    def csv(self) -> str:
        """Every number in a line of its own (`tidy.as_csv`)."""
        return tidy.as_csv(self.name, self.rows)


def study(
    name: str,
    result: xr.Dataset,
    *,
    seeds: Sequence[int] | int | str = "all",
    rounds: Sequence[int] | int | str = "last",
    dataset: Dataset | None = None,
    nulls: int = 20,
    limit: int = 20,
    experts: Mapping[int, int | None] | None = None,
) -> Findings:
    """The study of this name on a result.

    Args: seeds, rounds: which; "all", "last"; dataset: the images, where the run was made of images of one's own;
    nulls: random sets for every number that has a null; limit: patching looks at so many channels; experts: class ->
    the client whose circuit stands for it (None: the client with the most images of it), by default every class that
    has a circuit. Without weights (`execution.save_weights`) only what circuits alone say is computed. Raises
    FedmiError, one line, for an unknown study, seed or round, for a class without a circuit, and where nothing can be
    computed.
    """
    if name not in STUDIES:
        raise ConfigError(f"study: {unknown(name, STUDIES)}")
    found: Study = import_module(f"fedmi_jax.studies.{name}").STUDY
    if found.every_user and experts is not None:
        raise FedmiError(f"experts: {name} asks every client that has a circuit; leave them out")
    options = Options(nulls, limit, experts)
    asked = Stored(result, chosen(result, "seed", seeds), chosen(result, "round", rounds), options)
    if found.one_global_model and asked.served_each:
        raise FedmiError(
            f"{name}: asks one model of all clients about all classes, and {asked.method} gave every client a model of "
            "its own; ask ablation, dominator, injection or patching, which ask each client's"
        )
    if found.by_pairs and not any(moment.pairs for moment in asked.moments):
        raise FedmiError(f"{name}: there is no pair of classes whose experts are different clients")
    if asked.has_weights:
        return Findings(name, found, _with_weights(found, asked, dataset))
    if found.masks is None:
        raise FedmiError(f"{name}: needs the models' weights, which the result does not have; {NO_WEIGHTS}")
    missing = f"{name}: only what circuits alone say; the rest needs the models' weights: {NO_WEIGHTS}"
    return Findings(name, found, found.masks(asked), missing)


def _with_weights(found: Study, asked: Stored, dataset: Dataset | None) -> list[Row]:
    require_weights(asked)
    if not found.needs_images:
        return found.weights(asked, None)
    from fedmi_jax.studies.bench import opened  # here: circuits alone need no device

    with opened(asked, dataset) as bench:
        return found.weights(asked, bench)

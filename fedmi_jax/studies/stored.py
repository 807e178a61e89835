"""What a study sees of a stored result: the seeds and rounds asked for, and the circuit of every class's expert.

Axes: S seeds, R rounds, K clients, C classes, O_l channels of convolution l. numpy only; nothing needs the weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from fedmi_jax.errors import ConfigError, FedmiError
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import conv_layers
from fedmi_jax.studies.chance import Channels

NO_WEIGHTS = (
    "keep the weights in a run with `fedmi run ... --execution.save-weights`; for a file of the authors give their "
    "folder of .pt files, as in `fedmi import FILE --weights FOLDER`"
)


@dataclass(frozen=True)
class Options:
    """What a study may be asked for besides its result."""

    nulls: int = 20
    """Random sets for every number that has a null. 0: none."""
    limit: int = 20
    """Patching: so many of the channels that most circuits use."""
    experts: Mapping[int, int | None] | None = None
    """Which classes, and whose circuit of each (None: see `Stored.expert`); None: every class that has a circuit."""

    def __post_init__(self) -> None:
        for name, least in (("nulls", 0), ("limit", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}: give at least {least}; got {getattr(self, name)}")
        if self.experts is not None and not self.experts:
            raise ConfigError("experts: give at least one class, or leave them out")


Case = tuple[int, int]
"""A moment's place among those asked for, and the class of an expert."""


@dataclass(frozen=True, eq=False)
class Moment:
    """One round of one seed."""

    seed: int
    round: int
    at: tuple[int, int]
    """Places on the seed and round axes of the result."""
    experts: Mapping[int, int]
    """Class -> client, in the order of the classes."""
    circuits: Mapping[int, Channels]
    """Class -> its expert's local circuit."""

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Of classes whose experts are different clients: of one client there is no average."""
        return [(a, b) for a, b in itertools.combinations(self.experts, 2) if self.experts[a] != self.experts[b]]


def others(circuits: Mapping[int, Channels], label: int) -> dict[str, np.ndarray]:
    """Channels that the circuit of any other class uses."""
    rest = [own for other, own in circuits.items() if other != label]
    return {k: np.any([np.zeros_like(own), *(one[k] for one in rest)], 0) for k, own in circuits[label].items()}


def usage(circuits: Iterable[Channels]) -> dict[str, np.ndarray]:
    """In how many of the circuits each channel is, (O_l,) a layer."""
    circuits = list(circuits)
    return {layer: np.sum([one[layer] for one in circuits], 0) for layer in circuits[0]}


def pair_name(pair: tuple[int, int]) -> str:
    return f"{pair[0]}-{pair[1]}"


@dataclass(frozen=True, eq=False)
class Stored:
    """A result, and what is asked of it."""

    ds: xr.Dataset
    seeds: Sequence[int]
    rounds: Sequence[int]
    options: Options

    @cached_property
    def layers(self) -> tuple[str, ...]:
        return conv_layers(self.ds)

    @cached_property
    def clients(self) -> list[int]:
        return self.ds["client"].values.tolist()

    @cached_property
    def classes(self) -> list[int]:
        """That any expert stands for, in any moment."""
        return sorted({label for moment in self.moments for label in moment.experts})

    @cached_property
    def there(self) -> np.ndarray:
        """bool (S, R, K, C): circuits of classes of which the client has images, as far as that is known."""
        found = held(self.ds)
        if "samples" in self.ds:
            known = self.ds["samples"].reindex(true_class=self.ds["class"].values)
            found = found & (known.rename(true_class="class") > 0)
        return found.transpose("seed", "round", "client", "class").values

    @cached_property
    def moments(self) -> list[Moment]:
        seeds, rounds = (self.ds[dim].values.tolist() for dim in ("seed", "round"))
        return [
            self._moment(seed, number, (seeds.index(seed), rounds.index(number)))
            for seed in self.seeds
            for number in self.rounds
        ]

    @cached_property
    def cases(self) -> list[Case]:
        """Every class of every moment."""
        return [(m, label) for m, moment in enumerate(self.moments) for label in moment.experts]

    def _moment(self, seed: int, number: int, at: tuple[int, int]) -> Moment:
        experts = self._experts(seed, number, at)
        labels, local = self.ds["class"].values.tolist(), self.masks("local")
        places = {label: (*at, self.clients.index(client), labels.index(label)) for label, client in experts.items()}
        circuits = {label: {layer: mask[place] for layer, mask in local.items()} for label, place in places.items()}
        return Moment(seed, number, at, experts, circuits)

    def masks(self, origin: str) -> dict[str, np.ndarray]:
        """Circuits of this origin, bool (S, R, K, C, O_l) a layer."""
        return self._masks[origin]

    @cached_property
    def _masks(self) -> dict[str, dict[str, np.ndarray]]:
        order = ("seed", "round", "client", "class")
        return {
            origin: {
                layer: self.ds[f"mask_{layer}"].sel(origin=origin).transpose(*order, ...).values.astype(bool)
                for layer in self.layers
            }
            for origin in ("local", "global")
        }

    def _experts(self, seed: int, number: int, at: tuple[int, int]) -> dict[int, int]:
        """Raises FedmiError where a class that is asked for has no circuit: an expert without one would be the whole
        model, and its numbers plausible."""
        labels, place = self.ds["class"].values.tolist(), f"seed {seed}, round {number}"
        there = {label: np.flatnonzero(self.there[(*at, slice(None), i)]) for i, label in enumerate(labels)}
        there = {label: [self.clients[k] for k in own] for label, own in there.items() if len(own)}
        wanted = self.options.experts
        if wanted is None:
            if not there:
                raise FedmiError(f"{place}: no client has a circuit")
            return {label: self._expert(seed, label, own) for label, own in there.items()}
        found = {}
        for label, client in sorted(wanted.items()):
            if label not in there:
                raise FedmiError(
                    f"experts: no client has a circuit of class {label} in {place}; there are circuits of classes "
                    f"{_listed(there)}"
                )
            if client is not None and client not in there[label]:
                raise FedmiError(
                    f"experts: client {client} has no circuit of class {label} in {place}; client "
                    f"{_listed(there[label])} has"
                )
            found[label] = self._expert(seed, label, there[label]) if client is None else client
        return found

    def _expert(self, seed: int, label: int, own: list[int]) -> int:
        """The client with the most images of the class; where that is not known, or where several have as many, the
        first of those that have a circuit of it."""
        if "samples" not in self.ds:
            return own[0]
        images = self.ds["samples"].sel(seed=seed, true_class=label)
        return max(own, key=lambda client: int(images.sel(client=client)))

    @property
    def has_weights(self) -> bool:
        return "weights_local_fc_bias" in self.ds

    @property
    def served_each(self) -> bool:
        """Whether the server gave every client a model of its own, which circuits of global origin are then of."""
        return "served_accuracy" in self.ds

    @property
    def method(self) -> str:
        """The federated method of the run."""
        return self.ds.attrs.get("method", "its method")

    def global_accuracy(self, moment: Moment, label: int) -> float:
        """What the result says of the class in the global model that its expert got; NaN where it does not."""
        name, at = "global_class_accuracy", {"true_class": label}
        if self.served_each:
            name, at = "served_class_accuracy", {"client": moment.experts[label], **at}
        if name not in self.ds or label not in self.ds["true_class"].values:
            return np.nan
        return float(self.ds[name].isel(seed=moment.at[0], round=moment.at[1]).sel(at))

    def of_circuit(self, name: str, moment: Moment, label: int) -> np.ndarray:
        """What the result says of the expert's local circuit: a number, or several; NaN where it does not."""
        if name not in self.ds:
            return np.array(np.nan)
        at: dict[str, Any] = {"origin": "local", "client": moment.experts[label], "class": label}
        return self.ds[name].isel(seed=moment.at[0], round=moment.at[1]).sel(at).values

    def samples(self) -> Iterator[int]:
        """The numbers of the random sets."""
        return iter(range(self.options.nulls))


def _listed(values: Any) -> str:
    return ", ".join(map(str, values))


def chosen(ds: xr.Dataset, dim: str, wanted: Sequence[int] | int | str) -> list[int]:
    """The seeds or rounds asked for: "all", "last", or these; one may be given as it is. Raises FedmiError for one that
    is not in the result."""
    there = ds[dim].values.tolist()
    if wanted == "all":
        return there
    if wanted == "last":
        return there[-1:]
    if isinstance(wanted, str):
        raise ConfigError(f'{dim}: give numbers, "all" or "last"; got {wanted!r}')
    asked: list[int] = np.atleast_1d(wanted).tolist()
    for label in asked:
        if label not in there:
            raise FedmiError(f"{dim}: {label} is not in the result, which holds {_ranges(there)}")
    if not asked:
        raise ConfigError(f"{dim}: give at least one, or all")
    return sorted({int(label) for label in asked})


def _ranges(numbers: list[int]) -> str:
    """As in "1 to 50" where they are without gaps."""
    if len(numbers) > 3 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{numbers[0]} to {numbers[-1]}"
    return _listed(numbers)


def require_weights(stored: Stored) -> None:
    """Raise FedmiError where the models of a moment are not there, or are not finite."""
    for moment in stored.moments:
        for k in np.flatnonzero(stored.there[moment.at].any(-1)):
            client = stored.clients[k]
            _require_finite(stored, moment, f"of client {client}", "local", client=client)
        _require_finite(stored, moment, "of the global model", "global")


def _require_finite(stored: Stored, moment: Moment, whose: str, origin: str, **at: int) -> None:
    """A model that is not there is NaN in all of its layers."""
    where, there = f"seed {moment.seed}, round {moment.round}", stored.ds.isel(seed=moment.at[0], round=moment.at[1])
    values = [
        (layer, there[f"weights_{origin}_{layer}_{part}"].sel(at).values)
        for layer in (*stored.layers, "fc") for part in ("kernel", "bias")
    ]  # fmt: skip
    if all(np.isnan(one).all() for _, one in values):
        raise FedmiError(f"{where}: the result has no weights {whose}; {NO_WEIGHTS}")
    for layer, one in values:
        if not np.isfinite(one).all():
            raise FedmiError(f"{where}: the weights {whose} are not finite ({layer})")

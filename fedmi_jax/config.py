"""What an experiment is: frozen, typed, validated dataclasses with a JSON round trip.

One dataclass per axis of the method, so that a sweep changes one field. They stand in `fedmi_jax.sections`,
`fedmi_jax.searches` and `fedmi_jax.methods`, and are all to be had here. Bounds stand in the types; what spans several
fields is checked in `Experiment`. Checks that need the data (number of classes, samples per client) are
made where the data is known (`fedmi_jax.data.partition`). Defaults are the authors' published code's; where the
paper differs, its way is an option (METHOD: sections 2 to 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from pydantic import TypeAdapter, ValidationError, model_validator

from fedmi_jax.errors import ConfigError
from fedmi_jax.methods import METHODS, UNWEIGHTED, Aggregation, FedProx, FedRS, section_of
from fedmi_jax.searches import (
    DEFAULTS_OF,
    AblationKind,
    Discovery,
    GateKind,
    ObjectiveKind,
    defaults_of,
    replace,
    with_objective,
)
from fedmi_jax.sections import (
    Checkpoint,
    Data,
    Evaluation,
    Execution,
    FilePath,
    Local,
    Model,
    SetName,
    Sparsity,
    Split,
    SplitKind,
)
from fedmi_jax.settings import Count, Seed, Share, explain, settings


@settings("")
class Experiment:
    """One federated experiment: everything that decides its numbers."""

    name: str = "custom"
    seeds: tuple[Seed, ...] = (0,)
    """Independent repetitions, run side by side."""
    rounds: Count = 10
    participation: Share = 1.0
    """Share of the clients that train in a round, drawn anew each round (McMahan et al. 2017: C)."""
    data: Data = field(default_factory=Data)
    split: Split = field(default_factory=Split)
    model: Model = field(default_factory=Model)
    local: Local = field(default_factory=Local)
    sparsity: Sparsity = field(default_factory=Sparsity)
    aggregation: Aggregation = field(default_factory=Aggregation)
    discovery: Discovery = field(default_factory=Discovery)
    evaluation: Evaluation = field(default_factory=Evaluation)
    execution: Execution = field(default_factory=Execution)

    @property
    def decides(self) -> bool:
        """Whether circuits are measured by how far they decide."""
        return self.evaluation.decisions or not self.discovery.as_published

    @property
    def thorough(self) -> bool:
        """Whether circuits that decide are looked at from all sides in the last round."""
        return self.evaluation.null_samples > 0 and not self.discovery.as_published

    @model_validator(mode="after")
    def _consistent(self) -> Experiment:
        for problem in _inconsistencies(self):
            raise ConfigError(problem)
        return self


def _inconsistencies(e: Experiment) -> list[str]:
    """Every rule that spans several fields and is broken, as one line each."""
    split, problems = e.split, []
    if not e.seeds or len(set(e.seeds)) != len(e.seeds):
        problems.append(f"seeds: give at least one, each once; got {list(e.seeds)}")
    if split.kind == "class-map":
        if len(split.class_map) != split.clients:
            problems.append(_other_number_of_clients(split))
        for client, classes in enumerate(split.class_map):
            if not classes or len(set(classes)) != len(classes):
                problems.append(f"split.class_map: client {client} needs at least one class, each once; got {classes}")
    elif split.class_map:
        problems.append(f'split.class_map: goes with split.kind "class-map" only; split.kind is "{split.kind}"')
    if not e.model.channels:
        problems.append("model.channels: give at least one number, the channels of the first convolution")
    if participants(e) < 1:
        problems.append(
            f"participation: {e.participation:g} of {split.clients} clients is none; give at least "
            f"{0.5 / split.clients:.2g}"
        )
    if e.sparsity.linear is not None and e.sparsity.scope == "global":
        problems.append('sparsity.linear: sparsity.scope "global" has one budget for all layers; give one of the two')
    problems += _method_problems(e)
    if e.discovery.classes is not None and len(set(e.discovery.classes)) != len(e.discovery.classes):
        problems.append(f"discovery.classes: each class once; got {list(e.discovery.classes)}")
    if e.evaluation.readout_images > sum(e.discovery.probe):
        problems.append(
            f"evaluation.readout_images: {e.evaluation.readout_images} of each class; discovery.probe has "
            f"{sum(e.discovery.probe)}"
        )
    return problems


def _method_problems(e: Experiment) -> list[str]:
    """Settings of a method that is not the chosen one, the same method asked for twice, and what a method cannot do."""
    kind, plain, problems = e.aggregation.kind, Aggregation(), []
    for name in METHODS:
        section = section_of(name)
        if name != kind and getattr(e.aggregation, section, None) != getattr(plain, section, None):
            problems.append(f'aggregation.{section}: only for aggregation.kind "{name}"; aggregation.kind is "{kind}"')
    if kind in ("fedprox", "fedrs") and getattr(e.local, kind) != getattr(Local(), kind):
        problems.append(f'local.{kind}: aggregation.kind "{kind}" does this already; give one of the two')
    if kind in UNWEIGHTED and e.aggregation.weighting != plain.weighting:
        problems.append(f'aggregation.weighting: aggregation.kind "{kind}" weighs every client alike')
    if kind == "owner-channels" and (few := min(e.model.channels, default=1)) < e.split.clients:
        problems.append(
            f"model.channels: owner-channels needs a channel for each of the {e.split.clients} clients; {few} are fewer"
        )
    if kind == "lg-fedavg" and e.aggregation.lg_fedavg.shared_layers > (layers := len(e.model.channels) + 1):
        problems.append(f"aggregation.lg_fedavg.shared_layers: the network has {layers} layers; give no more")
    return problems


def _other_number_of_clients(split: Split) -> str:
    if not split.class_map:
        return 'split.class_map: is empty; split.kind "class-map" needs the classes of every client, as in 0,1 2,3 4,5'
    return (
        f"split.class_map: lists the classes of {len(split.class_map)} clients, but split.clients is {split.clients}; "
        'give the same number in both, or choose another split.kind, as in "iid"'
    )


_OF_KIND = {
    "alpha": "dirichlet", "min_samples": "dirichlet", "classes_per_client": "classes-per-client",
    "shards_per_client": "shards", "own": "own",
}  # fmt: skip
"""The fields of `Split` that one kind of split reads."""


def refuse_unused(e: Experiment) -> None:
    """Raise ConfigError for a value that is not the default and that nothing would read.

    To be called where an experiment is made anew. A stored one may hold such values: they did no harm.
    """
    for problem in _unused(e):
        raise ConfigError(problem)


def _unused(e: Experiment) -> list[str]:
    split, problems = e.split, []
    for name, kind in _OF_KIND.items():
        if split.kind != kind and _changed(split, name):
            problems.append(f'split.{name}: does nothing with split.kind "{split.kind}", only with "{kind}"')
    if e.data.name == "mnist" and _changed(e.data, "data_dir"):
        problems.append("data.data_dir: does nothing with data.name mnist, whose images are part of this package")
    if e.data.file is not None and e.data.name != "mnist" and _changed(e.data, "data_dir"):
        problems.append("data.data_dir: does nothing with data.file, which says itself where the images are")
    d = e.discovery
    for name in ("negatives", "target"):
        if d.objective == "class" and _changed(d, name) and not (name == "negatives" and e.evaluation.decisions):
            problems.append(f'discovery.{name}: does nothing with discovery.objective "class"')
    if d.gates == "step" and _changed(d, "masks"):
        problems.append("discovery.masks: does nothing with step gates, which are not drawn")
    if d.as_published and not e.evaluation.readout_images and _changed(d, "probe"):
        problems.append('discovery.probe: does nothing with discovery.objective "class"')
    s = e.sparsity
    idle = () if s.target else ("scope", "floor") if s.linear else ("ramp", "scope", "floor", "linear")
    for name in idle:
        if _changed(s, name):
            problems.append(f"sparsity.{name}: does nothing with sparsity.target 0, which prunes no weight")
    return problems + _unused_by_method(e)


def _unused_by_method(e: Experiment) -> list[str]:
    s, matching, problems = e.sparsity, e.aggregation.matching, []
    linear, asked = ("target", s.target) if s.linear is None else ("linear", s.linear)
    if e.aggregation.fedbabu.pruned and not asked:
        problems.append(f"aggregation.fedbabu.pruned: does nothing with sparsity.{linear} 0")
    for name in ("biases",) if matching.of == "activations" else ("images_per_class", "images"):
        if _changed(matching, name):
            problems.append(f'aggregation.matching.{name}: does nothing with aggregation.matching.of "{matching.of}"')
    return problems


def _changed(section: Any, name: str) -> bool:
    """Whether the field has another value than its default."""
    return getattr(section, name) != getattr(type(section)(), name)


def participants(e: Experiment) -> int:
    """Clients that train in a round: the share of all, to the nearest."""
    return int(e.participation * e.split.clients + 0.5)


def differences(before: Experiment, now: Experiment) -> list[str]:
    """The fields in which they differ, as "local.epochs (5, now 6)"."""
    old, new = flat(to_dict(before)), flat(to_dict(now))
    return [f"{name} ({old[name]}, now {new[name]})" for name in old if old[name] != new[name]]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts as one, with names such as "local.epochs"."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


_EXPERIMENT = TypeAdapter(Experiment)


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain JSON values; `from_dict` is its inverse."""
    return _EXPERIMENT.dump_python(experiment, mode="json")


def from_dict(values: Any) -> Experiment:
    """The experiment these values describe. Raises ConfigError naming the first field that is wrong."""
    try:
        return _EXPERIMENT.validate_python(values)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def to_json(experiment: Experiment) -> str:
    """The experiment as JSON text; `from_json` is its inverse."""
    return _EXPERIMENT.dump_json(experiment, indent=2).decode()


def from_json(text: str | bytes) -> Experiment:
    """The experiment this JSON text describes. Raises ConfigError naming the first field that is wrong."""
    try:
        return _EXPERIMENT.validate_json(text)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


__all__ = [
    "DEFAULTS_OF", "METHODS", "AblationKind", "Aggregation", "Checkpoint", "Data", "Discovery", "Evaluation",
    "Execution", "Experiment", "FedProx", "FedRS", "FilePath", "GateKind", "Local", "Model", "ObjectiveKind",
    "SetName", "Sparsity", "Split", "SplitKind", "defaults_of", "differences", "flat", "from_dict", "from_json",
    "participants", "refuse_unused", "replace", "to_dict", "to_json", "with_objective",
]  # fmt: skip

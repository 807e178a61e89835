"""What an experiment is: frozen, typed, validated dataclasses with a JSON round trip.

One dataclass per axis of the method, so that a sweep changes one field. Bounds stand in the types; what spans
several fields is checked in `Experiment`. Checks that need the data (number of classes, samples per client) are
made where the data is known (`fedmi_jax.data.partition`). Defaults are the authors' published code's; where the
paper differs, its way is an option (METHOD: sections 2 to 6).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import field, fields, replace
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from fedmi_jax.errors import ConfigError, did_you_mean

T = TypeVar("T", bound=type)


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
LARGEST = 2**31 - 1
"""Of a whole number, unless something else is said: what an index on a device can be."""
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Index = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A result keeps its seeds as 64-bit integers, and all of their bits make the random draws."""
Width = Annotated[int, Field(ge=1, le=2**20)]


def _set_name(name: str) -> str:
    """Of an image set, as it is spelt: small letters but for what follows a slash, the name of its configuration."""
    base, slash, config = name.partition("/")
    return base.lower() + slash + config


SetName = Annotated[str, AfterValidator(_set_name)]


def explain(error: ValidationError, section: str = "") -> str:
    """The first problem of a pydantic error in one line that starts with the field's path."""
    problems = [(_path(section, problem["loc"]), problem) for problem in error.errors()]
    path, first = problems[0]
    if first["type"] == "unexpected_keyword_argument":
        above, _, name = path.rpartition(".")
        known = _FIELDS.get(above, ())
        return f"{path}: unexpected field; there are {', '.join(known)}{did_you_mean(name, known)}"
    wanted = " or ".join(problem["msg"].lower() for where, problem in problems if where == path)
    shown = repr(first.get("input"))
    return f"{path}: {wanted}; got {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _path(section: str, loc: tuple[int | str, ...]) -> str:
    """Without what pydantic adds to say which kind of a value was tried."""
    names = [str(part) for part in loc if not str(part).startswith(("literal[", "constrained-"))]
    return ".".join([section, *names]).strip(".")


_FIELDS: dict[str, list[str]] = {}
"""The names of every section's fields."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings(section: str) -> Callable[[T], T]:
    """A frozen dataclass whose values are checked, and whose errors are ConfigErrors that name `section`."""

    def decorate(cls: T) -> T:
        strict = ConfigDict(extra="forbid", allow_inf_nan=False)
        made = pydantic.dataclasses.dataclass(frozen=True, config=strict)(cls)
        construct = made.__init__
        _FIELDS[section] = [one.name for one in fields(made)]

        @functools.wraps(construct)
        def construct_or_explain(self: Any, *args: Any, **values: Any) -> None:
            try:
                construct(self, *args, **values)
            except ValidationError as error:
                raise ConfigError(explain(error, section)) from None

        made.__init__ = construct_or_explain
        return made  # type: ignore[return-value]

    return decorate


@settings("data")
class Data:
    """Which images, and how many of them."""

    name: SetName = "mnist"
    """"mnist" (embedded), or the name of an image-classification set of tensorflow-datasets; MNIST is mnist."""
    data_dir: str | None = None
    """Folder of prepared tensorflow-datasets; None: their default. Unused by embedded MNIST."""
    images_per_client: Count | None = None
    """Keep at most this many training images of each client, drawn with the seed. None: all."""


SplitKind = Literal["iid", "class-map", "dirichlet", "classes-per-client", "shards"]


@settings("split")
class Split:
    """Who holds which training images."""

    kind: SplitKind = "iid"
    """"iid": shuffled equal shares. "class-map": all images of the listed classes. "dirichlet": per class, shares
    drawn from Dir(alpha). "classes-per-client": k classes each, their images shared out. "shards": sorted by label,
    cut, dealt (McMahan et al. 2017)."""
    clients: Count = 5
    """Number of clients. A class map says it itself and must agree."""
    class_map: tuple[tuple[Index, ...], ...] = ()
    """For "class-map": each client's classes; a class may be held, in full, by several clients."""
    alpha: Positive = 0.5
    """For "dirichlet": concentration; small is skewed."""
    min_samples: Count = 10
    """For "dirichlet": redraw until every client holds at least this many."""
    classes_per_client: Count = 2
    """For "classes-per-client"."""
    shards_per_client: Count = 2
    """For "shards"."""


@settings("model")
class Model:
    """The network (section 2.1 of the paper): 3x3 convolutions, each with ReLU and a 2x2 max-pool, then a linear layer.

    A circuit consists of channels of these convolutions.
    """

    channels: tuple[Width, ...] = (32, 64, 128)
    """Output channels of each convolution, first to last: as many numbers as there are convolutions. Every pool halves
    the image, so N convolutions need images of at least 2^N x 2^N pixels. Default: the paper's network."""


@settings("local")
class Local:
    """Local training of one client in one round."""

    epochs: Count = 5
    batch_size: Count = 256
    learning_rate: Positive = 1e-3
    """Of Adam (b1 0.9, b2 0.999, eps 1e-8), fresh every round."""
    fedprox: NonNegative = 0.0
    """FedProx's term in the loss of any method (Li et al. 2020): weight mu of mu/2 |w - w_start|^2. 0: off."""
    fedrs: Fraction = 1.0
    """FedRS's logits in the loss of any method (Li & Zhan 2021): times alpha + (1 - alpha) * count_c / max count.
    1: off; the authors use 0.4."""


@settings("sparsity")
class Sparsity:
    """Magnitude pruning after every optimiser step."""

    target: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Share of weights set to zero. 0: dense training, nothing is pruned."""
    ramp: bool = True
    """Rise from 0 to the target over the first half of the client's own local steps, every round."""
    scope: Literal["layer", "global"] = "layer"
    """"layer": each weight tensor on its own (authors' code). "global": one budget for all weights (paper, eq. 1)."""
    floor: Index = 4
    """A convolution filter left with fewer weights keeps its own `floor` largest instead. 0: off."""


METHODS = {
    "fedavg": "the mean of the clients' models",
    "fedprox": "FedAvg; every client is held near the model that it started from",
    "fedrs": "FedAvg; every client holds back on the classes that it has few images of",
}
"""The values of `aggregation.kind`, and what each does. Their code is in `fedmi_jax.aggregation`, which needs JAX."""


@settings("aggregation.fedprox")
class FedProx:
    """FedProx (Li et al. 2020)."""

    mu: NonNegative = 0.01
    """Weight of mu/2 |w - w_start|^2 in a client's loss. 0: FedAvg."""


@settings("aggregation.fedrs")
class FedRS:
    """FedRS (Li & Zhan 2021)."""

    alpha: Fraction = 0.4
    """A client's logits are taken times alpha + (1 - alpha) * count_c / max count. 1: FedAvg; the authors use 0.4."""


@settings("aggregation")
class Aggregation:
    """Which federated method: what the server does with the clients' models, and what it changes in their training."""

    kind: Literal["fedavg", "fedprox", "fedrs"] = "fedavg"
    """`fedmi list` says what each of them does."""
    weighting: Literal["uniform", "samples"] = "uniform"
    """"uniform" (authors' code), or by each client's number of samples (McMahan et al. 2017)."""
    fedprox: FedProx = field(default_factory=FedProx)
    fedrs: FedRS = field(default_factory=FedRS)


@settings("discovery")
class Discovery:
    """Search for the channels that suffice for a class."""

    classes: tuple[Index, ...] | None = None
    """Classes analysed on every client. None: each client's own classes."""
    steps: Count = 200
    learning_rate: Positive = 0.1
    """Of Adam on the scores."""
    l0: NonNegative = 0.01
    """Weight of the sum of sigmoid(score)."""
    initial_score: float = 2.0
    batch_size: Count = 256
    """Size of the client's shuffled batch of which the images of the class are used: each step sees about
    batch_size * (share of the class in the client's data) images of the class."""
    ablation: Literal["zero", "mean"] = "zero"
    """What replaces a closed channel: 0, or its mean output over the client's data."""
    repeat: Literal["never", "last", "always"] = "never"
    """Control: find every circuit a second time on the same weights, from other random batches; "last": in the last
    round only. A round in which this is done searches for twice as many circuits, its most expensive stage."""


@settings("evaluation")
class Evaluation:
    """Measures on the test set."""

    images_per_class: Count | None = None
    """Use only the first this many test images of each class. None: all."""
    batch_size: Index = 0
    """Images per forward pass; bounds memory, changes no result. 0: chosen for the device."""
    null_samples: Index = 0
    """Control: random masks per circuit, with as many channels in each layer, that are measured like it. 0: none."""


@settings("execution")
class Execution:
    """How the work is laid out. Changes speed and memory; single-precision results agree except where rounding moves a
    weight across a pruning threshold."""

    client_chunk: Literal["auto"] | Count = "auto"
    """Clients, or circuits, side by side on one device; 1: one after the other in one compiled loop. "auto": 1 on a
    CPU, whose caches like it better; elsewhere as many as the memory that the device reports free can hold."""
    devices: Count | None = None
    """How many of JAX's devices to use; on a CPU these are its cores. None: all."""
    shard: Literal["auto", "clients", "batch"] = "auto"
    """What the devices share out in training: whole clients, or the images of every batch. "auto": the batch where few
    clients meet the cores of one CPU, clients elsewhere."""
    micro_batch: Index = 0
    """Images per gradient accumulation step; 0: chosen for the device."""
    precision: Literal["float32", "float64"] = "float32"
    save_weights: bool = False
    """Keep every model's weights of every round in the result."""


@settings("checkpoint")
class Checkpoint:
    """What a run in a folder keeps to go on from. No part of an experiment: it changes no number."""

    every: Count = 1
    """Rounds from one checkpoint to the next; what comes after the last one is lost with the process."""
    keep: Count = 2
    """Checkpoints kept: should the last one be damaged, the one before it is whole."""
    after_the_end: bool = False
    """Keep the last ones when the run is finished, so that `fedmi resume DIR --rounds N` can add rounds."""


@settings("")
class Experiment:
    """One federated experiment: everything that decides its numbers."""

    name: str = "custom"
    seeds: tuple[Seed, ...] = (0,)
    """Independent repetitions, run side by side."""
    rounds: Count = 10
    participation: Annotated[float, Field(gt=0, le=1)] = 1.0
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
    problems += _method_problems(e.aggregation, e.local)
    if e.discovery.classes is not None and len(set(e.discovery.classes)) != len(e.discovery.classes):
        problems.append(f"discovery.classes: each class once; got {list(e.discovery.classes)}")
    return problems


def _method_problems(aggregation: Aggregation, local: Local) -> list[str]:
    """Settings of a method that is not the chosen one, and the same method asked for twice."""
    kind, plain, problems = aggregation.kind, Aggregation(), []
    for name in METHODS:
        if name != kind and getattr(aggregation, name, None) != getattr(plain, name, None):
            problems.append(f'aggregation.{name}: only for aggregation.kind "{name}"; aggregation.kind is "{kind}"')
    if kind in ("fedprox", "fedrs") and getattr(local, kind) != getattr(Local(), kind):
        problems.append(f'local.{kind}: aggregation.kind "{kind}" does this already; give one of the two')
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
    "shards_per_client": "shards",
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
    for name in ("ramp", "scope", "floor"):
        if e.sparsity.target == 0 and _changed(e.sparsity, name):
            problems.append(f"sparsity.{name}: does nothing with sparsity.target 0, which prunes no weight")
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
    "METHODS", "Aggregation", "Checkpoint", "Data", "Discovery", "Evaluation", "Execution", "Experiment", "FedProx",
    "FedRS", "Local", "Model", "Sparsity", "Split", "differences", "flat", "from_dict", "from_json", "participants",
    "refuse_unused", "replace", "to_dict", "to_json",
]  # fmt: skip

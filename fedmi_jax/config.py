"""What an experiment is: frozen, typed, validated dataclasses with a JSON round trip.

One dataclass per axis of the method, so that a sweep changes one field. Bounds stand in the types; what spans
several fields is checked in `Experiment`. Checks that need the data (number of classes, samples per client) are
made where the data is known (`fedmi_jax.data.partition`). Defaults are the authors' published code's; where the
paper differs, its way is an option (METHOD: sections 2 to 6).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field, fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import ArgsKwargs

from fedmi_jax.errors import ConfigError
from fedmi_jax.files import user_path
from fedmi_jax.methods import METHODS, UNWEIGHTED, Aggregation, FedProx, FedRS, section_of
from fedmi_jax.settings import Count, Fraction, Index, NonNegative, Positive, Seed, Share, Width, explain, settings


def _set_name(name: str) -> str:
    """Of an image set, as it is spelt: small letters but for what follows a slash, the name of its configuration."""
    base, slash, config = name.partition("/")
    return base.lower() + slash + config


SetName = Annotated[str, AfterValidator(_set_name)]


def _absolute(path: str) -> str:
    """So that it means the same wherever the run is resumed from."""
    if not path:
        raise ValueError("should name a file or a folder")
    return str(user_path(path).absolute())


FilePath = Annotated[str, AfterValidator(_absolute)]

T = TypeVar("T")


@settings("data")
class Data:
    """Which images, and how many of them."""

    name: SetName = "mnist"
    """"mnist" (embedded), or the name of an image-classification set of tensorflow-datasets; MNIST is mnist."""
    data_dir: str | None = None
    """Folder of prepared tensorflow-datasets; None: their default. Unused by embedded MNIST."""
    file: FilePath | None = None
    """File or folder of images of one's own, in place of those that `name` names (docs/own-data.md); `name`, unless it
    is mnist, is then what the set is called. Kept as an absolute path."""
    images_per_client: Count | None = None
    """Keep at most this many training images of each client, drawn with the seed. None: all."""


SplitKind = Literal["iid", "class-map", "dirichlet", "classes-per-client", "shards", "own"]


@settings("split")
class Split:
    """Who holds which training images."""

    kind: SplitKind = "iid"
    """"iid": shuffled equal shares. "class-map": all images of the listed classes. "dirichlet": per class, shares
    drawn from Dir(alpha). "classes-per-client": k classes each, their images shared out. "shards": sorted by label,
    cut, dealt (McMahan et al. 2017). "own": given from Python, as in fedmi_jax.run(experiment, split=...)."""
    clients: Count = 5
    """Number of clients. On the command line a class map says it itself; else it must agree."""
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
    own: str = ""
    """For "own": the name and the SHA-256 of the split, written when it is given."""


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


ObjectiveKind = Literal["class", "decision", "contrast"]
GateKind = Literal["step", "bernoulli"]
AblationKind = Literal["zero", "mean", "mean-map"]


@settings("discovery")
class Discovery:
    """Search for the channels that suffice for a class.

    Two instruments: the paper's (objective "class"), whose circuits answer the class to images of the class; and one
    whose circuits decide between the class and others (objective "decision" or "contrast"). Fields that are not given
    take the defaults of the objective and of its gates (`DEFAULTS_OF`).
    """

    objective: ObjectiveKind = "class"
    """"class" (the paper's): right on images of the class. "decision": the model's own answers, the class or not, on
    images of all classes. "contrast": the right answers to the same question."""
    gates: GateKind = "step"
    """"step": open where the score is positive. "bernoulli": open with probability sigmoid(score), drawn anew for every
    share of a batch. Default: step for "class", bernoulli otherwise."""
    classes: tuple[Index, ...] | None = None
    """Classes analysed on every client. None: each client's own classes."""
    steps: Count = 200
    learning_rate: Positive = 0.1
    """Of Adam on the scores."""
    l0: NonNegative = 0.01
    """Weight of the sum of sigmoid(score). With "decision" and "contrast" the share of the decision that a channel must
    explain. Default with bernoulli gates: 0.005."""
    initial_score: float = 2.0
    batch_size: Count = 256
    """"class": size of the client's shuffled batch of which the images of the class are used: each step sees about
    batch_size * (share of the class in the client's data) images of the class. Otherwise: images of a step, half of
    them of the class; default 128."""
    ablation: AblationKind = "zero"
    """What replaces a closed channel: 0; its mean output over the client's data; or its mean output at every position
    over the probe images. Default: zero for "class", mean-map otherwise."""
    repeat: Literal["never", "last", "always"] = "never"
    """Control: find every circuit a second time on the same weights, from other random batches; "last": in the last
    round only. A round in which this is done searches for twice as many circuits, its most expensive stage."""
    negatives: Literal["probe", "own"] = "probe"
    """For "decision" and "contrast", the classes that a class is told from: "probe", all of them, the same question for
    every client; "own", the client's own, the question that it was trained on."""
    masks: Count = 8
    """For bernoulli gates: samples of all gates in a step, an even number."""
    target: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """For "decision" and "contrast": the circuit is the smallest one that explains this share of the decision."""
    probe: tuple[Count, Count] = (500, 200)
    """For "decision", "contrast" and mean-map: training images of every class, drawn once per seed, on which circuits
    are searched, and on which their size is chosen. They are the analyst's and take no part in training."""

    @property
    def as_published(self) -> bool:
        """Whether this is the paper's search, which needs no images but the client's own."""
        return self.objective == "class" and self.gates == "step" and self.ablation != "mean-map"

    @model_validator(mode="before")
    @classmethod
    def _of_objective(cls, given: Any) -> Any:
        """Fields that are not given, with the defaults of the objective and of its gates."""
        values = dict(given.kwargs or {}) if isinstance(given, ArgsKwargs) else given
        return {**defaults_of(values), **values} if isinstance(values, dict) else given

    @model_validator(mode="after")
    def _consistent(self) -> Discovery:
        for problem in _search_problems(self):
            raise ConfigError(problem)
        return self


_ASKING = {"gates": "bernoulli", "ablation": "mean-map", "batch_size": 128}
DEFAULTS_OF = {
    "objective": {"decision": _ASKING, "contrast": _ASKING},
    "gates": {"bernoulli": {"l0": 0.005}},
}
"""What other defaults a value of a field of `Discovery` gives other fields."""


def defaults_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those that these values of `Discovery` bring with them."""
    found: dict[str, Any] = {}
    for name, rows in DEFAULTS_OF.items():
        value = {**found, **values}.get(name)
        found |= rows.get(value, {}) if isinstance(value, str) else {}  # what is no text is refused later
    return found


def with_objective(settings: Discovery, **changes: Any) -> Discovery:
    """`settings` with these changes; what was a default of the old objective or gates becomes one of the new.

    Another objective comes with its own gates, unless `changes` name some. Where what was chosen before does not go
    with it, the ablation, the probe and the batches are those of its defaults, too.
    """
    values = {one.name: getattr(settings, one.name) for one in fields(settings)}  # type: ignore[arg-type]
    plain = Discovery(objective=settings.objective, gates=settings.gates)
    chosen = {name: value for name, value in values.items() if value != getattr(plain, name)}
    same = changes.get("objective", settings.objective) == settings.objective
    kept = {"objective": settings.objective, **({"gates": settings.gates} if same else {})}
    try:
        return Discovery(**{**chosen, **kept, **changes})
    except ConfigError:
        others = {name: value for name, value in chosen.items() if name not in _TOGETHER}
        return Discovery(**{**others, **kept, **changes})


_TOGETHER = ("ablation", "batch_size", "masks", "probe")
"""Fields with values that do not go with every objective and every other's value."""


def replace(section: T, **changes: Any) -> T:
    """`dataclasses.replace`, but another objective, or other gates, of a `Discovery` bring their own defaults with them
    (`with_objective`)."""
    if isinstance(section, Discovery) and {"objective", "gates"} & set(changes):
        return with_objective(section, **changes)  # type: ignore[return-value]
    return dataclasses.replace(section, **changes)  # type: ignore[type-var]


@settings("evaluation")
class Evaluation:
    """Measures on the test set."""

    images_per_class: Count | None = None
    """Use only the first this many test images of each class. None: all."""
    batch_size: Index = 0
    """Images per forward pass; bounds memory, changes no result. 0: chosen for the device."""
    null_samples: Index = 0
    """Control: random masks per circuit, with as many channels in each layer, that are measured like it. 0: none."""
    decisions: bool = False
    """Also of circuits of discovery.objective "class": how far they decide between their class and others. Those of the
    other objectives are always measured so."""
    readout_images: Index = 0
    """Control: accuracy of every model with its read-out refitted on this many of the probe images of each class.
    0: none."""


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
    matmul: Literal["float32", "tf32"] = "float32"
    """How a GPU multiplies float32 in the network's products. "tf32": with factors rounded to 10 bits, which its tensor
    cores do several times faster. The average and the pruning thresholds are in full precision either way; a CPU has no
    such products."""
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
    problems += _method_problems(e)
    if e.discovery.classes is not None and len(set(e.discovery.classes)) != len(e.discovery.classes):
        problems.append(f"discovery.classes: each class once; got {list(e.discovery.classes)}")
    if e.evaluation.readout_images > sum(e.discovery.probe):
        problems.append(
            f"evaluation.readout_images: {e.evaluation.readout_images} of each class; discovery.probe has "
            f"{sum(e.discovery.probe)}"
        )
    return problems


def _search_problems(d: Discovery) -> list[str]:
    """What of a search does not go together."""
    problems, asks = [], d.objective != "class"
    if asks and d.ablation == "mean":
        problems.append(
            f'discovery.ablation: "mean" is of the client\'s own images, which argue for its classes; objective '
            f'"{d.objective}" goes with "mean-map" or "zero"'
        )
    if d.gates == "bernoulli" and d.ablation == "mean":
        problems.append('discovery.ablation: bernoulli gates go with "mean-map" or "zero"; got "mean"')
    if d.gates == "bernoulli" and d.masks % 2:
        problems.append(f"discovery.masks: an even number, half of the samples mirror the others; got {d.masks}")
    if asks and d.batch_size % 2:
        problems.append(f"discovery.batch_size: an even number, half of it is of the class; got {d.batch_size}")
    if d.gates == "bernoulli" and asks and d.batch_size % (2 * d.masks):
        problems.append(
            f"discovery.batch_size: a multiple of twice discovery.masks, {2 * d.masks}, so that every sample of the "
            f"gates sees the class and others; got {d.batch_size}"
        )
    if not asks and d.gates == "bernoulli" and d.batch_size > d.probe[0]:
        problems.append(
            f"discovery.probe: a batch of {d.batch_size} images is of one class; the probe has {d.probe[0]} of each to "
            "search on"
        )
    if asks and d.batch_size // 2 > d.probe[0]:
        problems.append(
            f"discovery.probe: half a batch, {d.batch_size // 2} images, are of one class; the probe has {d.probe[0]} "
            "of each to search on"
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
    "DEFAULTS_OF", "METHODS", "Aggregation", "Checkpoint", "Data", "Discovery", "Evaluation", "Execution",
    "Experiment", "FedProx", "FedRS", "Local", "Model", "Sparsity", "Split", "differences", "flat", "from_dict",
    "from_json", "participants", "refuse_unused", "replace", "to_dict", "to_json", "with_objective",
]  # fmt: skip

"""The settings of the search for circuits, of which there are two: each objective and kind of gates has its defaults.

What is not given takes the default that goes with what is given (`DEFAULTS_OF`), so that a change of the objective is
one word. The searches themselves are in `fedmi_jax.circuits`, which needs JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator
from pydantic_core import ArgsKwargs

from fedmi_jax.errors import ConfigError
from fedmi_jax.settings import Count, Index, NonNegative, Positive, settings

T = TypeVar("T")

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

    @property
    def doubt(self) -> str:
        """Why these settings, which are allowed, will come to nothing; empty: they need not."""
        if self.objective != "decision" or self.gates != "step":
            return ""
        return (
            "discovery.gates: step gates empty nearly every circuit of objective decision, whose loss has no gradient "
            "while all channels are open; bernoulli gates find circuits"
        )

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

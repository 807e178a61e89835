"""Which methods are compared, with which settings, and where. All of it was fixed before the runs; nothing was tuned.

Settings are the defaults of the methods, whose sources docs/methods.md names. A few have one alternative, named here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from experiments import pieces
from fedmi_jax.config import Experiment, Sparsity, Split, replace
from fedmi_jax.errors import ConfigError, unknown
from fedmi_jax.methods import Aggregation, FedAdam, FedBABU, FedProx, Matching, OwnerChannels
from fedmi_jax.presets import preset

BASE = "fedavg"
"""What every other method is compared with, seed by seed."""
ONE, SERVED, CONTROL = "one model for all", "a model for each client", "ceilings and controls"
HELD, OWN, AMONG = "held accuracy", "own accuracy", "among held"
"""Measures of accuracy: of one model for all, among ten answers; of the model that a client gets, on its own classes;
of what knows held classes only."""
READOUT_IMAGES = 10
"""Probe images of each class on which every model's read-out is refitted; as many as `calibration` sees."""
NULLS = 2
"""Random masks of each circuit, of the paper's instrument."""


Layers = Literal["all", "convolutions", "linear"]


@dataclass(frozen=True)
class Method:
    """One row."""

    aggregation: Aggregation
    block: str = ONE
    sends: str = "models"
    """What goes to the server in a round, and what is remembered."""
    clients: int = 1
    """It needs so many; left out where there are fewer."""
    pruned: Layers = "all"
    """Layers that clients prune."""
    accuracy: str = HELD
    """The measure that it is judged by."""
    micro_batch: int = 0
    """Images of a batch whose gradients are summed first; 0: as a device likes it. It changes nothing but rounding."""


def _row(kind: str, block: str = ONE, sends: str = "models", clients: int = 1, pruned: Layers = "all",
         micro_batch: int = 0, **settings: object) -> Method:  # fmt: skip
    accuracy = OWN if block == SERVED or kind == "alone" else HELD
    aggregation = Aggregation(kind=kind, **settings)  # type: ignore[arg-type]
    return Method(aggregation, block, sends, clients, pruned, accuracy, micro_batch)


_CLASSES, _CIRCUITS = "models, who holds which class", "models, classes held, circuits"
METHODS: dict[str, Method] = {
    "fedavg": _row("fedavg"),
    "support-mean": _row("support-mean"),
    "head-by-holders": _row("head-by-holders", sends=_CLASSES),
    "support-and-holders": _row("support-and-holders", sends=_CLASSES),
    "owner-channels": _row("owner-channels", sends=_CLASSES),
    "ties": _row("ties"),
    "circuit-mean": _row("circuit-mean", sends=_CIRCUITS),
    "matching": _row("matching"),
    "fedrs": _row("fedrs"),
    "fedbabu": _row("fedbabu"),
    "median": _row("median", CONTROL),
    "pooled": _row("pooled", CONTROL, "all images"),
    "alone": _row("alone", CONTROL, "nothing"),
    "owner-channels-hard": _row("owner-channels", SERVED, owner_channels=OwnerChannels(form="hard")),
    "calibration": _row("calibration", sends="models, once 10 images a class"),
    "fedavgm": _row("fedavgm", sends="models; server: 1 model"),
    "fedadam": _row("fedadam", sends="models; server: 2 models"),
    "fedprox": _row("fedprox"),
    "orthogonality": _row("orthogonality", sends="models, circuits; server: use of channels"),
    "fedlc": _row("fedlc"),
    "fedper": _row("fedper", SERVED, "models without the linear layer"),
    "lg-fedavg": _row("lg-fedavg", SERVED, "the linear layer"),
    "fedyogi": _row("fedyogi", sends="models; server: 2 models"),
    "trimmed-mean": _row("trimmed-mean", CONTROL, clients=5),
    "matching-without-biases": _row("matching", matching=Matching(biases=False)),
    "matching-of-activations": _row(
        "matching", sends="models, once 10 images a class", matching=Matching(of="activations")
    ),
    "fedprox-0.1": _row("fedprox", fedprox=FedProx(mu=0.1)),
    "fedadam-unmasked": _row("fedadam", sends="models; server: 2 models", fedadam=FedAdam(masked=False)),
    "fedbabu-pruned": _row("fedbabu", CONTROL, fedbabu=FedBABU(pruned=True)),
    "fedavg-unpruned-linear": _row("fedavg", CONTROL, pruned="convolutions"),
    "fedavg-pruned-linear": _row("fedavg", CONTROL, pruned="linear"),
    "fedavg-other-rounding": _row("fedavg", CONTROL, micro_batch=64),
}
"""In the order in which they are run. The ten that the question is about come first. The three before the last one are
about what `fedbabu` does at once: its linear layer is not trained, and it is not pruned. The last one is the null of
every difference: FedAvg of the same seeds, whose sums are added in another order."""
ONE_SHOT: dict[str, Method] = {
    "cascade": _row("fedavg", CONTROL, "after FedAvg: circuits, once"),
    "ensemble": replace(_row("fedavg", CONTROL, "after FedAvg: circuits, once"), accuracy=AMONG),
}
"""Rows that are made from FedAvg's last round, without a run of their own (`experiments.methods.one_shot`)."""
TABLE = METHODS | ONE_SHOT
"""All rows."""

DIRICHLET = "dirichlet-0.1"
SCENARIOS = ("two-class", DIRICHLET, "three-class", "iid")
MAIN = SCENARIOS[:2]
"""In which every method is run; in the others FedAvg and the best of these two."""
BEST = 6


def base(scenario: str) -> Experiment:
    """The experiment that all methods share. Raises ConfigError for a scenario that there is not."""
    if scenario not in SCENARIOS:
        raise ConfigError(f"scenarios: {unknown(scenario, SCENARIOS)}")
    drawn = scenario == DIRICHLET
    (found,) = preset("iid" if drawn else scenario).experiments
    split = Split(kind="dirichlet", clients=5, alpha=0.1) if drawn else found.split
    return for_both_instruments(replace(found, split=split))


def for_both_instruments(experiment: Experiment) -> Experiment:
    """With what the second instrument needs, the nulls of the first, and every model's read-out refitted."""
    return replace(
        experiment,
        discovery=replace(experiment.discovery, negatives="own", repeat="last"),
        evaluation=replace(experiment.evaluation, decisions=True, readout_images=READOUT_IMAGES, null_samples=NULLS),
        execution=replace(experiment.execution, save_weights=True),
    )


def experiment(common: Experiment, name: str) -> Experiment:
    """This row's, which has the row's name."""
    row = METHODS[name]
    sparsity, execution = _sparsity(common.sparsity, row.pruned), common.execution
    execution = replace(execution, micro_batch=row.micro_batch or execution.micro_batch)
    return replace(common, name=name, aggregation=row.aggregation, sparsity=sparsity, execution=execution)


def _sparsity(common: Sparsity, pruned: Layers) -> Sparsity:
    """The same for these layers, and none for the others."""
    if pruned == "convolutions":
        return replace(common, linear=0.0)
    return common if pruned == "all" else replace(common, target=0.0, linear=common.target)


def wanted(only: tuple[str, ...], common: Experiment) -> list[str]:
    """The rows to run with these clients, FedAvg first; `only`: some of them, or all. Raises ConfigError for a name
    that there is not."""
    made = [name for name in only if name in ONE_SHOT]
    if made:
        raise ConfigError(f"only: {made[0]} has no run of its own, it is made of {BASE}'s; give --only {BASE}")
    pieces.refuse_unknown(only, METHODS)
    return [name for name, row in METHODS.items() if _runs(name, row, only, common.split.clients)]


def _runs(name: str, row: Method, only: tuple[str, ...], clients: int) -> bool:
    return row.clients <= clients and (not only or name in only or name == BASE)

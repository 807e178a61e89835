"""The federated methods by name, and the settings of each. Their code is in `fedmi_jax.aggregation`, which needs JAX.

Defaults are those of the method's authors, or from where docs/methods.md says; none was tuned.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from fedmi_jax.settings import Count, Fraction, NonNegative, Positive, Share, settings

METHODS = {
    "fedavg": "the mean of the clients' models",
    "fedprox": "FedAvg; every client is held near the model that it started from",
    "fedrs": "FedAvg; every client holds back on the classes that it has few images of",
    "fedlc": "FedAvg; every client calibrates its logits by how many images of a class it has",
    "fedbabu": "FedAvg of the convolutions; the linear layer keeps its initial values",
    "fedper": "FedAvg of the convolutions; every client has a linear layer of its own",
    "lg-fedavg": "FedAvg of the last layers; every client has the layers before them of its own",
    "owner-channels": "every channel has one client that writes it",
    "orthogonality": "FedAvg; every client pays for channels that the circuits of others use",
    "support-mean": "every weight is the mean of the clients that did not prune it",
    "head-by-holders": "FedAvg; the linear layer's row of a class comes from the clients that hold the class",
    "support-and-holders": "support-mean for the convolutions, head-by-holders for the linear layer",
    "ties": "the sign of every weight is elected, and the clients that agree are averaged (TIES)",
    "circuit-mean": "every channel is the mean of the clients whose circuits use it; rows come from holders",
    "matching": "FedAvg; every client's channels are first put in the order of the global model's (Git Re-Basin)",
    "calibration": "FedAvg; the server refits the linear layer on a few images",
    "median": "the median of the clients' models, weight by weight",
    "trimmed-mean": "the mean of the clients' models without the largest and smallest values of every weight",
    "fedavgm": "FedAvg; the server moves with momentum",
    "fedadam": "FedAvg; the server moves by Adam",
    "fedyogi": "FedAvg; the server moves by Yogi",
    "pooled": "ceiling: one model is trained on the images of all clients",
    "alone": "ceiling: every client trains alone, and nothing is shared",
}
"""The values of `aggregation.kind`, and what each does."""

UNWEIGHTED = ("median", "trimmed-mean", "pooled")
"""The methods that do not read `aggregation.weighting`."""


def section_of(name: str) -> str:
    """The field of `Aggregation` that holds a method's settings, where it has any."""
    return name.replace("-", "_")


@settings("aggregation.fedprox")
class FedProx:
    """FedProx (Li et al. 2020)."""

    mu: NonNegative = 0.01
    """Weight of mu/2 |w - w_start|^2 in a client's loss. 0: FedAvg."""


@settings("aggregation.fedrs")
class FedRS:
    """FedRS (Li & Zhan 2021)."""

    alpha: Fraction = 0.4
    """A client's logits are taken times alpha + (1 - alpha) * share. 1: FedAvg; 0.4: as in the code of 2512.23043."""
    form: Literal["proportional", "binary"] = "proportional"
    """The share of a class: "proportional": count_c / max count; "binary": 1 if the client holds the class, else 0."""


@settings("aggregation.fedlc")
class FedLC:
    """FedLC (Zhang et al. 2022)."""

    tau: NonNegative = 1.0
    """A client's logits are lowered by tau * count_c^(-1/4), and those of classes that it does not hold left out."""


@settings("aggregation.fedbabu")
class FedBABU:
    """FedBABU (Oh et al. 2022)."""

    pruned: bool = False
    """Prune the linear layer like the others; every client keeps the same weights of it, for nobody moves them."""


@settings("aggregation.lg_fedavg")
class LgFedAvg:
    """LG-FedAvg (Liang et al. 2020)."""

    shared_layers: Count = 1
    """How many layers, from the last one back, are averaged; the others are each client's own."""


@settings("aggregation.owner_channels")
class OwnerChannels:
    """One client writes each channel."""

    form: Literal["frozen", "hard"] = "frozen"
    """"frozen": a client sees all channels and trains its own; "hard": it sees none but its own."""
    common: Fraction = 0.0
    """Share of the channels of every convolution that all clients write, and that are averaged."""


@settings("aggregation.orthogonality")
class Orthogonality:
    """Penalty on channels that the circuits of others use."""

    weight: NonNegative = 1e-2
    """Of the share of the other clients that use a channel times the sum of its squared weights. 0: FedAvg."""


@settings("aggregation.ties")
class Ties:
    """TIES (Yadav et al. 2023)."""

    of: Literal["weights", "updates"] = "weights"
    """What votes: the clients' "weights", or their "updates" (the paper's task vectors). Pruning a weight is an update
    that votes against its sign."""
    density: Share = 1.0
    """Share of each client's largest entries that have a vote. The paper trims dense updates to 0.2."""
    scale: Positive = 1.0
    """The merged entries are taken times this (the paper's lambda)."""


@settings("aggregation.circuit_mean")
class CircuitMean:
    """Mean over the clients whose circuits use a channel."""

    blocks: bool = False
    """Take the weights of the linear layer, too, from the holders whose circuit of the class has the channel."""


@settings("aggregation.matching")
class Matching:
    """Weight matching to the global model (Ainsworth et al. 2023)."""

    of: Literal["weights", "activations"] = "weights"
    """What is matched: the "weights" that touch a channel, or its "activations" on images that the server may see."""
    biases: bool = True
    """Whether biases count among the weights. They are never pruned, and may tell channels apart by their numbers."""
    images_per_class: Count = 10
    """For "activations": images of each class that the server sees."""
    images: Literal["clients", "nobody"] = "clients"
    """For "activations": whose these are: training images of the "clients", or of "nobody", which no client holds."""


@settings("aggregation.calibration")
class Calibration:
    """Refit of the linear layer after averaging."""

    what: Literal["scale-and-biases", "linear"] = "scale-and-biases"
    """One scale of all logits and a bias for each class; or all weights and biases, of which zeros may get values."""
    images_per_class: Count = 10
    """Images of each class that the server sees, the same ones in every round."""
    images: Literal["clients", "nobody"] = "clients"
    """Whose these are: training images of the "clients", who give them away, or of "nobody", which no client holds."""


@settings("aggregation.trimmed_mean")
class TrimmedMean:
    """Trimmed mean (Yin et al. 2018)."""

    beta: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    """Share of the clients that is cut off at either end; of K clients int(beta * K), which must be 1 at least."""


@settings("aggregation.fedavgm")
class FedAvgM:
    """FedAvgM (Hsu et al. 2019)."""

    learning_rate: Positive = 1.0
    momentum: Fraction = 0.9
    masked: bool = True
    """A weight that every client of the round pruned becomes 0, whatever the momentum says."""


@settings("aggregation.fedadam")
class FedAdam:
    """FedAdam (Reddi et al. 2021)."""

    learning_rate: Positive = 1e-2
    b1: Fraction = 0.9
    b2: Fraction = 0.99
    tau: Positive = 1e-3
    """The step is divided by the root of the second moment, which begins at tau^2, plus tau."""
    masked: bool = True
    """A weight that every client of the round pruned becomes 0, whatever the moments say."""


@settings("aggregation.fedyogi")
class FedYogi(FedAdam):
    """FedYogi (Reddi et al. 2021)."""


@settings("aggregation")
class Aggregation:
    """Which federated method: what the server does with the clients' models, and what it changes in their training."""

    kind: Literal[
        "fedavg", "fedprox", "fedrs", "fedlc", "fedbabu", "fedper", "lg-fedavg", "owner-channels", "orthogonality",
        "support-mean", "head-by-holders", "support-and-holders", "ties", "circuit-mean", "matching", "calibration",
        "median", "trimmed-mean", "fedavgm", "fedadam", "fedyogi", "pooled", "alone",
    ] = "fedavg"  # fmt: skip
    """`fedmi list` says what each of them does."""
    weighting: Literal["uniform", "samples"] = "uniform"
    """"uniform" (authors' code), or by each client's number of samples (McMahan et al. 2017)."""
    fedprox: FedProx = field(default_factory=FedProx)
    fedrs: FedRS = field(default_factory=FedRS)
    fedlc: FedLC = field(default_factory=FedLC)
    fedbabu: FedBABU = field(default_factory=FedBABU)
    lg_fedavg: LgFedAvg = field(default_factory=LgFedAvg)
    owner_channels: OwnerChannels = field(default_factory=OwnerChannels)
    orthogonality: Orthogonality = field(default_factory=Orthogonality)
    ties: Ties = field(default_factory=Ties)
    circuit_mean: CircuitMean = field(default_factory=CircuitMean)
    matching: Matching = field(default_factory=Matching)
    calibration: Calibration = field(default_factory=Calibration)
    trimmed_mean: TrimmedMean = field(default_factory=TrimmedMean)
    fedavgm: FedAvgM = field(default_factory=FedAvgM)
    fedadam: FedAdam = field(default_factory=FedAdam)
    fedyogi: FedYogi = field(default_factory=FedYogi)

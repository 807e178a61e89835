"""Single parts of a client's own model in the averaged one: which of them must be its own to be right?

Part of `experiments.averages`, which has the command. Accuracy is on the client's own classes: among all classes that
anyone holds, and among its own alone, where no other client's class competes. The null takes the part from each other
client, mean over them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fedmi_jax import predict
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.network.model import Params
from fedmi_jax.results.statistics import Estimate, estimate

NOTHING, EVERYTHING = "nothing: averaged", "everything: own"
PARTS: dict[str, tuple[str, ...]] = {
    NOTHING: (),
    "linear layer": ("fc_",),
    "convolutions": ("conv",),
    "conv1": ("conv1_",),
    "conv2": ("conv2_",),
    "conv3": ("conv3_",),
    "kernels": ("conv1_kernel", "conv2_kernel", "conv3_kernel", "fc_kernel"),
    "biases": ("conv1_bias", "conv2_bias", "conv3_bias", "fc_bias"),
    EVERYTHING: ("conv", "fc_"),
}
"""By how their arrays' names begin."""
AMONG = ("among held", "among own")
Rows = list[dict[str, Any]]


def with_part(averaged: Params, own: Params, part: str) -> Params:
    """The averaged model with this part of another."""
    return {name: own[name] if name.startswith(PARTS[part]) else leaf for name, leaf in averaged.items()}


def right(
    model: Params, images: np.ndarray, labels: np.ndarray, of: np.ndarray, competing: np.ndarray, dataset: Dataset
) -> float:
    """Accuracy on the classes `of`, among those that compete; every class weighs the same."""
    there = np.isin(labels, of)
    logits = predict(model, images[there], mean=dataset.mean, std=dataset.std)
    answers = competing[np.argmax(logits[:, competing], 1)]
    return float(np.mean([np.mean(answers[labels[there] == c] == c) for c in of]))


def judged(
    averaged: Params, locals_: list[Params], counts: np.ndarray, images: np.ndarray, labels: np.ndarray,
    dataset: Dataset,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """Rows: part, client, measure, value and random. counts (K, Y): training images of each client by class."""
    held = np.flatnonzero(counts.any(0))
    for client, own in enumerate(np.flatnonzero(row) for row in counts):
        for part in PARTS:
            models = [with_part(averaged, one, part) for one in [locals_[client], *_others(locals_, client)]]
            for measure, competing in zip(AMONG, (held, own), strict=True):
                value, *random = (right(one, images, labels, own, competing, dataset) for one in models)
                yield {"part": part, "client": client, "measure": measure, "value": value, "random": np.mean(random)}


def _others(locals_: list[Params], client: int) -> list[Params]:
    return [one for i, one in enumerate(locals_) if i != client]


# --- over seeds ---


def of(rows: Rows) -> Rows:
    """Those of parts put back."""
    return [row for row in rows if "part" in row]


def given_back(rows: Rows, part: str, measure: str, column: str = "value") -> np.ndarray:
    """Share of what the averaged model lacks to the client's own that the part gives back, of each seed's means, (S,);
    NaN where nothing is lacking."""
    averaged, own = (means(rows, name, measure, "value") for name in (NOTHING, EVERYTHING))
    lost = own - averaged
    return (means(rows, part, measure, column) - averaged) / np.where(lost > 0, lost, np.nan)


def means(rows: Rows, part: str, measure: str, column: str = "value") -> np.ndarray:
    """Over clients, by seed, (S,)."""
    return np.array(list(by_seed([r for r in rows if (r["part"], r["measure"]) == (part, measure)], column).values()))


def by_seed(rows: Rows, column: str) -> dict[int, float]:
    """The column's mean over all rows of a seed."""
    seeds = sorted({row["seed"] for row in rows})
    return {seed: float(np.mean([row[column] for row in rows if row["seed"] == seed])) for seed in seeds}


def markdown(rows: Rows) -> str:
    """Accuracies with each part, and the share of the loss that it gives back."""
    head = ["the client's own part", *AMONG, "given back, among held", "the same by other clients' parts"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for part in PARTS:
        cells = [str(estimate(means(rows, part, measure, "value"))) for measure in AMONG]
        back: list[Estimate] = [estimate(given_back(rows, part, AMONG[0], column)) for column in ("value", "random")]
        cells += ["-", "-"] if part in (NOTHING, EVERYTHING) else [str(one) for one in back]
        lines.append(f"| {part} | {' | '.join(cells)} |")
    notes = (
        "The averaged model (FedAvg) with one part of a client's own model; accuracy on the client's own classes, "
        "among all that anyone holds and among its own alone. Means over clients, 95 % intervals over seeds."
    )
    return "\n".join([*lines, "", notes, ""])

"""Same local models, other averages: how much of what clients knew does the mean itself lose?

    python -m experiments.deciding runs/deciding --seeds 5 --presets two-class --weights runs/weights
    python -m experiments.averages runs/deciding runs/weights --experiment two-class

Nothing is trained. The local models of a round of FedAvg are averaged once more by every rule that needs nothing but
them (docs/methods.md), from the global model that the round began with. Of each average: accuracy among the classes
that anyone holds, and how the local circuits of the second instrument work on it, their answer (balanced accuracy) and
their evidence (AUC), beside random sets of as many channels that are live in the client's own model. Then single parts
of a client's own model are put into the average (`experiments.put_back`). Writes averages.csv, averages.md and
averages.svg into the first folder. Predictions: docs/evidence.md.

About half a minute a seed and round on one CPU core.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import tyro
import xarray as xr
from tyro.conf import Positional

from experiments import averages_table, pieces, put_back
from fedmi_jax import evaluate, files, means
from fedmi_jax.aggregation import NO_STATE, Clients, Method, chosen
from fedmi_jax.analysis import units
from fedmi_jax.circuits.single import Circuit
from fedmi_jax.config import Data, Local, replace
from fedmi_jax.data import datasets, probe
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.errors import FedmiError
from fedmi_jax.methods import Aggregation
from fedmi_jax.network.ablation import ZERO
from fedmi_jax.network.images import Images
from fedmi_jax.network.model import Params
from fedmi_jax.results import store
from fedmi_jax.results.schema import conv_layers
from fedmi_jax.studies import chance
from fedmi_jax.studies.chance import Channels

IMAGES = 100
"""Training images of each class for the mean outputs that stand in for closed channels."""
NULLS = 5


@dataclass(frozen=True)
class Averages:
    """Average the same local models in other ways."""

    circuits: Positional[Path]
    """Folder of `experiments.deciding`."""
    weights: Positional[Path]
    """Folder in which it kept the models (--weights)."""
    experiment: str = "two-class"
    rounds: tuple[int, ...] = (10,)
    """Of these rounds; the first is never one of them, since the models before it are not stored."""
    images_per_class: int = 250
    """Judge on the first so many test images of each class."""


class Moment(NamedTuple):
    """The models of one seed and round, and the circuits that were found on the clients' own."""

    seed: int
    round: int
    before: Params
    """The global model that the round began with."""
    clients: Clients
    circuits: xr.Dataset
    """Of this seed and round, of local models; `able` bool (K, C): of those that decide about the class."""


def moments(option: Averages, dataset: Dataset) -> Iterator[Moment]:
    """Every seed of which both are there. Raises FedmiError where there is none, and for a round that is not there."""
    found = sorted((option.weights / option.experiment).glob(f"seed-*/{store.FILE}"))
    for path in found:
        there = option.circuits / f"{option.experiment}-decision" / path.parent.name
        if (there / store.FILE).exists():
            yield from _of_seed(store.load(path.parent), store.load(there), option.rounds)


def _of_seed(models: xr.Dataset, circuits: xr.Dataset, rounds: tuple[int, ...]) -> Iterator[Moment]:
    seed = models["seed"].values.item()
    for number in rounds:
        if number - 1 not in models["round"].values:
            raise FedmiError(f"rounds: the models before round {number} of seed {seed} are not stored")
        now, before = (models.isel(seed=0).sel(round=r) for r in (number, number - 1))
        counts = models["samples"].isel(seed=0).values
        one, several = (_weights(at, origin) for at, origin in ((before, "global"), (now, "local")))
        total, everyone = counts.sum(1), np.arange(len(counts))
        facts = [jnp.asarray(one) for one in (total, counts, np.ones_like(total), everyone)]
        clients = Clients(several, facts[0], facts[1], facts[2], facts[3])
        own = circuits.assign(able=units.competent(circuits)).isel(seed=0).sel(round=number, origin="local")
        yield Moment(seed, number, one, clients, own)


def _weights(ds: xr.Dataset, origin: str) -> Params:
    prefix = f"weights_{origin}_"
    names = [str(name) for name in ds if str(name).startswith(prefix)]
    return {name.removeprefix(prefix): jnp.asarray(ds[name].values) for name in names}


def averaged(moment: Moment, rule: str, dataset: Dataset) -> Params:
    """The clients' models by this rule."""
    method = chosen(replace(Aggregation(), kind=rule), Local())
    clients = moment.clients if method.sees is None else _with_images(moment, method, dataset)
    return jax.tree.map(np.asarray, dict(method.apply(NO_STATE, moment.before, clients)[0]))


def _with_images(moment: Moment, method: Method, dataset: Dataset) -> Clients:
    """With so many training images of every class held, drawn with the seed."""
    assert method.sees is not None
    rng, labels = chance.generator(moment.seed, "averages images", moment.round, 0), dataset.train_labels
    held = np.flatnonzero(moment.clients.counts.any(0))
    places = [rng.choice(np.flatnonzero(labels == c), method.sees.per_class, replace=False) for c in held]
    shown = jnp.asarray(np.concatenate(places))
    mean, std = (jnp.asarray(moments, jnp.float32) for moments in (dataset.mean, dataset.std))
    images = Images(jnp.asarray(dataset.train_images), jnp.asarray(labels), mean, std)
    return moment.clients._replace(images=images.normalised(shown), labels=images.labels[shown])


# --- what each average is worth ---


def judged(moment: Moment, dataset: Dataset, per_class: int) -> Iterator[dict[str, Any]]:
    """Rows of the table, of every rule."""
    moments_of = {"mean": dataset.mean, "std": dataset.std}
    places = probe.draw(dataset.train_labels, dataset.num_classes, (IMAGES, 0), moment.seed)
    shown = np.concatenate([np.flatnonzero(dataset.test_labels == c)[:per_class] for c in range(dataset.num_classes)])
    images, labels = dataset.test_images[shown], dataset.test_labels[shown]
    counts = np.asarray(moment.clients.counts)
    held = np.flatnonzero(counts.any(0))
    for rule in averages_table.RULES:
        model = averaged(moment, rule, dataset)
        at = {"seed": moment.seed, "round": moment.round, "rule": rule}
        yield at | {
            "measure": averages_table.MEASURES[0],
            "value": put_back.right(model, images, labels, held, held, dataset),
        }
        if rule == averages_table.BASE:
            several: list[Params] = [
                {name: leaf[k] for name, leaf in moment.clients.params.items()} for k in range(len(counts))
            ]
            yield from ({**at, **row} for row in put_back.judged(model, several, counts, images, labels, dataset))
        instead = means(model, dataset.train_images[places], **moments_of)
        for where, circuit, nulls in circuits(moment):
            asked = (labels == circuit.label) | circuit.others[labels]
            of = (images[asked], labels[asked])
            told = [evaluate(model, one, *of, ablation=instead, **moments_of) for one in (circuit, *nulls)]
            for measure, field in (("answer", "balanced_accuracy"), ("evidence", "auc")):
                own, *random = (getattr(one, field) for one in told)
                yield at | where | {"measure": measure, "value": own, "random": np.mean(random)}


def circuits(moment: Moment) -> Iterator[tuple[dict[str, int], Circuit, list[Circuit]]]:
    """Of every client and class that it decides about: where, the circuit, and random sets as large of channels that
    are live in the client's model."""
    ds, layers, counts = moment.circuits, conv_layers(moment.circuits), np.asarray(moment.clients.counts)
    for k, c in np.argwhere(ds["able"].transpose("client", "class").values):
        here, label = ds.isel({"client": k, "class": c}), int(ds["class"].values[c])
        mask, live = ({of: here[f"{name}_{of}"].values.astype(bool) for of in layers} for name in ("mask", "live"))
        others = (counts[k] > 0) & (np.arange(counts.shape[1]) != label)
        at = (moment.seed, "averages", moment.round)
        drawn = [_random(mask, live, chance.generator(*at, n, int(k), label)) for n in range(NULLS)]
        where = {"client": int(ds["client"].values[k]), "class": label}
        yield where, _circuit(label, others, mask), [_circuit(label, others, one) for one in drawn]


def _random(mask: Channels, live: Channels, rng: np.random.Generator) -> Channels:
    drawn = {
        layer: rng.choice(np.flatnonzero(live[layer]), int(own.sum()), replace=False) for layer, own in mask.items()
    }
    return {layer: np.isin(np.arange(len(own)), drawn[layer]) for layer, own in mask.items()}


def _circuit(label: int, others: np.ndarray, mask: Channels) -> Circuit:
    """What `evaluate` needs of one."""
    nothing = np.array([])
    return Circuit(
        label, others, mask, {}, {}, "found", np.nan, np.nan, np.nan, nothing, nothing, 0, 0, ablation=ZERO
    )  # fmt: skip


def main(option: Averages, dataset: Dataset | None = None) -> None:
    """dataset: the images, None: MNIST."""
    dataset = dataset or datasets.load(Data())
    rows = [row for one in moments(option, dataset) for row in judged(one, dataset, option.images_per_class)]
    if not rows:
        raise FedmiError(f"{option.weights / option.experiment}: no models whose circuits are in {option.circuits}")
    with files.replacing(option.circuits / averages_table.FILE) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n")
    print(averages_table.report(option.circuits))


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Averages)))

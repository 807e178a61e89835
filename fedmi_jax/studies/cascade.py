"""Cascade: a global model put together from circuits, in one shot.

A convolution's channel is the mean of the clients whose circuits use it, and 0 where no circuit does. A class's row of
the linear layer is its expert's, for the channels that its circuit has in the last convolution; the row and its bias
are 0 for a class without such a channel, whose logit is then exactly 0 and can win. The authors' script is
`cascade_aggregate.py`; it has no null, and maps classes to clients by hand.

Axes: K clients, n random sets, Y classes of the network, O_l channels of convolution l, L the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from fedmi_jax.circuits.evaluation import EvaluationSet, Fraction
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params, all_open
from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.bench import Bench, logits_of, mean, of_classes
from fedmi_jax.studies.chance import Channels, generator, like
from fedmi_jax.studies.stored import Moment, Stored
from fedmi_jax.studies.tidy import Row


def users(circuits: Mapping[int, Channels], experts: Mapping[int, int], clients: list[int]) -> dict[str, np.ndarray]:
    """Which clients use a channel for any class that they are the expert of, bool (K, O_l) a layer."""
    first = next(iter(circuits.values()))
    used = {layer: np.zeros((len(clients), len(own)), bool) for layer, own in first.items()}
    for label, circuit in circuits.items():
        for layer, own in circuit.items():
            used[layer][clients.index(experts[label])] |= own
    return used


def masks(stored: Stored) -> list[Row]:
    """Channels that are not 0, those that are a mean of several clients, and whether the model is constant."""
    return [row for moment in stored.moments for row in _of_moment(stored, moment)]


def _of_moment(stored: Stored, moment: Moment) -> list[Row]:
    at, own = (moment.seed, moment.round), users(moment.circuits, moment.experts, stored.clients)
    drawn = [users(_random(moment, n), moment.experts, stored.clients) for n in stored.samples()]
    rows = []
    for layer, used in own.items():
        for measure, least in (("active_channels", 1), ("averaged_channels", 2)):
            null = np.array([(one[layer].sum(0) >= least).sum() for one in drawn], float)
            rows.append(Row(*at, measure, int((used.sum(0) >= least).sum()), {"layer": layer}, null))
    for label, circuit in moment.circuits.items():
        rows.append(Row(*at, "copied_blocks", int(circuit[stored.layers[-1]].sum()), {"class": label}))
    return [*rows, Row(*at, "constant", any(not used.any() for used in own.values()))]


def _random(moment: Moment, n: int) -> dict[int, dict[str, np.ndarray]]:
    rng = generator(moment.seed, "cascade", moment.round, n)
    return {label: like(circuit, rng) for label, circuit in moment.circuits.items()}


class Parts(NamedTuple):
    """What a cascade is made of; leading axis: rows."""

    users: dict[str, Any]
    """(K, O_l) a layer."""
    expert: Any
    """(Y,): place of the class's client; any where the class has no block."""
    blocks: Any
    """bool (Y, O_L)."""


def parts(circuits: Mapping[int, Channels], experts: Mapping[int, int], clients: list[int], classes: int) -> Parts:
    used = users(circuits, experts, clients)
    last = list(used)[-1]
    expert, blocks = np.zeros(classes, int), np.zeros((classes, used[last].shape[1]), bool)
    for label, circuit in circuits.items():
        expert[label], blocks[label] = clients.index(experts[label]), circuit[last]
    return Parts(used, expert, blocks)


def assembled(models: Params, of: Parts) -> Params:
    """The cascade of K models, (K, ...)."""
    built, layers = {}, conv_layers(models)
    for layer in layers:
        share = of.users[layer] / jnp.maximum(of.users[layer].sum(0), 1)
        for part in ("kernel", "bias"):
            model = models[f"{layer}_{part}"]
            weight = share.reshape(len(share), *(1,) * (model.ndim - 2), -1)
            built[f"{layer}_{part}"] = jnp.sum(jnp.where(weight > 0, model, 0) * weight, 0).astype(model.dtype)
    rows, blocks = models["fc_kernel"][of.expert, :, jnp.arange(len(of.expert))], of.blocks
    positions = rows.shape[1] // blocks.shape[1]  # rows of the linear layer are position-major, channel fastest
    built["fc_kernel"] = jnp.where(jnp.tile(blocks, (1, positions)), rows, 0).T
    bias = models["fc_bias"][of.expert, jnp.arange(len(of.expert))]
    built["fc_bias"] = jnp.where(blocks.any(1), bias, 0)
    return built


def _judged(
    models: Params, of: Parts, among: Array, classes: Array, test: EvaluationSet, *, narrowing: bool
) -> tuple[Fraction, Fraction]:
    return hits(assembled(models, of), among, classes, test, narrowing=narrowing)


def hits(
    params: Params, among: Array, classes: Array, test: EvaluationSet, *, narrowing: bool
) -> tuple[Fraction, Fraction]:
    """Accuracy on each class, (c,): of the largest of all logits, and of the largest of those `among`, bool (Y,)."""
    logits = logits_of(params, all_open(params), classes, test, narrowing)
    valid, own = of_classes(classes, test)[1], classes[:, None]
    few = jnp.where(among, logits, -jnp.inf)
    return tuple(mean(jnp.argmax(one, -1) == own, valid) for one in (logits, few))  # type: ignore[return-value]


def weights(stored: Stored, bench: Bench) -> list[Row]:
    """Accuracy of the cascade and of the global model, over all classes and among those that have experts."""
    moments, classes = stored.moments, len(bench.images)
    among = np.array([[c in moment.experts for c in range(classes)] for moment in moments])
    every = (np.arange(classes), bench.test)
    whole = bench.judge(hits, bench.global_models, range(len(moments)), (among,), every)
    made = [
        parts(circuits, moment.experts, stored.clients, classes)
        for moment in moments
        for circuits in (moment.circuits, *(_random(moment, n) for n in stored.samples()))
    ]
    rows = Parts(
        {layer: np.stack([one.users[layer] for one in made]) for layer in stored.layers},
        np.stack([one.expert for one in made]),
        np.stack([one.blocks for one in made]),
    )
    model_index = np.repeat(np.arange(len(moments)), 1 + stored.options.nulls)
    stacks = {name: value.reshape(len(moments), -1, *value.shape[1:]) for name, value in bench.local_models.items()}
    found = bench.judge(_judged, stacks, model_index, (rows, among[model_index]), every)
    found = [part.reshape(len(moments), -1, classes) for part in found]
    said = [row for m, moment in enumerate(moments) for row in _accuracies(moment, m, bench.images, whole, found)]
    return masks(stored) + said


def _accuracies(moment: Moment, m: int, images: np.ndarray, whole: Any, found: Any) -> list[Row]:
    at, rows, held = (moment.seed, moment.round), [], list(moment.experts)
    for name, part, classes in (("accuracy", 0, range(len(images))), ("held_accuracy", 1, held)):
        known = np.array([c for c in classes if images[c]])
        own = np.average(found[part][m][:, known], axis=1, weights=images[known])
        before = float(np.average(whole[part][m][known], weights=images[known]))
        rows.append(Row(*at, name, float(own[0]), null=own[1:]))
        rows.append(Row(*at, f"global_{name}", before))
        rows.append(Row(*at, f"{name}_change", float(own[0]) - before, null=own[1:] - before))
    for label in held:
        own = found[0][m][:, label]
        rows.append(Row(*at, "class_accuracy", float(own[0]), {"class": label}, own[1:]))
        rows.append(Row(*at, "global_class_accuracy", float(whole[0][m][label]), {"class": label}))
    return rows


STUDY = Study(
    masks=masks,
    weights=weights,
    tables=(
        Table(
            "the cascade", (),
            (
                Column("channels that are not 0", "active_channels", "count"),
                Column("mean of several clients", "averaged_channels", "count"),
                Column("constant", "constant", "flag"),
                Column("all classes: global model", "global_accuracy"),
                Column("cascade", "accuracy", null=True),
                Column("among experts' classes: global model", "global_held_accuracy"),
                Column("cascade", "held_accuracy", null=True),
            ),
        ),
        Table(
            "by class", ("class",),
            (
                Column("blocks of the linear layer", "copied_blocks", "count"),
                Column("global model", "global_class_accuracy"),
                Column("cascade", "class_accuracy", null=True),
            ),
        ),
    ),
    panels=(
        Panel(
            "channels of the cascade", "layer",
            (Series("in any circuit", "active_channels"), Series("of several clients", "averaged_channels")),
            "channels", share=False,
        ),
        Panel(
            "accuracy", "round",
            (
                Series("cascade, all classes", "accuracy"), Series("global model, all classes", "global_accuracy"),
                Series("cascade, among experts' classes", "held_accuracy"),
                Series("global model, among experts' classes", "global_held_accuracy"),
            ),
            "accuracy",
        ),
        Panel(
            "by class", "class",
            (
                Series("cascade, all classes", "class_accuracy"),
                Series("global model, all classes", "global_class_accuracy"),
            ),
            "accuracy",
        ),
    ),
    one_global_model=True,
    caption="random sets: the cascade of random circuits of the same sizes",
)  # fmt: skip

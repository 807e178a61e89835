"""Circuit ensemble: every class is spoken for by the global model with its circuit only; the largest own logit wins.

Beside it the whole global model, restricted to the same classes. The authors' script is `max_of_circuits.py`, for
classes 0, 3 and 6. Logits of different circuits are not calibrated to one another: where a circuit has no channel in
some layer its logit is one number, whatever the image, and where all are such the ensemble always names one class.

Axes: n rows, c classes of the experts of all moments, g * B images of a class, Y classes of the network.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedmi_jax.circuits.evaluation import EvaluationSet, Fraction
from fedmi_jax.network.model import Params
from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.bench import Bench, logits_of, mean, of_classes
from fedmi_jax.studies.cascade import hits
from fedmi_jax.studies.chance import Channels, generator, like
from fedmi_jax.studies.stored import Moment, Stored
from fedmi_jax.studies.tidy import Row


def masks(stored: Stored) -> list[Row]:
    """Which circuits give one logit to every image."""
    return [row for moment in stored.moments for row in _of_moment(moment)]


def _of_moment(moment: Moment) -> list[Row]:
    at = (moment.seed, moment.round)
    constant = {c: any(not own.any() for own in circuit.values()) for c, circuit in moment.circuits.items()}
    rows = [Row(*at, "constant", value, {"class": c}) for c, value in constant.items()]
    return [*rows, Row(*at, "all_constant", all(constant.values()))]


def together(
    params: Params, circuits: Mapping[str, Array], there: Array, classes: Array, test: EvaluationSet,
    *, narrowing: bool,
) -> Fraction:  # fmt: skip
    """The ensemble's accuracy on each class, (c,). circuits: (c, O_l) a layer; there: (c,), which classes have one."""

    def own(part: tuple[dict[str, Array], Array]) -> Array:
        logits = logits_of(params, part[0], classes, test, narrowing)
        return jnp.take(logits, part[1], axis=-1)

    said = lax.map(own, (dict(circuits), classes))  # speaker, class of the image, image
    answer = jnp.argmax(jnp.where(there[:, None, None], said, -jnp.inf), 0)
    return mean(answer == jnp.arange(len(classes))[:, None], of_classes(classes, test)[1])


def weights(stored: Stored, bench: Bench) -> list[Row]:
    """Accuracy of both on the images of the experts' classes. Null: random circuits of the same sizes."""
    moments, classes = stored.moments, np.array(stored.classes)
    among = np.array([[c in moment.experts for c in range(len(bench.images))] for moment in moments])
    whole = bench.judge(hits, bench.global_models, range(len(moments)), (among,), (classes, bench.test))[1]
    made = [
        _stacked(circuits, stored)
        for moment in moments
        for circuits in (moment.circuits, *(_random(moment, n) for n in stored.samples()))
    ]
    model_index = np.repeat(np.arange(len(moments)), 1 + stored.options.nulls)
    rows = ({k: np.stack([one[k] for one in made]) for k in stored.layers}, among[model_index][:, classes])
    found = bench.judge(together, bench.global_models, model_index, rows, (classes, bench.test))
    found = found.reshape(len(moments), -1, len(classes))
    each = zip(moments, whole, found, strict=True)
    return masks(stored) + [row for one in each for row in _rows(stored.classes, bench.images, *one)]


def _random(moment: Moment, n: int) -> dict[int, dict[str, np.ndarray]]:
    rng = generator(moment.seed, "ensemble", moment.round, n)
    return {label: like(circuit, rng) for label, circuit in moment.circuits.items()}


def _stacked(circuits: Mapping[int, Channels], stored: Stored) -> dict[str, np.ndarray]:
    """(c, O_l) a layer, empty for a class without a circuit here."""
    none = {layer: np.zeros_like(own) for layer, own in next(iter(circuits.values())).items()}
    dtype = stored.ds["weights_global_fc_bias"].dtype
    return {k: np.stack([circuits.get(c, none)[k] for c in stored.classes]).astype(dtype) for k in stored.layers}


def _rows(classes: list[int], images: np.ndarray, moment: Moment, whole: Any, found: np.ndarray) -> list[Row]:
    at, rows = (moment.seed, moment.round), []
    own = [i for i, c in enumerate(classes) if c in moment.experts and images[c]]
    count = images[[classes[i] for i in own]]
    for i in own:
        of = {"class": classes[i]}
        rows.append(Row(*at, "class_accuracy", float(found[0, i]), of, found[1:, i]))
        rows.append(Row(*at, "global_class_accuracy", float(whole[i]), of))
    before, after = float(np.average(whole[own], weights=count)), np.average(found[:, own], axis=1, weights=count)
    rows.append(Row(*at, "accuracy", float(after[0]), null=after[1:]))
    rows.append(Row(*at, "global_accuracy", before))
    rows.append(Row(*at, "change", float(after[0]) - before, null=after[1:] - before))
    return rows


STUDY = Study(
    masks=masks,
    weights=weights,
    tables=(
        Table(
            "the largest own logit of the circuits, among their classes", (),
            (
                Column("all circuits constant", "all_constant", "flag"),
                Column("global model", "global_accuracy"),
                Column("ensemble", "accuracy", null=True),
                Column("change", "change", "points", null=True),
            ),
        ),
        Table(
            "by class", ("class",),
            (
                Column("constant logit", "constant", "flag"),
                Column("global model", "global_class_accuracy"),
                Column("ensemble", "class_accuracy", null=True),
            ),
        ),
    ),
    panels=(
        Panel(
            "a layer of the circuit has no channel", "class", (Series("one answer to everything", "constant"),),
            "share of seeds",
        ),
        Panel(
            "all of these classes", "round",
            (Series("ensemble", "accuracy"), Series("global model", "global_accuracy")), "accuracy",
        ),
        Panel(
            "by class", "class",
            (Series("ensemble", "class_accuracy"), Series("global model", "global_class_accuracy")), "accuracy",
        ),
    ),
    one_global_model=True,
    caption="both answer among the experts' classes only",
)  # fmt: skip

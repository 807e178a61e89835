"""Controls made during a run, because they need the models: random masks, and circuits found a second time.

Axes: n rows of a table of cases (circuits of local models, then of global ones), N random masks per circuit, O_l
channels of convolution l.

Both are off unless asked for (`evaluation.null_samples`, `discovery.repeat`), draw from generators of their own, and so
change nothing else in a result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmi_jax import keys
from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.config import Experiment
from fedmi_jax.federation.cases import Cases
from fedmi_jax.federation.programs import Masked
from fedmi_jax.results.similarity import iou

if TYPE_CHECKING:
    from fedmi_jax.federation.setup import Facts

JUDGED = ("random_sufficiency", "random_necessity", "random_cross_evaluation")
Masks = Mapping[str, Any]
"""bool (n, O_l) a layer."""


def gates(masks: Masks, dtype: Any) -> dict[str, np.ndarray]:
    """The gates that keep these channels."""
    return {layer: mask.astype(dtype) for layer, mask in masks.items()}


def by_class(
    facts: Facts, cases: Cases, own: Masked, crossed: Masked, masks: Masks, number: int
) -> list[Masked]:  # fmt: skip
    """All that is judged on images of its own class alone.

    First every circuit removed from its model, then N random masks each, as `JUDGED` says: kept on the circuit's model
    (N parts), removed from it (N parts), and kept on the other model (N parts). A random mask has as many channels as
    the circuit in every layer. Args: own, crossed: the circuits on their own and on the other model, n rows each.
    """
    random = draw(facts, cases, masks, number)
    removed = [{layer: ~mask for layer, mask in one.items()} for one in (masks, *random)]
    keep, remove = ([gates(one, facts.dtype) for one in some] for some in (random, removed))
    return [
        own._replace(gates=remove[0]),
        *(own._replace(gates=one) for one in keep),
        *(own._replace(gates=one) for one in remove[1:]),
        *(crossed._replace(gates=one) for one in keep),
    ]


def random_masks(experiment: Experiment, cases: Cases, accuracies: np.ndarray) -> dict[str, np.ndarray]:
    """The judgements of random masks by circuit and sample; accuracies (3 * N * n,), in the order of `by_class`."""
    samples = experiment.evaluation.null_samples
    if not samples:
        return {}
    by_judgement = accuracies.reshape(len(JUDGED), samples, -1).swapaxes(1, 2)
    return {name: cases.place(own) for name, own in zip(JUDGED, by_judgement, strict=True)}


def draw(facts: Facts, cases: Cases, masks: Masks, number: int) -> list[dict[str, np.ndarray]]:
    """N random masks for every case, each with its circuit's number of channels in every layer."""
    samples, sizes = facts.experiment.evaluation.null_samples, {k: mask.sum(-1) for k, mask in masks.items()}
    drawn = [{layer: np.zeros_like(mask) for layer, mask in masks.items()} for _ in range(samples)]
    for row, key in enumerate(cases.keys(facts.experiment.seeds, keys.RANDOM_MASK, number)):
        for n, one in enumerate(drawn):
            rng = keys.generator(*key, n)
            for layer, mask in one.items():
                mask[row, rng.permutation(mask.shape[-1])[: sizes[layer][row]]] = True
    return drawn


def searches(experiment: Experiment, number: int) -> list[tuple[int, int]]:
    """The purposes of this round's searches: one, or a second one to see how alike two are."""
    repeat, last = experiment.discovery.repeat, number == experiment.rounds
    twice = repeat == "always" or (repeat == "last" and last)
    once, again = (
        (keys.DISCOVER, keys.REDISCOVER) if experiment.discovery.as_published else (keys.DECIDE, keys.REDECIDE)
    )
    return [once, again] if twice else [once]


def rediscovery(
    experiment: Experiment, cases: Cases, found: Circuit, again: list[Circuit]
) -> dict[str, np.ndarray]:  # fmt: skip
    """IoU per layer of every circuit with the one found again, and where both are empty; NaN in a round without.

    Masks (n, O_l); again: the second search's circuits, if there was one. The two differ in their random batches only,
    so this is how alike circuits can be expected to be when nothing else differs: a ceiling for every other IoU.
    """
    if experiment.discovery.repeat == "never":
        return {}
    values = empty = np.full((len(cases.circuit), len(found.mask)), np.nan)
    for other in again:
        pairs = [(np.asarray(mask), np.asarray(other.mask[layer])) for layer, mask in found.mask.items()]
        values = np.stack([iou(a, b) for a, b in pairs], -1)
        empty = np.stack([~(a | b).any(-1) for a, b in pairs], -1).astype(float)
    return {"rediscovery_iou": cases.place(values), "empty_pairs_rediscovery": cases.place(empty)}

"""Controls made during a run, because they need the models: random masks, and circuits found a second time.

Axes: C circuits of the round (of local models, then of global ones: 2C), N random masks per circuit, O_l channels of
convolution l.

Both are off unless asked for (`evaluation.null_samples`, `discovery.repeat`), draw from generators of their own, and so
change nothing else in a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmi_jax import keys
from fedmi_jax.federation import recording
from fedmi_jax.network.layers import conv_names
from fedmi_jax.network.model import Gates
from fedmi_jax.results.similarity import iou

if TYPE_CHECKING:
    from fedmi_jax.federation.setup import Round, Setup

JUDGED = ("random_sufficiency", "random_necessity", "random_cross_evaluation")


def class_judgements(
    setup: Setup, round_: Round, which: np.ndarray, scores: Gates, fill: Gates | None
) -> tuple[np.ndarray, Gates, Gates | None, np.ndarray]:
    """All that is judged by its own class alone, for one `programs.measure_circuits`: models, gates, fills, classes.

    First every circuit removed from its model (2C), then random masks, if any, as `JUDGED` says: kept on the circuit's
    model (N * 2C, sample by sample), removed from it, and kept on the other model. Each mask has as many channels as
    the circuit in every layer. Args: which (2C,), each circuit's model; scores and fill (2C, O_l).
    """
    samples = setup.experiment.evaluation.null_samples
    masks = draw(setup, round_, scores, samples)
    removed = {layer: np.asarray(score) <= 0 for layer, score in scores.items()}
    gates = {k: np.concatenate([removed[k], m, ~m, m]).astype(setup.dtype) for k, m in masks.items()}
    fills = None if fill is None else {k: _repeated(np.asarray(v), samples) for k, v in fill.items()}
    target = np.tile(setup.circuits.label[round_.rows], 2 * (1 + 3 * samples))
    return _repeated(which, samples), gates, fills, target  # type: ignore[return-value]


def _repeated(own: np.ndarray, samples: int) -> np.ndarray:
    """What each judgement is made with, from each circuit's own (2C, ...)."""
    other = np.roll(own, len(own) // 2, 0)
    return np.concatenate([own, *[own] * 2 * samples, *[other] * samples])


def random_masks(setup: Setup, round_: Round, accuracies: np.ndarray) -> recording.Record:
    """The judgements of random masks, by circuit and sample, from those of all `class_judgements`."""
    samples, circuits = setup.experiment.evaluation.null_samples, 2 * len(round_.rows)
    if not samples:
        return {}
    by_judgement = accuracies[circuits:].reshape(3, samples, circuits).swapaxes(1, 2)
    return {name: recording.by_origin(setup, round_, own) for name, own in zip(JUDGED, by_judgement, strict=True)}


def draw(setup: Setup, round_: Round, scores: Gates, samples: int) -> dict[str, np.ndarray]:
    """Random masks {layer: bool (N * 2C, O_l)}, sample by sample, each with its circuit's number of channels."""
    layers = conv_names(len(scores))
    sizes = np.stack([(np.asarray(scores[layer]) > 0).sum(-1) for layer in layers], -1)
    widths = [scores[layer].shape[-1] for layer in layers]
    masks = {k: np.zeros((samples, len(sizes), n), bool) for k, n in zip(layers, widths, strict=True)}
    for i, key in enumerate(_keys(setup, round_)):
        for n in range(samples):
            rng = keys.generator(*key, n)
            for layer, size, width in zip(layers, sizes[i], widths, strict=True):
                masks[layer][n, i, rng.permutation(width)[:size]] = True
    return {layer: m.reshape(-1, m.shape[-1]) for layer, m in masks.items()}


def _keys(setup: Setup, round_: Round) -> list[tuple[int, ...]]:
    """(seed, purpose, round, client, class) of each of the 2C circuits."""
    c, seeds = setup.circuits.at(round_.rows), setup.experiment.seeds
    own = [(seeds[s], round_.number, int(k), int(y)) for s, k, y in zip(c.seed, c.client, c.label, strict=True)]
    return [(seed, purpose, *rest) for purpose in keys.RANDOM_MASK for seed, *rest in own]


def searches(setup: Setup, round_: Round) -> list[tuple[int, int]]:
    """The purposes of this round's searches: one, or a second one to see how alike two are."""
    repeat, last = setup.experiment.discovery.repeat, round_.number == setup.experiment.rounds
    twice = repeat == "always" or (repeat == "last" and last)
    return [keys.DISCOVER, keys.REDISCOVER] if twice else [keys.DISCOVER]


def rediscovery(setup: Setup, round_: Round, scores: Gates, again: list[Gates]) -> recording.Record:
    """IoU per layer of every circuit with the one found again, and where both are empty; NaN in a round without.

    Scores (2C, O_l); again: the second search's, if there was one. The two differ in their random batches only, so this
    is how alike circuits can be expected to be when nothing else differs: a ceiling for every other IoU.
    """
    if setup.experiment.discovery.repeat == "never":
        return {}
    layers = conv_names(len(scores))
    values = empty = np.full((len(scores[layers[0]]), len(layers)), np.nan)
    for other in again:
        pairs = [(np.asarray(scores[k]) > 0, np.asarray(other[k]) > 0) for k in layers]
        values = np.stack([iou(a, b) for a, b in pairs], -1)
        empty = np.stack([~(a | b).any(-1) for a, b in pairs], -1).astype(float)
    named = {"rediscovery_iou": values, "empty_pairs_rediscovery": empty}
    return {name: recording.by_origin(setup, round_, own) for name, own in named.items()}

"""The analyst's own images: a few training images of every class, on which circuits that decide are searched.

They are an instrument. No client and no server trains on them as such, and they are the same for all rounds, clients
and models of a seed, so that what is found on two models can be compared. Scores are taken on test images only.

Axes: Y classes, T steps, B images of a batch, M samples of all gates, P = Y * (searched + chosen on) probe images.
"""

from __future__ import annotations

import numpy as np

from fedmi_jax.config import Discovery
from fedmi_jax.data.batches import Plan
from fedmi_jax.errors import ConfigError
from fedmi_jax.keys import PROBE, generator


def draw(labels: np.ndarray, classes: int, sizes: tuple[int, int], seed: int) -> np.ndarray:
    """Indices (P,) of training images: first sizes[0] of each class to search on, class by class, then sizes[1] of each
    to choose a size on, likewise; no image twice.

    Raises ConfigError for a class with fewer images.
    """
    rng, chosen = generator(seed, PROBE), []
    for label in range(classes):
        own = np.flatnonzero(labels == label)
        if len(own) < sum(sizes):
            raise ConfigError(
                f"discovery.probe: {sizes[0]} + {sizes[1]} images of every class are asked for, but class {label} has "
                f"{len(own)} training images; give two smaller numbers"
            )
        chosen.append(rng.choice(own, sum(sizes), replace=False).astype(np.int32))
    searched, judged = np.split(np.stack(chosen), [sizes[0]], axis=1)
    return np.concatenate([searched.ravel(), judged.ravel()])


def others(label: int, held: np.ndarray, classes: int, negatives: str) -> np.ndarray:
    """The classes (Y,) bool that `label` is told from: all others, or of those held (Y,) bool the others."""
    there = np.arange(classes) != label
    return there & held if negatives == "own" else there


def selection(
    label: int, others: np.ndarray, sizes: tuple[int, int], batch: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Places among the probe images on which the size of a circuit is chosen, (G, B = batch), and which of them are
    real: all that are kept for it of the class, and together about as many of the others (Y,) bool."""
    classes, (searched, judged) = len(others), sizes
    negative = np.flatnonzero(others)
    each = -(-judged // max(len(negative), 1))
    counts = [judged, *(each for _ in negative)]
    places = [classes * searched + c * judged + np.arange(n) for c, n in zip([label, *negative], counts, strict=True)]
    flat, rows = np.concatenate(places), -(-(2 * judged + classes) // batch)
    padded = np.zeros(rows * batch, np.int32)
    padded[: len(flat)] = flat
    return padded.reshape(rows, batch), (np.arange(rows * batch) < len(flat)).reshape(rows, batch)


def search_plan(
    label: int, others: np.ndarray, settings: Discovery, key: tuple[int, ...], channels: int
) -> tuple[Plan, np.ndarray]:
    """One circuit's batches (T, B), as places among the probe images, and its draws uint8 (T, M / 2, channels).

    For objective "class" a batch is of the class. Otherwise half of each batch, and of each sample's share of it, is of
    the class; the other half is of the others (Y,) bool, as evenly as can be, those that are one more taking turns. No
    other class gives a plan without steps.
    """
    rng, steps, batch = generator(*key), settings.steps, settings.batch_size
    draws = rng.integers(0, 256, (steps, settings.masks // 2, channels), np.uint8)
    if settings.objective == "class":
        index = _stream(rng, label, settings.probe[0], steps, min(batch, settings.probe[0]))
        return _full(index), draws
    if not others.any():
        return Plan(np.zeros((steps, batch), np.int32), np.zeros(steps, np.int32), np.int32(0)), draws
    groups = settings.masks if settings.gates == "bernoulli" else 1
    own = _stream(rng, label, settings.probe[0], steps, batch // 2)
    apart = _of_others(rng, np.flatnonzero(others), settings.probe[0], steps, batch // 2)
    parts = [part.reshape(steps, groups, -1) for part in (own, apart)]
    return _full(np.concatenate(parts, 2).reshape(steps, batch)), draws


def _full(index: np.ndarray) -> Plan:
    """The plan of these batches (T, B), without padding."""
    steps, batch = index.shape
    return Plan(index.astype(np.int32), np.full(steps, batch, np.int32), np.int32(steps))


def _of_others(rng: np.random.Generator, classes: np.ndarray, searched: int, steps: int, total: int) -> np.ndarray:
    """So many images every step, (T, total), of these classes as evenly as can be, in random order."""
    share, rest = divmod(total, len(classes))
    parts = [_stream(rng, int(c), searched, steps, share + (rest > 0)) for c in classes]
    apart = np.concatenate([part[:, :share] for part in parts], 1)
    if rest:
        turn = (np.arange(steps)[:, None] * rest + np.arange(len(classes))) % len(classes) < rest
        more = np.stack([part[:, share] for part in parts], 1)[turn].reshape(steps, rest)
        apart = np.concatenate([apart, more], 1)
    return rng.permuted(apart, axis=1)


def _stream(rng: np.random.Generator, label: int, searched: int, steps: int, each: int) -> np.ndarray:
    """So many images of a class every step, (T, each): shuffled through, then anew; none twice in a step."""
    if each == 0:
        return np.zeros((steps, 0), int)
    a_pass = searched // each
    passes = -(-steps // a_pass)
    shuffled = rng.permuted(np.tile(np.arange(searched), (passes, 1)), axis=1)[:, : a_pass * each]
    return label * searched + shuffled.reshape(-1, each)[:steps]

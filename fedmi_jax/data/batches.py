"""Index plans: which image stands where in which batch. Host arrays; images are gathered on the device.

Axes: K clients, T steps, B images of a batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedmi_jax.keys import TRAIN, generator


class Plan(NamedTuple):
    """Batches of one client (T, B), or of a stack of them (K, T, B)."""

    indices: np.ndarray
    """int32, into the training images; padding repeats some valid index."""
    counts: np.ndarray
    """int32 (T,) or (K, T): how many images a batch has, the first ones of its row; the rest is padding."""
    steps: np.ndarray | np.int32
    """int32, () or (K,): how many of the T steps are this client's own."""

    @property
    def weight(self) -> np.ndarray:
        """Of the images, float64: 1 / (its batch's number of images), and 0 on padding. On the host; programs make
        them of the counts (`network.images.weights`), since they are as large as the indices."""
        own = np.arange(self.indices.shape[-1]) < self.counts[..., None]
        return own / np.maximum(self.counts, 1)[..., None]


def from_batches(batches: list[np.ndarray], width: int | None = None, steps: int | None = None) -> Plan:
    """A plan of these batches (each a vector of at least one index), padded to `steps` x `width`."""
    width, total = width or max(map(len, batches)), steps or len(batches)
    indices = np.full((total, width), batches[0][0], np.int32)
    counts = np.zeros(total, np.int32)
    for t, batch in enumerate(batches):
        indices[t, : len(batch)], counts[t] = batch, len(batch)
    return Plan(indices, counts, np.int32(len(batches)))


def stack(plans: list[Plan]) -> Plan:
    """Plans of one shape as one plan with a leading axis."""
    return Plan(*(np.stack(parts) for parts in zip(*plans, strict=True)))


def local_steps(samples: int, batch_size: int, epochs: int) -> int:
    """A client's own number of optimiser steps in a round."""
    return epochs * -(-samples // batch_size)


def training_plan(
    clients: dict[int, np.ndarray], batch_size: int, epochs: int, seed: int, round_: int, shape: tuple[int, int]
) -> Plan:
    """The batches of one round of these clients (number: images), (K, T, B) with (T, B) = shape, shuffled anew every
    epoch.

    The last, smaller batch of an epoch is used too, and its loss is the mean over its own images.
    """
    plans = []
    for client, samples in clients.items():
        rng = generator(seed, TRAIN, round_, client)
        cuts = range(batch_size, len(samples), batch_size)
        batches = [batch for _ in range(epochs) for batch in np.split(rng.permutation(samples), cuts)]
        plans.append(from_batches(batches, shape[1], shape[0]))
    return stack(plans)


def discovery_batch(of_class: int, samples: int, batch_size: int) -> int:
    """Images of the class in a discovery step: its expected number in a shuffled batch of the client's data."""
    return min(of_class, max(1, round(min(batch_size, samples) * of_class / samples)))


def discovery_plan(images: np.ndarray, batch: int, steps: int, key: tuple[int, ...], width: int) -> Plan:
    """One circuit's batches (T, B = width): each step `batch` of these images, without replacement.

    images: indices of the client's images of the class; none gives a plan without steps (an empty circuit).
    """
    if len(images) == 0:
        return Plan(np.zeros((steps, width), np.int32), np.zeros(steps, np.int32), np.int32(0))
    rng = generator(*key)
    return from_batches([rng.choice(images, batch, replace=False, shuffle=False) for _ in range(steps)], width)

"""Who holds which training images.

A partition is one array of indices into the training images per client: int32, ascending. Every draw comes from numpy
generators seeded by (seed, purpose), so the same split and seed give the same partition everywhere.

Axes: N training images, K clients, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedmi_jax.config import Split
from fedmi_jax.errors import ConfigError
from fedmi_jax.keys import LIMIT, PARTITION, generator

REDRAWS = 1000
"""How often a Dirichlet split is drawn before giving up."""
Partition = list[np.ndarray]


def partition(labels: np.ndarray, num_classes: int, split: Split, seed: int) -> Partition:
    """The indices each of `split.clients` clients holds, given the labels [N] in 0 .. num_classes - 1.

    Every image goes to exactly one client, but for "class-map", and for "classes-per-client" with fewer places than
    classes, where some classes are held by nobody. Raises ConfigError, naming the field, if the data cannot be split
    so, or a client would hold nothing.
    """
    if split.clients > len(labels):
        raise ConfigError(f"split.clients: at most one client per training image ({len(labels)}); got {split.clients}")
    draw = {
        "iid": _iid, "class-map": _class_map, "dirichlet": _dirichlet,
        "classes-per-client": _classes_per_client, "shards": _shards,
    }[split.kind]  # fmt: skip
    held = draw(np.asarray(labels), num_classes, split, generator(seed, PARTITION))
    for client, indices in enumerate(held):
        if not len(indices):
            raise ConfigError(f"split: client {client} holds no training image; {_REMEDY[split.kind]}")
    return [np.sort(indices).astype(np.int32) for indices in held]


_REMEDY = {
    "iid": "use fewer clients",
    "class-map": "give it a class the training images have",
    "dirichlet": "use fewer clients or a larger split.alpha",
    "classes-per-client": "use fewer clients or more split.classes_per_client",
    "shards": "use fewer clients or fewer split.shards_per_client",
}


def _iid(labels: np.ndarray, num_classes: int, split: Split, rng: np.random.Generator) -> Partition:
    """Shuffled shares whose sizes differ by one image at most."""
    return np.array_split(rng.permutation(len(labels)), split.clients)


def _class_map(labels: np.ndarray, num_classes: int, split: Split, rng: np.random.Generator) -> Partition:
    """All images of each client's classes; a class of several clients is held in full by each (paper, section 4)."""
    for client, classes in enumerate(split.class_map):
        if max(classes) >= num_classes:
            raise ConfigError(
                f"split.class_map: classes are 0 .. {num_classes - 1}; client {client} asks for class {max(classes)}"
            )
    return [np.flatnonzero(np.isin(labels, classes)) for classes in split.class_map]


def _dirichlet(labels: np.ndarray, num_classes: int, split: Split, rng: np.random.Generator) -> Partition:
    """Per class, shares drawn from Dir(alpha), all redrawn until every client holds `min_samples` (Hsu et al. 2019)."""
    if (needed := split.min_samples * split.clients) > len(labels):
        raise ConfigError(
            f"split.min_samples: {split.clients} clients with {split.min_samples} each need {needed} images; "
            f"there are {len(labels)}"
        )
    totals = np.bincount(labels, minlength=num_classes)
    for _ in range(REDRAWS):
        cuts = _dirichlet_cuts(totals, split, rng)
        if np.diff(cuts, axis=1).sum(axis=0).min() >= split.min_samples:
            break
    else:
        raise ConfigError(
            f"split.min_samples: in each of {REDRAWS} draws with split.alpha {split.alpha:g} one of {split.clients} "
            f"clients held fewer than {split.min_samples} images; lower it, or raise split.alpha"
        )
    shuffled = [rng.permutation(np.flatnonzero(labels == label)) for label in range(num_classes)]
    return [
        np.concatenate([images[cut[k] : cut[k + 1]] for images, cut in zip(shuffled, cuts, strict=True)])
        for k in range(split.clients)
    ]


def _dirichlet_cuts(totals: np.ndarray, split: Split, rng: np.random.Generator) -> np.ndarray:
    """Where each class's images (`totals` [C] of them) are cut, int [C, K + 1], from 0 to the total."""
    proportions = rng.dirichlet(np.full(split.clients, split.alpha), size=len(totals))
    inner = np.round(np.cumsum(proportions[:, :-1], axis=1) * totals[:, None]).astype(int)
    return np.hstack([np.zeros_like(totals)[:, None], inner, totals[:, None]])


def _classes_per_client(labels: np.ndarray, num_classes: int, split: Split, rng: np.random.Generator) -> Partition:
    """`classes_per_client` classes each; every class's images are shared out evenly over the clients that hold it."""
    if split.classes_per_client > num_classes:
        raise ConfigError(
            f"split.classes_per_client: at most the number of classes ({num_classes}); got {split.classes_per_client}"
        )
    holds = _deal_classes(num_classes, split, rng)
    shares: list[Partition] = [[np.empty(0, int)] for _ in range(split.clients)]
    for label in range(num_classes):
        holders = np.flatnonzero(holds[:, label])
        if len(holders):
            images = rng.permutation(np.flatnonzero(labels == label))
            for holder, part in zip(holders, np.array_split(images, len(holders)), strict=True):
                shares[holder].append(part)
    return [np.concatenate(share) for share in shares]


def _deal_classes(num_classes: int, split: Split, rng: np.random.Generator) -> np.ndarray:
    """Who holds which class, bool [K, C]: `classes_per_client` in a row, and columns whose sums differ by one at most.

    Each client takes the classes held least so far, ties broken at random: all classes are held as soon as there are
    enough places.
    """
    holds = np.zeros((split.clients, num_classes), bool)
    for client in range(split.clients):
        order = np.lexsort([rng.random(num_classes), holds.sum(axis=0)])
        holds[client, order[: split.classes_per_client]] = True
    return holds


def _shards(labels: np.ndarray, num_classes: int, split: Split, rng: np.random.Generator) -> Partition:
    """Images sorted by label, cut into equal shards, `shards_per_client` dealt to each client (McMahan et al. 2017)."""
    count = split.clients * split.shards_per_client
    if count > len(labels):
        raise ConfigError(
            f"split.shards_per_client: {split.clients} clients with {split.shards_per_client} shards each need at "
            f"least {count} images; there are {len(labels)}"
        )
    shuffled = rng.permutation(len(labels))
    shards = np.array_split(shuffled[np.argsort(labels[shuffled], kind="stable")], count)
    dealt = rng.permutation(count).reshape(split.clients, -1)
    return [np.concatenate([shards[i] for i in row]) for row in dealt]


def limit(held: Sequence[np.ndarray], images_per_client: int | None, seed: int) -> Partition:
    """At most `images_per_client` of each client's indices, a uniformly drawn subset, ascending; None: all of them.

    Each client draws from its own stream, so that the number of clients changes nothing for the others.
    """
    if images_per_client is None:
        return list(held)
    return [
        np.sort(generator(seed, LIMIT, client).permutation(indices)[:images_per_client])
        for client, indices in enumerate(held)
    ]


def counts(held: Sequence[np.ndarray], labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Training images of each client and class, int [K, C]."""
    return np.stack([np.bincount(labels[indices], minlength=num_classes) for indices in held])


def skew(client_counts: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Total-variation distance of each client's label distribution to the whole's, float [K].

    Args: `client_counts` [K, C] and `whole` [C] are numbers of images. 0: as the whole; 1: no class in common.
    """
    own = client_counts / client_counts.sum(axis=1, keepdims=True)
    return np.abs(own - whole / whole.sum()).sum(axis=1) / 2


def table(
    client_counts: np.ndarray, whole: np.ndarray, class_names: Sequence[str], most: tuple[int, int] = (20, 12)
) -> str:
    """Images per client and class, their total and the skew (see there for `client_counts` and `whole`), as text.

    Of more clients, or classes, than `most` says, the middle ones are left out.
    """
    clients, classes = _ends(len(client_counts), most[0]), _ends(len(whole), most[1])
    distance = skew(client_counts, whole)
    head = ["client", *("..." if c is None else class_names[c] for c in classes), "total", "skew"]
    rows = [head]
    for client in clients:
        if client is None:
            rows.append(["..."] * len(head))
            continue
        own = client_counts[client]
        cells = ["..." if c is None else str(own[c]) for c in classes]
        rows.append([str(client), *cells, str(own.sum()), f"{distance[client]:.2f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _ends(count: int, most: int) -> list[int | None]:
    """0 .. count - 1, or its first and last with None for those left out: `most` entries at most."""
    if count <= most:
        return list(range(count))
    head = most // 2
    return [*range(head), None, *range(count - (most - head - 1), count)]

"""Splits: every image where it belongs, the same for the same seed, and clear refusals."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fedmi_jax.config import Split
from fedmi_jax.data import partition as p
from fedmi_jax.errors import ConfigError

C = 6
quick = settings(max_examples=40, deadline=None)
label_sets = st.lists(st.integers(0, C - 1), min_size=30, max_size=200).map(lambda x: np.array(x, np.int32))
seeds = st.integers(0, 2**32)


def is_partition(held, images):
    """Every image with exactly one client, in int32 and in order."""
    assert all(indices.dtype == np.int32 and np.all(np.diff(indices) > 0) for indices in held)
    np.testing.assert_array_equal(np.sort(np.concatenate(held)), np.arange(images))


@quick
@given(label_sets, seeds, st.integers(1, 30))
def test_iid_gives_every_image_once_in_equal_shares(labels, seed, clients):
    held = p.partition(labels, C, Split(clients=clients), seed)
    is_partition(held, len(labels))
    sizes = [len(indices) for indices in held]
    assert len(held) == clients
    assert max(sizes) - min(sizes) <= 1


@quick
@given(label_sets, seeds, st.integers(1, 4), st.floats(0.3, 100))
def test_dirichlet_gives_every_image_once_and_enough_to_each(labels, seed, clients, alpha):
    split = Split(kind="dirichlet", clients=clients, alpha=alpha, min_samples=3)
    held = p.partition(labels, C, split, seed)
    is_partition(held, len(labels))
    assert len(held) == clients
    assert min(map(len, held)) >= 3


@quick
@given(label_sets, seeds, st.integers(1, 8), st.integers(1, 3))
def test_shards_give_every_image_once_and_few_classes(labels, seed, clients, shards):
    held = p.partition(labels, C, Split(kind="shards", clients=clients, shards_per_client=shards), seed)
    is_partition(held, len(labels))
    smallest = np.bincount(labels, minlength=C)[np.unique(labels)].min()
    if smallest >= -(-len(labels) // (clients * shards)):  # then no shard spans more than two classes
        assert max(len(np.unique(labels[indices])) for indices in held) <= 2 * shards


@quick
@given(label_sets, seeds, st.integers(1, 12), st.integers(1, C))
def test_classes_per_client(labels, seed, clients, k):
    assume(np.bincount(labels, minlength=C).min() >= clients)  # nobody goes without
    held = p.partition(labels, C, Split(kind="classes-per-client", clients=clients, classes_per_client=k), seed)
    counts = p.counts(held, labels, C)
    assert np.all((counts > 0).sum(axis=1) == k)
    if clients * k >= C:
        is_partition(held, len(labels))
    for column in counts.T:  # evenly over the holders
        shares = column[column > 0]
        assert len(shares) == 0 or shares.max() - shares.min() <= 1
    holders = (counts > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1


@quick
@given(label_sets, st.lists(st.sets(st.integers(0, C - 1), min_size=1), min_size=1, max_size=5))
def test_class_map_gives_all_images_of_the_classes(labels, classes):
    assume(all(np.isin(labels, list(own)).any() for own in classes))
    split = Split(kind="class-map", clients=len(classes), class_map=tuple(map(tuple, classes)))
    for indices, own in zip(p.partition(labels, C, split, 0), classes, strict=True):
        np.testing.assert_array_equal(indices, [i for i, label in enumerate(labels) if label in own])


KINDS = [
    Split(clients=4), Split(kind="dirichlet", clients=4), Split(kind="shards", clients=4),
    Split(kind="classes-per-client", clients=4),
]  # fmt: skip
LABELS = np.random.default_rng(0).integers(0, C, 600).astype(np.int32)


@pytest.mark.parametrize("split", KINDS, ids=lambda split: split.kind)
def test_seed_decides(split):
    first, again, other = (p.partition(LABELS, C, split, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_draws_do_not_change_between_releases():
    assert p.partition(LABELS, C, Split(clients=100), 0)[0].tolist() == FIRST_IID
    held = p.partition(LABELS, C, Split(kind="dirichlet", clients=3), 0)
    assert p.counts(held, LABELS, C).tolist() == DIRICHLET


FIRST_IID = [25, 30, 36, 46, 467, 549]
DIRICHLET = [[26, 17, 43, 3, 2, 23], [21, 10, 3, 3, 62, 91], [53, 61, 44, 93, 45, 0]]


def test_small_alpha_is_skewed():
    whole = np.bincount(LABELS, minlength=C)
    few, many = (
        p.skew(p.counts(p.partition(LABELS, C, Split(kind="dirichlet", clients=4, alpha=a), 0), LABELS, C), whole)
        for a in (0.1, 1000.0)
    )
    assert few.mean() > 0.4
    assert many.max() < 0.05


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split(clients=601), r"split\.clients: at most one client per training image \(600\); got 601"),
        (Split(kind="class-map", clients=1, class_map=((0, 6),)), r"split\.class_map: classes are 0 \.\. 5; client 0 "),
        (Split(kind="class-map", clients=2, class_map=((0,), (5,))), r"split: client 1 holds no training image; give"),
        (Split(kind="classes-per-client", classes_per_client=7), r"split\.classes_per_client: at most .* \(6\); got 7"),
        (Split(kind="classes-per-client", clients=590, classes_per_client=1), r"split: client \d+ holds no training"),
        (
            Split(kind="dirichlet", clients=61),
            r"split\.min_samples: 61 clients with 10 each need 610 images",
        ),
        (Split(kind="dirichlet", clients=20, alpha=0.01, min_samples=20), r"split\.min_samples: in each of 1000 draws"),
        (Split(kind="shards", clients=400), r"split\.shards_per_client: 400 clients with 2 shards each need"),
    ],
)
def test_what_cannot_be_split_is_refused(split, message):
    labels = np.where(LABELS == 5, 4, LABELS)  # class 5 has no image
    with pytest.raises(ConfigError, match=f"^{message}") as error:
        p.partition(labels, C, split, 0)
    assert "\n" not in str(error.value)


@quick
@given(seeds, st.integers(1, 300))
def test_limit_keeps_a_subset_of_each_client(seed, most):
    held = p.partition(LABELS, C, Split(kind="dirichlet", clients=3), seed)
    kept = p.limit(held, most, seed)
    for all_of, some in zip(held, kept, strict=True):
        assert len(some) == min(most, len(all_of))
        assert some.dtype == np.int32
        assert np.all(np.diff(some) > 0)
        assert np.isin(some, all_of).all()
    assert all(np.array_equal(a, b) for a, b in zip(kept[:2], p.limit(held[:2], most, seed), strict=True))


def test_limit_draws_uniformly_and_by_client():
    held = [np.arange(1000, dtype=np.int32)] * 2
    first, second = p.limit(held, 100, 0)
    assert not np.array_equal(first, second)
    assert 400 < first.mean() < 600
    assert p.limit(held, None, 0)[0] is held[0]


def test_counts_and_skew():
    labels = np.array([0, 0, 1, 1, 2, 2])
    counts = p.counts([np.array([0, 2, 4]), np.array([0, 1]), np.array([2, 3, 4, 5])], labels, 3)
    assert counts.tolist() == [[1, 1, 1], [2, 0, 0], [0, 2, 2]]
    np.testing.assert_allclose(p.skew(counts, np.array([2, 2, 2])), [0, 2 / 3, 1 / 3], atol=1e-12)
    assert p.skew(np.array([[5, 0]]), np.array([0, 9])).tolist() == [1.0]


def test_table():
    text = p.table(np.array([[3, 0], [10, 30]]), np.array([13, 30]), ["cat", "dog"])
    assert text.splitlines() == [
        "client  cat  dog  total  skew",
        "     0    3    0      3  0.70",
        "     1   10   30     40  0.05",
    ]


def test_table_of_many_stays_readable():
    lines = p.table(np.ones((1000, 200), int), np.ones(200), [f"c{i}" for i in range(200)]).splitlines()
    assert len(lines) == 21
    assert lines[1].split()[0] == "0"
    assert set(lines[11].split()) == {"..."}
    assert lines[-1].split()[0] == "999"
    assert lines[0].split()[6:8] == ["c5", "..."]
    assert max(map(len, lines)) < 100

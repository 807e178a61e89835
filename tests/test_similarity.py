"""IoU against Python's sets, and every measure against a slow, plain version of its definition."""

import itertools
import math
from unittest import mock

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.results import similarity
from fedmi_jax.results.schema import CIRCUIT_DIMS
from fedmi_jax.results.similarity import MEASURES, iou, measures, sizes

CHANNELS = {"conv1": 3, "conv2": 4, "conv3": 5}


def random_result(seed: int, rounds: tuple[int, ...] = (1, 2, 3)) -> xr.Dataset:
    """Masks of few channels, so that empty and equal circuits are common; drawn for circuits not analysed, too."""
    rng = np.random.default_rng(seed)
    seeds, clients, classes = (int(rng.integers(1, n)) for n in (3, 5, 4))
    held = rng.random((seeds, clients, classes)) < 0.7
    density = rng.choice([0.1, 0.5, 0.9])
    data: dict = {"analysed": (("seed", "client", "class"), held)}
    for layer, n in CHANNELS.items():
        mask = rng.random((seeds, len(rounds), 2, clients, classes, n)) < density
        data[f"mask_{layer}"] = ((*CIRCUIT_DIMS, f"channel_{layer}"), mask)
    coords = {"seed": range(seeds), "round": list(rounds), "origin": ["local", "global"], "client": range(clients)}
    return xr.Dataset(data, coords={**coords, "class": [2 * c + 1 for c in range(classes)]})


@given(st.sets(st.integers(0, 9)), st.sets(st.integers(0, 9)))
def test_iou_is_that_of_sets(a, b):
    expected = len(a & b) / len(a | b) if a | b else 1.0
    masks = [np.isin(np.arange(10), list(x)) for x in (a, b)]
    assert iou(*masks) == expected


def test_iou_broadcasts_and_keeps_leading_axes():
    a = np.array([[[True, False, False]], [[True, True, False]]])  # (2, 1, 3)
    b = np.array([[False, False, False], [True, True, False], [True, True, True]])  # (3, 3)
    np.testing.assert_array_equal(iou(a, b), [[0, 1 / 2, 1 / 3], [0, 1, 2 / 3]])


class Plain:
    """The definitions, one Python set at a time."""

    def __init__(self, ds: xr.Dataset, layer: str):
        self.classes, self.clients = ds["class"].values.tolist(), ds["client"].values.tolist()
        mask, held = ds[f"mask_{layer}"], ds["analysed"].values
        labels = [ds[dim].values.tolist() for dim in CIRCUIT_DIMS]
        circuits = zip(itertools.product(*labels), np.ndindex(mask.shape[:-1]), strict=True)
        self.found = {
            where: frozenset(np.flatnonzero(mask.values[i]).tolist()) for where, i in circuits if held[i[0], i[3], i[4]]
        }

    def circuit(self, *where) -> frozenset | None:
        """The channels at (seed, round, origin, client, class); None where the client does not analyse the class."""
        return self.found.get(where)

    def inter_client_iou(self, s, r, o, c):
        return mean_pairs(itertools.combinations([self.circuit(s, r, o, k, c) for k in self.clients], 2))

    def stability_iou(self, s, r, o, k, c):
        return mean_pairs([(self.circuit(s, r - 1, o, k, c), self.circuit(s, r, o, k, c))])

    def local_global_iou(self, s, r, k, c):
        return mean_pairs([(self.circuit(s, r, "local", k, c), self.circuit(s, r, "global", k, c))])

    def specialist_distinctness(self, s, r, o):
        own = [[x for c in self.classes if (x := self.circuit(s, r, o, k, c)) is not None] for k in self.clients]
        return mean_pairs(itertools.combinations([frozenset().union(*x) if x else None for x in own], 2))

    def inter_class_iou(self, s, r, o, k):
        return mean_pairs(itertools.combinations([self.circuit(s, r, o, k, c) for c in self.classes], 2))

    def class_pair_iou(self, s, r, o, c, d):
        pairs = [(k, m) for k in self.clients for m in self.clients if c != d or k != m]
        return mean_pairs([(self.circuit(s, r, o, k, c), self.circuit(s, r, o, m, d)) for k, m in pairs])


def mean_pairs(pairs) -> tuple[float, float]:
    """Mean IoU, and the share of empty pairs, of those pairs that exist."""
    pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
    if not pairs:
        return math.nan, math.nan
    values = [len(a & b) / len(a | b) if a | b else 1.0 for a, b in pairs]
    return sum(values) / len(pairs), sum(not a | b for a, b in pairs) / len(pairs)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([similarity._FEW, 0]))
def test_measures_are_their_plain_definitions(seed, few):
    """Each pair by itself, and pairs that are counted."""
    with mock.patch.object(similarity, "_FEW", few):
        found = measures(random_result(seed))
    for layer, name in itertools.product(CONV_LAYERS, MEASURES):
        values, empty = found[name].sel(layer=layer), found["empty_pairs_" + name.removesuffix("_iou")].sel(layer=layer)
        labels = [values[dim].values.tolist() for dim in values.dims]
        plain = getattr(Plain(found, layer), name)
        expected = [plain(*where) for where in itertools.product(*labels)]
        np.testing.assert_allclose(values.values.ravel(), [e[0] for e in expected], rtol=1e-12, err_msg=name)
        np.testing.assert_allclose(empty.values.ravel(), [e[1] for e in expected], rtol=1e-12, err_msg=name)


def test_measures_do_not_depend_on_the_block_size_or_the_order_of_dimensions(monkeypatch):
    ds = random_result(5)
    whole = measures(ds)
    monkeypatch.setattr(similarity, "_BLOCK", 1)
    shuffled = ds.transpose("channel_conv1", "channel_conv2", "channel_conv3", *reversed(CIRCUIT_DIMS))
    again = measures(shuffled)
    xr.testing.assert_identical(again[list(MEASURES)], whole[list(MEASURES)])


def test_stability_skips_a_gap_in_the_rounds():
    stability = measures(random_result(7, rounds=(2, 3, 6)))["stability_iou"]
    assert stability.sel(round=[2, 6]).isnull().all()
    assert stability.sel(round=3).notnull().any()


def test_class_pairs_are_symmetric_with_consistency_on_the_diagonal():
    found = measures(random_result(11))
    pair = found["class_pair_iou"].values
    np.testing.assert_array_equal(pair, pair.swapaxes(-3, -2))
    diagonal = np.moveaxis(np.diagonal(pair, axis1=-3, axis2=-2), -1, -2)
    np.testing.assert_array_equal(diagonal, found["inter_client_iou"].values)


def test_sizes_and_degenerate():
    ds = sizes(random_result(3))
    counts = {layer: ds[f"mask_{layer}"].sum(f"channel_{layer}") for layer in CONV_LAYERS}
    for layer, count in counts.items():
        np.testing.assert_array_equal(
            ds["size"].sel(layer=layer), count.where(ds["analysed"], 0).transpose(*CIRCUIT_DIMS)
        )
    empty = np.logical_or.reduce([(count == 0).values for count in counts.values()])
    held = np.broadcast_to(ds["analysed"].values[:, None, None], empty.shape)
    assert held.any()
    assert not held.all()
    np.testing.assert_array_equal(ds["degenerate"].values, empty & held)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 8, 63, 64, 65, 130]), st.integers(1, 99))
def test_pairs_that_are_counted_are_those_that_are_looked_at_one_by_one(n, m, channels, tile):
    rng = np.random.default_rng(n + 100 * m + channels)
    a, b = (rng.random((count, channels)) < rng.choice([0, 0.02, 0.4, 1]) for count in (n, m))
    with mock.patch.object(similarity, "_TILE", tile):
        for other, same in ((b, False), (a, True)):
            slow = similarity._block(
                a[None], other[None], np.ones((1, n), bool), np.ones((1, len(other)), bool), same=same
            )
            counted = similarity._of_many(a, other, same=same)
            np.testing.assert_allclose(counted, np.ravel(slow), rtol=1e-14)


@pytest.mark.parametrize("same", [True, False])
def test_a_thousand_clients(same):
    """All alike: 1; every one with a channel of its own: 0. Neither forms anything of size clients^2 x channels."""
    clients, channels = 1000, 1000
    mask = np.zeros((1, 1, 2, clients, 1, channels), bool)
    mask[..., np.arange(clients), 0, 0 if same else np.arange(clients)] = True
    data: dict = {f"mask_{layer}": ((*CIRCUIT_DIMS, f"channel_{layer}"), mask) for layer in CONV_LAYERS}
    data["analysed"] = (("seed", "client", "class"), np.ones((1, clients, 1), bool))
    found = measures(xr.Dataset(data, coords={"round": [1], "origin": ["local", "global"], "class": [0]}))
    assert (found["inter_client_iou"] == float(same)).all()
    assert (found["specialist_distinctness"] == float(same)).all()

"""Circuits compared at equal size, and chance among live channels: against enumeration and by hand."""

import itertools

import numpy as np
import pytest
import xarray as xr
from decided import LIVE
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import decided, result

from fedmi_jax.analysis import nulls, sizes, units
from fedmi_jax.analysis.sizes import Drawn, expected_iou, intersections
from fedmi_jax.network.layers import CONV_LAYERS


@st.composite
def layers(draw, most=5):
    """Which channels of a layer are live in the two models, and how many of each are drawn."""
    channels = range(draw(st.integers(1, most)))
    one, other = (draw(st.sets(st.sampled_from(list(channels)))) for _ in range(2))
    return one, draw(st.integers(0, len(one))), other, draw(st.integers(0, len(other)))


def drawn(layer):
    one, a, other, b = layer
    return Drawn(a, b, len(one), len(other), len(one & other))


def every_pair(layer):
    """All pairs of sets that can be drawn, each as likely as any other."""
    one, a, other, b = layer
    subsets = (itertools.combinations(sorted(live), size) for live, size in ((one, a), (other, b)))
    return [(set(first), set(second)) for first, second in itertools.product(*subsets)]


@given(layers())
@settings(max_examples=60, deadline=None)
def test_how_many_two_random_sets_have_in_common(layer):
    common = [len(first & second) for first, second in every_pair(layer)]
    law = intersections(drawn(layer))
    assert np.allclose(law, np.bincount(common, minlength=len(law)) / len(common))


@given(st.lists(layers(4), min_size=1, max_size=2))
@settings(max_examples=60, deadline=None)
def test_the_expectation_is_that_of_all_pairs(model):
    """Over layers at once: channels of different layers are different."""
    found = []
    for pairs in itertools.product(*map(every_pair, model)):
        first, second = ({(at, c) for at, pair in enumerate(pairs) for c in pair[side]} for side in (0, 1))
        found.append(len(first & second) / len(first | second) if first | second else 1.0)
    assert expected_iou(tuple(map(drawn, model))) == pytest.approx(np.mean(found))


def test_with_all_channels_live_it_is_the_null_of_all_channels():
    for a, b in ((0, 0), (0, 3), (5, 9), (40, 40), (1, 40)):
        assert expected_iou((Drawn(a, b, 40, 40, 40),)) == pytest.approx(nulls.expected_iou(a, b, 40))


def test_fewer_live_channels_overlap_more():
    assert expected_iou((Drawn(5, 5, 10, 10, 10),)) > 2 * expected_iou((Drawn(5, 5, 40, 40, 40),))
    assert expected_iou((Drawn(5, 5, 10, 10, 0),)) == 0


@pytest.mark.parametrize("wrong", [(3, 0, 2, 2, 1), (0, 3, 2, 2, 1), (1, 1, 2, 2, 3), (-1, 0, 2, 2, 1)])
def test_sets_that_cannot_be_drawn_are_refused(wrong):
    with pytest.raises(ValueError, match="no two such sets"):
        intersections(Drawn(*wrong))


# --- rankings ---


def shifted(by, kind="two-class", **how):
    """Circuits of ten channels in every layer; the global ones begin so many channels later."""
    return decided(kind, global_=by, seeds=1, rounds=2, **how)


def test_the_best_channels_at_equal_size():
    """Ranks go round the layers, so that the best 4 are 2, 1 and 1 of a layer, and the best 8 are 3, 3 and 2. Shifted
    by 1, one of the 4 is shared, and 2 + 2 + 1 of the 8."""
    ds = shifted(1)
    found = sizes.at_size(ds, units.competent(ds), (4, 8))["iou"]
    there = ds["analysed"] & (ds["round"] > 0)
    for size, shared in ((4, 1), (8, 5)):
        expected = xr.where(there, shared / (2 * size - shared), np.nan)
        assert np.allclose(found.sel(size=size), expected.transpose(*found.dims[:-1]), equal_nan=True)


def test_the_same_ranking_overlaps_in_full():
    ds = shifted(0)
    found = sizes.at_size(ds, units.competent(ds))["iou"]
    assert (found.where(ds["analysed"]) == 1).sum() == 2 * 6 * len(sizes.SIZES)


def test_where_fewer_channels_are_live_there_is_no_such_size():
    ds = shifted(0)
    for layer in CONV_LAYERS:
        ds[f"live_{layer}"] = ds[f"live_{layer}"] & (np.arange(40) < 2)
    found = sizes.at_size(ds, units.competent(ds), (4, 8))["iou"]
    assert found.sel(size=4).notnull().any()
    assert found.sel(size=8).isnull().all()


def test_scores_that_end_at_one_bound_are_no_ranking():
    ds = shifted(0)
    ds = ds.drop_vars([f"rank_{layer}" for layer in CONV_LAYERS])
    there = units.competent(ds)
    assert sizes.at_size(ds, there, (8,))["iou"].notnull().any()  # the scores say the same as the ranks
    for layer in CONV_LAYERS:
        ds[f"score_{layer}"] = ds[f"score_{layer}"].clip(max=-20)
    found = sizes.at_size(ds, there, (8, 32))["iou"]
    assert found.sel(size=8).isnull().all()
    assert found.sel(size=32).notnull().any()


def test_overlaps_are_those_of_the_result():
    ds = decided("iid", local=lambda s, r, k, c: (k, 2 * r, 0), global_=3, seeds=2, rounds=3)
    everything = sizes.circuits(ds, units.competent(ds))
    for pairs, measure, pick in (
        (sizes.local_to_global(everything), "local_global_iou", {}),
        (sizes.round_before(everything), "stability_iou", {}),
        (sizes.between_clients(everything), "inter_client_iou", {"mean": "pair"}),
    ):
        found = sizes.overlaps(pairs, by_layer=True).iou
        found = found.mean(pick["mean"]) if pick else found
        assert np.allclose(found.transpose(*ds[measure].dims), ds[measure], equal_nan=True), measure


def test_all_layers_together():
    """By hand: 10 channels in each of 3 layers; shifted by 5 in one of them, 25 of 35 are shared."""
    ds = shifted((0, 5, 0))
    found = sizes.overlaps(sizes.local_to_global(sizes.circuits(ds, units.competent(ds))))
    assert np.allclose(found.iou.values[found.iou.notnull().values], 25 / 35)
    chance = expected_iou((Drawn(10, 10, LIVE, LIVE, LIVE),) * 3)
    assert np.allclose(found.expected.values[found.iou.notnull().values], chance)


def test_circuits_of_models_that_decide_nothing_are_compared_with_nobody():
    ds = shifted(0, status=lambda s, r, o, k, c: 3 if o == "global" and k == 0 else 1)
    found = sizes.overlaps(sizes.local_to_global(sizes.circuits(ds, units.competent(ds)))).iou
    assert found.sel(client=0).isnull().all()
    assert found.sel(client=1).notnull().any()


# --- what survives ---


def test_what_is_kept():
    kept, chance = units.kept(shifted(4))
    assert np.allclose(kept.values[kept.notnull().values], 0.6)
    assert np.allclose(chance.values[chance.notnull().values], 10 / LIVE)


def test_of_a_model_that_decides_nothing_there_is_no_circuit():
    ds = shifted(0, status=lambda s, r, o, k, c: 3 if o == "global" else 1)
    assert float(units.undefined(ds, "global").mean()) == 1
    assert float(units.undefined(ds, "local").mean()) == 0


def test_what_a_refit_gives_back():
    ds = shifted(0, readout={"local": 0.9, "none": 0.3, "scale-and-biases": 0.75, "linear": 0.9})
    assert np.allclose(units.given_back(ds, "scale-and-biases"), 0.75)
    assert np.allclose(units.given_back(ds, "linear"), 1)
    better = shifted(0, readout={"local": 0.3, "none": 0.3})
    assert units.given_back(better, "linear").isnull().all()


def test_results_without_live_channels_are_compared_among_all():
    """As those of the paper's search without measures of decisions."""
    ds = result("two-class", seeds=1, rounds=2)
    found = sizes.overlaps(sizes.local_to_global(sizes.circuits(ds, ds["analysed"] & (ds["round"] > 0))), by_layer=True)
    expected = nulls.expected(ds)["local_global_iou"]
    assert np.allclose(found.expected.transpose(*expected.dims), expected, equal_nan=True)

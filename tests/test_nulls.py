"""The expectation by chance against every pair of sets, and against pair-by-pair definitions of every measure."""

import itertools

import numpy as np
import pytest
import test_similarity
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from test_similarity import Plain, random_result

from fedmi_jax.analysis import nulls
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.results.similarity import MEASURES, measures


def brute_force(a, b, n):
    """Over all pairs of sets of these sizes; by symmetry the first set may be fixed."""
    first = set(range(a))
    others = [set(c) for c in itertools.combinations(range(n), b)]
    return np.mean([len(first & o) / len(first | o) if first | o else 1.0 for o in others])


def test_expected_iou_is_the_mean_over_all_pairs_of_sets():
    for n in (1, 3, 6):
        for a, b in itertools.product(range(n + 1), repeat=2):
            assert nulls.expected_iou(a, b, n) == pytest.approx(brute_force(a, b, n), abs=1e-12)


@given(st.integers(1, 128), st.data())
def test_expected_iou_properties(n, data):
    a, b = (data.draw(st.integers(0, n)) for _ in range(2))
    found = nulls.expected_iou(a, b, n)
    assert 0 <= found <= 1
    assert found == pytest.approx(nulls.expected_iou(b, a, n), abs=1e-12)
    assert nulls.expected_iou(a, n, n) == pytest.approx(a / n)  # against the whole layer
    assert nulls.expected_iou(0, b, n) == (b == 0)


@pytest.mark.parametrize("sizes", [(5, 0, 4), (0, -1, 4)])
def test_impossible_sizes_are_refused(sizes):
    with pytest.raises(ValueError, match="among 4 channels"):
        nulls.expected_iou(*sizes)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_expected_measures_are_their_plain_definitions(seed):
    ds = measures(random_result(seed))
    found = nulls.expected(ds)
    assert set(found) == set(MEASURES)
    for layer, name in itertools.product(CONV_LAYERS, MEASURES):
        values, plain = found[name].sel(layer=layer), Plain(ds, layer)
        channels = ds.sizes[f"channel_{layer}"]
        labels = [values[dim].values.tolist() for dim in values.dims]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(test_similarity, "mean_pairs", lambda pairs, n=channels: mean_expected(pairs, n))
            expected = [getattr(plain, name)(*where) for where in itertools.product(*labels)]
        np.testing.assert_allclose(values.values.ravel(), expected, rtol=1e-9, err_msg=name)


def mean_expected(pairs, channels):
    found = [nulls.expected_iou(len(a), len(b), channels) for a, b in pairs if a is not None and b is not None]
    return np.mean(found) if found else np.nan


def test_stability_across_a_gap_has_no_expectation():
    ds = measures(random_result(7, rounds=(2, 3, 6)))
    assert nulls.expected(ds)["stability_iou"].sel(round=[2, 6]).isnull().all()


def test_random_circuits_are_as_expected_and_corrected_to_zero():
    rng = np.random.default_rng(0)
    n, a, b, draws = 32, 12, 7, 20_000
    first, second = (rng.permuted(np.tile(np.arange(n) < size, (draws, 1)), axis=1) for size in (a, b))
    mean = (first & second).sum(1) / (first | second).sum(1)
    assert nulls.expected_iou(a, b, n) == pytest.approx(mean.mean(), abs=0.003)
    expected = xr.DataArray(nulls.expected_iou(a, b, n))
    assert float(nulls.corrected(expected, expected)) == 0
    assert float(nulls.corrected(xr.DataArray(1.0), expected)) == 1
    assert np.isnan(nulls.corrected(xr.DataArray(1.0), xr.DataArray(1.0)))


@given(st.lists(st.tuples(st.sets(st.integers(0, 3)), st.sets(st.integers(0, 3))), min_size=1, max_size=6))
def test_the_other_convention_leaves_empty_pairs_out(pairs):
    mean, share = (xr.DataArray(x) for x in test_similarity.mean_pairs(pairs))
    rest = [pair for pair in pairs if pair[0] | pair[1]]
    found = float(nulls.without_empty_pairs(mean, share))
    if rest:
        assert found == pytest.approx(test_similarity.mean_pairs(rest)[0], abs=1e-9)
    else:
        assert np.isnan(found)

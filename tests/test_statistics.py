"""Intervals over seeds against closed forms; what is degenerate has an interval or says that it has none."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from fedmi_jax.results import statistics
from fedmi_jax.results.statistics import band, estimate, over_seeds, paired


def per_seed(values, seeds=None):
    return xr.DataArray(np.asarray(values, float), {"seed": seeds or list(range(len(values)))}, "seed")


def test_close_to_students_interval_for_many_seeds():
    values = np.random.default_rng(0).normal(3, 2, 200)
    found, t = estimate(values), stats.t.interval(0.95, 199, values.mean(), values.std(ddof=1) / np.sqrt(200))
    assert (found.mean, found.seeds) == (pytest.approx(values.mean()), 200)
    assert (found.low, found.high) == (pytest.approx(t[0], abs=0.06), pytest.approx(t[1], abs=0.06))


def test_bca_leans_where_the_seeds_do():
    """Of skewed values the long side is the side of the tail; a percentile interval is shorter there."""
    values = np.array([0, 0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 1.0, 2.0])
    found, plain = estimate(values), statistics._bootstrap(values[:, None], "percentile")[:, 0]
    assert found.low is not None
    assert found.high is not None
    assert found.high - found.mean > found.mean - found.low
    assert found.high > plain[1]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.4], (0.4, None, None, 1)),
        ([0.4, np.nan], (0.4, None, None, 1)),
        ([1, 1, 1], (1.0, 1.0, 1.0, 3)),  # BCa is not defined
    ],
)
def test_degenerate(values, expected):
    found = estimate(values)
    assert (found.mean, found.low, found.high, found.seeds) == expected


def test_nothing_to_average():
    found = estimate([np.nan, np.nan])
    assert np.isnan(found.mean)
    assert (found.low, found.seeds, str(found)) == (None, 0, "-")
    assert paired(per_seed([1]), per_seed([1], [7])).seeds == 0


@pytest.mark.parametrize("seeds", [2, 3])  # two hold it when it lies between them: in half of the cases
def test_how_often_intervals_of_few_seeds_hold_the_mean(seeds):
    values = np.random.default_rng(3).normal(size=(seeds, 500))
    found = band(xr.DataArray(values, dims=("seed", "x")))
    held = float(((found["low"] <= 0) & (found["high"] >= 0)).mean())
    assert held == pytest.approx(statistics.COVERAGE[seeds], abs=0.05)


def test_an_interval_holds_the_mean_and_stays_in_the_range():
    rng = np.random.default_rng(1)
    for seeds in (2, 3, 5, 10):
        found = band(xr.DataArray(rng.random((seeds, 40)), dims=("seed", "x")))
        assert (found["low"] <= found["mean"]).all()
        assert (found["mean"] <= found["high"]).all()


def test_band_is_estimate_point_by_point():
    """Points that lack seeds are told apart from those that do not."""
    values = np.random.default_rng(2).random((5, 2, 3))
    values[1, 0, 1] = values[2, 1, 2] = values[3, 1, 2] = np.nan
    values[:4, 1, 0] = np.nan
    found = band(xr.DataArray(values, dims=("seed", "round", "layer")).transpose("layer", "seed", "round"))
    for r, layer in np.ndindex(2, 3):
        one, at = estimate(values[:, r, layer]), found.isel(round=r, layer=layer)
        assert float(at["mean"]) == pytest.approx(one.mean)
        assert int(at["seeds"]) == one.seeds
        for name in ("low", "high"):
            limit = getattr(one, name)
            assert np.isnan(at[name]) if limit is None else float(at[name]) == pytest.approx(limit, abs=0.02)


def test_paired_uses_common_seeds_and_drops_what_they_share():
    level = np.arange(6) * 10.0
    first, second = per_seed(level + np.array([1, 2, 1, 2, 1, 2])), per_seed(level, list(range(1, 7)))
    found = paired(first, per_seed(level))
    assert found.mean == pytest.approx(1.5)
    assert found.low is not None
    assert found.low > 0.9
    assert paired(first, second).seeds == 5


def test_over_seeds_leaves_out_what_is_not_there():
    values = xr.DataArray([[1, np.nan], [0, 0.5]], dims=("seed", "class"))
    np.testing.assert_allclose(over_seeds(values), [1, 0.25])

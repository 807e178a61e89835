"""Outages against literal histories; the trend test against the count of all rankings."""

import itertools

import numpy as np
import pytest
import xarray as xr

from fedmi_jax.analysis import interference


def cross(*circuits):
    """One seed, one client; each circuit's accuracies over the rounds. None: no such circuit."""
    values = np.array([[np.nan] * 6 if c is None else c for c in circuits], float)
    found = xr.DataArray(values[None, None], {"round": range(1, 7)}, ("seed", "client", "class", "round"))
    return found.transpose("seed", "round", ...)


HISTORIES = cross(
    [1, 1, 1, 1, 1, 1],
    [1, 0, 0, 1, 0, 1],  # two collapses, two recoveries
    [0, 0, 0, 0.5, 1, 1],  # has never worked before
    [1, 1, 0.009, 0, 0, 0],
    [1, 0.01, 1, 1, 1, 1],  # not under 1 %
    None,
)


def test_counts():
    for name, expected in {
        "collapses": [0, 2, 0, 1, 0, np.nan],
        "recoveries": [0, 2, 1, 0, 0, np.nan],
        "longest_outage": [0, 2, 3, 4, 0, np.nan],
    }.items():
        found = getattr(interference, name)(HISTORIES).squeeze(("seed", "client"))
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_shares():
    np.testing.assert_allclose(interference.out_share(HISTORIES)[0], np.array([1, 2, 3, 1, 2, 1]) / 5)
    assert interference.collapsed_share(HISTORIES).item() == 2 / 5
    assert interference.recovered_share(HISTORIES).item() == 1 / 5
    assert interference.collapse_rate(HISTORIES).item() == pytest.approx(3 / 25)


def test_rounds_without_the_circuit_are_no_steps():
    gaps = HISTORIES.isel({"class": [1]}).where(HISTORIES["round"] != 3)  # 1, 0, -, 1, 0, 1
    for one in (gaps, gaps.isel(round=[0, 1, 3, 4, 5])):  # a round that the result leaves out altogether
        assert interference.collapses(one).item() == 2
        assert interference.collapse_rate(one).item() == pytest.approx(2 / 3)
        assert interference.recoveries(one).item() == 1
    apart = HISTORIES.isel({"class": [3], "round": [2, 5]})
    assert interference.longest_outage(apart).item() == 1


def test_who_came_back_before_falling_has_not_recovered():
    assert (
        interference.recovered_share(cross([0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 1])).item() == 2 / 3
    )


def test_trend_of_one_row_of_each_order():
    """Page's statistic is the sum of rank times place: exact p-values over all orders of two seeds."""
    falling = interference.trend(np.array([[0.9, 0.5, 0.3, 0.1], [0.4, 0.3, 0.2, 0.1]]))
    assert falling is not None
    orders = [np.dot(order, [1, 2, 3, 4]) for order in itertools.permutations([1, 2, 3, 4])]
    sums = np.add.outer(orders, orders)
    assert falling.falling == pytest.approx((sums >= 60).mean())
    assert falling.rising == pytest.approx(1)
    turned = interference.trend(np.array([[0.1, 0.3, 0.5, 0.9], [0.1, 0.2, 0.3, 0.4]]))
    assert turned is not None
    assert (turned.rising, turned.falling) == (falling.falling, falling.rising)


def test_no_trend_of_one_seed_and_none_of_two_conditions():
    assert interference.trend(np.ones((1, 4))) is None
    with pytest.raises(ValueError, match="Page"):
        interference.trend(np.ones((2, 2)))

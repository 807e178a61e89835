"""How often circuits stop working after averaging, and whether sparsity changes it (sections 3.2.1 to 3.3).

Axes: S seeds, R rounds, K clients, C classes; L conditions in order (sparsity levels).

A circuit is *out* in a round when its cross-evaluation, the local circuit's mask on the global model, is under 1 % of
its class's images. All functions take cross_evaluation[seed, round, client, class] of local circuits; NaN is "no such
circuit".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy import stats

from fedmi_jax.results.statistics import over_seeds

OUT = 0.01
"""Under this accuracy a circuit counts as out."""


def out(cross: xr.DataArray) -> xr.DataArray:
    """1 where a circuit is out, 0 where it works, NaN where there is none."""
    return (cross < OUT).where(cross.notnull()).astype(float)


def out_share(cross: xr.DataArray) -> xr.DataArray:
    """Share of (client, class) that are out, per seed and round."""
    return out(cross).mean(("client", "class"))


def out_rate(cross: xr.DataArray) -> xr.DataArray:
    """Share of circuits and rounds that are out, per seed."""
    return over_seeds(out(cross))


def collapses(cross: xr.DataArray) -> xr.DataArray:
    """How often each circuit goes out: rounds in which it is out and was not in the round before.

    A circuit that is out from its first round on has not collapsed; it has never worked. NaN where there is none.
    """
    return _count(_turns(cross, 1))


def recoveries(cross: xr.DataArray) -> xr.DataArray:
    """How often each circuit comes back: rounds in which it works and was out in the round before."""
    return _count(_turns(cross, -1))


def collapsed_share(cross: xr.DataArray) -> xr.DataArray:
    """Share of circuits that collapse at least once, per seed."""
    return over_seeds(_ever(collapses(cross)))


def recovered_share(cross: xr.DataArray) -> xr.DataArray:
    """Share of circuits that collapse and come back in a later round, per seed."""
    falls, back = _turns(cross, 1), _turns(cross, -1)
    after = back.where(falls.fillna(0).cumsum("round") > 0, 0).where(back.notnull())
    return over_seeds(_ever(_count(after)))


def collapse_rate(cross: xr.DataArray) -> xr.DataArray:
    """Share of steps from one round to the next in which a circuit collapses, per seed: unlike a count it does not grow
    with the number of rounds. Steps from or to a round without the circuit are left out."""
    return over_seeds(_turns(cross, 1))


def _turns(cross: xr.DataArray, step: int) -> xr.DataArray:
    """1 in rounds in which the circuit is out where it was not in the round before (step 1) or the reverse (-1), else
    0; NaN where one of the two rounds is not there or has no such circuit."""
    change = _every_round(out(cross)).diff("round")
    return (change == step).where(change.notnull()).astype(float)


def _every_round(values: xr.DataArray) -> xr.DataArray:
    """With NaN in the rounds that the result leaves out: what is two rounds apart is not a step."""
    rounds = values["round"].values
    return values.reindex(round=np.arange(rounds[0], rounds[-1] + 1))


def _count(turns: xr.DataArray) -> xr.DataArray:
    return turns.sum("round", min_count=1)


def _ever(counts: xr.DataArray) -> xr.DataArray:
    return (counts > 0).where(counts.notnull()).astype(float)


def longest_outage(cross: xr.DataArray) -> xr.DataArray:
    """Most rounds in a row in which each circuit is out; NaN where there is none."""
    values = _every_round(out(cross)).transpose("round", ...)
    run = best = xr.zeros_like(values.isel(round=0, drop=True))
    for number in range(values.sizes["round"]):
        run = (run + 1) * (values.isel(round=number, drop=True) == 1)
        best = xr.where(run > best, run, best)
    return best.where(cross.notnull().any("round"))


@dataclass(frozen=True)
class Trend:
    """A one-sided test over ordered conditions."""

    falling: float
    """p-value against "no trend" for values that fall from condition to condition."""
    rising: float


def trend(values: np.ndarray) -> Trend | None:
    """Page's test (1963) of values[S, L], each row one seed under all conditions, in order; None for under two seeds.

    Rows are ranked within themselves, so seeds may differ in level: a paired test. Exact p-values for few seeds. Raises
    ValueError for fewer than three conditions.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return None
    falling, rising = (stats.page_trend_test(part).pvalue for part in (values[:, ::-1], values))
    return Trend(float(falling), float(rising))

"""The table of circuits looked at from all sides, against plain loops over the circuits."""

import itertools

import numpy as np
import pytest
import xarray as xr
from made_up import decided

from experiments import closer
from fedmi_jax.analysis.instruments import Key
from fedmi_jax.results.schema import CIRCUIT_DIMS, NULLS, STATUS

KEY = Key("two-class", "decision", "own")
SHARES = ("removed_explained", "area_excess", "attribution_area_excess", "robust_explained", "completeness_gap")
OTHERS = ("explained_plain", "robust_explained_worst", "minimal", "same_computation", "silent")
UNDEFINED = STATUS.index("undefined")


@pytest.fixture(scope="module")
def ds():
    """Random measures; two local circuits in the last round are undefined, and one null model of three decides."""
    made, rng = decided("two-class", seeds=2, rounds=2), np.random.default_rng(0)
    shape = made["status"].shape
    status = made["status"].copy()
    for client, label in ((0, 0), (2, 6)):
        status.loc[{"seed": 0, "round": 2, "origin": "local", "client": client, "class": label}] = UNDEFINED
    classes = made["true_class"].size
    more = {name: (CIRCUIT_DIMS, 0.3 * rng.random(shape)) for name in SHARES}
    more |= {name: (CIRCUIT_DIMS, rng.random(shape)) for name in OTHERS}
    more["removed_class_accuracy"] = ((*CIRCUIT_DIMS, "true_class"), rng.random((*shape, classes)))
    null = np.full((*shape, len(NULLS)), UNDEFINED)
    null[0, -1, 0, 1, :, 0] = STATUS.index("found")
    more["null_status"] = ((*CIRCUIT_DIMS, "null"), null * (made["status"].values > 0)[..., None])
    return made.assign(more | {"status": status})


def circuits(ds, seed):
    """(client, class) of local circuits in the last round that there are."""
    last = ds["status"].sel({"seed": seed, "round": 2, "origin": "local"})
    places = itertools.product(ds["client"].values, ds["class"].values)
    return [(k, c) for k, c in places if last.sel({"client": k, "class": c}) in (1, 2)]


def one(ds, name, seed, client, label):
    at = {"seed": seed, "round": 2, "origin": "local", "client": client, "class": label}
    return ds[name].sel(at).values


def lines(ds):
    told = closer.table({KEY: ds}, "decision").splitlines()
    rows = [line.strip("| ").split(" | ") for line in told if line.startswith("|")]
    return {row[0]: row[1] for row in rows}


def mean(told):
    return float(told.split(" [")[0])


def by_hand(ds, of):
    return np.mean([np.mean([of(seed, k, c) for k, c in circuits(ds, seed)]) for seed in ds["seed"].values])


def test_every_line_is_a_mean_over_the_circuits_that_there_are(ds):
    told = lines(ds)
    assert told["local circuits, last round"] == "two-class (2)"
    assert len(circuits(ds, 0)) == 4
    held = ds["samples"] > 0

    def left(seed, k, c, own):
        rates = one(ds, "removed_class_accuracy", seed, k, c)
        classes = held.sel(seed=seed, client=k).values & ((ds["true_class"].values == c) == own)
        return np.mean(rates[classes])

    expected = {
        "without the circuit: explained by the rest of the model": lambda *at: one(ds, "removed_explained", *at),
        "share of circuits whose rest explains 0.1 at most": lambda *at: one(ds, "removed_explained", *at) <= 0.1,
        "without the circuit: accuracy on its class": lambda *at: left(*at, True),
        "without the circuit: accuracy on the client's other classes": lambda *at: left(*at, False),
        "half of the circuit removed: difference between circuit and model": lambda *at: one(ds, SHARES[-1], *at),
        "share of circuits in which attribution orders as well or better": lambda *at: (
            one(ds, "attribution_area_excess", *at) >= one(ds, "area_excess", *at)
        ),
    }
    for says, of in expected.items():
        assert mean(told[says]) == pytest.approx(by_hand(ds, of), abs=0.006), says
    decides = told["untrained models that decide about the class, share"]
    assert mean(decides) == pytest.approx((2 / 6 + 0) / 2, abs=0.006)  # of all that are looked for
    assert told["models with weights in random order that decide, share"].startswith("0.00")


def test_chance_stands_beside_what_is_explained(ds):
    told = lines(ds)["explained, of the model's own answers"]
    random = np.mean([one(ds, "random_live_explained", s, k, c) for s in (0, 1) for k, c in circuits(ds, s)])
    assert told.endswith(f"({random:.2f})")


def test_there_is_none_of_a_run_that_was_not_looked_at_so(ds):
    assert closer.table({KEY: ds.drop_vars("completeness_gap")}, "decision") == ""
    assert closer.table({KEY._replace(objective="class"): ds}, "decision") == ""
    nothing = ds.assign(status=xr.where(ds["status"] > 0, UNDEFINED, 0).transpose(*CIRCUIT_DIMS))
    assert lines(nothing)["explained, of the model's own answers"] == "-"

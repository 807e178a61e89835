"""A model that decides nothing has no circuit: it is no circuit without channels in anything that is averaged."""

import io
import itertools
import re

import numpy as np
import pytest
import xarray as xr
from made_up import CHANNELS, decided
from rich.console import Console

from fedmi_jax.analysis import measures, nulls
from fedmi_jax.analysis.compare import Key, numbers
from fedmi_jax.cli import tables
from fedmi_jax.report.curves import degenerate
from fedmi_jax.report.figures import _unlike
from fedmi_jax.results import schema, similarity
from fedmi_jax.results.summary import summary
from fedmi_jax.results.undefined import defined, left_out, share

RNG = np.random.default_rng(0)


@pytest.fixture
def ds():
    """Random masks; a third of the models decides nothing, whose circuits have no channel in the file."""
    made = decided("two-class", seeds=2, rounds=3)
    dims, analysed = made["status"].dims, made["status"] > 0
    nothing = analysed & (RNG.random(made["status"].shape) < 1 / 3)
    made["status"] = made["status"].where(~nothing, schema.STATUS.index("undefined"))
    for layer in schema.conv_layers(made):
        mask = RNG.random((*made["status"].shape, CHANNELS)) < 0.3
        made[f"mask_{layer}"] = ((*dims, f"channel_{layer}"), mask & (analysed & ~nothing).values[..., None])
    return similarity.measures(similarity.sizes(made))


def circuits(ds, **place):
    """{(client, class): channels of the first layer} of the circuits that there are."""
    one = ds["mask_conv1"].sel(place)
    state = ds["status"].sel(place)
    return {
        (k, c): frozenset(np.flatnonzero(one.sel({"client": k, "class": c}).values))
        for k, c in itertools.product(ds["client"].values, ds["class"].values)
        if state.sel({"client": k, "class": c}) == schema.STATUS.index("found")
    }


def jaccard(a, b):
    return len(a & b) / len(a | b)


def mean(values):
    values = list(values)
    return np.mean(values) if values else np.nan


def test_overlaps_are_of_the_circuits_that_there_are(ds):
    """Against Python's sets; as the file has them they are others, for there the rest counts as empty."""
    found = left_out(ds)
    for seed, number in itertools.product(ds["seed"].values, ds["round"].values):
        at = {"seed": seed, "round": number}
        local, server = (circuits(ds, **at, origin=origin) for origin in schema.ORIGINS)
        kept = found["local_global_iou"].sel(at, drop=True).sel(layer="conv1")
        for place in {*local, *server}:
            both = place in local and place in server
            expected = jaccard(local[place], server[place]) if both else np.nan
            np.testing.assert_equal(float(kept.sel({"client": place[0], "class": place[1]})), expected)
        unions = {}
        for (client, _), channels in local.items():
            unions[client] = unions.get(client, frozenset()) | channels
        apart = mean(jaccard(a, b) for a, b in itertools.combinations(unions.values(), 2))
        told = found["specialist_distinctness"].sel(at).sel(origin="local", layer="conv1")
        np.testing.assert_allclose(told, apart)
    assert not found["local_global_iou"].equals(ds["local_global_iou"])


def test_chance_and_channels_kept_are_of_the_same_circuits(ds):
    """Circuits that are undefined in every round and on both models are as good as classes that nobody looks at."""
    nothing = ds["analysed"] & (RNG.random(ds["analysed"].shape) < 1 / 3)
    full = ds.copy()
    for layer in schema.conv_layers(ds):
        full[f"mask_{layer}"] = ds[f"mask_{layer}"] & ds["analysed"] & ~nothing
    never = schema.STATUS.index("undefined")
    found = full.assign(status=xr.where(nothing, never, full["analysed"].astype(int)).broadcast_like(ds["status"]))
    found["status"] = found["status"].transpose(*ds["status"].dims)
    absent = found.assign(analysed=ds["analysed"] & ~nothing, status=found["status"].where(~nothing, 0))
    one, other = (nulls.expected(similarity.measures(part, defined(part).values)) for part in (found, absent))
    xr.testing.assert_allclose(one, other)
    for a, b in zip(measures.contained(found), measures.contained(absent), strict=True):
        xr.testing.assert_allclose(a, b)
    only_local = ds["status"].sel(origin="local") == schema.STATUS.index("found")
    only_local &= ds["status"].sel(origin="global") == never
    assert bool(only_local.any())
    assert measures.contained(ds)[0].where(only_local).isnull().all()


def test_measures_are_of_the_circuits_that_there_are(ds):
    found, there = left_out(ds), defined(ds)
    assert 0 < int(there.sum()) < int((ds["status"] > 0).sum())
    for name in ("sufficiency", "rediscovery_iou", "cross_evaluation"):
        assert found[name].equals(ds[name].where(there))
    assert found["drift_gap"].equals(ds["drift_gap"].where(there.all("origin")))
    last = ds.isel(round=-1).sel(origin="global")
    places = circuits(ds, round=3, origin="global", seed=0), circuits(ds, round=3, origin="global", seed=1)
    alone = [
        mean(float(last["sufficiency"].sel({"seed": s, "client": k, "class": c})) for k, c in of)
        for s, of in enumerate(places)
    ]
    np.testing.assert_allclose(numbers(ds)[Key("sufficiency", "global")], alone, rtol=1e-6)
    sizes = [len(channels) for of in places for channels in of.values()]
    assert summary(ds)["circuit_size"]["global"]["conv1"] == pytest.approx(np.mean(sizes))


def test_a_model_that_decides_nothing_has_no_degenerate_circuit(ds):
    """Nor is it said to be one where circuits of both models are looked at together."""
    there, empty = defined(ds), ds["degenerate"]
    assert bool((empty & ~there).any())
    for origin in schema.ORIGINS:
        flags = degenerate(ds, origin)
        assert flags.notnull().equals(there.sel(origin=origin, drop=True))
        assert flags.fillna(0).astype(bool).equals((empty & there).sel(origin=origin, drop=True))
    assert degenerate(ds, None).notnull().equals(there.any("origin"))
    assert share(ds) == pytest.approx(1 - int(there.sum()) / int((ds["status"] > 0).sum()))
    short = summary(ds)
    nothing = (~there & (ds["status"] > 0)).isel(round=-1)
    for origin, counted in short["undefined_share"].items():
        own = nothing.sel(origin=origin).sum() / (ds["status"] > 0).isel(round=-1).sel(origin=origin).sum()
        assert counted == pytest.approx(float(own))
    told = short["cross_evaluation"]["degenerate"]
    names = dict(zip(ds["class"].values.tolist(), ds["class_name"].values.tolist(), strict=True))
    last = degenerate(ds, "local").isel(round=-1).mean("seed")
    expected = {
        (str(client), names[c])
        for client, c in itertools.product(ds["client"].values.tolist(), names)
        if last.sel({"client": client, "class": c}) >= 0.5
    }
    assert {(client, name) for client, listed in told.items() for name in listed} == expected
    small_print = _unlike({"two-class-decision": ds})
    assert f"(without {share(ds):.0%} of them, whose models decide nothing)" in small_print


def test_a_summary_says_undefined_where_the_model_decides_nothing(ds):
    """Not empty, and not degenerate; a measure that no circuit has is not in the table."""
    never = ds.assign(status=ds["status"].where(ds["status"] == 0, schema.STATUS.index("undefined")))
    printed = {}
    for name, one in (("some", ds), ("none", never)):
        console = Console(file=io.StringIO(), width=120)
        tables.print_summary(summary(one), console)
        printed[name] = console.file.getvalue()
        assert "undefined share" in printed[name]
        assert "undefined: the model decides nothing" in printed[name]
    assert "sufficiency" in printed["some"]
    assert "sufficiency" not in printed["none"]
    assert "degenerate:" not in printed["none"]
    assert re.search(r"undefined share +│ 100\.0 % +│ 100\.0 %", printed["none"])
    assert len(re.findall(": undefined", printed["none"])) == 6  # classes of clients


def test_the_papers_search_finds_a_circuit_in_every_model(ds):
    paper = decided("two-class", "class", seeds=1, rounds=2)
    paper["status"] = paper["status"].where(paper["status"] == 0, schema.STATUS.index("undefined"))
    assert left_out(paper) is paper
    assert bool((defined(paper) == (paper["status"] > 0)).all())

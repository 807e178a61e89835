"""From a result to a table: long tables, CSV, two configurations over seeds, a sweep, and other readers of the file."""

import csv
import gzip
import json

import numpy as np
import pytest
import tiny
from made_up import complete, result

import fedmi_jax
from fedmi_jax.analysis import compare
from fedmi_jax.cli import main, sweep
from fedmi_jax.data import datasets
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import resumable
from fedmi_jax.presets import PRESETS, Preset
from fedmi_jax.results import store, tidy
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import described


@pytest.fixture(scope="module")
def run():
    """Two seeds, two rounds; class c is held by one client."""
    return described(
        complete("two-class", seeds=2, rounds=2, cross=lambda s, r, k, c: (s + 2 * r + 4 * k + 8 * c) / 99)
    )


def refused(message, call):
    with pytest.raises(FedmiError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# --- long tables ---


def test_a_row_for_every_circuit_that_there_is(run):
    table = fedmi_jax.tidy(run, "cross_evaluation")
    assert list(table) == ["seed", "round", "origin", "client", "class", "class_name", "cross_evaluation"]
    assert len(table) == 2 * int(held(run).sum())
    for row in table.sample(20, random_state=0).to_dict("records"):
        at = {dim: row[dim] for dim in ("seed", "round", "origin", "client", "class")}
        assert row["cross_evaluation"] == run["cross_evaluation"].sel(at).item()
        assert row["class_name"] == f"{row['class']} - name"
    assert table.attrs["cross_evaluation"]["units"] == "1"
    assert table.attrs["cross_evaluation"]["long_name"].startswith("accuracy on the class")


def test_rows_that_hold_a_fill_are_left_out(run):
    ds = run.copy()
    ds["participates"] = (
        ds["samples"].any("true_class").expand_dims(round=ds["round"]).transpose("seed", "round", "client")
    )
    ds["participates"] = ds["participates"].where(ds["client"] != 1, False).astype(bool)
    for name in ("size", "mask_conv1", "degenerate", "train_loss"):
        if name in ds:
            assert 1 not in set(fedmi_jax.tidy(ds, name)["client"]), name
    pairs = fedmi_jax.tidy(run, "class_pair_iou")
    assert not pairs["class_pair_iou"].isna().any()
    assert {"class_name", "other_class", "other_class_name", "layer"} <= set(pairs)
    assert fedmi_jax.tidy(run, "stability_iou")["round"].min() == 2


def test_several_variables_stand_side_by_side(run):
    table = fedmi_jax.tidy(run, "sufficiency", "necessity")
    assert list(table)[-2:] == ["sufficiency", "necessity"]
    refused("has dimensions", lambda: fedmi_jax.tidy(run, "sufficiency", "size"))
    refused("the result has no 'sufficency'.*did you mean sufficiency", lambda: fedmi_jax.tidy(run, "sufficency"))
    refused("name a variable", lambda: fedmi_jax.tidy(run))


@pytest.mark.usefixtures("pickled_files")
def test_csv_has_every_measure_and_reads_back(run, tmp_path):
    store.save(run, tmp_path / "runs" / "a")
    store.save(result("one-class"), tmp_path / "runs" / "b")
    words = ["export", str(tmp_path / "runs"), "--csv", "--out"]
    assert main.main([*words, str(tmp_path / "all.csv.gz")]) == 0
    rows = list(csv.DictReader(gzip.decompress((tmp_path / "all.csv.gz").read_bytes()).decode().splitlines()))
    assert list(rows[0])[:7] == ["run", "variable", "seed", "round", "origin", "client", "class"]
    assert {row["variable"] for row in rows if row["run"] == "a"} == {
        n for n in tidy.measures(run) if run[n].notnull().any()
    }
    assert all(row["value"] for row in rows)
    at = {"variable": "cross_evaluation", "run": "a", "seed": "1", "round": "2", "origin": "local", "client": "1"}
    (own,) = (row for row in rows if at.items() <= row.items() and row["class"] == "3")
    assert float(own["value"]) == pytest.approx((1 + 2 * 2 + 4 + 8 * 3) / 99)
    assert main.main([*words, str(tmp_path / "few.csv"), "--variable", "mask_conv1", "size", "--seed", "1"]) == 0
    few = list(csv.DictReader((tmp_path / "few.csv").read_text().splitlines()))
    assert {(row["variable"], row["seed"]) for row in few} == {("mask_conv1", "1"), ("size", "1")}
    assert {row["channel_conv1"] for row in few if row["variable"] == "size"} == {""}


@pytest.mark.usefixtures("pickled_files")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--out", "x.json", "--variable", "size"], "variable: only with --csv"),
        (["--csv", "--out", "x.json"], "out: give FILE.csv"),
        (["--csv", "--out", "x.csv", "--variable", "sice"], "the result has no 'sice'"),
        (["--csv", "--out", "x.csv", "--seed", "9"], "seed: no result in"),
        (["--csv", "--pt", "--out", "x.csv"], "csv: does not go with --pt"),
    ],
)
def test_export_refuses_what_does_not_go_together(words, message, run, tmp_path, capsys):
    store.save(run, tmp_path)
    assert main.main(["export", str(tmp_path), *words]) == 2
    assert message in capsys.readouterr().err


# --- two configurations ---


@pytest.fixture(scope="module")
def pair():
    """The same but for the sparsity; the second's cross-evaluation is larger by 0.1, 0.2 and 0.3 for seeds 0, 1, 2."""
    first = complete("two-class", seeds=3, rounds=2, cross=lambda s, r, k, c: 0.2 * s)
    second = complete("two-class", seeds=3, rounds=2, sparsity=0.9, cross=lambda s, r, k, c: 0.2 * s + 0.1 * (s + 1))
    return first, second


def test_differences_are_paired_by_seed(pair):
    found = fedmi_jax.compare(*pair)
    assert found.settings == [("sparsity.target", 0.995, 0.9)]
    assert found.seeds == [0, 1, 2]
    (row,) = (row for row in found.rows if row.key == ("cross_evaluation", "local", ""))
    assert (row.first, row.second, row.difference.mean) == pytest.approx((0.2, 0.4, 0.2))
    assert 0.09 < row.difference.low < 0.2 < row.difference.high < 0.31
    table = found.table().set_index(["measure", "origin", "layer"])
    assert table.loc[("cross_evaluation", "local", ""), "difference"] == pytest.approx(0.2)
    assert ("size", "global", "conv3") in table.index


def test_only_common_seeds_count(pair):
    first, second = pair
    found = fedmi_jax.compare(first, second.sel(seed=[2]))
    (row,) = (row for row in found.rows if row.key == ("cross_evaluation", "local", ""))
    assert (row.first, row.second, row.difference.low) == (pytest.approx(0.4), pytest.approx(0.7), None)
    refused(
        "seeds: 0 in the first and 1 2 in the second",
        lambda: fedmi_jax.compare(first.isel(seed=[0]), second.isel(seed=[1, 2])),
    )


@pytest.mark.usefixtures("pickled_files")
def test_compare_prints_what_differs(pair, tmp_path, capsys):
    for name, ds in zip("ab", pair, strict=True):
        store.save(ds, tmp_path / name)
    assert main.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("sparsity.target: 0.995, 0.9\nseeds that both have: 0 1 2\n")
    assert main.main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"] == {"sparsity.target": {"first": 0.995, "second": 0.9}}
    store.save(complete("one-class"), tmp_path / "a" / "more")
    assert main.main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "holds several experiments (one-class, two-class); give the folder of one" in capsys.readouterr().err


# --- a sweep ---


@pytest.fixture
def swept(monkeypatch, squares, pickled_files):
    """`fedmi sweep quick` on small images, with made-up runs in place of real ones; notes which were run."""
    small = tiny.experiment(name="quick", seeds=(0, 1))
    monkeypatch.setitem(PRESETS, "quick", Preset((small,), "small", "-"))
    monkeypatch.setattr(datasets, "load", lambda data: squares)
    made = []

    def run(experiment, folder, dataset, progress=None, settings=None, method=None, on_round=None):
        made.append(folder.name)
        ds = complete("two-class", seeds=len(experiment.seeds), rounds=2, cross=lambda *of: experiment.sparsity.target)
        ds = store.stamp(ds, experiment)
        store.save(ds, folder)
        return ds

    monkeypatch.setattr(resumable, "run", run)
    return made


def test_a_sweep_runs_every_combination_once(swept, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no cell is broken
    words = ["sweep", "quick", "--set", "sparsity.target=0.5,0.25", "local.epochs=1,2", "--seeds", "0", "1"]
    words += ["--out", str(tmp_path)]
    assert main.main(words) == 0
    names = [f"sparsity.target={x}_local.epochs={e}" for x in ("0.5", "0.25") for e in (1, 2)]
    assert swept == names
    said = capsys.readouterr().out
    assert "sparsity.target" in said
    assert "25.0 [25.0, 25.0]" in said
    there = [store.load(tmp_path / name) for name in names]
    assert [json.loads(ds.attrs["config"])["local"]["epochs"] for ds in there] == [1, 2, 1, 2]
    rows = list(csv.DictReader((tmp_path / "sweep.csv").read_text().splitlines()))
    at = {"measure": "cross_evaluation", "origin": "local", "sparsity.target": "0.5", "local.epochs": "2"}
    (own,) = (row for row in rows if at.items() <= row.items())
    assert float(own["mean"]) == 0.5
    swept.clear()
    (tmp_path / names[2] / store.FILE).unlink()
    assert main.main(words) == 0  # what is missing, and nothing else
    assert swept == [names[2]]
    capsys.readouterr()
    assert main.main([*words, "--rounds", "5"]) == 2
    assert "holds a result that differs in rounds (2, now 5); give another --out" in capsys.readouterr().err


def test_values_with_commas_are_kept_apart_by_bars(swept, tmp_path):
    assert main.main(["sweep", "quick", "--set", "split.class-map=0,1 1,2,3|0,2 1,3", "--out", str(tmp_path)]) == 0
    assert len(swept) == 2
    found = {
        json.loads(store.load(path.parent).attrs["config"])["split"]["class_map"][0][1] for path in tmp_path.glob("*/*")
    }
    assert found == {1, 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "preset: give one first"),
        (["quick"], "set: give what to vary"),
        (["quick", "--set", "rounds=1,2"], "out: give a folder"),
        (["quick", "--set", "rounds"], "set: give FIELD=VALUE,VALUE"),
        (["quick", "--set", "rounds=1,,2"], "set: give FIELD=VALUE,VALUE"),
        (["quick", "--set", "rounds=1", "rounds=2"], "set: rounds is given twice"),
        (["quick", "--set", "rounds=1,1", "--out", "x"], "set: two combinations are the same"),
        (["quick", "--set", "seeds=1,2", "--out", "x"], "set: seeds is no setting to vary"),
        (["quick", "--set", "roundz=1,2", "--out", "x"], "Unrecognized options: --roundz"),
        (["quick", "--set", "sparsity.target=2", "--out", "x"], "sparsity.target: "),
        (["quick", "--set", "rounds=1,2", "--out", "x", "--dry-run"], "sweep: takes neither --dry-run"),
        (["sparsity-ablation", "--set", "rounds=1,2", "--out", "x"], "experiment: this preset holds 4 experiments"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_is_run(words, message, swept, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main.main(["sweep", *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert (swept, list(tmp_path.iterdir())) == ([], [])


def test_a_sweep_says_how_it_is_used(capsys):
    assert main.main(["sweep", "--help"]) == 0
    assert capsys.readouterr().out == sweep.USAGE + "\n"


# --- other readers ---


def test_netcdf4_reads_every_variable_with_names_and_units(run, tmp_path):
    netcdf = pytest.importorskip("netCDF4")
    path = store.save(run, tmp_path)
    with netcdf.Dataset(path) as file:
        for name, variable in file.variables.items():
            assert variable.long_name, name
            assert variable.units, name
            assert all(dim in file.dimensions for dim in variable.dimensions), name
        assert file["origin"][:].tolist() == ["local", "global"]
        np.testing.assert_array_equal(np.ma.filled(file["cross_evaluation"][:], np.nan), run["cross_evaluation"].values)
        assert file.getncattr("name") == "two-class"


def test_every_number_of_a_comparison_is_one_per_seed(run):
    for key, values in compare.numbers(run).items():
        assert values.dims == ("seed",), key

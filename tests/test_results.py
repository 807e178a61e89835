"""A result on disk and in short."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from fedmi_jax import files
from fedmi_jax.cli import tables
from fedmi_jax.config import Experiment, from_json, replace
from fedmi_jax.errors import FedmiError
from fedmi_jax.presets import preset
from fedmi_jax.results import store, summary
from fedmi_jax.results.authors import import_authors

REFERENCE = Path(__file__).parent / "data" / "reference"


@pytest.fixture(scope="module")
def one_class() -> xr.Dataset:
    return import_authors(REFERENCE / "1_class_per_client.json.gz")


@pytest.fixture(scope="module")
def shared() -> xr.Dataset:
    return import_authors(REFERENCE / "2_distinct_1_shared.json.gz")


def test_saved_and_loaded_is_the_same(one_class, tmp_path):
    path = store.save(one_class, tmp_path / "runs" / "a")
    assert path == tmp_path / "runs" / "a" / "result.nc"
    for where in (path, path.parent, str(path.parent)):
        xr.testing.assert_identical(store.load(where), one_class)
    assert [p.name for p in path.parent.iterdir()] == ["result.nc"]
    half = store.load(path).isel(round=slice(5))  # what was loaded can be cut and saved again
    store.save(half, path.parent)
    xr.testing.assert_identical(store.load(path), half)


def test_same_result_gives_the_same_file_smaller_than_the_arrays(one_class, tmp_path):
    a, b = (store.save(one_class, tmp_path / name).read_bytes() for name in "ab")
    assert a == b
    assert len(a) < one_class.nbytes / 2


def test_another_library_reads_the_file(one_class, tmp_path):
    netcdf = pytest.importorskip("netCDF4")
    path = store.save(one_class, tmp_path)
    with netcdf.Dataset(path) as file:
        assert list(file["origin"][:]) == ["local", "global"]
        assert list(file["class_name"][:]) == ["0 - zero", "3 - three", "6 - six"]
        assert file["mask_conv2"].dimensions == ("seed", "round", "origin", "client", "class", "channel_conv2")
        assert file["mask_conv2"].filters()["zlib"]
        assert file["mask_conv2"].long_name == "whether the circuit keeps the channel of conv2"
        assert file["client"].units == "1"
        np.testing.assert_array_equal(file["mask_conv2"][:], one_class["mask_conv2"])
        cross = file["cross_evaluation"][0, -1, 0]
        assert np.ma.getmaskarray(cross).tolist() == (~np.eye(3, dtype=bool)).tolist()
        assert cross.compressed().tolist() == [1, 1, 1]
    xr.testing.assert_identical(xr.load_dataset(path, engine="netcdf4"), one_class)


def test_stamp_keeps_the_experiment(one_class):
    experiment = Experiment(name="mine", rounds=3)
    stamped = store.stamp(one_class, experiment)
    assert from_json(stamped.attrs["config"]) == experiment
    assert stamped.attrs["name"] == "mine"
    assert json.loads(stamped.attrs["versions"]).keys() >= {"python", "numpy", "scipy", "xarray"}
    assert "config" not in one_class.attrs


def test_what_is_no_result_is_refused_in_one_line(one_class, tmp_path):
    one_class = one_class.isel(round=[0])
    whole = store.save(one_class, tmp_path / "run").read_bytes()
    other = tmp_path / "other.nc"
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    for text in (whole[: len(whole) // 2], whole[:-1], b"", b"{}", changed):
        other.write_bytes(text)
        refused(other, r"cut off, or changed since it was written \(its checksum is (missing|another)\)$")
    one_class.to_netcdf(other, engine="h5netcdf")
    refused(other, "its checksum is missing")
    other.write_bytes(b"{}")
    files.seal(other)
    refused(other, "damaged or not a netCDF4 file")
    for ds, said in (
        (xr.Dataset({"x": 1}), "not a result of fedmi_jax"),
        (one_class.drop_vars("mask_conv3"), "not a result of fedmi_jax"),
        (one_class.drop_vars([f"mask_conv{i}" for i in (1, 2, 3)]), "not a result of fedmi_jax"),
        (one_class.assign_attrs(schema_version=99), "schema 99 is newer than this fedmi_jax reads"),
        (one_class.assign_attrs(schema_version="x"), "schema x is newer than this fedmi_jax reads"),
        (one_class.assign_attrs(config='{"zzz": 1}'), r"its configuration is not one .* \(zzz: unexpected"),
        (one_class.assign_attrs(config="{"), r"its configuration is not one that this fedmi_jax reads \("),
        (one_class.assign_attrs(dataset="{}"), r"what it says of its images is not .* \(dataset\.name: "),
    ):
        ds.to_netcdf(other, engine="h5netcdf")
        files.seal(other)
        refused(other, said)
    refused(tmp_path, "no such result")
    refused(tmp_path / "nowhere", "no such result")


def refused(path: Path, message: str):
    with pytest.raises(FedmiError, match=message) as caught:
        store.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(one_class, tmp_path, monkeypatch):
    path = store.save(one_class, tmp_path)

    def fail(self, content):
        assert type(content) is bytes  # a view of a buffer makes the buffer complain when both are collected
        with open(self, "wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(FedmiError, match="cannot be written: No space left on device"):
        store.save(one_class, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]
    xr.testing.assert_identical(store.load(path), one_class)
    with pytest.raises(FedmiError, match="cannot be written"):
        store.save(one_class, path)  # a file where a folder should be


def test_refuse_taken(one_class, tmp_path):
    store.refuse_taken(tmp_path)
    store.refuse_taken(tmp_path / "new")
    path = store.save(one_class, tmp_path)
    with pytest.raises(FedmiError, match="already holds a result"):
        store.refuse_taken(tmp_path)
    with pytest.raises(FedmiError, match="is a file"):
        store.refuse_taken(path)


def test_summary_of_an_imported_file(one_class):
    short = summary.summary(one_class)
    assert json.loads(json.dumps(short, allow_nan=False)) == short
    assert (short["name"], short["seeds"], short["rounds"], short["clients"]) == ("1_class_per_client", [0], 10, 3)
    assert short["classes"] == ["0 - zero", "3 - three", "6 - six"]
    distinct = short["specialist_distinctness"]
    assert [round(distinct["global"][layer], 3) for layer in ("conv1", "conv2", "conv3")] == [0.131, 0.27, 0.267]
    assert distinct["local"] == {"conv1": 1.0, "conv2": 1.0, "conv3": pytest.approx(1 / 3)}
    assert short["empty_pairs"]["specialist_distinctness"]["local"] == {"conv1": 1.0, "conv2": 1.0, "conv3": 0.0}
    assert short["degenerate_share"] == {"local": 1.0, "global": 0.0}
    assert short["cross_evaluation"]["per_client_and_class"] == {
        "0": {"0 - zero": 1.0},
        "1": {"3 - three": 1.0},
        "2": {"6 - six": 1.0},
    }
    assert short["cross_evaluation"]["degenerate"] == {"0": ["0 - zero"], "1": ["3 - three"], "2": ["6 - six"]}
    assert short["inter_client_iou"]["global"]["conv1"] is None  # no class is held by two clients
    assert short["global_accuracy"] is None
    assert short["dataset"] is None
    assert "balanced_accuracy" not in short


def test_summary_averages_over_seeds_rounds_and_circuits(shared):
    cross = shared["cross_evaluation"].sel(origin="local")
    short = summary.summary(shared)
    assert short["cross_evaluation"]["mean"] == pytest.approx(np.nanmean(cross))
    assert short["cross_evaluation"]["last_round"] == pytest.approx(7 / 9, abs=1e-4)
    assert short["cross_evaluation"]["degenerate"] == {}
    assert list(short["cross_evaluation"]["per_client_and_class"]["1"]) == ["0 - zero", "3 - three", "4 - four"]
    pairs = shared["class_pair_iou"].isel(seed=0, round=-1).sel(origin="global", layer="conv1").values
    assert not np.isnan(pairs[0, 0])  # class 0 is held by all three clients
    assert short["class_pair_iou"]["global"]["conv1"] == pytest.approx(pairs[np.triu_indices(len(pairs), 1)].mean())
    worse = shared.assign_coords(seed=[1])
    worse["cross_evaluation"] = worse["cross_evaluation"] * 0
    both = xr.concat([shared, worse], "seed", data_vars="all", join="outer")
    assert isinstance(both, xr.Dataset)
    both["global_accuracy"] = (("seed", "round"), np.linspace(0, 1, 20).reshape(2, 10).astype(np.float32))
    two = summary.summary(both)
    assert two["seeds"] == [0, 1]
    assert two["cross_evaluation"]["mean"] == pytest.approx(short["cross_evaluation"]["mean"] / 2)
    per_client = two["cross_evaluation"]["per_client_and_class"]["0"]
    assert per_client == {"0 - zero": 0.5, "1 - one": 0.5, "2 - two": 0.0}
    assert two["global_accuracy"] == pytest.approx((9 / 19 + 1) / 2)
    assert two["circuit_size"] == short["circuit_size"]


def test_two_classes_of_one_name_are_both_there(one_class):
    values = {0: 0.85, 3: 1.0, 6: 0.5}
    cross = one_class["cross_evaluation"]
    one = one_class.assign(cross_evaluation=cross * 0 + xr.DataArray([*values.values()], {"class": [*values]}))
    short = summary.summary(one.assign_coords(class_name=("class", ["crane", "crane", "six"])))
    assert short["classes"] == ["0: crane", "3: crane", "6: six"]
    shown = short["cross_evaluation"]["per_client_and_class"]
    assert shown == {"0": {"0: crane": 0.85}, "1": {"3: crane": 1.0}, "2": {"6: six": 0.5}}
    everyone = one.assign(analysed=xr.ones_like(one["analysed"], dtype=bool))
    with_both = summary.summary(everyone.assign_coords(class_name=("class", ["crane", "crane", "six"])))
    assert len(with_both["cross_evaluation"]["per_client_and_class"]["0"]) == 3


def test_summary_shows_what_a_full_result_has(shared):
    full = shared.copy()
    dims = shared["sufficiency"].dims
    for name, value in {"balanced_accuracy": 0.5, "false_positive_rate": 1.0, "empty_mask_softmax": 0.1}.items():
        full[name] = (dims, np.where(shared["sufficiency"].notnull(), np.float32(value), np.float32(np.nan)))
    layers = ["conv1", "conv2", "conv3", "fc"]
    sparsity = np.full((1, 10, 3, 4), 0.995, np.float32)
    full = full.assign_coords(parameter_layer=layers)
    full["realised_sparsity_local"] = (("seed", "round", "client", "parameter_layer"), sparsity)
    short = summary.summary(full)
    assert short["balanced_accuracy"] == {"local": 0.5, "global": 0.5}
    assert short["empty_mask_softmax"]["local"] == pytest.approx(0.1)
    assert list(short["realised_sparsity"]["local"]) == layers
    assert "global" not in short["realised_sparsity"]


def _with_models(ds, seeds):
    """Two seeds that differ by so much, with models, and five random masks for every circuit."""
    parts = []
    for seed, shift in enumerate(seeds):
        one = ds.assign_coords(seed=[seed], true_class=range(10), sample=range(5))
        one["samples"] = (("seed", "client", "true_class"), np.zeros((1, 3, 10), int))
        for client, own in enumerate(([0, 1, 2], [0, 3, 4], [0, 6, 7])):
            one["samples"].values[:, client, own] = 7
        by_class = np.arange(10) / 10 + shift
        one["local_class_accuracy"] = (("seed", "round", "client", "true_class"), np.tile(by_class, (1, 10, 3, 1)))
        one["global_class_accuracy"] = (("seed", "round", "true_class"), np.tile(by_class / 2, (1, 10, 1)))
        one["local_accuracy"] = one["local_class_accuracy"].mean("true_class")
        one["global_accuracy"] = one["global_class_accuracy"].mean("true_class")
        masks = np.broadcast_to(np.linspace(0, 0.2, 5), (*one["sufficiency"].shape, 5))
        one["random_sufficiency"] = ((*one["sufficiency"].dims, "sample"), masks)
        parts.append(one)
    return xr.concat(parts, "seed", data_vars="all", join="outer")


def test_summary_says_what_a_run_is_worth(shared):
    short = summary.summary(_with_models(shared, (0.0, 0.1)))
    assert json.loads(json.dumps(short, allow_nan=False)) == short
    # classes 0 1 2, 0 3 4 and 0 6 7 of accuracies 0.0 to 0.9, and 0.1 more in the second seed
    assert short["local_held_accuracy"] == pytest.approx((1 + 7 / 3 + 13 / 3) / 30 + 0.05)
    assert short["local_accuracy"] == pytest.approx(0.5)
    assert short["global_held_accuracy"] == pytest.approx((0 + 1 + 2 + 3 + 4 + 6 + 7) / 7 / 20 + 0.025)
    within = short["intervals"]["local_accuracy"]
    assert (within["seeds"], within["low"], within["high"]) == (2, pytest.approx(0.45), pytest.approx(0.55))
    beyond = short["beyond_control"]
    assert beyond["control"] == "random masks"
    assert beyond["sufficiency"]["local"]["mean"] == pytest.approx(short["sufficiency"]["local"] - 0.1)
    assert "cross_evaluation" not in beyond
    one = summary.summary(_with_models(shared, (0.0,)))
    assert one["intervals"] == {}
    assert one["beyond_control"]["sufficiency"]["local"]["low"] is None


def test_the_empty_mask_stands_in_for_random_ones(shared):
    """Of the other model, in cross-evaluation."""
    ds, there = shared.copy(), shared["sufficiency"].notnull()
    ds["empty_mask_accuracy"] = (xr.DataArray([0.25, 0.5], dims="origin") * xr.ones_like(shared["sufficiency"])).where(
        there
    )
    ds["cross_evaluation"] = xr.ones_like(shared["sufficiency"]).where(there)
    beyond = summary.summary(ds)["beyond_control"]
    assert beyond["control"] == "empty mask"
    assert [beyond["cross_evaluation"][o]["mean"] for o in ("local", "global")] == pytest.approx([0.5, 0.75])
    last = shared["sufficiency"].isel(round=-1).mean(("seed", "client", "class")).values
    assert [beyond["sufficiency"][o]["mean"] for o in ("local", "global")] == pytest.approx(last - [0.25, 0.5])


def test_summary_names_the_preset_and_what_differs(one_class):
    quick = preset("quick").experiments[0]
    changed = replace(quick, rounds=1, seeds=(7,), sparsity=replace(quick.sparsity, target=0.5))
    for experiment, expected in (
        (quick, {}),
        (changed, {"rounds": {"value": 1, "preset": 3}, "sparsity.target": {"value": 0.5, "preset": 0.995}}),
    ):
        short = summary.summary(store.stamp(one_class, experiment))
        assert (short["preset"], short["changed"]) == ("quick", expected)
    console = Console(file=io.StringIO(), width=200)
    tables.print_summary(short, console)
    assert (
        "settings: the preset quick, but (the preset's value in brackets): rounds 1 (3), sparsity.target 0.5 (0.995)"
        in (console.file.getvalue())
    )
    for unknown in (one_class, store.stamp(one_class, replace(quick, name="mine"))):
        assert summary.summary(unknown)["preset"] is None


def test_printed_summary(shared, one_class):
    console = Console(width=100, record=True, file=io.StringIO())
    tables.print_summary(summary.summary(shared), console)
    tables.print_summary(summary.summary(one_class), console)
    text = console.export_text()
    for expected in (
        "2_distinct_1_shared: 10 rounds, 3 clients",
        "77.8 %",
        "specialist distinctness",
        "3 - three: 0.0 %",
    ):
        assert expected in text
    assert "nan" not in text.lower()


def test_a_summary_of_many_clients_stays_short(shared):
    short = summary.summary(shared)
    clients = {str(k): {"0 - zero": 1.0} for k in range(1000)}
    short["cross_evaluation"]["per_client_and_class"] = clients
    console = Console(width=100)
    with console.capture() as capture:
        tables.print_summary(short, console)
    assert len(capture.get().splitlines()) < 60


def test_importing_loads_neither_jax_nor_matplotlib_nor_tensorflow_datasets():
    code = (
        "import sys, fedmi_jax.results.authors, fedmi_jax.results.summary\n"
        "print([m for m in ('jax', 'matplotlib', 'tensorflow_datasets', 'tensorflow') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_names_out_of_a_file_are_text(one_class):
    """Neither rich's markup nor a terminal's control sequences."""
    evil = ["0 - [/x]", "3 - [red]\x1b[31m", "6 - \n"]
    ds = one_class.assign_coords(class_name=("class", evil)).assign_attrs(name="[/run]\x1b[0m")
    console = Console(file=io.StringIO(), width=200)
    tables.print_summary(summary.summary(ds), console)
    printed = console.file.getvalue()
    for said in ("0 - [/x]: ", r"3 - [red]\x1b[31m: ", r"6 - \n: ", r"[/run]\x1b[0m: "):
        assert said in printed
    assert "\x1b" not in printed

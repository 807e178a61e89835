"""The authors' published files: their figures, there and back without a difference, and what is refused."""

import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmi_jax.errors import FedmiError
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.results import authors, authors_file
from fedmi_jax.results.authors import export_authors, import_authors

REFERENCE = Path(__file__).parent / "data" / "reference"
FILES = ("1_class_per_client", "2_classes_per_client", "2_distinct_1_shared")


def reference(name: str) -> Path:
    return REFERENCE / f"{name}.json.gz"


def content(path: Path) -> dict:
    return json.loads(gzip.decompress(path.read_bytes()))


def circuit(nodes=((), (), ()), edges=({}, {}, {}), **metrics) -> dict:
    connectivity = {**dict(zip(CONV_LAYERS, edges, strict=True)), "fc": {}}
    return {
        "active_nodes": dict(zip(CONV_LAYERS, map(list, nodes), strict=True)),
        "connectivity": connectivity,
        "metrics": metrics,
    }


def tree(local: dict, over: dict | None = None) -> dict:
    """One round, one client."""
    models = {"clients_local_model": {"client_0": local}, "clients_global_model": {"client_0": over or local}}
    return {"round_1": json.loads(json.dumps(models))}  # two models, not one twice


def written(folder: Path, value) -> Path:
    path = folder / "file.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.mark.parametrize(
    ("name", "origin", "expected"),
    [
        ("1_class_per_client", "global", [0.131, 0.270, 0.267]),
        ("1_class_per_client", "local", [1.0, 1.0, 0.333]),
        ("2_classes_per_client", "global", [0.377, 0.463, 0.484]),
    ],
)
def test_specialist_distinctness_of_the_published_files(name, origin, expected):
    found = import_authors(reference(name))["specialist_distinctness"].sel(seed=0, round=10, origin=origin)
    assert found.values.round(3).tolist() == expected


def test_published_one_class_circuits_are_degenerate():
    last = import_authors(reference("1_class_per_client")).isel(round=-1)
    held = last["analysed"]
    assert last["degenerate"].sel(origin="local").where(held, True).all()
    assert last["cross_evaluation"].sel(origin="local").where(held).mean() == 1.0
    assert last["empty_pairs_specialist_distinctness"].sel(origin="local").values.tolist() == [[1, 1, 0]]


@pytest.mark.parametrize("name", FILES)
def test_import_holds_what_the_file_says(name):
    ds, given_file = import_authors(reference(name)), content(reference(name))
    assert ds.attrs["name"] == name
    for r, origin, k, c in [(1, "local", 0, 0), (4, "global", 2, 6), (10, "local", 1, 3)]:
        label = str(ds["class_name"].sel({"class": c}).item())
        its = given_file[f"round_{r}"][f"clients_{origin}_model"][f"client_{k}"][label]
        at = {"seed": 0, "round": r, "origin": origin, "client": k, "class": c}
        for layer in CONV_LAYERS:
            assert np.flatnonzero(ds[f"mask_{layer}"].sel(at)).tolist() == its["active_nodes"][layer]
            assert ds["size"].sel(at).sel(layer=layer) == len(its["active_nodes"][layer])
            assert ds["edges"].sel(at).sel(layer=layer) == sum(map(len, its["connectivity"][layer].values()))
        assert ds["sufficiency"].sel(at) == its["metrics"]["accuracy"] / 100
        assert ds["necessity"].sel(at) == its["metrics"]["necessity"] / 100
        over = given_file[f"round_{r}"]["clients_global_model"][f"client_{k}"][label]["metrics"]
        cross = ds["cross_evaluation"].sel({**at, "origin": "local"})
        assert cross == over["local_mask_on_global_weights_acc"] / 100
        assert ds["drift_gap"].sel({**at, "origin": "local"}) == over["accuracy"] / 100 - cross


@pytest.mark.parametrize("name", FILES)
def test_there_and_back(name, tmp_path):
    ds = import_authors(reference(name))
    exported = export_authors(ds, tmp_path / f"{name}.json.gz")
    assert gzip.decompress(exported.read_bytes()) == gzip.decompress(reference(name).read_bytes())
    xr.testing.assert_identical(import_authors(exported), ds)
    plain = export_authors(ds, tmp_path / f"{name}.json")
    assert json.loads(plain.read_text()) == content(reference(name))
    xr.testing.assert_identical(import_authors(plain), ds)


def test_union_of_edges_gives_every_circuit_its_own_back():
    """Without the union each circuit would need its own connectivity: 180 circuits of 60 models."""
    ds, given_file = import_authors(reference("2_distinct_1_shared")), content(reference("2_distinct_1_shared"))
    listed = sum(
        len(sources)
        for models in given_file.values()
        for clients in models.values()
        for classes in clients.values()
        for its in classes.values()
        for layer in CONV_LAYERS
        for sources in its["connectivity"][layer].values()
    )
    assert ds["edges"].sum() == listed > 1000
    wires = sum(int(ds[f"connected_{o}_{layer}"].sum()) for o in ("local", "global") for layer in CONV_LAYERS)
    assert wires < listed  # shared edges are stored once


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.booleans())
@settings(max_examples=300)
def test_percentages_of_counts_come_back_exactly(counts, single):
    correct, total = counts
    percent = 100 * correct / total
    assert authors._percent(np.float64(percent / 100)) == percent
    if single and total <= 2000:  # as a native result stores it
        assert authors._percent(np.float32(correct / total)) == percent


@given(st.floats(0, 100))
@settings(max_examples=300)
def test_any_percentage_comes_back_as_the_same_fraction(percent):
    fraction = np.float64(percent / 100)
    assert authors._percent(fraction) / 100 == fraction


def native(seed: int = 0) -> xr.Dataset:
    """A made-up result of this project: two seeds, unequal clients, float32 metrics, more edges than circuits use."""
    rng = np.random.default_rng(seed)
    held = np.array([[True, True, False], [False, True, True]])
    sizes = {"seed": 2, "round": 2, "origin": 2, "client": 2, "class": 3}
    sizes |= {"channel_conv1": 32, "channel_conv2": 64, "channel_conv3": 128, "image_channel": 1}
    data: dict = {"analysed": (("seed", "client", "class"), np.stack([held, held]))}
    dims = ("seed", "round", "origin", "client", "class")
    for layer, source in zip(CONV_LAYERS, ("image_channel", "channel_conv1", "channel_conv2"), strict=True):
        ends = (f"channel_{layer}", source)
        drawn = rng.random([sizes[d] for d in (*dims, ends[0])]) < 0.2
        data[f"mask_{layer}"] = ((*dims, ends[0]), drawn & held[:, :, None])
        for origin, lead in (("local", ("seed", "round", "client")), ("global", ("seed", "round"))):
            wires = rng.random([sizes[d] for d in (*lead, *ends)]) < 0.3
            data[f"connected_{origin}_{layer}"] = ((*lead, *ends), wires)
    for name in ("sufficiency", "necessity", "cross_evaluation"):
        counts = rng.integers(0, 1010, [sizes[d] for d in dims])
        data[name] = (dims, np.where(held, counts / 1009, np.nan).astype(np.float32))
    coords = {"seed": [3, 8], "round": [1, 2], "origin": ["local", "global"], "client": [0, 1], "class": [2, 5, 7]}
    return xr.Dataset(data, coords={**coords, "class_name": ("class", ["bird", "five", "7 - seven"])})


def test_export_of_a_result_of_this_project(tmp_path):
    ds = native()
    whole = import_authors(export_authors(ds, tmp_path / "x.json", seed=8))
    back = whole.sel(seed=0)
    assert back["class_name"].values.tolist() == ["bird", "5 - five", "7 - seven"]  # "bird" is cifar10's 2
    own = ds.sel(seed=8)
    for name in ("analysed", *(f"mask_{layer}" for layer in CONV_LAYERS)):
        np.testing.assert_array_equal(back[name], own[name])
    for name in ("sufficiency", "necessity"):
        np.testing.assert_array_equal(back[name].astype(np.float32), own[name])
    cross = [x["cross_evaluation"].sel(origin="local") for x in (back, own)]
    np.testing.assert_array_equal(cross[0].astype(np.float32), cross[1])
    assert back["edges"].sum() > 100
    again = export_authors(whole, tmp_path / "again" / "x.json")
    xr.testing.assert_identical(import_authors(again), whole)


def test_export_asks_for_the_seed_and_needs_connectivity(tmp_path):
    with pytest.raises(FedmiError, match=r"seed: the result holds \[3, 8\]; say which"):
        export_authors(native(), tmp_path / "x.json")
    with pytest.raises(FedmiError, match="seed: 4 is not in the result"):
        export_authors(native(), tmp_path / "x.json", seed=4)
    with pytest.raises(FedmiError, match="connected_local_conv2: not in the result"):
        export_authors(native().drop_vars("connected_local_conv2"), tmp_path / "x.json", seed=3)
    with pytest.raises(FedmiError, match="cannot be written"):
        export_authors(native(), "/proc/nowhere/x.json", seed=3)
    assert not list(tmp_path.iterdir())


def test_class_names_without_a_number(tmp_path):
    path = written(tmp_path, tree({"dog": circuit(), "airplane": circuit()}))
    ds = import_authors(path)
    assert dict(zip(ds["class"].values, ds["class_name"].values, strict=True)) == {0: "airplane", 5: "dog"}
    path = written(tmp_path, tree({"iris": circuit()}))
    assert import_authors(path, ["rose", "iris"])["class"].values.tolist() == [1]
    with pytest.raises(FedmiError, match='class "iris": expected "C - name"'):
        import_authors(path)


def test_networks_of_other_widths_and_depths(tmp_path):
    """The file does not say how many channels there are; who knows says it."""
    deep = {
        "active_nodes": {"conv1": [40], "conv2": [], "conv3": [7], "conv4": [0, 1]},
        "connectivity": {"conv1": {"40": [0]}, "conv4": {"1": [7]}},
        "metrics": {},
    }
    path = written(tmp_path, tree({"0 - zero": deep}))
    ds = import_authors(path, channels=(48, 2, 8, 2))
    assert [ds.sizes[f"channel_conv{i}"] for i in (1, 2, 3, 4)] == [48, 2, 8, 2]
    assert ds["size"].isel(origin=0).values.ravel().tolist() == [1, 0, 1, 2]
    assert ds["edges"].isel(origin=0).values.ravel().tolist() == [1, 0, 0, 1]
    back = json.loads(export_authors(ds, tmp_path / "back.json").read_text())
    filled = {**deep, "connectivity": {"conv2": {}, "conv3": {}, "fc": {}, **deep["connectivity"]}}
    assert back == tree({"0 - zero": filled})
    for channels, said in (((40, 2, 8, 2), "conv1: channels must be less than 40; got 40"), (None, "got .*conv4; the")):
        with pytest.raises(FedmiError, match=said):
            import_authors(path, channels=channels)


def test_colour_images_have_three_channels(tmp_path):
    coloured = circuit(([4], [], []), ({"4": [0, 2]}, {}, {}))
    ds = import_authors(written(tmp_path, tree({"0 - zero": coloured})))
    assert ds.sizes["image_channel"] == 3
    assert ds["edges"].sel(layer="conv1").values.ravel().tolist() == [2, 2]


def test_metrics_may_be_absent_and_clients_idle(tmp_path):
    value = tree({"0 - zero": circuit(accuracy=50)})
    for model in value["round_1"].values():
        model["client_7"] = {}
    ds = import_authors(written(tmp_path, value))
    assert ds["client"].values.tolist() == [0, 7]
    assert ds["analysed"].values.tolist() == [[[True], [False]]]
    assert ds["sufficiency"].sel(client=0).values.ravel().tolist() == [0.5, 0.5]
    assert ds["necessity"].isnull().all()
    exported = export_authors(ds, tmp_path / "y.json")
    assert json.loads(exported.read_text()) == value


ONE = {"0 - zero": circuit(([1], [2], []), ({"1": [0]}, {"2": [1]}, {}), accuracy=1.0)}


def changed(change) -> dict:
    value = copy.deepcopy(tree(ONE))
    change(value["round_1"]["clients_local_model"]["client_0"]["0 - zero"], value)
    return value


BAD = {
    "{": "not JSON, or truncated",
    "": "not JSON, or truncated",
    "[" * 100_000: "not JSON, or truncated",
    "[]": "not the authors' schema",
    "{}": "not the authors' schema",
    '{"a": 1}': r"a\.\[key\]",
    '{"round_1": {}}': r"round_1\.clients_local_model: field required",
    '{"round_1": {"clients_local_model": {}, "clients_global_model": {}}}': "at least 1 item",
}


@pytest.mark.parametrize(("text", "message"), BAD.items(), ids=range(len(BAD)))
def test_what_is_no_results_file(text, message, tmp_path):
    refused(written(tmp_path, text), message)


def refused(path: Path, message: str):
    with pytest.raises(FedmiError, match=message) as caught:
        import_authors(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c, _: c["active_nodes"]["conv1"].append(32),
            r"client_0\.0 - zero\.active_nodes\.conv1: .* 32; got 32; the file was read with channels 32 64 128",
        ),
        (lambda c, _: c["active_nodes"].update(conv4=[]), r"active_nodes: must have conv1, conv2, conv3; got .*conv4"),
        (lambda c, _: c["connectivity"].update(conv4={}), r"connectivity: must have .* fc; got .*conv4"),
        (lambda c, _: c["active_nodes"].update(dense=[]), r"active_nodes\.dense"),
        (lambda c, _: c["connectivity"]["conv2"].update({"64": [1]}), r"connectivity\.conv2: .* less than 64; got 64"),
        (lambda c, _: c["connectivity"]["conv2"].update({"2": [32]}), r"conv2, from: .* less than 32; got 32"),
        (lambda c, _: c["connectivity"]["conv1"].update({"1": [3]}), r"conv1, from: .* less than 3; got 3"),
        (lambda c, _: c["active_nodes"]["conv3"].append(-1), "greater than or equal to 0; got -1"),
        (lambda c, _: c["active_nodes"]["conv1"].append("1"), r"active_nodes\.conv1\.1: .*integer; got '1'"),
        (lambda c, _: c["active_nodes"]["conv1"].append(True), r"active_nodes\.conv1\.1: .*integer; got True"),
        (
            lambda c, _: c["active_nodes"].pop("conv2"),
            r"active_nodes: must have conv1, conv2, .*; got conv1, conv3;",
        ),
        (lambda c, _: c["connectivity"]["conv2"].update(x=[0]), r"connectivity\.conv2\.x\.\[key\]"),
        (lambda c, _: c["connectivity"]["fc"].update({"0": [1]}), r"connectivity\.fc"),
        (lambda c, _: c["connectivity"]["conv2"].update({"3": [1]}), r"connectivity\.conv2: must be the edges between"),
        (lambda c, _: c["connectivity"]["conv2"].update({"2": [5]}), r"connectivity\.conv2: must be the edges between"),
        (lambda c, _: c["metrics"].update(accuracy=100.5), r"metrics\.accuracy: .*100; got 100.5"),
        (lambda c, _: c["metrics"].update(accuracy=float("nan")), r"metrics\.accuracy: .*finite"),
        (lambda c, _: c["metrics"].update(accuracy="all"), r"metrics\.accuracy"),
        (
            lambda _, v: v["round_1"]["clients_local_model"]["client_0"].update({"1 - one": circuit()}),
            "other classes than",
        ),
        (lambda _, v: v["round_1"]["clients_global_model"].update(client_1={}), "client_1: other classes than"),
        (lambda _, v: v["round_1"]["clients_global_model"].update(server={}), r"server\.\[key\]"),
    ],
)
def test_wrong_places_are_named(change, message, tmp_path):
    refused(written(tmp_path, changed(change)), message)


def test_circuits_of_one_model_must_agree_on_its_edges(tmp_path):
    """Both circuits hold the two ends; only one lists the edge."""
    with_edge = circuit(([1], [2], []), ({}, {"2": [1]}, {}))
    refused(
        written(tmp_path, tree({"0 - a": with_edge, "1 - b": circuit(([1], [2], []))})), "agree with the other circuits"
    )


def test_edges_outside_the_circuit_do_not_make_up_for_missing_ones(tmp_path):
    """The right number of edges, but one runs to a channel outside and the one inside is only in the other's list."""
    outside = circuit(([1], [2], []), ({}, {"3": [1]}, {}))
    other = circuit(([1], [2, 3], []), ({}, {"2": [1], "3": [1]}, {}))
    refused(written(tmp_path, tree({"0 - a": outside, "1 - b": other})), "0 - a.connectivity.conv2: must be the edges")


def test_files_without_circuits_or_with_two_names_for_a_class(tmp_path):
    refused(written(tmp_path, tree({})), "no client has a circuit")
    refused(written(tmp_path, tree({"0 - zero": circuit(), "0 - nought": circuit()})), "two names for one class")


def test_truncated_missing_and_oversized_files(tmp_path, monkeypatch):
    whole = reference("1_class_per_client").read_bytes()
    cut = tmp_path / "cut.json.gz"
    for length in (1000, len(whole) - 1):
        cut.write_bytes(whole[:length])
        refused(cut, "truncated or damaged gzip")
    cut.write_bytes(whole[:500] + b"\0" * 100 + whole[600:])
    refused(cut, "truncated or damaged gzip")
    refused(tmp_path / "none.json", "No such file")
    refused(tmp_path, "Is a directory")
    monkeypatch.setattr(authors_file, "MAX_BYTES", 170_601)  # one less than the file has
    refused(reference("1_class_per_client"), "more than 170601 bytes")
    monkeypatch.setattr(authors_file, "MAX_BYTES", 170_602)
    assert import_authors(reference("1_class_per_client")).sizes["round"] == 10
    monkeypatch.setattr(authors, "MAX_PLACES", 8)
    refused(reference("1_class_per_client"), "3 clients and 3 classes; at most 8 places are read")


def test_gzip_is_told_by_content_not_by_name(tmp_path):
    path = tmp_path / "plain.json"
    path.write_bytes(reference("1_class_per_client").read_bytes())
    assert import_authors(path).sizes["client"] == 3

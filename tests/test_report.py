"""The HTML report: what is in it is what the result says, no name becomes markup, and nothing is fetched."""

import base64
import hashlib
import html
import json
import re
import sys
import zlib
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
import weighted
import xarray as xr
from made_up import complete, result
from weighted import pictures

import fedmi_jax
from fedmi_jax.analysis import nulls
from fedmi_jax.cli.main import main
from fedmi_jax.errors import FedmiError, printable
from fedmi_jax.report import figures
from fedmi_jax.report.html import channels, circuits, notebook, page, vector
from fedmi_jax.report.html.explored import explored
from fedmi_jax.report.html.packing import packed
from fedmi_jax.results import schema, store
from fedmi_jax.results.labels import held

NASTY = "</script><img src=x onerror=alert(1)>&\u2028\"'"


def unpacked(value):
    """The way back, as unpack.js has it."""
    content, kind = zlib.decompress(base64.b64decode(value["data"])), value["kind"]
    if kind == "bits":
        bits = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
        return bits[: np.prod(value["shape"], dtype=int)].reshape(value["shape"]).astype(bool)
    return np.frombuffer(content, f"<{kind}").reshape(value["shape"])


@pytest.fixture(scope="module")
def images():
    return pictures()


@pytest.fixture(scope="module")
def ds(images):
    return weighted.result(images)


@pytest.fixture(scope="module")
def known(ds, images):
    return explored("two-class", ds, images)


# --- the data is the result's ---


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "float32"])
@pytest.mark.parametrize("shape", [(), (0, 3), (7,), (2, 3, 5)])
def test_what_is_packed_comes_back(dtype, shape):
    values = (np.random.default_rng(0).normal(size=shape) * 100).astype(dtype)
    back = unpacked(packed(values))
    assert back.dtype == values.dtype
    np.testing.assert_array_equal(back, values)


def test_what_cannot_be_packed_is_refused():
    with pytest.raises(ValueError, match="int64"):
        packed(np.arange(3))


def test_circuits_are_the_results(ds, known):
    json.dumps(known, allow_nan=False)
    assert (known["seeds"], known["rounds"], known["clients"]) == ([0, 1], [1, 2, 3], [0, 1, 2])
    assert [one["name"] for one in known["classes"]] == ds["class_name"].values.tolist()
    np.testing.assert_array_equal(unpacked(known["held"]), held(ds))
    for layer, of in zip(("conv1", "conv2", "conv3"), known["masks"], strict=True):
        np.testing.assert_array_equal(unpacked(of), ds[f"mask_{layer}"])


def test_measures_are_the_results(ds, known):
    there = held(ds).expand_dims(origin=ds["origin"]).transpose(*schema.CIRCUIT_DIMS)
    measures = {one["name"]: one for one in known["measures"]}
    assert {"sufficiency", "necessity", "cross_evaluation", "drift_gap"} <= measures.keys()
    assert next(iter(measures)) == "sufficiency"
    for name, one in measures.items():
        np.testing.assert_array_equal(unpacked(one["values"]), ds[name].where(there).astype(np.float32))
        assert one["means"] == schema.VARIABLES[name].long_name
    random = ds["random_sufficiency"].where(there)
    for how, of in (("mean", random.mean("sample")), ("least", random.min("sample")), ("most", random.max("sample"))):
        np.testing.assert_allclose(unpacked(measures["sufficiency"]["random"][how]), of, rtol=1e-6)
    assert measures["balanced_accuracy" if "balanced_accuracy" in measures else "drift_gap"]["random"] is None
    np.testing.assert_allclose(unpacked(known["byClass"]["call_rate"]["values"]), ds["call_rate"], rtol=1e-6)


def test_a_new_measure_of_circuits_is_shown_with_what_it_means(ds):
    more = ds.assign(explained=ds["sufficiency"] * 2 - 1, untrimmed_size=ds["size"].sum("layer"))
    more["explained"].attrs["long_name"] = "share of the decision"
    more["random_live_explained"] = ds["random_sufficiency"]
    more["status"] = more["untrimmed_size"].astype(np.int8) * 0 + 3
    found = circuits.values("x", more)
    measures = {one["name"]: one for one in found["measures"]}
    assert measures["explained"]["means"] == "share of the decision"
    assert measures["explained"]["first"]
    random = ds["random_sufficiency"].where(held(ds)).mean("sample").transpose(*schema.CIRCUIT_DIMS)
    np.testing.assert_allclose(unpacked(measures["explained"]["random"]["mean"]), random, rtol=1e-6)
    assert [measures[name]["counts"] for name in ("explained", "untrimmed_size")] == [False, True]
    assert "status" not in measures
    np.testing.assert_array_equal(unpacked(found["status"]), 3)


def test_overlaps_and_chance_are_the_results(ds, known):
    chance, layers = nulls.expected(ds), {one["name"]: one for one in known["byLayer"]}
    for name in ("stability_iou", "local_global_iou"):
        np.testing.assert_allclose(unpacked(layers[name]["values"]), ds[name], rtol=1e-6)
        np.testing.assert_allclose(unpacked(layers[name]["chance"]), chance[name], rtol=1e-6)


def plain_edges(ds, origin, layer, at):
    """Strengths of the edges of one circuit, from its kernels: loops over both ends."""
    seed, round_, client, label = at
    model = {"seed": seed, "round": round_} | ({"client": client} if origin == "local" else {})
    kernel = ds[f"weights_{origin}_{layer}_kernel"].isel(model).values
    norms = np.sqrt((kernel**2).sum((0, 1))).T
    here = ds.isel(model | {"client": client, "class": label}).sel(origin=origin)
    out = here[f"mask_{layer}"].values
    into = here[f"mask_conv{int(layer[-1]) - 1}"].values if layer != "conv1" else np.ones(1, bool)
    return np.where(out[:, None] & into[None], np.ceil(255 * norms / norms.max()), 0)


def test_edges_are_those_within_some_circuit_of_the_model(ds, known):
    for origin, layer in (("local", "conv2"), ("global", "conv2"), ("local", "conv1")):
        edges = unpacked(known["edges"][origin][int(layer[-1]) - 1])
        sharing = ((0, 0), (0, 1)) if origin == "local" else ((0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5))
        wanted = np.max([plain_edges(ds, origin, layer, (1, 2, k, c)) for k, c in sharing], 0)
        at = (1, 2, 0) if origin == "local" else (1, 2)
        np.testing.assert_array_equal(edges[at], wanted)
    assert known["hasStrength"]


def test_without_strengths_all_edges_are_alike(ds):
    bare = ds.drop_vars([name for name in ds if str(name).startswith("weights_")])
    found = explored("x", bare)
    assert set(np.unique(unpacked(found["edges"]["local"][1]))) == {0, 255}
    assert not found["hasStrength"]
    assert "kernels" not in found
    assert any("--execution.save-weights" in line for line in found["missing"])


# --- channels ---


def test_kernels_are_the_weights_to_half_a_step_where_a_circuit_has_the_channel(ds, known):
    one = known["kernels"]["local"][1]
    values, scale, bias = (unpacked(one[name]) for name in ("values", "scale", "bias"))
    weights = ds["weights_local_conv2_kernel"].values.transpose(0, 1, 2, 6, 5, 3, 4)
    masks = ds["mask_conv2"].sel(origin="local").any("class").values
    for at in np.ndindex(*scale.shape):
        before = masks[at[0], at[1] - 1, at[2]] if at[1] else False
        shown = masks[at] | before
        np.testing.assert_allclose(values[at][shown] * scale[at] / 127, weights[at][shown], atol=scale[at] / 253)
        assert not values[at][~shown].any()
        np.testing.assert_allclose(bias[at][shown], ds["weights_local_conv2_bias"].values[at][shown], rtol=1e-6)


def plain_means(ds, at, images):
    """Mean output after ReLU of every channel, (N, O) a layer, one convolution written out."""
    x = (images.test_images / 255 - np.array(images.mean)) / np.array(images.std)
    found = {}
    for layer in ("conv1", "conv2", "conv3"):
        kernel, bias = (ds[f"weights_local_{layer}_{part}"].values[at] for part in ("kernel", "bias"))
        wide = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        size = x.shape[1:3]
        parts = [wide[:, i : i + size[0], j : j + size[1]] @ kernel[i, j] for i in range(3) for j in range(3)]
        y = np.maximum(np.sum(parts, 0) + bias, 0)
        found[layer] = y.mean((1, 2))
        h, w = (side // 2 * 2 for side in size)
        x = y[:, :h, :w].reshape(len(y), h // 2, 2, w // 2, 2, -1).max((2, 4))
    return found


def test_activations_and_best_images_are_those_of_a_plain_convolution(ds, images, known):
    at = (1, 2, 0)
    plain = plain_means(ds, at, images)
    labels, order = images.test_labels, np.argsort(images.test_labels, kind="stable")
    shown = known["images"]
    for place, layer in enumerate(plain):
        one = known["excitation"]["local"][place]
        mean, largest, best = (unpacked(one[name])[at] for name in ("mean", "largest", "best"))
        used = channels.used(ds, "local")[layer][at]
        by_class = np.stack([plain[layer][labels == c].mean(0) for c in range(4)], -1)
        np.testing.assert_allclose((mean / 255 * largest[:, None])[used], by_class[used], atol=by_class.max() / 400)
        assert not mean[~used].any()
        assert (best[~used] == channels.NONE).all()
        for channel in np.flatnonzero(used):
            wanted = np.sort(plain[layer][:, channel])[::-1][: channels.BEST]
            got = best[channel][best[channel] != channels.NONE]
            assert len(got) == (wanted > 0).sum()
            assert [shown["labels"][i] for i in got] == [
                labels[order[j]] for j in np.argsort(-plain[layer][order, channel], kind="stable")[: len(got)]
            ]
    assert shown["looked"] == 40


def test_the_sheet_holds_the_images(images, known):
    from io import BytesIO

    from PIL import Image

    shown = known["images"]
    content = base64.b64decode(shown["sheet"].removeprefix("data:image/png;base64,"))
    sheet = np.asarray(Image.open(BytesIO(content)))
    cells = sheet.reshape(shown["rows"], 9, shown["columns"], 8).swapaxes(1, 2).reshape(-1, 9, 8)
    known_images = {
        image.tobytes(): label for image, label in zip(images.test_images[..., 0], images.test_labels, strict=True)
    }
    assert [known_images[cell.tobytes()] for cell in cells[: len(shown["labels"])]] == shown["labels"]


@pytest.mark.parametrize("shape", [(64, 48, 3), (8, 100, 1), (300, 300, 4)])
def test_large_images_are_made_small(shape):
    sheet = channels._sheet(np.zeros((3, *shape), np.uint8))
    assert max(sheet["height"], sheet["width"]) == channels.SIDE


def test_images_that_are_not_the_results_are_refused(ds):
    with pytest.raises(FedmiError, match=r"images are noise .* but those of the result are noise"):
        fedmi_jax.view(ds, pictures(seed=2))


def test_images_that_cannot_be_had_are_missing_and_said_so(ds, monkeypatch):
    def load(data):
        raise FedmiError("no such set here")

    monkeypatch.setattr(channels.datasets, "load", load)
    found = explored("x", ds)
    assert "kernels" in found
    assert "excitation" not in found
    assert any("no such set here" in line for line in found["missing"])


def test_many_models_look_at_fewer_images(images):
    assert [channels.looked_at(images, n).per_class for n in (1, 500, 10**6)] == [100, 30, 10]


# --- the page ---


class Page(HTMLParser):
    """Tags with their attributes, and the texts of script and style."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.inside, self.texts = [], [], {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        if self.inside and self.inside[-1][0] == tag:
            self.inside.pop()

    def handle_data(self, data):
        if self.inside:
            self.texts.setdefault(self.inside[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def script(self):
        (one,) = [text for (tag, id_), text in self.texts.items() if tag == "script" and id_ is None]
        return "".join(one)

    @property
    def data(self):
        return json.loads("".join(self.texts["script", "runs"]))


@pytest.fixture
def few_figures(monkeypatch):
    """One figure of each run takes the place of all."""
    draw = figures.draw_all
    monkeypatch.setattr(vector.figures, "draw_all", lambda runs, out, _, kinds: draw(runs, out, ("partition",), kinds))


@pytest.fixture
def folder(tmp_path, pickled_files):
    for kind in ("iid", "two-class"):
        store.save(complete(kind, seeds=1, rounds=2, true=8), tmp_path / "runs" / kind)
    return tmp_path


@pytest.mark.usefixtures("few_figures")
def test_report(folder, capsys):
    out = folder / "deep" / "r.html"
    assert main(["report", str(folder / "runs"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text("utf-8")
    one = Page(text)
    ids = [attributes["id"] for _, attributes in one.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {"explorer", "claims", "figures", "partition", "made", "missing-here"} <= set(ids)
    assert {a["href"][1:] for a in one.all("a") + one.all("use")} <= set(ids)
    assert len(one.all("figure")) == 1 + 2
    assert all(label.get("for") in {None, *ids} for label in one.all("label"))
    assert [run["name"] for run in one.data] == ["iid", "two-class"]
    groups = re.findall(r"<details><summary>([^<]*)</summary><div class=\"drawings\">", text)
    assert groups == ["iid (1)", "two-class (1)"]
    for word in ("C1", "cannot tell yet", "sparsity.target", "0.995", "Versions", "jaxlib", "client 2"):
        assert word in text
    only_self_contained(text)


def only_self_contained(text):
    """No address but places in the page and pictures in it; the browser is told so too."""
    one = Page(text)
    assert "://" not in text
    assert not re.search(r"@import|url\((?!#|data:|\"\$)", re.sub(r'id="runs".*?</script>', "", text, flags=re.DOTALL))
    for tag, attributes in one.tags:
        assert tag not in ("link", "base", "object", "embed", "iframe", "img")
        for name in ("src", "href", "action", "data"):
            within = ("#", "data:image/png;base64,") if tag == "image" else ("#",)
            assert attributes.get(name, "#").startswith(within), (tag, attributes)
    (policy,) = [meta["content"] for meta in one.all("meta") if "http-equiv" in meta]
    digest = base64.b64encode(hashlib.sha256(one.script.encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in policy


@pytest.mark.usefixtures("few_figures", "pickled_files")
def test_names_never_become_markup(tmp_path):
    made = complete("two-class", own=((0,), (0, 1), (2,)), seeds=1, rounds=2, name=NASTY)
    for dim in ("class", "true_class"):
        made = made.assign_coords({f"{dim}_name": (dim, [f"{NASTY}{c}" for c in made[dim].values])})
    made.attrs |= {"created_by": NASTY, "versions": json.dumps({NASTY: NASTY})}
    store.save(made, tmp_path)
    text = page.report([tmp_path])
    shown = Page(text)
    assert [one["name"] for one in shown.data[0]["classes"]] == [
        printable(name) for name in made["class_name"].values.tolist()
    ]
    only_self_contained(text)
    assert len(shown.all("script")) == 2
    assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]
    assert "The claims are not judged" in text


@pytest.mark.usefixtures("few_figures", "pickled_files")
def test_a_result_that_knows_little_says_so(tmp_path):
    imported = result("two-class", seeds=1, rounds=2)
    imported = imported.drop_vars(["edges", *(n for n in imported if str(n).startswith("connected_"))])
    del imported.attrs["config"]
    store.save(imported, tmp_path)
    said = page.report([tmp_path])
    for line in ("settings are not known", "there are no edges", "images are not known", "Not drawn: partition"):
        assert line in said


def test_report_refuses_in_one_line(tmp_path, capsys):
    assert main(["report"]) == 2
    assert "at least one folder" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "no such result" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "is a folder; give a file" in capsys.readouterr().err


def test_figures_keep_every_shape(tmp_path):
    figures.draw_all({"two-class": complete("two-class", seeds=1, rounds=2)}, tmp_path, ("partition",), ("svg",))
    svg = (tmp_path / "partition-two-class.svg").read_text()
    shapes = {}
    first, again = vector.inline(svg, shapes), vector.inline(svg, shapes)
    names = [shape.attrib["id"] for shape in shapes.values()]
    assert len(names) == len(set(names)) == len(set(re.findall(r'<(?:path|clipPath) id="([^"]+)"', svg)))
    uses = [one.attrib["href"][1:] for one in first.iter("use")]
    assert len(uses) == svg.count("<use ")
    assert set(uses) <= set(names)
    assert [one.attrib for one in first.iter()] == [one.attrib for one in again.iter()]
    parts = [first, *shapes.values()]
    drawn = [one.attrib["d"] for part in parts for one in part.iter("path") if "d" in one.attrib]
    assert {re.sub(r"\.\d+", "", d) for d in drawn} == {
        re.sub(r"\.\d+", "", " ".join(d.split())) for d in re.findall(r' d="([^"]+)"', svg)
    }


@pytest.mark.slow
def test_the_stored_two_class_runs_fit_into_five_megabytes():
    root = page.Path(__file__).parent.parent
    text = page.report([root / "experiments" / "results" / "two-class"])
    assert len(text.encode()) < 5e6
    only_self_contained(text)


# --- in a notebook ---


def test_view_shows_the_page_in_a_frame(ds, images):
    seen = fedmi_jax.view(ds, images)
    (frame,) = Page(seen._repr_html_()).all("iframe")
    assert frame["srcdoc"] == seen.html
    assert frame["sandbox"] == "allow-scripts"
    assert "two-class" in repr(seen)
    assert len(repr(seen)) < 100
    only_self_contained(seen.html)


def test_a_result_shows_its_summary_in_a_notebook(ds, monkeypatch):
    kept = {}
    register = SimpleNamespace(for_type_by_name=lambda module, name, show: kept.update({(module, name): show}))
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"text/html": register}))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    notebook.summarise_results()
    show = kept[xr.Dataset.__module__, xr.Dataset.__name__]
    said = show(ds)
    assert said.startswith("<div>")
    assert "accuracy of the global model" in said
    assert ds._repr_html_().split("<svg")[-1][-200:] in said
    other = xr.Dataset({"a": 1})
    assert show(other).startswith(other._repr_html_()[:20])
    part = ds.isel(seed=0, round=0)
    assert "accuracy of the global model" not in show(part)


def test_outside_a_notebook_nothing_is_registered(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    notebook.summarise_results()


def test_names_in_a_frame_are_escaped():
    assert html.escape('"><b>', quote=True) in notebook.View('"><b>', "<p>")._repr_html_()

"""Figures of runs that are not like the paper's: many clients and classes, long names, one of everything, nothing at
all. What is drawn is counted against the data, and no two texts touch."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from made_up import complete, result

from fedmi_jax.analysis.runs import KINDS
from fedmi_jax.errors import FedmiError
from fedmi_jax.report import curves, figures, graphs, style
from fedmi_jax.report.more_figures import LEAST
from fedmi_jax.results import similarity

LONG = "a class with a very long name"


def pages(name, data):
    with style.styled():
        return figures.ALL[name].draw({data.attrs["name"]: data} if name in figures.PAPER else data)


@pytest.fixture(scope="module")
def drawn():
    """As `pages`, each once."""
    made = {}

    def draw(name, data):
        if (name, id(data)) not in made:
            made[name, id(data)] = pages(name, data)
        return made[name, id(data)]

    return draw


def alike(clients, classes, **how):
    """All clients hold the same classes."""
    own = (tuple(range(classes)),) * clients
    return complete("iid", **{"true": classes, "own": own, "seeds": 1, "rounds": 2} | how)


def apart(kind, clients, each, **how):
    """No two clients hold the same class."""
    own = tuple(tuple(range(each * k, each * (k + 1))) for k in range(clients))
    return complete(kind, **{"true": clients * each, "own": own, "seeds": 1, "rounds": 2} | how)


def renamed(ds):
    """With class names of 32 characters."""
    names = {dim: [f"{LONG} {c:02}" for c in ds[dim].values] for dim in ("class", "true_class")}
    return ds.assign_coords({f"{dim}_name": (dim, of) for dim, of in names.items()})


def deep(ds, layers):
    """With so many convolutions, each like one of the three."""
    like = {f"conv{i}": f"conv{(i - 1) % 3 + 1}" for i in range(1, layers + 1)}
    masks = {f"mask_{k}": ds[f"mask_{of}"].rename({f"channel_{of}": f"channel_{k}"}) for k, of in like.items()}
    whole = ds.drop_vars([name for name in ds.variables if "conv" in str(name)]).sel(layer=list(like.values()))
    whole = whole.drop_dims([f"channel_conv{i}" for i in (1, 2, 3)], errors="ignore")
    return whole.assign_coords(layer=list(like)).assign(masks)


@pytest.fixture(scope="module")
def ten():
    return alike(3, 10, local=lambda s, r, k, c: (3 * k + c) % 30)


@pytest.fixture(scope="module")
def wide():
    return renamed(alike(2, 22, local=lambda s, r, k, c: (3 * k + c) % 20))


@pytest.fixture(scope="module")
def many():
    """70 circuits."""
    return alike(35, 2, true=10)


def titles(figures_):
    return [axes.get_title() for figure in figures_ for axes in style.shown(figure) if axes.get_title()]


def row_names(figure):
    return [tick.get_text() for tick in figure.axes[0].get_yticklabels()]


# --- everything is there ---


def test_every_circuit_has_a_row(many):
    expected = [f"{k}: {c} - name" for k in range(35) for c in range(2)]
    for name in ("heatmap", "specificity"):
        made = pages(name, many)
        assert [row for figure in made for row in row_names(figure)] == expected, name
        assert [len(row_names(figure)) for figure in made] == [35, 35]
    cells = [axes.collections[0].get_array() for figure in pages("heatmap", many) for axes in figure.axes]
    drawn = sum((np.asarray(codes) > 0).sum() for codes in cells)
    assert drawn == sum((many[f"mask_conv{i}"].isel(round=-1).any("origin")).sum() for i in (1, 2, 3))


@pytest.mark.parametrize(("clients", "sheets"), [(14, 1), (20, 2)])
def test_every_client_has_a_panel(clients, sheets, many):
    made = pages("drift", many.isel(client=slice(clients)))
    assert titles(made) == [f"client {k}" for k in range(clients)]
    assert len(made) == sheets


def test_every_class_has_its_panels(ten, wide, drawn):
    both = [f"{c} - name, {origin} circuits" for c in range(10) for origin in ("local", "global")]
    assert sorted(titles(drawn("fig01", ten))) == sorted(both)
    assert [title.split(", ")[0] for title in titles(drawn("accuracy", wide))] == [f"{LONG} {c:02}" for c in range(22)]
    made = pages("fig10", renamed(alike(2, 7)))
    assert [len(titles([figure])) for figure in made] == [12, 2]
    for figure in made:  # the local and the global circuits of a class stand on one page
        assert len({title.split(",")[0] for title in titles([figure])}) == len(titles([figure])) / 2


def test_every_pair_of_classes_has_a_cell(wide, drawn):
    (figure,) = drawn("pairwise", wide)
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert [np.shape(image) for image in images] == [(22, 22)] * 6
    last = wide["class_pair_iou"].isel(seed=0, round=-1)
    np.testing.assert_allclose(images[4], last.sel(origin="global", layer="conv2"))


def test_every_client_has_its_dots():
    counts = np.random.default_rng(0).integers(0, 3, (1, 120, 4))
    ds = alike(120, 1, true=4).assign(samples=(("seed", "client", "true_class"), counts))
    made = pages("partition", ds)
    dots = [len(figure.axes[0].collections[0].get_offsets()) for figure in made]
    assert dots == [(counts[0, :60] > 0).sum(), (counts[0, 60:] > 0).sum()]
    assert row_names(made[1])[::10] == ["60", "119"]


PANELS = {
    "fig04": ("one-class", 8, 1, 8), "fig05": ("one-class", 8, 1, 8), "fig07": ("three-class", 4, 3, 4),
    "fig08": ("three-class", 2, 3, 3), "fig15": ("two-class", 4, 2, 4), "fig16": ("two-class", 4, 2, 8),
    "fig17": ("three-class", 4, 3, 12),
}  # fmt: skip
"""Experiment, clients, classes of each, and panels."""


@pytest.mark.parametrize("name", PANELS)
def test_every_specialist_has_its_panels(name):
    kind, clients, each, expected = PANELS[name]
    made = pages(name, apart(kind, clients, each))
    assert len(titles(made)) == len(set(titles(made))) == expected
    for axes in (axes for figure in made for axes in style.shown(figure)):
        lines = [label for label in axes.get_legend_handles_labels()[1] if not label.startswith(style.NO_CURVE)]
        assert len(lines) == (each if name in ("fig04", "fig07") else 3)


def test_each_run_begins_a_row():
    runs = {"one-class": apart("one-class", 4, 1), "two-class": apart("two-class", 3, 2)}
    with style.styled():
        (figure,) = figures.ALL["fig04"].draw(runs)
    rows = {axes.get_title(): axes.get_subplotspec().rowspan.start for axes in style.shown(figure)}
    assert rows == {
        **{f"one-class, client {k}": 0 for k in range(4)},
        **{f"two-class, client {k}": 1 for k in range(3)},
    }
    assert [axes.get_xlabel() for axes in style.shown(figure)] == ["", "", "", "round", "round", "round", "round"]


def test_pages_are_files_that_are_counted_and_indexed(many, monkeypatch, tmp_path):
    said = small_print(monkeypatch)
    made, problems = figures.draw_all({"iid": many}, tmp_path / "figures", ("heatmap",), ("svg",))
    assert [path.name for path in made] == ["heatmap-iid.svg", "heatmap-iid-page-2.svg"]
    assert problems == []
    assert [text.split("; ")[-1] for text in said.values()] == ["page\xa01\xa0of\xa02", "page\xa02\xa0of\xa02"]
    (line,) = figures.index(made).splitlines()
    assert line.endswith("[iid](figures/heatmap-iid.svg), [iid-page-2](figures/heatmap-iid-page-2.svg)")


def small_print(monkeypatch):
    """Of the figures by their names, filled in when they are drawn; they are not saved."""
    said = {}

    def save(figure, path):
        said[path.stem] = figure.get_supxlabel().replace("\n", " ")
        return path

    monkeypatch.setattr(style, "save", save)
    return said


# --- any number of layers ---


@pytest.mark.parametrize("layers", [2, 6])
def test_every_layer_is_drawn(layers):
    ds, names = deep(alike(3, 2), layers), [f"conv{i}" for i in range(1, layers + 1)]
    for name in ("kept", "aligned"):
        assert titles(pages(name, ds)) == names
    (heatmap,), (pairwise,), (ceiling,) = (pages(name, ds) for name in ("heatmap", "pairwise", "ceiling"))
    assert [axes.get_title().split(",")[0] for axes in heatmap.axes] == names
    assert titles([pairwise]) == [f"{layer}, {origin} circuits" for origin in ("local", "global") for layer in names]
    assert [tick.get_text() for tick in ceiling.axes[0].get_xticklabels()] == names
    for axes in style.shown(pages("fig02", ds)[0]):
        lines = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        assert len({lines[layer].get_color() for layer in names}) == layers
    (specialists,) = pages("fig03", deep(apart("one-class", 3, 1), layers))
    assert [tick.get_text() for tick in specialists.axes[0].get_xticklabels()] == names


def test_colours_of_layers_and_looks_of_classes_differ():
    assert [style.look(i) for i in range(3)] == [("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^")]
    assert len({style.look(i)[0] for i in range(6)}) == 6
    assert len({style.look(i) for i in range(100)}) == 100


@pytest.mark.parametrize("layers", [2, 6])
def test_graphs_of_any_depth(layers):
    masks = {f"conv{i}": np.arange(100) < 80 for i in range(1, layers + 1)}
    edges = {layer: np.eye(100, 1 if layer == "conv1" else 100) for layer in masks}
    with style.styled():
        figure = graphs.overlay(*[graphs.Circuit(masks, edges)] * 2, ("a", "b"), "title")
    nodes = [len(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert sum(nodes) == 80 * layers
    assert figure.get_figheight() * 72 / 80 > 3.4  # points: the nodes' size
    assert "layers of more than 32 channels are without their numbers" in figure.get_supxlabel()
    assert touching(figure) == []


# --- texts do not touch ---


def shown_texts(figure):
    """(text, box) of all that can be read; ticks outside their axis are not drawn."""
    from matplotlib.text import Text

    figure.draw_without_rendering()
    hidden = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            hidden |= {tick.label1 for tick in ticks if not (axes.axison and low <= tick.get_loc() <= high)}
            hidden |= set() if axes.axison else {axis.label}
    found = [one for one in figure.findobj(Text) if one.get_visible() and one.get_text() and one not in hidden]
    return [(one.get_text(), one.get_window_extent()) for one in found]


def touching(figure):
    """Pairs of texts whose boxes overlap, and texts that leave the page."""
    said, found = zip(*shown_texts(figure), strict=True)
    left, bottom, right, top = np.array([box.extents for box in found]).T
    wide = np.minimum(right[:, None], right) - np.maximum(left[:, None], left)
    high = np.minimum(top[:, None], top) - np.maximum(bottom[:, None], bottom)
    pairs = np.argwhere(np.triu((wide > 0.5) & (high > 0.5), 1))
    page = figure.bbox.extents
    out = (left < -1) | (bottom < -1) | (right > page[2] + 1) | (top > page[3] + 1)
    return [(said[i], said[j]) for i, j in pairs] + [said[i] for i in np.flatnonzero(out)]


def test_touching_texts_are_found():
    with style.styled():
        figure, axes = style.grid(10, 10)
        for i, one in enumerate(axes):
            one.set_title(f"{i} - name, global circuits")
    assert ("0 - name, global circuits", "1 - name, global circuits") in touching(figure)


@pytest.mark.parametrize("name", ["fig01", "pairwise", "specificity", "partition"])
def test_no_texts_touch_with_ten_classes(name, ten, drawn):
    assert [touching(figure) for figure in drawn(name, ten)] == [[]]


@pytest.mark.parametrize("name", ["accuracy", "pairwise", "specificity", "partition", "drift", "heatmap"])
def test_no_texts_touch_with_long_names(name, wide, drawn):
    assert touching(drawn(name, wide)[0]) == []


def test_numbers_do_not_touch_where_all_circuits_are_empty():
    empty = alike(3, 10, local=-1, global_=-1)
    (figure,) = pages("pairwise", empty)
    assert touching(figure) == []
    assert len([text for axes in figure.axes for text in axes.texts]) == 6 * 100


def test_small_print_of_many_differences_has_room():
    (figure,) = pages("heatmap", apart("one-class", 2, 1))
    with style.styled():
        style.say(figure, ", ".join(f"local.setting-{i} 1.2345 (0.1)" for i in range(40)))
    assert touching(figure) == []


# --- one of everything, and nothing ---


def test_one_client_class_round_and_seed():
    ds = complete("one-class", own=((0,),), seeds=1, rounds=1)
    nothing = {"pairwise": "no two circuits in the last round"}
    for name in figures.PER_RUN:
        if name in nothing:
            with pytest.raises(FedmiError, match=nothing[name]):
                pages(name, ds)
        else:
            (figure,) = pages(name, ds)
            assert titles([figure]) or name == "ceiling"
            if name in ("heatmap", "specificity", "outages", "kept"):
                assert touching(figure) == [], name


def test_an_empty_run_names_what_cannot_be_drawn(tmp_path):
    runs = {kind: complete(kind, seeds=1, rounds=2, local=-1, global_=-1) for kind in ("iid", "one-class")}
    empty, others = ("fig11", "fig12", "fig13", "heatmap", "kept"), ("fig03", "ceiling")
    _, problems = figures.draw_all(runs, tmp_path, (*empty, *others), ())
    names = [*empty[:3], *(f"{name}-{run}" for name in empty[3:] for run in runs)]
    assert [problem.split(": ")[0] for problem in problems] == names
    assert all(": there is nothing to show: " in problem and "\n" not in problem for problem in problems)


def test_no_values_at_all():
    ds = complete("iid", seeds=1, rounds=2)
    nothing = ds.assign({name: values * np.nan for name, values in ds.items() if values.dtype == float})
    nothing["samples"] = ds["samples"] * 0
    absent = nothing.assign(participates=(("seed", "round", "client"), np.zeros((1, 2, 3), bool)))
    for name in {*figures.PER_RUN, "fig01", "fig02", "fig10", "fig11"}:
        with pytest.raises(FedmiError, match=r"^there is nothing to show: |^fewer than"):
            pages(name, absent)


def test_stability_needs_two_rounds(tmp_path):
    _, problems = figures.draw_all({"iid": complete("iid", rounds=1)}, tmp_path, ("fig10",), ())
    assert problems == ["fig10: iid has 1 round, 2 are needed; produce them with `--rounds 2`"]


# --- what is missing is said ---


def test_lines_and_panels_without_values_are_named():
    ds = complete("iid", own=((0, 1),) * 3, seeds=1, rounds=2)
    gap = ds["drift_gap"].where(~((ds["client"] == 1) & (ds["class"] == 0))).where(ds["client"] != 2)
    (figure,) = pages("drift", ds.assign(drift_gap=gap))
    assert "without values: client 1: 0 - name" in figure.get_supxlabel()
    assert [[text.get_text() for text in axes.texts] for axes in figure.axes] == [[], [], ["no values"]]


def test_a_client_without_classes_keeps_the_rounds_of_the_others():
    ds = complete("iid", seeds=1, rounds=4)
    (figure,) = pages("drift", ds.assign(analysed=ds["analysed"] & (ds["client"] != 2)))
    assert [text.get_text() for text in figure.axes[2].texts] == ["no class to analyse"]
    assert figure.axes[0].get_xlim() == (0.5, 4.5)


def test_clients_that_are_absent_from_the_last_round_are_named(ten, drawn):
    there = np.ones((1, 2, 3), bool)
    there[0, 1, 2] = False
    absent = similarity.measures(ten.assign(participates=(("seed", "round", "client"), there)))
    for name in ("heatmap", "specificity", "pairwise"):
        (figure,) = pages(name, absent)
        assert "not in the last round: client 2" in figure.get_supxlabel()
        assert "not in the last round" not in drawn(name, ten)[0].get_supxlabel()


def test_rounds_that_stand_alone_are_seen():
    """A client that takes part in every third of 30 rounds; two seeds, whose interval is upright there."""
    values = xr.DataArray(np.full((2, 30), np.nan), dims=("seed", "round"), coords={"round": np.arange(1, 31)})
    values[0, ::3], values[1, ::3] = 0.2, 0.6
    with style.styled():
        panel = curves.Panel("x", [curves.Curve("y", values, style.BLUE, "o", None, values / 2)], values / 4, "chance")
        axes = curves.draw([panel], 1, "z")[0].axes[0]
    alone = list(range(1, 31, 3))
    points = [(line.get_marker(), x, y) for line in axes.lines for x, y in line.get_xydata() if line.get_ls() == "None"]
    assert {x for marker, x, y in points if marker == "o" and np.isfinite(y)} == set(alone)
    assert sorted((x, y) for marker, x, y in points if marker == "_") == [(x, y) for x in alone for y in (0.1, 0.2)]
    upright = [len(lines.get_segments()) for lines in axes.collections if hasattr(lines, "get_segments")]
    assert upright == [10, 10]


def test_no_class_is_lost_for_its_name():
    """Of two of the same name, and of a name that matplotlib's legends leave out."""
    ds = complete("one-class", own=((0,), (1,), (2,)), seeds=1, rounds=2)
    ds = ds.assign_coords(class_name=("class", ["cat", "cat", "_dog"]))
    (figure,) = pages("drift", ds)
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["0: cat", "1: cat", "2: _dog"]
    assert style.short(["10 pounds", "10 euros", "7 - seven"]) == ["10 pounds", "10 euros", "7 - seven"]


def test_weights_that_are_all_zero_stand_at_the_lower_end():
    ds = complete("iid", seeds=1, rounds=2)
    ds["realised_sparsity_local"][:] = 1
    (figure,) = pages("sparsity", ds)
    low, _ = figure.axes[0].get_ylim()
    assert low < LEAST
    assert "at 0.0001: that or less" in figure.get_supxlabel()
    shown = [line.get_ydata() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert min(np.min(values) for values in shown) == LEAST


# --- what a run is ---


def test_every_figure_says_in_what_a_run_is_not_the_papers(monkeypatch, tmp_path):
    said, runs = small_print(monkeypatch), {kind: complete(kind, seeds=1, rounds=2) for kind in KINDS[:-1]}
    runs["sparsity-ablation-0.99"] = complete("sparsity-ablation", seeds=1, rounds=2, sparsity=0.99)
    for every in (figures.PAPER, figures.PER_RUN):
        for name, spec in every.items():
            monkeypatch.setitem(every, name, dataclasses.replace(spec, draw=lambda data: [style.grid(1, 1)[0]]))
    figures.draw_all(runs, tmp_path, (), ("svg",))
    assert len(said) == len(figures.PAPER) + len(runs) * len(figures.PER_RUN)
    assert all("unlike the paper's: rounds 2 (" in text for text in said.values())
    monkeypatch.setattr(figures, "differences", lambda name, ds: ["dataset squares (mnist)"])
    figures.draw_all({"one-class": runs["one-class"], "my-own": runs["one-class"]}, tmp_path, (), ("svg",))
    assert said["fig03"] == "one-class: 1 seed; unlike the paper's: dataset squares (mnist)"
    assert said["kept-my-own"] == "my-own: 1 seed; none of the paper's experiments, dataset squares (mnist)"
    monkeypatch.setattr(figures, "differences", lambda name, ds: [])
    figures.draw_all({"one-class": runs["one-class"]}, tmp_path, (), ("svg",))
    assert said["fig03"] == "one-class: 1 seed"


def test_runs_of_one_figure_that_differ_in_the_same_are_named_together(monkeypatch):
    runs = {"one-class": apart("one-class", 2, 1), "two-class": apart("two-class", 2, 2)}
    monkeypatch.setattr(figures, "differences", lambda name, ds: ["rounds 2 (10)"])
    assert figures._unlike(runs) == "unlike the paper's: rounds 2 (10)"
    monkeypatch.setattr(figures, "differences", lambda name, ds: [f"name {name}"] if name == "two-class" else [])
    assert figures._unlike(runs) == "two-class: unlike the paper's: name two-class"


# --- whatever the user's settings are ---


def test_no_setting_of_the_user_changes_a_figure(tmp_path):
    import matplotlib as mpl

    ds = {"two-class": result("two-class", seeds=1, rounds=2)}
    (plain,), _ = figures.draw_all(ds, tmp_path / "a", ("fig14",), ("svg",))
    odd = {
        "text.usetex": True, "axes.grid": True, "lines.linewidth": 5, "savefig.bbox": "tight", "svg.fonttype": "none",
        "font.family": "monospace", "figure.dpi": 300, "axes.facecolor": "black", "savefig.transparent": True,
    }  # fmt: skip
    with mpl.rc_context(odd):
        (other,), _ = figures.draw_all(ds, tmp_path / "b", ("fig14",), ("svg",))
        assert mpl.rcParams["text.usetex"]
    assert plain.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("backend", ["no-such-backend", "template"])
def test_no_backend_of_the_user_is_needed(backend):
    code = (
        "from fedmi_jax.report import style\n"
        "with style.styled():\n"
        "    figure, _ = style.grid(1, 1)\n"
        "import os, matplotlib\n"
        "print(os.environ['MPLBACKEND'], matplotlib.get_backend(auto_select=False))"
    )
    told = os.environ | {"MPLBACKEND": backend}
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == backend
    assert ("template" in done.stdout.split()[1]) == (backend == "template")

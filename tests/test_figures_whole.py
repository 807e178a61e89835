"""Figures drop nothing, whatever a run has: many clients and classes, long names, few or many layers. What is drawn is
counted against the data, and no two texts touch."""

import numpy as np
import pytest
from odd_runs import LONG, alike, apart, deep, pages, renamed, row_names, small_print, titles, touching

from fedmi_jax.report import figures, graphs, style


@pytest.fixture(scope="module")
def drawn():
    """As `pages`, each once."""
    made = {}

    def draw(name, data):
        if (name, id(data)) not in made:
            made[name, id(data)] = pages(name, data)
        return made[name, id(data)]

    return draw


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


# --- everything is there ---


def test_every_circuit_has_a_row(many, drawn):
    expected = [f"{k}: {c} - name" for k in range(35) for c in range(2)]
    for name in ("heatmap", "specificity"):
        made = drawn(name, many)
        assert [row for figure in made for row in row_names(figure)] == expected, name
        assert [len(row_names(figure)) for figure in made] == [35, 35]
    cells = [axes.collections[0].get_array() for figure in drawn("heatmap", many) for axes in figure.axes]
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
    (figure,) = pages("fig02", alike(2, 10, rounds=10))
    assert titles([figure]) == [f"{c} - name" for c in range(10)]
    assert touching(figure) == []
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
    runs = {"one-class": apart("one-class", 3, 1), "two-class": apart("two-class", 4, 2)}
    with style.styled():
        (figure,) = figures.ALL["fig04"].draw(runs)
    rows = {axes.get_title(): axes.get_subplotspec().rowspan.start for axes in style.shown(figure)}
    assert rows == {
        **{f"one-class, client {k}": 0 for k in range(3)},
        **{f"two-class, client {k}": 1 for k in range(4)},
    }
    assert [axes.get_xlabel() for axes in style.shown(figure)] == [""] * 3 + ["round"] * 4


def test_pages_are_files_that_are_counted_and_indexed(many, monkeypatch, tmp_path):
    said = small_print(monkeypatch)
    made, problems = figures.draw_all({"iid": many}, tmp_path / "figures", ("heatmap",), ("svg",))
    assert [path.name for path in made] == ["heatmap-iid.svg", "heatmap-iid-page-2.svg"]
    assert problems == []
    assert [text.split("; ")[-1] for text in said.values()] == ["page\xa01\xa0of\xa02", "page\xa02\xa0of\xa02"]
    (line,) = figures.index(made).splitlines()
    assert line.endswith("[iid](figures/heatmap-iid.svg), [iid-page-2](figures/heatmap-iid-page-2.svg)")


# --- any number of layers ---


@pytest.mark.parametrize("layers", [2, 6])
def test_every_layer_is_drawn(layers):
    ds, names = deep(alike(3, 2), layers), [f"conv{i}" for i in range(1, layers + 1)]
    for name in ("kept", "aligned"):
        assert titles(pages(name, ds)) == names
    (heatmap,), (pairwise,), (ceiling,) = (pages(name, ds) for name in ("heatmap", "pairwise", "ceiling"))
    assert [axes.get_title().split(",")[0] for axes in heatmap.axes] == names
    assert "seed 0, round 2" in heatmap.axes[-1].get_title() + heatmap.get_supxlabel()
    assert touching(heatmap) == []
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
    assert not [pair for pair in touching(figure, gap=3) if pair[0] == pair[1]]
    assert len([text for axes in figure.axes for text in axes.texts]) == 6 * 100


def test_small_print_of_many_differences_has_room():
    (figure,) = pages("heatmap", apart("one-class", 2, 1))
    with style.styled():
        style.say(figure, ", ".join(f"local.setting-{i} 1.2345 (0.1)" for i in range(40)))
    assert touching(figure) == []

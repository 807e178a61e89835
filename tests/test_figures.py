"""Every figure is drawn, from runs of one and of several seeds; what is missing is named and the rest is drawn."""

import dataclasses

import numpy as np
import pytest
from made_up import CHANNELS, MAPS, complete, result

from fedmi_jax.analysis import alignment, compact, nulls
from fedmi_jax.analysis.runs import is_a
from fedmi_jax.cli import main
from fedmi_jax.presets import PRESETS
from fedmi_jax.report import curves, figures, graphs, style
from fedmi_jax.results import store


@pytest.fixture(scope="module")
def runs():
    """Of every experiment one; several seeds, one seed, empty circuits."""
    made = {
        "iid": complete("iid", rounds=3, global_=2),
        "one-class": complete("one-class", rounds=3, local=-1, seeds=1),
        "two-class": complete("two-class", rounds=3, local=lambda s, r, k, c: c - 3 if c < 2 else 3 * c, seeds=2),
        "three-class": complete("three-class", rounds=12, seeds=1, cross=lambda s, r, k, c: (r + c) % 2),
        "shared-class": complete("shared-class", rounds=2, seeds=1),
    }
    levels = (0.95, 0.99, 0.995)
    return made | {
        f"sparsity-ablation-{x}": complete("sparsity-ablation", rounds=2, seeds=1, sparsity=x) for x in levels
    }


def page_of(name, data):
    """The figure's only page."""
    with style.styled():
        (page,) = figures.ALL[name].draw(data)
    return page


@pytest.mark.slow
def test_every_figure_is_drawn(runs, tmp_path):
    drawn, problems = figures.draw_all(runs, tmp_path, tuple(figures.ACROSS), ("png",))
    two = {"two-class": runs["two-class"]}  # one-class: below
    more, missing = figures.draw_all(two, tmp_path, tuple(figures.PER_RUN), ("png",))
    assert problems + missing == []
    assert {path.stem for path in drawn} == {f"fig{i:02}" for i in range(1, 20)} | {"averaging"}
    assert {path.stem for path in more} == {f"{name}-two-class" for name in figures.PER_RUN}
    assert all(path.stat().st_size > 2000 for path in drawn + more)


def test_averaging_is_shown_on_the_classes_that_somebody_holds(runs):
    """In the paper's order, beside what a model with one answer has; by hand, of one seed and round."""
    ds = runs["two-class"].isel(seed=[0], round=[0]).copy(deep=True)
    ds["samples"] = (("seed", "client", "true_class"), np.zeros((1, *ds["samples"].shape[1:]), int))
    ds["samples"].values[0, 0, :2] = 5
    ds["samples"].values[0, 1, 2] = 5
    ds["global_class_accuracy"].values[:] = 1
    ds["global_class_accuracy"].values[0, 0, :3] = 0.25, 0.5, 0
    ds["local_class_accuracy"].values[:] = 0
    ds["local_class_accuracy"].values[0, 0, 0, :2] = 1
    ds["local_class_accuracy"].values[0, 0, 1, 2] = 0.5
    page = page_of("averaging", {"two-class": ds, "iid": runs["iid"]})
    first, second = (axes for axes in page.axes if axes.axison)
    assert [axes.get_title().split(",")[0] for axes in (first, second)] == ["iid", "two-class"]
    points = [line for line in second.get_lines() if len(line.get_ydata()) == 1]
    marked = {line.get_marker(): line.get_ydata() for line in points if line.get_linestyle() == "None"}
    (grey,) = (line.get_ydata() for line in points if line.get_label().startswith("an averaged model with one answer"))
    assert [float(value.item()) for value in (marked["s"], marked["o"], grey)] == pytest.approx([0.75, 0.25, 1 / 3])


def test_formats_and_the_same_figure_the_same_file(runs, tmp_path):
    only = {"two-class": runs["two-class"]}
    kinds = ("svg", "pdf", "png")
    first, _ = figures.draw_all(only, tmp_path / "a", ("fig14",), kinds)
    again, _ = figures.draw_all(only, tmp_path / "b", ("fig14",), kinds)
    assert [path.suffix[1:] for path in first] == list(kinds)
    for one, other in zip(first, again, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert b"<svg" in first[0].read_bytes()


def texts(figure):
    return [t.get_text() for t in figure.findobj(lambda artist: hasattr(artist, "get_text")) if t.get_text()]


def test_names_bands_chance_and_hollow_points(runs):
    with style.styled():
        figure = page_of("fig16", runs)
    said = texts(figure)
    assert "client 0, 0 - name" in said
    assert {"conv1", "random sets (same colour)", "degenerate"} <= set(said)
    assert style.HOLLOW in figure.get_supxlabel()
    axes = figure.axes[0]
    ds = runs["two-class"]
    mean = ds["local_global_iou"].sel({"client": 0, "class": 0, "layer": "conv2"}).mean("seed")
    assert any(np.array_equal(line.get_ydata(), mean) for line in axes.lines)
    hollow = [line for line in axes.lines if line.get_markerfacecolor() == "white" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in hollow] == [[1, 2, 3]] * 3  # class 0's circuits have no channel
    chance = nulls.expected(ds)["local_global_iou"].sel({"client": 1, "class": 3}).mean("seed")
    dashed = [line for line in figure.axes[2].lines if line.is_dashed() and len(line.get_xdata())]
    for line, (layer, (colour, _)) in zip(dashed, style.layers(ds).items(), strict=True):
        assert line.get_color() == colour
        np.testing.assert_allclose(line.get_ydata(), chance.sel(layer=layer))


def test_the_convention_for_empty_sets_is_said_where_there_are_any(runs):
    """Of one-class every local circuit is empty, and no global one is."""
    for origin, note in (("local", style.EMPTY_COUNT), ("global", "")):
        with style.styled():
            panel = curves.overlap("x", runs["one-class"], "specialist_distinctness", origin, {})
            assert (style.EMPTY_COUNT in curves.draw([panel], 1, "y")[0].get_supxlabel()) == bool(note)


def test_every_class_has_its_own_chance_and_a_lone_one_a_grey_band(runs):
    """Of two classes, one that the biases always give and one that they never do, the mean is the chance of neither."""
    ds = runs["two-class"]
    with style.styled():
        axes = curves.draw([curves.cross_evaluation("x", ds, 0)], 1, "y")[0].axes[0]
    dashed = [line for line in axes.lines if line.is_dashed() and len(line.get_xdata())]
    for c, line in zip((0, 1), dashed, strict=True):
        expected = ds["random_cross_evaluation"].sel({"origin": "local", "client": 0, "class": c})
        np.testing.assert_allclose(line.get_ydata(), expected.mean(("seed", "sample")))
        assert line.get_color() == style.look(c)[0]
    assert not [line for line in axes.lines if line.get_color() == style.NULL and len(line.get_xdata())]
    ds = runs["one-class"]
    with style.styled():
        axes = curves.draw([curves.cross_evaluation("x", ds, 1)], 1, "y")[0].axes[0]
    (grey,) = [line for line in axes.lines if line.get_color() == style.NULL and len(line.get_xdata())]
    own = curves.own_classes(ds, 1)
    expected = ds["random_cross_evaluation"].sel({"origin": "local", "client": 1, "class": own})
    np.testing.assert_allclose(grey.get_ydata(), expected.mean(("seed", "class", "sample")))


def test_a_result_without_a_null_says_so(runs):
    ds = runs["two-class"].drop_vars("random_cross_evaluation")
    with style.styled():
        figure = curves.draw([curves.cross_evaluation("x", ds, 0)], 1, "y")[0]
    assert "the result has no null for cross-evaluation" in figure.get_supxlabel()


def test_the_empty_mask_stands_in_for_random_ones(runs):
    ds = runs["two-class"].drop_vars("random_sufficiency")
    with style.styled():
        assert "empty mask (same colour)" not in texts(page_of("sufficiency", ds))
        ds["empty_mask_accuracy"] = ds["sufficiency"]
        assert "empty mask (same colour)" in texts(page_of("sufficiency", ds))


def test_rounds_that_not_all_seeds_have_are_dotted():
    """Seed 0 has no local circuit from round 2 on, and a circuit without channels has no share of them."""
    ds = result("two-class", seeds=2, rounds=4, local=lambda s, r, k, c: -1 if s == 0 and r > 1 else 0)
    with style.styled():
        figure = page_of("kept", ds)
    assert "dotted: the circuits of fewer seeds, the others have none" in figure.get_supxlabel()
    lines = [line for line in figure.axes[0].lines if line.get_color() == style.BLUE and len(line.get_xdata()) == 4]
    solid = [line for line in lines if not line.is_dashed() and line.get_zorder() == 3]
    assert [np.isfinite(line.get_ydata()).tolist() for line in solid] == [[True, False, False, False]]
    with style.styled():
        assert "dotted" not in page_of("kept", ds.isel(seed=[1])).get_supxlabel()


def test_full_markers_do_not_hide_hollow_ones():
    ds = complete("two-class", seeds=1, rounds=2, local=-1)
    with style.styled():
        axes = page_of("sufficiency", ds).axes[0]
    points = [line for line in axes.lines if line.get_ls() == "None" and len(line.get_xdata())]
    hollow = [line.get_zorder() for line in points if line.get_markerfacecolor() == "white"]
    full = [line.get_zorder() for line in points if line.get_markerfacecolor() != "white"]
    assert min(hollow) > max(full)


def test_degenerate_circuits_are_marked_in_every_figure_of_circuits(runs):
    """Every local circuit of one-class is empty."""
    ds = runs["one-class"]
    with style.styled():
        for name in ("drift", "sufficiency", "outages", "kept", "aligned"):
            assert style.DEGENERATE in texts(page_of(name, ds)), name
        assert style.BOTH_EMPTY in texts(page_of("ceiling", ds))
        for name in ("pairwise", "specificity", "heatmap"):
            labels = [tick.get_text() for tick in page_of(name, ds).axes[0].get_yticklabels()]
            assert all(label.endswith("○") for label in labels), name


def test_long_class_names_stand_upright_and_whole(runs):
    names = ["airplane", "Ankle boot", "3 - three", "T-shirt/top"]
    ds = runs["one-class"].assign_coords(true_class_name=("true_class", names))
    with style.styled():
        ticks = page_of("specificity", ds).axes[0].get_xticklabels()
    assert [tick.get_text() for tick in ticks] == ["airplane", "Ankle boot", "3", "T-shirt/top"]
    assert {tick.get_rotation() for tick in ticks} == {90}


def test_every_figure_needs_no_more_than_it_says(runs):
    always, named = ["analysed", *(f"mask_conv{i}" for i in (1, 2, 3))], {"class_name", "true_class_name"}
    with style.styled():
        for name, spec in figures.ACROSS.items():
            there = {run: ds for run, ds in runs.items() if is_a(run, spec.kinds)}
            few = {run: ds.drop_vars({*ds, *named} - {*always, *figures.needed(spec.needs, ds)})
                   for run, ds in there.items()}  # fmt: skip
            assert page_of(name, few).axes, name
        for name, spec in figures.PER_RUN.items():
            ds = runs["one-class"]
            needs = {*always, *spec.needs, *(alignment.ALIGNED if name == "aligned" else ())}
            assert page_of(name, ds.drop_vars({*ds, *named} - needs)).axes, name


def test_what_any_figure_needs_may_be_missing(runs, tmp_path):
    for lost in ("degenerate", "class_name", "empty_pairs_specialist_distinctness"):
        drawn, problems = figures.draw_all({"one-class": runs["one-class"].drop_vars(lost)}, tmp_path, ("fig03",), ())
        assert drawn == []
        assert problems == [f"fig03: one-class has no {lost}; produce it with `fedmi run one-class --out DIR`"]


@pytest.mark.parametrize("name", ["iid-dir", "other-iid", "sparsity-ablation-x", "two-class-again"])
def test_a_run_of_another_name_is_no_figure_of_the_papers(name, runs, tmp_path):
    drawn, problems = figures.draw_all({name: runs["iid"]}, tmp_path, tuple(figures.ACROSS), ("svg",))
    assert drawn == []
    assert len(problems) == len(figures.ACROSS)


def test_class_names_are_text_and_not_formulas(runs, tmp_path):
    names = [r"$\frac$ - x", "3D", "", *"abc"]
    ds = runs["two-class"].assign_coords(class_name=("class", names))
    (made,), _ = figures.draw_all({"two-class": ds}, tmp_path, ("fig04",), ("svg",))
    assert made.stat().st_size > 2000
    with style.styled():
        assert {f"0: {names[0]}", "1: 3D"} <= set(texts(page_of("fig04", {"two-class": ds})))


def test_a_single_seed_is_named_and_many_cells_have_a_colour_bar(runs):
    ds = runs["three-class"].assign_coords(seed=[7])
    with style.styled():
        assert any("seed 7" in said for said in texts(page_of("heatmap", ds)))
        assert any("seed 7" in said for said in texts(page_of("partition", ds)))
        assert len(page_of("specificity", ds).axes) == 2  # 9 rows of 4 numbers
        wide = ds.pad(true_class=(0, 16), mode="edge")
        assert len(page_of("specificity", wide).axes) == 3


def test_no_class_is_as_grey_as_chance():
    for colour in style.SERIES:
        red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
        assert max(red, green, blue) - min(red, green, blue) > 40


def test_one_seed_has_no_band():
    one, several = (result("iid", seeds=n, rounds=2, global_=lambda s, r, k, c: s) for n in (1, 3))
    with style.styled():
        for ds, width in ((one, 0), (several, 0.05)):
            panel = curves.overlap("x", ds, "local_global_iou", None, {"class": 0})
            axes = curves.draw([panel], 1, "y")[0].axes[0]
            spread = (
                np.nan_to_num(axes.collections[0].get_paths()[0].vertices[:, 1])
                if axes.collections[0].get_paths()
                else np.zeros(1)
            )
            assert (np.ptp(spread) > width) == (ds is several)


def test_overlay_counts_what_is_whose(runs):
    """Circuits of ten channels, two apart: eight in both; every channel is wired to every one of the layer before."""
    ds = runs["iid"]
    first, second = (graphs.circuit(ds, 0, 3, origin, 0, 0) for origin in ("local", "global"))
    with style.styled():
        said = texts(graphs.overlay(first, second, ("local", "global"), "title"))
    alone = 2 + 2 * (100 - 64)
    assert f"only local: 6 channels, {alone} edges" in said
    assert f"only global: 6 channels, {alone} edges" in said
    assert f"both: 24 channels, {8 + 2 * 64} edges" in said
    assert "conv2\n10 and 10 channels, IoU 0.67" in said


def test_edges_are_as_wide_as_their_weights_are_large():
    ds = result("iid", seeds=1, rounds=1)
    kernel = np.zeros((1, 1, 3, 3, CHANNELS, CHANNELS))
    kernel[..., 0, 0, 1, 2], kernel[..., 0, 0, 3, 4] = 2.0, 1.0
    dims = ("seed", "round", "kernel_row", "kernel_column", "channel_conv1", "channel_conv2")
    ds["weights_global_conv2_kernel"] = (dims, kernel)
    strong = ds.assign(strength_global_conv2=compact.strengths(ds, "global", "conv2"))
    for one in (ds, strong.drop_vars("weights_global_conv2_kernel")):
        edges = graphs.circuit(one, 0, 1, "global", 0, 0).edges["conv2"]
        assert (edges[2, 1], edges[0, 0]) == (1.0, 0.1)
        assert edges[4, 3] == pytest.approx(0.5, abs=0.003)


# --- the command ---


@pytest.fixture
def folder(runs, tmp_path, pickled_files):
    store.save(runs["three-class"], tmp_path / "runs" / "three-class" / "seed-0")
    return tmp_path / "runs"


def test_figures_command(folder, capsys):
    assert main.main(["figures", str(folder), "--only", "fig07", "heatmap", "--format", "svg", "png"]) == 0
    made = sorted(path.name for path in (folder / "figures").iterdir())
    assert made == ["fig07.png", "fig07.svg", "heatmap-three-class.png", "heatmap-three-class.svg"]
    assert len(capsys.readouterr().out.split()) == 4


def test_what_is_missing_is_named_and_the_rest_is_drawn(folder, runs, capsys, monkeypatch):
    for every in (figures.ACROSS, figures.PER_RUN):
        for name, spec in every.items():
            drawn = spec.draw if name == "fig07" else lambda data: [style.grid(1, 1)[0]]
            monkeypatch.setitem(every, name, dataclasses.replace(spec, draw=drawn))
    lacking = runs["three-class"].drop_vars(["global_class_accuracy", "rediscovery_iou", *alignment.ALIGNED])
    store.save(lacking, folder / "three-class" / "seed-0")
    assert main.main(["figures", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "fig07.svg" in printed.out
    assert printed.err.splitlines() == [
        f"fedmi: {name}: three-class has no global_class_accuracy; produce it with `fedmi run three-class --out DIR`"
        for name in ("averaging", "accuracy")
    ]  # what only a run that was asked for it has is missed only when it is asked for
    assert main.main(["figures", str(folder), "--only", "fig01", "ceiling", "aligned"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "fedmi: fig01: needs iid, which is not there; produce it with `fedmi run iid --out DIR/iid`",
        "fedmi: ceiling: three-class has no rediscovery_iou; produce it with `fedmi run three-class --discovery.repeat "
        "last --out DIR`",
        "fedmi: aligned: three-class has no aligned_local_global_iou; produce it with `fedmi run three-class "
        "--execution.save-weights --out DIR`",
    ]


def test_unknown_figure_and_format(folder, capsys):
    assert main.main(["figures", str(folder), "--only", "fig20"]) == 2
    assert "only: unknown name 'fig20'; there are fig01, " in capsys.readouterr().err
    assert main.main(["figures", str(folder), "--format", "gif"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("pickled_files")
def test_a_run_that_is_too_short(tmp_path, capsys):
    store.save(result("iid", rounds=1, seeds=1), tmp_path)
    assert main.main(["figures", str(tmp_path), "--only", "fig12", "fig11"]) == 1
    printed = capsys.readouterr()
    assert "fig12: iid has 1 round, 2 are needed" in printed.err
    assert "fig11.svg" in printed.out


def test_circuit_graphs_of_runs_with_gaps(runs, tmp_path):
    """Clients that are absent in the last round are passed over; rounds that are left out are no rounds before."""
    ds = runs["iid"].isel(round=[0, 2])
    there = np.ones((ds.sizes["seed"], 2, 3), bool)
    there[:, -1, 0] = False
    absent = ds.assign(participates=(("seed", "round", "client"), there))
    drawn, problems = figures.draw_all({"iid": absent}, tmp_path, ("fig11", "fig12", "fig13"), ("svg",))
    assert (len(drawn), problems) == (3, [])
    with style.styled():
        assert any("only client 1" in said for said in texts(page_of("fig11", {"iid": absent})))
        assert any("only round 1:" in said for said in texts(page_of("fig12", {"iid": absent})))
    there[:, -1, 1] = False
    drawn, problems = figures.draw_all({"iid": absent}, tmp_path, ("fig11", "fig13"), ("svg",))
    assert [path.stem for path in drawn] == ["fig13"]
    assert problems == ["fig11: fewer than 2 clients have a circuit of the same class in round 3"]


def test_a_failed_figure_leaves_the_old_one(runs, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    (old,), _ = figures.draw_all(runs, tmp_path, ("fig02",), ("svg",))
    content = old.read_bytes()

    def fail(self, path, **_):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(figures.ConfigError.__base__, match="No space left"):
        figures.draw_all(runs, tmp_path, ("fig02",), ("svg",))
    assert old.read_bytes() == content
    assert list(tmp_path.iterdir()) == [old]


@pytest.mark.parametrize("where", ["drawn", "saved"])
def test_a_figure_that_fails_takes_no_other_away(runs, tmp_path, monkeypatch, where):
    def fail(*_):
        raise ZeroDivisionError("division\nby zero")

    if where == "drawn":
        monkeypatch.setitem(figures.ALL, "fig02", fig02 := figures.ACROSS["fig02"])
        monkeypatch.setitem(figures.ACROSS, "fig02", dataclasses.replace(fig02, draw=fail))
    else:
        save = style.save
        monkeypatch.setattr(style, "save", lambda page, path: fail() if path.stem == "fig02" else save(page, path))
    drawn, problems = figures.draw_all(runs, tmp_path, ("fig02", "FIG05"), ("svg",))
    assert [path.name for path in drawn] == ["fig05.svg"]
    assert problems == ["fig02: cannot be drawn (ZeroDivisionError: division by zero); please report it"]


def test_names_stand_for_presets():
    named = {kind for spec in figures.ACROSS.values() for kind in spec.kinds}
    assert named == set(MAPS)
    assert named <= set(PRESETS)


def test_a_figure_says_which_runs_it_shows_and_how_many_seeds():
    runs = {"iid": result("iid", seeds=1, rounds=2)} | {k: result(k, rounds=2) for k in ("one-class", "two-class")}
    assert figures._of(runs, "bands") == (
        "iid: 1 seed; one-class, two-class: 3 seeds "
        "(mean, 95 % bootstrap interval, which holds the true mean in 73 % of cases)"
    )
    assert figures._of({"iid": runs["iid"]}, "first") == "iid"
    figure = page_of("pairwise", result("two-class", local=-1, rounds=2))
    style.say(figure, "two-class: 3 seeds (mean)")
    said = figure.get_supxlabel().replace("\n", " ")
    assert said.startswith("two empty sets count as 1; ")
    assert said.endswith("; two-class: 3 seeds (mean)")


def test_index_links_every_file(tmp_path):
    files = [tmp_path / "figures" / name for name in ("fig01.svg", "kept-two-class.svg", "kept-iid.svg")]
    first, second = figures.index(files).splitlines()
    assert first == "- `fig01`: IID: inter-client consistency. [fig01](figures/fig01.svg)"
    assert second.endswith(" [two-class](figures/kept-two-class.svg), [iid](figures/kept-iid.svg)")

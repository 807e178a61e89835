"""What figures say: what they cannot show, what is missing, in what a run is not the paper's. No setting of the user
changes them."""

import dataclasses
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from made_up import complete, result
from odd_runs import alike, apart, pages, small_print, titles, touching

from fedmi_jax.analysis.runs import KINDS
from fedmi_jax.errors import FedmiError
from fedmi_jax.report import curves, figures, style
from fedmi_jax.report.more_figures import LEAST
from fedmi_jax.results import similarity

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


def test_clients_that_are_absent_from_the_last_round_are_named():
    whole, there = alike(3, 2), np.ones((1, 2, 3), bool)
    there[0, 1, 2] = False
    absent = similarity.measures(whole.assign(participates=(("seed", "round", "client"), there)))
    for name in ("heatmap", "specificity", "pairwise"):
        (figure,) = pages(name, absent)
        assert "not in the last round: client 2" in figure.get_supxlabel()
        assert "not in the last round" not in pages(name, whole)[0].get_supxlabel()


def test_rounds_that_stand_alone_are_seen():
    """A client that takes part in every fourth of 30 rounds; two seeds, whose interval is upright there."""
    values = xr.DataArray(np.full((2, 30), np.nan), dims=("seed", "round"), coords={"round": np.arange(1, 31)})
    values[0, ::4], values[1, ::4] = 0.2, 0.6
    with style.styled():
        panel = curves.Panel("x", [curves.Curve("y", values, style.BLUE, "o", None, values / 2)], values / 4, "chance")
        axes = curves.draw([panel], 1, "z")[0].axes[0]
    alone = list(range(1, 31, 4))
    points = [(line.get_marker(), x, y) for line in axes.lines for x, y in line.get_xydata() if line.get_ls() == "None"]
    assert {x for marker, x, y in points if marker == "o" and np.isfinite(y)} == set(alone)
    assert sorted((x, y) for marker, x, y in points if marker == "_") == [(x, y) for x in alone for y in (0.1, 0.2)]
    upright = [len(lines.get_segments()) for lines in axes.collections if hasattr(lines, "get_segments")]
    assert upright == [8, 8]


def test_no_class_is_lost_for_its_name():
    """Of two of the same name, and of a name that matplotlib's legends leave out."""
    ds = complete("one-class", own=((0,), (1,), (2,)), seeds=1, rounds=2)
    ds = ds.assign_coords(class_name=("class", ["cat", "cat", "_dog"]))
    (figure,) = pages("drift", ds)
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["0: cat", "1: cat", "2: _dog"]
    assert list(curves.names(ds.isel({"class": [0, 1]})).values()) == ["0: cat", "1: cat"]
    assert list(curves.names(ds.isel({"class": [0]})).values()) == ["cat"]
    assert style.short(["10 pounds", "10 euros", "7 - seven"]) == ["10 pounds", "10 euros", "7 - seven"]
    odd = ds.assign_coords(class_name=("class", ["a\x1b", "b\n", "\ud800"]))
    assert list(curves.names(odd).values()) == [r"a\x1b", r"b\n", r"\ud800"]  # else no reader of SVG takes the figure


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
    for every in (figures.ACROSS, figures.PER_RUN):
        for name, spec in every.items():
            monkeypatch.setitem(every, name, dataclasses.replace(spec, draw=lambda data: [style.grid(1, 1)[0]]))
    figures.draw_all(runs, tmp_path, (), ("svg",))
    assert len(said) == len(figures.ACROSS) + len(runs) * len(figures.PER_RUN)
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

"""Figures as wide as a paper's column, and the circuit of a client, class and round of one's choice."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from made_up import complete

from fedmi_jax.cli import main
from fedmi_jax.report import figures, graphs, style
from fedmi_jax.results import store


@pytest.fixture(scope="module")
def run():
    return complete("two-class", seeds=2, rounds=2, local=lambda s, r, k, c: (c + r) % 7, global_=2)


@pytest.fixture
def folder(run, tmp_path_factory, pickled_files):
    home = tmp_path_factory.mktemp("run")
    store.save(run, home)
    return home


@pytest.mark.parametrize(("word", "inches"), [("single", 3.3), ("5.5", 5.5), ("double", 6.9)])
def test_a_figure_is_as_wide_as_is_asked(word, inches, folder, tmp_path):
    words = ["figures", str(folder), "--only", "kept", "--out", str(tmp_path), "--width", word]
    assert main.main(words) == 0
    width = ElementTree.parse(tmp_path / "kept-two-class.svg").getroot().get("width")
    assert float(width.removesuffix("pt")) == pytest.approx(72 * inches)


def test_letters_keep_their_size_and_nothing_stays_set(run):
    with style.styled(3.3):
        (narrow,) = figures.ALL["kept"].draw(run)
        assert {axes.title.get_fontsize() for axes in narrow.axes} == {7}
    assert style.page() == style.PAGE


def test_what_needs_more_width_says_so(folder, tmp_path, capsys):
    words = ["figures", str(folder), "--only", "pairwise", "--out", str(tmp_path), "--width", "2"]
    assert main.main(words) == 1
    assert "in wide: what it shows needs more than 2 in" in capsys.readouterr().err
    assert (tmp_path / "pairwise-two-class.svg").exists()


@pytest.mark.parametrize("word", ["wide", "0", "1.9", "nan"])
def test_a_width_that_is_none_is_refused(word, folder, capsys):
    assert main.main(["figures", str(folder), "--width", word]) == 2
    assert "width: give single, double or inches" in capsys.readouterr().err


def test_the_circuit_of_a_place(run, monkeypatch):
    seen = []
    monkeypatch.setattr(graphs, "overlay", lambda *of: seen.append(of))
    graphs.chosen(run, {"seed": 1, "client": 1, "class": 4, "round": 1})
    ((first, second, labels, title),) = seen
    assert (labels, title[:8]) == (("local", "global"), "4 - name")
    assert title.endswith("client 1, round 1, seed 1: local against global circuit")
    at = {"seed": 1, "client": 1, "class": 4, "round": 1}
    for one, origin in ((first, "local"), (second, "global")):
        np.testing.assert_array_equal(one.masks["conv2"], run["mask_conv2"].sel({**at, "origin": origin}))
    graphs.chosen(run, {**figures.NOWHERE, "client": 2})
    assert seen[1][3].endswith("client 2, round 2, seed 0: local against global circuit")


def test_a_chosen_circuit_is_a_file_of_its_own(folder, tmp_path, capsys):
    words = ["figures", str(folder), "--only", "circuit", "--out", str(tmp_path)]
    assert main.main([*words, "--client", "1", "--class", "3", "--round", "last"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["circuit-client-1-class-3-two-class.svg"]
    capsys.readouterr()
    assert main.main([*words, "--client", "0", "--class", "3"]) == 1
    assert "there is no circuit of client 0, class 3; that client does not analyse the class" in capsys.readouterr().err
    assert main.main([*words, "--client", "9"]) == 1
    assert "client: there is no 9 in this run; there are 0 1 2" in capsys.readouterr().err
    assert main.main(["figures", str(folder), "--client", "1"]) == 2
    assert "choose what --only circuit shows; give that too" in capsys.readouterr().err

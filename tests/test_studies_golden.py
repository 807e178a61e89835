"""The studies of circuits alone on the authors' published files, against figures counted in these files."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from fedmi_jax.cli import main
from fedmi_jax.data.mnist import CLASS_NAMES
from fedmi_jax.errors import FedmiError
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.results.authors import import_authors
from fedmi_jax.results.authors_log import with_log
from fedmi_jax.studies import drawing, patching, stored, study

DATA = Path(__file__).parent / "data"
GOLDEN = json.loads((DATA / "studies_golden.json").read_text())
ONE, TWO, THREE = (f"{n}_per_client" for n in ("1_class", "2_classes", "3_classes"))
DENSER = ("0.99_without_7", "0.99_without_9")
"""Three classes a client at 99 %, by the class that nobody holds. Their circuits of global models are not kept here."""
EXPERTS = {ONE: (0, 3, 6), TWO: (0, 1, 3, 4, 6, 7), THREE: tuple(range(9))}


def log(name, circuits=()):
    """A training log with the published counts, in the authors' form. circuits: client and class of each."""
    lines = ["=== Federated Training Log ===", ""]
    for number, right in GOLDEN["right"][name].items():
        lines += [f"[Round {number} | Client {client} | Class {own}] Cross-Eval:" for client, own in circuits]
        lines += ["", f"--- Round {number} Global Full Model Evaluation ---"]
        lines += [f"Overall Accuracy: {sum(right) / 100:.2f}%", "Per-Class Accuracy:"]
        lines += [
            f"  Class {name}: {100 * n / of:.2f}% ({n}/{of})"
            for name, n, of in zip(CLASS_NAMES, right, GOLDEN["images"], strict=True)
        ]
        lines.append("-" * 30)
    return "\n".join(lines) + "\n"


def written(rounds):
    """The published circuits of two rounds, without their edges, in the authors' form."""
    tree = {}
    for number, round_ in rounds.items():
        models = tree[f"round_{number}"] = {}
        for origin in ("local", "global"):
            clients = models[f"clients_{origin}_model"] = {}
            crossed = round_.get("cross_evaluation", {}) if origin == "global" else {}
            for label, nodes in round_.get(origin, round_["local"]).items():
                clients.setdefault(f"client_{nodes['client']}", {})[CLASS_NAMES[int(label)]] = {
                    "active_nodes": {layer: nodes[layer] for layer in CONV_LAYERS},
                    "connectivity": {},
                    "metrics": {"local_mask_on_global_weights_acc": crossed[label]} if label in crossed else {},
                }
    return tree


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """{run: its result}, with the log's accuracies."""
    folder = tmp_path_factory.mktemp("authors")
    kept, found = {THREE: GOLDEN["three_class"], **GOLDEN["denser"]}, {}
    for name in (*EXPERTS, *DENSER):
        path = DATA / "reference" / f"{name}.json.gz"
        if name in kept:
            path = folder / f"{name}.json"
            path.write_text(json.dumps(written(kept[name])))
        ds = import_authors(path)
        (folder / f"{name}.txt").write_text(log(name, circuits_of(ds)))
        found[name] = with_log(ds, folder / f"{name}.txt")
    return found


def circuits_of(ds):
    """Client and class's name of every circuit."""
    there = np.argwhere(ds["analysed"].transpose("seed", "client", "class").values[0])
    return [(int(ds["client"][k]), str(ds["class_name"][c].values)) for k, c in there]


def numbers(imported, name, number, which, measure):
    """{labels: value} of a round."""
    rows = study(which, imported[name], rounds=[number], nulls=0).rows
    return {tuple(row.of.values()): row.value for row in rows if row.measure == measure}


def by_layer(values, *of):
    return [values[(*of, layer)] for layer in CONV_LAYERS]


ABLATION = {
    (ONE, 5): {0: "2/2/3 2 1.63 100.00", 3: "1/1/4 2 11.19 100.00", 6: "0/0/2 2 98.75 100.00"},
    (ONE, 10): {0: "0/0/1 1 29.18 100.00", 3: "0/0/1 1 86.14 100.00", 6: "0/0/2 2 28.91 100.00"},
    (TWO, 10): {
        0: "4/5/3 6 13.37 100.00", 1: "4/7/3 8 91.63 100.00", 3: "7/11/4 8 59.70 99.90",
        4: "2/4/3 6 92.46 100.00", 6: "2/2/3 5 29.96 100.00", 7: "4/3/2 6 59.34 100.00",
    },
    (THREE, 10): {
        0: "7/5/5 13 34.39 100.00", 1: "4/5/6 14 89.52 100.00", 2: "3/4/5 11 60.37 0.00", 3: "6/15/6 19 30.79 0.00",
        4: "6/9/8 21 65.38 97.45", 5: "5/13/6 21 4.71 100.00", 6: "3/6/7 16 24.74 100.00", 7: "3/7/6 14 77.24 0.00",
        8: "6/11/7 21 27.10 100.00",
    },
}  # fmt: skip
"""Channels kept by layer, how many of them are shared, accuracy of the whole model and of the circuit in percent."""


@pytest.mark.parametrize(("name", "number"), ABLATION)
def test_ablation(name, number, imported):
    rows = study("ablation", imported[name], rounds=[number], nulls=0).rows
    found = {}
    for label in EXPERTS[name]:
        own = [row for row in rows if row.of["class"] == label]
        of = {row.measure: row.value for row in own if "layer" not in row.of}
        kept = "/".join(f"{row.value}" for row in own if row.measure == "kept_channels")
        before, after = (100 * of[measure] for measure in ("global_accuracy", "circuit_accuracy"))
        found[label] = f"{kept} {of['shared_channels']} {before:.2f} {after:.2f}"
        assert 100 * of["drop"] == pytest.approx(before - after)
    assert found == ABLATION[name, number]


DOMINATOR = {
    (ONE, 5): (6, [0, 0, 0]), (ONE, 10): (3, [0, 0, 0]), (TWO, 5): (3, [4, 5, 6]), (TWO, 10): (4, [1, 1, 1]),
    (THREE, 5): (7, [0, 1, 3]), (THREE, 10): (1, [0, 0, 1]),
    (DENSER[0], 5): (0, [0, 1, 2]), (DENSER[0], 10): (0, [1, 0, 1]),
    (DENSER[1], 5): (0, [0, 1, 1]), (DENSER[1], 10): (0, [0, 3, 1]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "number"), DOMINATOR)
def test_dominator(name, number, imported):
    first = [label for (label,), is_it in numbers(imported, name, number, "dominator", "dominator").items() if is_it]
    own = numbers(imported, name, number, "dominator", "own_channels")
    assert (*first, by_layer(own, *first)) == DOMINATOR[name, number]


SHARED = {
    (ONE, 5): ([0, 0, 3], [0, 0, 3]), (ONE, 10): ([0, 0, 2], [0, 0, 2]),
    (TWO, 5): ([9, 9, 5], [9, 9, 4]), (TWO, 10): ([5, 7, 4], [5, 7, 4]),
    (THREE, 5): ([11, 24, 8], [11, 21, 5]), (THREE, 10): ([13, 19, 14], [11, 17, 8]),
}  # fmt: skip
"""Channels that more than one class's circuit uses, and more than one client."""
ACTIVE = {
    (ONE, 5): [3, 3, 6], (ONE, 10): [0, 0, 2], (TWO, 5): [16, 29, 26], (TWO, 10): [14, 23, 13],
    (THREE, 5): [17, 38, 34], (THREE, 10): [14, 33, 23],
}  # fmt: skip


@pytest.mark.parametrize(("name", "number"), SHARED)
def test_shared_and_active_channels(name, number, imported):
    shared = [numbers(imported, name, number, "injection", m) for m in ("shared_channels", "shared_by_clients")]
    assert tuple(map(by_layer, shared)) == SHARED[name, number]
    assert by_layer(numbers(imported, name, number, "cascade", "active_channels")) == ACTIVE[name, number]


@pytest.mark.parametrize(("number", "expected"), [(5, [1, 1, 1]), (10, [0, 1, 1])])
def test_pairs(number, expected, imported):
    found = numbers(imported, ONE, number, "pairwise", "shared_channels")
    assert [found[pair,] for pair in ("0-3", "0-6", "3-6")] == expected


def test_published_one_class_is_constant(imported):
    assert numbers(imported, ONE, 10, "cascade", "constant") == {(): True}
    assert numbers(imported, ONE, 10, "ensemble", "all_constant") == {(): True}
    assert numbers(imported, ONE, 5, "ensemble", "all_constant") == {(): False}


def test_patching_candidates(imported):
    """All of them, in the published order; each one's circuits are those that have the channel."""
    asked = stored.Stored(imported[THREE], [0], [10], stored.Options())
    found = patching.of_moment(asked, asked.moments[0])
    assert [[one.layer, one.channel, len(one.users)] for one in found] == GOLDEN["candidates"]
    assert len(found) == 67
    assert found[0].users == ((0, 0), (0, 1), (0, 2), (1, 3), (1, 4), (1, 5), (2, 6), (2, 7))
    for one in found:
        for label, nodes in GOLDEN["three_class"]["10"]["global"].items():
            uses = one.channel in nodes[one.layer]
            assert ((nodes["client"], int(label)) in one.users) == uses
    rows = study("patching", imported[THREE], nulls=3).rows
    count = {row.of["layer"]: row for row in rows if row.measure == "contested_channels"}
    assert sum(row.value for row in count.values()) == 67
    assert all(row.null.shape == (3,) for row in count.values())


SOURCES = (
    "conv3 40 0", "conv3 65 0", "conv3 75 1", "conv3 105 0", "conv1 5 1", "conv1 15 1", "conv2 2 0", "conv2 42 0",
    "conv2 45 1", "conv3 44 0", "conv3 50 0", "conv3 63 1", "conv3 73 0", "conv3 89 0", "conv3 119 0", "conv2 8 0",
    "conv2 11 1", "conv2 26 0", "conv2 35 2", "conv2 37 1",
)  # fmt: skip
"""Layer, channel and class of the rows of the published `patching_results.csv`, all of client 0."""


def test_patching_asks_the_sources_that_the_authors_asked(imported):
    """Of the first twenty candidates the first user is the client and the class that they patched."""
    asked = stored.Stored(imported[THREE], [0], [10], stored.Options())
    found = patching.of_moment(asked, asked.moments[0])[: len(SOURCES)]
    assert {one.users[0][0] for one in found} == {0}
    assert tuple(f"{one.layer} {one.channel} {one.users[0][1]}" for one in found) == SOURCES


# --- the log ---


def test_log_gives_exact_shares(imported):
    ds = imported[TWO]
    assert ds["global_class_accuracy"].sel(seed=0, round=10, true_class=3) == 603 / 1010
    assert ds["global_accuracy"].sel(seed=0, round=10) == sum(GOLDEN["right"][TWO]["10"]) / 10_000
    assert ds["true_class_name"].values.tolist() == list(CLASS_NAMES)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("=== Federated Training Log ===\n", "no accuracies of a global model in it"),
        (log(ONE).partition("--- Round 7")[0], "has no accuracies of the global model in round 7"),
        (log(ONE).replace("Class 3 - three", "Class 3 - drei"), 'class 3 is "3 - drei", but "3 - three" in the'),
        (log(ONE).replace("Class 9 - nine", "Class nine", 1), "names other classes from one round to another"),
    ],
)
def test_a_log_that_does_not_fit_is_refused(text, said, tmp_path):
    (tmp_path / "log.txt").write_text(text)
    with pytest.raises(FedmiError, match=said):
        with_log(import_authors(DATA / "reference" / f"{ONE}.json.gz"), tmp_path / "log.txt")


def test_the_log_of_another_run_is_refused(tmp_path):
    ds = import_authors(DATA / "reference" / f"{ONE}.json.gz")
    for circuits, said in (
        (
            [*circuits_of(ds), (0, "3 - three")],
            'has circuits of client 0 and class "3 - three", which the results file l',
        ),
        (
            circuits_of(ds)[1:],
            'lacks circuits of client 0 and class "0 - zero", which the results file has; is it this',
        ),
    ):
        (tmp_path / "log.txt").write_text(log(ONE, circuits))
        with pytest.raises(FedmiError, match=said):
            with_log(ds, tmp_path / "log.txt")


def test_a_log_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FedmiError, match=r"nowhere.txt: cannot be read"):
        with_log(import_authors(DATA / "reference" / f"{ONE}.json.gz"), tmp_path / "nowhere.txt")


# --- the command ---


@pytest.fixture
def folder(tmp_path):
    """An imported run, as a user has it."""
    (tmp_path / "log.txt").write_text(log(TWO))
    file = DATA / "reference" / f"{TWO}.json.gz"
    assert main.main(["import", str(file), "--log", str(tmp_path / "log.txt"), "--out", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


def test_command_on_an_imported_file(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert (
        main.main(["study", "ablation", str(folder), "--round", "5", "10", "--nulls", "3", "--format", "svg", "png"])
        == 0
    )
    printed = capsys.readouterr()
    assert "4 / 5 / 3" in printed.out
    assert "59.70" in printed.out
    assert printed.err.count("\n") == 1
    assert "--weights FOLDER" in printed.err
    stem = folder / "figures" / "study-ablation-two-class"
    assert all(stem.with_suffix(end).stat().st_size > 100 for end in (".csv", ".svg", ".png"))
    lines = stem.with_suffix(".csv").read_text().splitlines()
    assert lines[0].startswith("study,seed,round,class,layer,measure,value")
    assert any(line.startswith("ablation,0,10,3,,global_accuracy,0.59702970") for line in lines)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ablatoin"], "study: unknown name 'ablatoin'; there are cascade, .*; did you mean ablation?"),
        (["centroids"], "centroids: needs the models' weights, which the result does not have; keep"),
        (["ablation", "--round", "11"], "round: 11 is not in the result, which holds 1 to 10"),
        (["ablation", "--seed", "1"], "seed: 1 is not in the result, which holds 0"),
        (["ablation", "--experts", "2"], "experts: no client has a circuit of class 2 in seed 0, round 10"),
        (["ablation", "--experts", "3:0"], "experts: client 0 has no circuit of class 3"),
        (["ablation", "--experts", "3:x"], "experts: give CLASS or CLASS:CLIENT, as in 0 3:1; got '3:x'"),
        (["ablation", "--experts", "3", "3:1"], "experts: class 3 is named twice"),
    ],
)
def test_command_refuses_in_one_line(words, said, folder, capsys):
    capsys.readouterr()
    assert main.main(["study", words[0], str(folder), *words[1:]]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error)


def test_experts_can_be_chosen(imported):
    """Of two experts only, what they share with others is less."""
    rows = study("ablation", imported[TWO], rounds=[10], nulls=0, experts={3: 1, 7: None}).rows
    assert {row.of["class"] for row in rows} == {3, 7}
    shared = {row.value for row in rows if row.measure == "shared_channels"}
    ds = imported[TWO].isel(seed=0).sel(round=10, origin="local")
    both = [
        ds[f"mask_{k}"].sel({"client": 1, "class": 3}) & ds[f"mask_{k}"].sel({"client": 2, "class": 7})
        for k in CONV_LAYERS
    ]
    assert shared == {int(np.sum([one.sum() for one in both]))}


def test_figure_shows_what_there_is(imported):
    """A series without values has no place in the legend, and random sets are spoken of where they are drawn."""
    found = study("ablation", imported[TWO], rounds=[5, 10], nulls=2)
    (page,) = drawing.draw(found.study, found.rows, "two-class")
    assert [text.get_text() for text in page.legends[0].get_texts()] == ["global model", "its circuit only"]
    assert [axes.get_title() for axes in page.axes] == [f"accuracy on the class, round {n}" for n in (5, 10)]
    assert [tick.get_text() for tick in page.axes[0].get_xticklabels()] == ["0", "1", "3", "4", "6", "7"]
    assert "random sets" not in page.get_supxlabel()

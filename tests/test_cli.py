"""The command: what it prints, what it writes, and what it refuses."""

import ast
import contextlib
import inspect
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
import xarray as xr
from rich.console import Console

import fedmi_jax
from fedmi_jax.analysis import runs
from fedmi_jax.cli import main, progress, run
from fedmi_jax.config import Split, replace
from fedmi_jax.data import datasets
from fedmi_jax.devices import session
from fedmi_jax.errors import ConfigError
from fedmi_jax.federation import simulation
from fedmi_jax.presets import PRESETS, Preset
from fedmi_jax.results import store, summary
from fedmi_jax.results.authors import import_authors

REFERENCE = Path(__file__).parent / "data" / "reference"


@pytest.fixture
def small(monkeypatch, squares):
    """A preset `tiny`, on a small data set."""
    monkeypatch.setitem(PRESETS, "tiny", Preset((tiny.experiment(),), "small", "-"))
    monkeypatch.setattr(datasets, "load", lambda data: squares)


def fedmi(*arguments):
    return main.main(list(map(str, arguments)))


def test_list_has_every_preset(capsys):
    assert fedmi("list") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in PRESETS)


def test_version(capsys):
    assert fedmi("--version") == 0
    assert capsys.readouterr().out == f"fedmi_jax {fedmi_jax.__version__}\n"


def test_help(capsys):
    assert fedmi("--help") == 0
    assert all(f"fedmi {name}" in capsys.readouterr().out for name in ("run",))
    assert fedmi() == 2
    assert fedmi("run", "--help") == 0
    assert "fedmi run PRESET" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        fedmi("run", "two-class", "--help")
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert "--sparsity.target" in printed
    assert "0.995" in printed  # the preset's value


def test_dry_run_prints_the_plan_and_writes_nothing(tmp_path, capsys):
    out = tmp_path / "run"
    assert fedmi("run", "two-class", "--dry-run", "--rounds", 3, "--seeds", 1, 2, "--out", out) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "two-class: mnist, seeds [1, 2], 3 rounds" in printed
    assert "5923" in printed  # images of class 0
    # two seeds of clients with 12665, 11973 and 12183 images: 5 epochs of 50, 47 and 48 batches
    assert "1450 local steps of up to 256 images (235 to 250 a client), 24 circuits of 200 steps" in printed
    assert "on 2 cpu device(s), which share out every batch; one client after the other; about" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_one_model_for_all_counts_it_once(capsys):
    assert fedmi("run", "two-class", "--aggregation.kind", "pooled", "--dry-run") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "a round: 720 local steps of up to 256 images (one model, 720), 12 circuits" in printed  # 5 epochs of 144


def test_class_map_on_the_command_line(capsys):
    assert fedmi("run", "two-class", "--dry-run", "--split.class-map", "0,1", "2", "3,4,5") == 0
    printed = capsys.readouterr().out
    assert "5923" in printed
    assert "12 circuits" in " ".join(printed.split())


@pytest.mark.parametrize("words", [["0,1", "2", "3,4", "5"], ["7,8"]])
def test_a_class_map_says_how_many_clients_there_are(words):
    (before,) = PRESETS["two-class"].experiments
    now = run.parse(before, "two-class", ["--split.class-map", *words, "--rounds", "2"]).experiment
    assert now.split.clients == len(words)
    assert now.split.class_map == tuple(tuple(map(int, word.split(","))) for word in words)
    with pytest.raises(ConfigError, match=r"split\.class_map: lists the classes of"):
        run.parse(before, "two-class", ["--split.class-map", *words, "--split.clients", "3"])


@pytest.mark.parametrize("clients", [1, 2, 3, 4])
def test_a_class_map_of_any_length_can_be_replaced(clients, monkeypatch, capsys, squares):
    split = Split(kind="class-map", clients=clients, class_map=((0, 1, 2, 3), (0,), (1, 2), (3,))[:clients])
    monkeypatch.setitem(PRESETS, "tiny", Preset((tiny.experiment(split=split),), "small", "-"))
    monkeypatch.setattr(datasets, "load", lambda data: squares)
    words = ["1,2", "0", "2,3", "1"][:clients]
    assert fedmi("run", "tiny", "--dry-run", "--split.class-map", *words) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    held = [[c for c, n in enumerate(row[1:5]) if n != "0"] for row in rows if row and row[0] in map(str, range(4))]
    assert held[:clients] == [[1, 2], [0], [2, 3], [1]][:clients]


@pytest.mark.parametrize("name", [name for name, p in PRESETS.items() if p.experiments[0].split.class_map])
@pytest.mark.parametrize("words", [("--split.kind", "dirichlet"), ("--split.kind=dirichlet",)])
def test_another_kind_of_split_goes_with_every_preset(name, words):
    for before in PRESETS[name].experiments:
        now = run.parse(before, name, [*words, "--split.clients", "7"]).experiment
        assert now.split == Split(kind="dirichlet", clients=7)
        assert replace(now, split=before.split) == before
        assert run.parse(before, name, ["--split.kind", "class-map"]).experiment == before


def test_a_plan_says_what_was_dropped_and_what_is_equal(monkeypatch, capsys, squares):
    monkeypatch.setitem(PRESETS, "tiny", Preset((tiny.experiment(),), "small", "-"))
    monkeypatch.setattr(datasets, "load", lambda data: squares)
    assert fedmi("run", "tiny", "--split.kind", "iid", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "split: iid in place of the preset's classes {0,1} {1,2,3}, which are dropped" in printed
    assert "(20 a client)" in printed  # 70 images each, in batches of 16, four times
    assert fedmi("run", "tiny", "--dry-run") == 0
    assert "in place of" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "objective class, step gates, zero ablation, 25 steps (the paper's)"),
        (["objective", "decision"], "objective decision, bernoulli gates, mean-map ablation, 25 steps of 128 images"),
        (["objective=contrast", "gates=step"], "objective contrast, step gates, mean-map ablation, 25 steps of 128"),
        (["gates", "bernoulli"], "objective class, bernoulli gates, zero ablation, 25 steps of 8 images"),
    ],
)
def test_a_plan_names_the_search_with_the_defaults_of_its_objective(words, said, monkeypatch, capsys, squares):
    monkeypatch.setitem(PRESETS, "tiny", Preset((tiny.experiment(),), "small", "-"))
    monkeypatch.setattr(datasets, "load", lambda data: squares)
    words = [f"--discovery.{word}" if i % 2 == 0 or "=" in word else word for i, word in enumerate(words)]
    probe = ["--discovery.probe", "30", "10"] if words else []
    batch = ["--discovery.batch-size", "48"] if "128" in said else []
    assert fedmi("run", "tiny", "--dry-run", *words, *probe, *batch) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"the search: {said.replace('128', '48')}" in printed
    assert "circuits of 25 steps" in printed
    assert ("the probe has 30 + 10 images of every class" in printed) == bool(words)


def test_a_plan_warns_of_searches_that_come_to_nothing(capsys):
    ask = ("run", "one-class", "--dry-run", "--discovery.objective", "decision")
    assert fedmi(*ask) == 0
    assert "discovery." not in capsys.readouterr().out
    assert fedmi(*ask, "--discovery.gates", "step", "--discovery.negatives", "own") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "discovery.gates: step gates empty nearly every circuit of objective decision" in printed
    assert "discovery.negatives: own leaves clients 0, 1, 2 nothing to tell their one class from" in printed
    assert fedmi("run", "two-class", "--dry-run", "--discovery.objective=contrast", "--discovery.negatives=own") == 0
    assert "discovery." not in capsys.readouterr().out


# --- a run ---


@pytest.mark.usefixtures("small")
def test_run_show_export_import(tmp_path, counted_run, capsys):
    out = tmp_path / "runs" / "one"
    assert fedmi("run", "tiny", "--out", out) == 0
    printed, followed = capsys.readouterr()
    assert "tiny: squares, seeds [3, 5], 2 rounds" in printed
    assert "cross-evaluation" in printed
    assert [path.name for path in out.iterdir()] == ["result.nc"]
    result = store.load(out)
    tells_every_round(followed.splitlines(), result)
    xr.testing.assert_equal(result, counted_run[0][list(result)])

    assert fedmi("run", "tiny", "--out", out) == 2  # another run's folder
    refused = capsys.readouterr()
    assert refused.err.startswith("fedmi: ")
    assert "already holds a result" in refused.err

    assert fedmi("show", out) == 0
    assert "cross-evaluation" in capsys.readouterr().out
    assert fedmi("show", out, "--json") == 0
    short = json.loads(capsys.readouterr().out)
    assert short == summary.summary(result)
    required(short)

    assert fedmi("export", out, "--seed", 5, "--out", tmp_path / "one.json") == 0
    back = ("import", tmp_path / "one.json", "--out", tmp_path / "runs" / "back")
    assert fedmi(*back, "--channels", *tiny.CHANNELS) == 0
    back, own = store.load(tmp_path / "runs" / "back"), result.sel(seed=[5])
    for name in ("mask_conv1", "mask_conv3", "edges"):
        assert (back[name].values == own[name].values).all()
    capsys.readouterr()
    assert fedmi("show", tmp_path / "runs", "--json") == 0  # every run in the folder
    assert json.loads(capsys.readouterr().out)["runs"].keys() == {"back", "one"}


def tells_every_round(lines, result):
    """One line before the first round, and one after each."""
    assert lines[0].startswith("fedmi: tiny: round 1 of 2 begins; ")
    held = (result["samples"] > 0).values
    for number, line in zip((1, 2), lines[1:], strict=True):
        own = result.sel(round=number)
        local = [own["local_class_accuracy"].values[s, k][there].mean() for s, k, there in _each(held)]
        shared = [own["global_class_accuracy"].values[s][held[s].any(0)].mean() for s in range(2)]
        numbers = (
            f"loss {own['train_loss'].mean():.4g}, accuracy on the classes held: "
            f"local models {100 * np.mean(local):.1f} %, global model {100 * np.mean(shared):.1f} %, cross-evaluation "
            f"{100 * own['cross_evaluation'].sel(origin='local').mean():.1f} %, "
        )
        assert line.startswith(f"fedmi: tiny: round {number} of 2: {numbers}")


def _each(held):
    return [(s, k, held[s, k]) for s, k in np.ndindex(held.shape[:2])]


def required(short):
    for origin in ("local", "global"):
        assert short["specialist_distinctness"][origin].keys() == {"conv1", "conv2", "conv3"}
        assert 0 <= short["degenerate_share"][origin] <= 1
    cross = short["cross_evaluation"]
    assert 0 <= cross["mean"] <= 1
    assert 0 <= cross["last_round"] <= 1
    assert cross["per_client_and_class"].keys() == {"0", "1"}
    assert cross["per_client_and_class"]["0"].keys() == {"0", "2"}
    assert 0 <= short["global_accuracy"] <= 1


# --- bad input: status 2, one line, nothing written ---

BAD = [
    ("preset: unknown name 'idd'", ["run", "idd"]),
    ("preset: ", ["run"]),
    ("command: unknown name 'fly'", ["fly"]),
    ("rounds: ", ["run", "iid", "--rounds", "0"]),
    ("sparsity.target: ", ["run", "iid", "--sparsity.target", "1.0"]),
    ("sparsity.target: ", ["run", "iid", "--sparsity.target", "-0.5"]),
    ("split.clients: ", ["run", "iid", "--split.clients", "0"]),
    ("split.clients: ", ["run", "iid", "--split.clients", "60001"]),
    ("split.alpha: ", ["run", "iid", "--split.kind", "dirichlet", "--split.alpha", "0"]),
    ("split.class_map: ", ["run", "two-class", "--split.class-map", "0,1", "2", "3,10"]),
    ("discovery.classes: ", ["run", "iid", "--discovery.classes", "0", "10"]),
    ("data.name: ", ["run", "iid", "--data.name", "no_such_set"]),
    ("of your own say --data.file mine.npz", ["run", "iid", "--data.name", "mine.npz"]),
    ("option --rounds: give a whole number, as in 3; got 'x'; see", ["run", "iid", "--rounds", "x"]),
    ("option --rounds: give a whole number, as in 3; got '2.5'; see", ["run", "iid", "--rounds", "2.5"]),
    ("option --seeds: put spaces between numbers, as in 0 1 2; got '0,1,2'; see", ["run", "iid", "--seeds", "0,1,2"]),
    ("option --local.fedprox: give a number, as in 0.5; got '0,5'", ["run", "iid", "--local.fedprox", "0,5"]),
    ("got 'x'; or say auto; see", ["run", "iid", "--execution.client-chunk", "x"]),
    ("Unrecognized options: --roundz, 3; did you mean --rounds?; see `fedmi run iid", ["run", "iid", "--roundz", "3"]),
    ("Unrecognized options: --round, 3; did you mean --rounds?; see", ["run", "iid", "--round", "3"]),
    ("; did you mean --sparsity.target?; see", ["run", "iid", "--sparsity", "0.9"]),
    ("; did you mean --aggregation.fedprox.mu?; see", ["run", "iid", "--aggregation.mu", "0.1"]),
    ("Unrecognized options: --jsn; did you mean --json?; see", ["show", "x", "--jsn"]),
    ("; did you mean two-class?", ["run", "too-class"]),
    ("; did you mean show?", ["shwo"]),
    ("as in 0,1 3,4; got 'a'", ["run", "two-class", "--split.class-map", "a"]),
    ("the name is empty; give a file or folder", ["show", ""]),
    ("the name is empty; give a file or folder", ["import", "x.json", "--out", ""]),
    ("option --out: the name is empty; give a file or folder", ["run", "iid", "--out="]),
    ("split.alpha: does nothing with split.kind", ["run", "iid", "--split.alpha", "0.1"]),
    ("split.own: does nothing with split.kind", ["run", "iid", "--split.own", "mine"]),
    ("run(experiment, split=...)", ["run", "iid", "--split.kind", "own"]),
    ("data.data_dir: does nothing with data.name mnist", ["run", "iid", "--data.data-dir", "x"]),
    ("lists the classes of 3 clients, but split.clients is 4; ", ["run", "two-class", "--split.clients", "4"]),
    ("dry-run: ", ["run", "iid", "--dry-run", "--check-determinism"]),
    ("discovery.target: ", ["run", "iid", "--discovery.objective", "decision", "--discovery.target", "1"]),
    (
        "discovery.probe: 9000 + 200 ",
        ["run", "iid", "--discovery.objective=decision", "--discovery.probe", "9000", "200"],
    ),
    ("discovery.masks: an even number", ["run", "iid", "--discovery.objective=decision", "--discovery.masks", "3"]),
    ("invalid choice 'clas' for argument '--discovery.objective'", ["run", "iid", "--discovery.objective", "clas"]),
    ("folder: give the folder of a run first", ["discover"]),
    ("folder: give the folder of a run first", ["discover", "--out", "x"]),
    ("folder: the name is empty", ["discover", "", "--out", "x"]),
    ("no such result", ["discover", "nothing-there", "--out", "x"]),
    ("invalid choice 'odd' for argument '--split.kind'", ["run", "iid", "--split.kind", "odd"]),
    ("Missing value for argument '--out'", ["import", "file.json", "--out"]),
    ("Missing from fedmi show", ["show"]),
    ("name: the 4 experiments of sparsity-ablation differ in it;", ["run", "sparsity-ablation", "--name", "x"]),
    ("sparsity.target: the 4 experiments of", ["run", "sparsity-ablation", "--sparsity.target", "0.9"]),
    # the value that one of them has
    ("as in `fedmi run sparsity-ablation-0.95`", ["run", "sparsity-ablation", "--sparsity.target", "0.97"]),
    ("seeds.0: input should be less than or equal to 922337203685477580", ["run", "iid", "--seeds", "9" * 39]),
]


@pytest.mark.parametrize(("message", "arguments"), BAD, ids=[" ".join(a) for _, a in BAD])
def test_bad_input(message, arguments, tmp_path, capsys):
    asks = arguments[0] == "run" and len(arguments) > 1 and "--out=" not in arguments
    out = ["--out", str(tmp_path / "run")] if asks else []
    assert status_of(*arguments, *out) == 2
    one_line(message, capsys)
    assert list(tmp_path.iterdir()) == []


def status_of(*arguments):
    """Of `fedmi` as a process: its return value, or that of an early exit."""
    try:
        return fedmi(*arguments)
    except SystemExit as ended:
        return ended.code


def one_line(message, capsys):
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith("fedmi: ")
    assert printed.err.count("\n") == 1


def test_a_client_without_data(tmp_path, capsys, monkeypatch, squares):
    labels = np.where(squares.train_labels == 3, 2, squares.train_labels)
    lacking = datasets.from_arrays(squares.train_images, labels, squares.test_images, squares.test_labels)
    monkeypatch.setattr(datasets, "load", lambda data: lacking)
    assert fedmi("run", "two-class", "--split.class-map", "0,1", "3", "2", "--out", tmp_path / "run") == 2
    one_line("split: client 1 holds no training image; ", capsys)
    assert list(tmp_path.iterdir()) == []


def test_out_must_be_said_and_writable(tmp_path, capsys):
    assert fedmi("run", "iid") == 2
    one_line("out: ", capsys)
    (tmp_path / "file").write_text("mine")
    assert fedmi("run", "iid", "--out", tmp_path / "file") == 2
    one_line("is a file; choose a folder", capsys)
    assert (tmp_path / "file").read_text() == "mine"


def test_folders_of_a_preset_with_several_runs_are_checked_first(tmp_path, capsys):
    last = tmp_path / "sparsity-ablation-0.995"
    last.mkdir()
    (last / store.FILE).write_text("another run's")
    assert fedmi("run", "sparsity-ablation", "--out", tmp_path) == 2
    one_line("already holds a result", capsys)
    assert [path.name for path in tmp_path.iterdir()] == [last.name]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"round_1": {}}', '{"round_1": {"clients_local_model": 3}}'])
def test_import_of_something_else(text, tmp_path, capsys):
    file = tmp_path / "theirs.json"
    file.write_text(text)
    assert fedmi("import", file, "--out", tmp_path / "run") == 2
    one_line(str(file), capsys)
    assert not (tmp_path / "run").exists()


def test_import_of_a_truncated_file_and_of_none(tmp_path, capsys):
    whole = (REFERENCE / "1_class_per_client.json.gz").read_bytes()
    file = tmp_path / "cut.json.gz"
    file.write_bytes(whole[: len(whole) // 2])
    for source in (file, tmp_path / "none.json"):
        assert fedmi("import", source, "--out", tmp_path / "run") == 2
        one_line(str(source), capsys)
    assert not (tmp_path / "run").exists()


def test_show_and_export_of_no_result(tmp_path, capsys):
    for arguments in (("show", tmp_path), ("show", tmp_path / "none"), ("export", tmp_path, "--out", tmp_path / "x")):
        assert fedmi(*arguments) == 2
        one_line("no such result", capsys)
    assert list(tmp_path.iterdir()) == []


def test_links_to_runs_are_followed_and_every_run_is_found_once(tmp_path):
    """Also where links lead around in circles, on which there is no end of ways."""
    for place in ("far/run", "here/a", "here/.hidden"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "result.nc").write_bytes(b"")
    here, run = tmp_path / "here", tmp_path / "far" / "run"
    for name, target in (("link", run), ("other-link", run), ("round", here), ("up", tmp_path)):
        (here / name).symlink_to(target)
    found = runs.find([here])
    assert [path.parent for path in found] == [here / ".hidden", here / "a", here / "link"]
    assert [path.parent for path in runs.find([run, here])] == [run, here / ".hidden", here / "a"]


@pytest.mark.usefixtures("pickled_files")
def test_runs_of_one_name_are_told_apart_at_any_depth(tmp_path, capsys, one_class):
    for place in ("a/seed-0", "b/deeper/seed-0"):
        store.save(one_class.assign_attrs(name=place), tmp_path / place)
    assert fedmi("show", tmp_path, "--json") == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert {name: short["name"] for name, short in runs.items()} == {n: n for n in ("a/seed-0", "b/deeper/seed-0")}
    assert fedmi("show", tmp_path) == 0
    assert {"a/seed-0", "b/deeper/seed-0"} <= set(capsys.readouterr().out.splitlines())


@pytest.mark.usefixtures("pickled_files")
def test_an_export_is_named_for_what_it_is(tmp_path, capsys, one_class):
    store.save(one_class, tmp_path / "run")
    for name in ("x.pt", "x", "x.gz", "json"):
        assert fedmi("export", tmp_path / "run", "--out", tmp_path / name) == 2
        one_line("give a name that ends in .json or in .json.gz", capsys)
        assert not (tmp_path / name).exists()


@pytest.mark.usefixtures("pickled_files")
def test_an_export_says_whose_circuits_are_not_of_one_global_model(tmp_path, capsys, one_class):
    store.save(one_class, tmp_path / "one")
    own = one_class.assign(served_accuracy=xr.zeros_like(one_class["sufficiency"])).assign_attrs(method="fedper")
    store.save(own, tmp_path / "own")
    said = {}
    for name in ("one", "own"):
        assert fedmi("export", tmp_path / name, "--out", tmp_path / f"{name}.json") == 0
        said[name] = capsys.readouterr().err
    assert said["one"] == ""
    assert said["own"] == (
        "fedmi: fedper gave every client a model of its own: circuits of the global model are of each client's own\n"
    )


# --- where it is printed ---


@pytest.fixture(scope="module")
def one_class():
    return import_authors(REFERENCE / "1_class_per_client.json.gz")


@pytest.mark.usefixtures("pickled_files")
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_does_not_have_is_no_error(encoding, tmp_path, monkeypatch, one_class):
    names = ["0 - zéro", "3 - три", "6 - sechs"]
    store.save(one_class.assign_coords(class_name=("class", names)), tmp_path)
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert fedmi("show", tmp_path) == 0
    printed = stream.buffer.getvalue().decode(encoding)
    assert "3 - ???: 100.0 % *" in printed
    assert "* degenerate: " in printed


def test_output_that_cannot_be_written_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", None)  # as after >&-
    assert fedmi("list") == 2
    one_line("standard output is closed; ", capsys)
    for words in (["list"], ["run", "iid", "--dry-run"]):
        with monkeypatch.context() as patched, contextlib.suppress(OSError), open("/dev/full", "w") as full:
            patched.setattr(sys, "stdout", full)
            assert fedmi(*words) == 2
        one_line("standard output cannot be written: No space left on device", capsys)


def test_a_process_without_room_for_its_output_ends_with_one_line():
    command = [sys.executable, "-m", "fedmi_jax.cli.main", "--help"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "standard output cannot be written" in done.stderr


@pytest.mark.usefixtures("pickled_files")
@pytest.mark.parametrize("width", [None, 60, 80])
def test_no_word_is_cut(width, tmp_path, monkeypatch, capsys, one_class):
    monkeypatch.delenv("COLUMNS", raising=False)
    if width:
        monkeypatch.setenv("COLUMNS", str(width))
    store.save(one_class, tmp_path)
    printed = []
    for words in (["list"], ["show", tmp_path], ["claims", tmp_path]):
        assert fedmi(*words) == 0
        printed.append(capsys.readouterr().out)
    assert "…" not in "".join(printed)
    if width is None:
        assert all(any(one.summary in line for line in printed[0].splitlines()) for one in PRESETS.values())
    else:
        assert max(map(len, "".join(printed).splitlines())) <= width


def test_the_bar_says_what_is_done_and_how_long_it_takes():
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    named = tiny.experiment(name="a-name-as-long-as-sparsity-ablation-0.995")
    with progress._bar(named, console) as advance:
        advance(2, "discover")
    shown = console.file.getvalue()
    assert re.search(r"1/2 rounds \S+ elapsed, \S+ left", shown)
    assert "-0.995: the search for" in shown
    assert "…" not in shown


@pytest.mark.parametrize(
    ("heard", "said"),
    [
        ([True], "small: compiling the search for circuits, once: it is kept for later runs"),
        ([True, False], "small: the search for circuits"),
    ],
)
def test_the_bar_says_what_is_compiled(heard, said, monkeypatch):
    tells = []
    monkeypatch.setattr(session, "telling_when_compiling", lambda tell: contextlib.nullcontext(tells.append(tell)))
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    with progress._bar(tiny.experiment(name="small"), console) as advance:
        advance(1, "discover")
        for compiling in heard:
            tells[0](compiling)
    assert re.findall(r"small: [^\x1b\r\n]*", console.file.getvalue())[-1].strip() == said


def test_a_program_that_is_compiled_is_announced_before_and_after():
    told = []
    with session.telling_when_compiling(told.append):
        jax.jit(lambda x: x * 1.75 - 2.5)(np.ones(5))
    jax.jit(lambda x: x * 1.875 - 2.5)(np.ones(5))
    assert told == [True, False]


def test_files_are_utf8_wherever_they_are_written():
    """On a machine whose own encoding is another, too."""
    for source in Path(fedmi_jax.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(source.read_text("utf-8"))):
            name = getattr(getattr(call, "func", None), "attr", getattr(getattr(call, "func", None), "id", ""))
            if name in ("write_text", "read_text"):
                assert "utf-8" in ast.unparse(call), f"{source}:{call.lineno}"
            if name == "open" and isinstance(call, ast.Call) and "os." not in ast.unparse(call):
                assert re.search(r"'[rwa]b'|utf-8|gzip|Image\.open", ast.unparse(call)), f"{source}:{call.lineno}"


# --- from Python ---


def test_the_package_offers_what_it_lists():
    block = next(node for node in ast.parse(inspect.getsource(fedmi_jax)).body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    said = {a.name: node.module.removeprefix("fedmi_jax.") for node in imports for a in node.names if a.asname}
    assert said == fedmi_jax._HOME
    assert fedmi_jax.__all__ == ["resume", "run", *fedmi_jax._HOME]
    assert set(fedmi_jax.__all__) <= set(dir(fedmi_jax))
    assert {"sys", "Path", "Any", "TYPE_CHECKING", "import_module"}.isdisjoint(dir(fedmi_jax))
    assert "errors" in dir(fedmi_jax)
    assert all(getattr(fedmi_jax, name) is not None for name in fedmi_jax.__all__)


def test_an_experiment_is_named_or_given(monkeypatch):
    ran = []
    monkeypatch.setattr(simulation, "run", lambda experiment, *_, **__: ran.append(experiment))
    quick = PRESETS["quick"].experiments[0]
    for what in ("quick", PRESETS["quick"], quick):
        fedmi_jax.run(what)
        assert fedmi_jax.experiment(what) == quick
    assert ran == [quick] * 3
    for what, said in (
        ("sparsity-ablation", "choose one of sparsity-ablation-0.95, sparsity-ablation-0.97, "),
        (PRESETS["sparsity-ablation"], "holds 4 experiments"),
        ("quik", "did you mean quick?"),
        ({"rounds": 3}, "give an Experiment, a Preset or a preset's name; got dict"),
        (replace(quick, split=replace(quick.split, alpha=0.1)), "^split.alpha: does nothing"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said).replace(r"\^", "^")):
            fedmi_jax.run(what)
    with pytest.raises(ConfigError, match=r"^folder: the name is empty"):
        fedmi_jax.run("quick", folder="")
    with pytest.raises(ConfigError, match=r"^checkpoint: does nothing without a folder"):
        fedmi_jax.run("quick", checkpoint=fedmi_jax.Checkpoint())


# --- what importing costs ---


def test_importing_loads_neither_tensorflow_datasets_nor_matplotlib():
    code = (
        "import sys, importlib, pkgutil, fedmi_jax\n"
        "for module in pkgutil.walk_packages(fedmi_jax.__path__, 'fedmi_jax.'):\n"
        "    importlib.import_module(module.name)\n"
        "print([m for m in ('tensorflow_datasets', 'tensorflow', 'matplotlib') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_alone_and_the_list_do_not_start_jax():
    code = "import sys, fedmi_jax; from fedmi_jax.cli.main import main; main(['list']); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == "False"

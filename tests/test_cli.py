"""The command: what it prints, what it writes, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import xarray as xr

from fedmi_jax.cli import main
from fedmi_jax.config import Split
from fedmi_jax.data import datasets
from fedmi_jax.presets import PRESETS, Preset
from fedmi_jax.results import store, summary

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


def test_class_map_on_the_command_line(capsys):
    assert fedmi("run", "two-class", "--dry-run", "--split.class-map", "0,1", "2", "3,4,5") == 0
    printed = capsys.readouterr().out
    assert "5923" in printed
    assert "12 circuits" in " ".join(printed.split())


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


# --- a run ---


@pytest.mark.usefixtures("small")
def test_run_show_export_import(tmp_path, counted_run, capsys):
    out = tmp_path / "runs" / "one"
    assert fedmi("run", "tiny", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "tiny: squares, seeds [3, 5], 2 rounds" in printed
    assert "cross-evaluation" in printed
    assert [path.name for path in out.iterdir()] == ["result.nc"]
    result = store.load(out)
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
    assert fedmi("import", tmp_path / "one.json", "--out", tmp_path / "runs" / "back") == 0
    back, own = store.load(tmp_path / "runs" / "back"), result.sel(seed=[5])
    for name in ("mask_conv1", "mask_conv3", "edges"):
        assert (back[name].values == own[name].values).all()
    capsys.readouterr()
    assert fedmi("show", tmp_path / "runs", "--json") == 0  # every run in the folder
    assert json.loads(capsys.readouterr().out)["runs"].keys() == {"back", "one"}


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
    ("split.class_map: ", ["run", "two-class", "--split.class-map", "0,1", "2"]),
    ("discovery.classes: ", ["run", "iid", "--discovery.classes", "0", "10"]),
    ("data.name: ", ["run", "iid", "--data.name", "no_such_set"]),
    ("--rounds: invalid literal for int() with base 10: 'x'; see", ["run", "iid", "--rounds", "x"]),
    ("Unrecognized options: --roundz, 3; see `fedmi run iid --help`", ["run", "iid", "--roundz", "3"]),
    ("--split.class-map: invalid literal", ["run", "two-class", "--split.class-map", "a"]),
    ("invalid choice 'odd' for argument '--split.kind'", ["run", "iid", "--split.kind", "odd"]),
    ("Missing value for argument '--out'", ["import", "file.json", "--out"]),
    ("Missing from fedmi show", ["show"]),
]


@pytest.mark.parametrize(("message", "arguments"), BAD, ids=[" ".join(a) for _, a in BAD])
def test_bad_input(message, arguments, tmp_path, capsys):
    out = ["--out", str(tmp_path / "run")] if arguments[0] == "run" and len(arguments) > 1 else []
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

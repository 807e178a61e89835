"""The authors' code in double precision, recorded, against the package (benchmarks/golden.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import golden

ROOT = Path(__file__).parent.parent
FILE = ROOT / "tests" / "data" / "golden_iid.npz"


def judged(file, *path):
    """Exit status and report of the command, as a user runs it: compiled with full optimisation."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "benchmarks.golden", str(file), "--json", *path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def test_every_figure_is_within_its_limit():
    status, report = judged(FILE)
    assert report["within_limits"] == dict.fromkeys(golden.LIMITS, True)
    assert len(report["weights"]) == 8
    assert status == 0
    assert report["passed"]


def test_one_weight_and_one_channel_off_are_found_and_nothing_else(tmp_path):
    """In a copy cut to its first round, replayed on the other path: clients side by side, whole ones on each device."""
    changes = {"round1/client1/conv2.weight": largest_off, "masks/conv3": one_flipped}
    cut = first_round(tmp_path / "changed.npz", **changes)
    status, report = judged(cut, "--client-chunk", "3", "--shard", "clients")
    assert status == 1
    assert not report["passed"]
    over = {name for name, within in report["within_limits"].items() if not within}
    assert {"weights", "masks_differing"} <= over <= {"weights", "masks_differing", "edges_differing"}
    assert report["masks_differing"] == 1
    assert {name for name, error in report["weights"].items() if error > 1e-10} == {"conv2_kernel"}


def first_round(path, **changes):
    """A copy cut to its first round."""
    per_round = ("gates/", "masks/", "metrics", "global_accuracy", "discovery_plan")
    with np.load(FILE) as file:
        arrays = {key: file[key][:1] if key.startswith(per_round) else file[key] for key in file.files}
    edges = json.loads(str(arrays["edge_counts"]))
    arrays["edge_counts"] = json.dumps({key: value for key, value in edges.items() if key.startswith("0/")})
    for name, change in changes.items():
        arrays[name] = change(arrays[name].copy())
    np.savez(path, **arrays)
    return path


def largest_off(weight):
    largest = np.unravel_index(np.abs(weight).argmax(), weight.shape)
    weight[largest] *= 1 + 1e-9
    return weight


def one_flipped(mask):
    mask[0, 0, 1, 1, 5] ^= True
    return mask


def test_unreadable_files(tmp_path, capsys):
    whole = FILE.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a file of numpy's"):
        (tmp_path / "damaged.npz").write_bytes(content)
        refused(tmp_path / "damaged.npz", "not a readable golden file", capsys)
    np.savez(tmp_path / "other.npz", config="{}")
    refused(tmp_path / "other.npz", "not a golden file: lacks ", capsys)
    refused(tmp_path / "absent.npz", "not a readable golden file", capsys)


def refused(path, message, capsys):
    assert golden.main([str(path)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"{path}: {message}")
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize(("found", "expected", "error"), [([1.0, 2.2], [1, 2], 0.1), ([0.0], [0], 0), ([1.0], [1], 0)])
def test_relative_error(found, expected, error):
    assert golden.relative(found, expected) == pytest.approx(error)


def test_figures_over_their_limits_are_shown():
    figures = {"weights": {"conv1_kernel": 1e-9, "fc_bias": 0.0}, "masks_differing": 0}
    verdicts = golden.verdicts(figures)
    assert verdicts == {"weights": False, "masks_differing": True}
    lines = golden.show(figures, verdicts).splitlines()
    assert [line.split()[-1] for line in lines] == ["OVER", "ok", "ok", "failed"]
    assert not golden.verdicts({"weights": {"fc_bias": float("nan")}})["weights"]

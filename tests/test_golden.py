"""The authors' code in double precision, recorded, against the package (benchmarks/golden.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from processor import as_a_user

from benchmarks import golden
from benchmarks.golden_file import Golden, read
from fedmi_jax.network.layers import CONV_LAYERS

ROOT = Path(__file__).parent.parent
FILE = ROOT / "tests" / "data" / "golden_iid.npz"


@pytest.mark.slow
def test_every_figure_is_within_its_limit():
    """The command in a process of its own, compiled as a user's is."""
    command = [sys.executable, "-m", "benchmarks.golden", str(FILE), "--json"]
    done = subprocess.run(command, cwd=ROOT, env=as_a_user(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["within_limits"] == dict.fromkeys(golden.LIMITS, True)
    assert len(report["weights"]) == 8
    assert report["passed"]


class Recorded:
    """A backend whose every answer is that of the file."""

    def __init__(self, file):
        self.file, self.averaged, self.discovered, self.judged = file, 0, 0, 0
        self.real = np.tile(file.arrays["discovery_classes"].ravel() >= 0, 2)

    def train(self, start, index, local, sparse):
        return self.file.stacked(self.file.locals_(1))

    def average(self, models):
        self.averaged += 1
        return self.file.params(f"round{self.averaged}/global")

    def discover(self, models, which, index, settings):
        self.discovered, self.judged = self.discovered + 1, 0
        return {layer: self._of_circuits(f"gates/{layer}") for layer in CONV_LAYERS}

    def call_rate(self, models, which, gates, target):
        self.judged += 1
        return self._of_circuits("metrics")[:, {1: 0, 2: 2}[self.judged]] / 100

    def class_accuracy(self, models, which, gates, target):
        return self._of_circuits("metrics")[:, 1] / 100

    def accuracy(self, models):
        return self.file.arrays["global_accuracy"][self.discovered - 1 : self.discovered] / 100

    def _of_circuits(self, name):
        values = self.file.arrays[name][self.discovered - 1]
        return values.reshape(len(self.real), -1)[self.real]


def compared(**changes):
    """The figures of a file with these changes against what the file says, and which are over their limits."""
    file = read(FILE)
    changed = Golden(file.arrays | {name: change(file.arrays[name].copy()) for name, change in changes.items()})
    with jax.enable_x64(True):
        figures = golden.replay(changed, Recorded(file))
    return figures, {name for name, within in golden.verdicts(figures).items() if not within}


def test_what_the_file_says_differs_from_itself_in_nothing():
    figures, over = compared()
    assert over == set()
    assert figures.keys() == golden.LIMITS.keys()
    assert max(figures["weights"].values()) == figures["scores"] == figures["masks_differing"] == 0


def test_one_weight_and_one_channel_off_are_found_and_nothing_else():
    figures, over = compared(**{"round1/client1/conv2.weight": largest_off, "masks/conv3": one_flipped})
    assert {"weights", "masks_differing"} <= over <= {"weights", "masks_differing", "edges_differing"}
    assert figures["masks_differing"] == 1
    assert {name for name, error in figures["weights"].items() if error > 1e-10} == {"conv2_kernel"}


@pytest.mark.parametrize(
    ("array", "change", "figure"),
    [
        ("round1/global/fc.bias", lambda bias: bias * (1 + 1e-5), "average"),
        ("gates/conv1", lambda gates: gates * (1 + 1e-9), "scores"),
        ("metrics", lambda metrics: np.add(metrics, [1e-5, 0, 0]), "metrics"),
        ("metrics", lambda metrics: np.add(metrics, [0, 1e-5, 0]), "metrics"),
        ("metrics", lambda metrics: np.add(metrics, [0, 0, 1e-5]), "metrics"),
        ("global_accuracy", lambda accuracy: accuracy - 1e-5, "global_accuracy"),
    ],
)
def test_every_other_figure_is_compared_too(array, change, figure):
    assert compared(**{array: change})[1] == {figure}


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

"""`python -m benchmarks.gpu`: what is written when steps succeed, fail, hang or cannot begin; its own steps, tiny."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from benchmarks import discovery, end_to_end, gpu, gpu_steps, report
from benchmarks.gpu import Step
from fedmi_jax.config import Execution
from fedmi_jax.devices.session import session

ROOT = Path(__file__).parent.parent


def step(name, code, **more):
    """A step that runs this code: `python -m timeit` with one repetition."""
    command = ("timeit", "-n", "1", "-r", "1", code)
    return Step(name, command, command, **more)


def written(folder):
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]


def test_a_step_that_fails_stops_nobody(tmp_path, capsys):
    steps = [
        step("bad", "raise ValueError(3)"),
        step("missing", "", needs="no_such_package"),
        step("good", "print('{\"s\": 1}')"),
    ]
    assert gpu.run(steps, tmp_path, minutes=1, dry=True) == 1
    bad, missing, good = written(tmp_path)
    assert (bad["status"], bad["exit"]) == ("failed", 1)
    assert (missing["status"], missing["why"]) == ("skipped", "no_such_package is not installed")
    assert (good["status"], good["found"], good["dry"]) == ("done", {"s": 1}, True)
    assert (tmp_path / "good.txt").read_text().startswith('{"s": 1}')
    assert [row.split(",")[0] for row in capsys.readouterr().out.splitlines()] == [
        "bad: failed", "missing: skipped", "good: done",
    ]  # fmt: skip


def test_when_the_minutes_are_over_a_step_is_ended_and_none_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "AT_LEAST", 0.5)
    slow = step("slow", "import time; print('begun', flush=True); time.sleep(60)")
    assert gpu.run([slow, step("late", "")], tmp_path, minutes=2 / 60, dry=True) == 1
    ended, late = written(tmp_path)
    assert ended["status"] == "cut off"
    assert ended["seconds"] < 30
    assert late["status"] == "not begun"
    assert not (tmp_path / "late.txt").exists()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('noise\n{"a": 1}\n', {"a": 1}),
        ('{"a": 1}\n{"a": 2}\nnoise', {"a": 2}),
        ('noise\n{\n "a": {\n  "b": 1\n }\n}', {"a": {"b": 1}}),
        ("noise", None),
        ("{\n half", None),
    ],
)
def test_the_last_json_object(text, found):
    assert gpu.last_json(text.splitlines()) == found


def test_every_command_is_one_that_there_is():
    for one in gpu.STEPS:
        for module, *arguments in (one.command, one.dry):
            name = module.replace(".", "/")
            assert one.needs or (ROOT / f"{name}.py").exists() or (ROOT / name / "__main__.py").exists()
            assert all((ROOT / word).exists() for word in arguments if word.startswith("tests/"))
    names = [one.name for one in gpu.STEPS]
    assert len(set(names)) == len(names)
    assert {one.command[1] for one in gpu.STEPS if one.command[0] == "benchmarks.gpu_steps"} == set(gpu_steps.STEPS)


def test_every_dry_benchmark_takes_its_words_and_is_tiny(monkeypatch):
    """What it would measure: few images, one turn."""
    asked = []
    monkeypatch.setattr(report, "run", lambda options, *_: asked.append(options) or 0)
    for one in gpu.STEPS:
        for words in (one.command, one.dry):
            name = words[0].removeprefix("benchmarks.")
            if name in ("local_training", "discovery", "end_to_end"):
                assert importlib.import_module(words[0]).main(list(words[1:])) == 0
                options = asked.pop()
                assert options.json
                assert options.tf32 == one.name.endswith("-tf32")
                if words is one.dry:
                    assert options.turns == 1
                    assert options.images <= 32 if name != "local_training" else options.steps == 1
    small = end_to_end.experiment(False, 32)
    assert (small.data.images_per_client, small.evaluation.images_per_class) == (32, 3)
    assert discovery.experiment(2, 1, 1, 32).data.images_per_client == 32


@pytest.mark.slow
def test_the_first_steps_dry(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", str(tmp_path), "--dry", "--only", "device", "ties"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    device, ties = written(tmp_path)
    assert device["found"]["machine"]["backend"] == jax.default_backend()
    assert list(ties["found"]["equal"].values()) == [True]


def test_a_tie_that_is_broken_is_found(monkeypatch):
    def noisy(x, kernel):
        y = real(x, kernel)
        return y + 1e-7 * jax.numpy.arange(y.size).reshape(y.shape)

    real = gpu_steps.conv_windows
    monkeypatch.setattr(gpu_steps, "conv_windows", noisy)
    assert gpu_steps.ties(dry=True)["equal"] == {"14x14, 32 to 64, 2 models": False}


class Event:
    def __init__(self, name, duration_ns):
        self.name, self.duration_ns = name, duration_ns


class Part:
    """A profile, a plane or a line."""

    def __init__(self, name="", **parts):
        self.name = name
        self.__dict__.update(parts)


def test_the_longest_kernels_are_the_devices():
    line = Part(events=[Event("conv", 2e6), Event("pool", 5e6), Event("conv", 4e6)])
    host = Part("/host:CPU", lines=[Part(events=[Event("wait", 9e9)])])
    found = gpu_steps._longest(Part(planes=[host, Part("/device:GPU:0", lines=[line])]), most=1)
    assert found == [{"kernel": "conv", "ms": 6, "times": 2}]


@pytest.mark.parametrize(("matmul", "expected"), [("float32", "highest"), ("tf32", "default")])
def test_an_accelerator_multiplies_as_it_is_told_and_a_cpu_is_told_nothing(matmul, expected, monkeypatch):
    with session(Execution(matmul=matmul)):
        assert jax.config.jax_default_matmul_precision is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with session(Execution(matmul=matmul)):
        assert jax.config.jax_default_matmul_precision == expected
    assert jax.config.jax_default_matmul_precision is None

"""What the README shows runs as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def as_a_user(tmp_path_factory):
    """Where a user's processes run, and their environment."""
    here = tmp_path_factory.mktemp("user")
    return {"cwd": here, "env": {**os.environ, "FEDMI_CACHE": str(here / "cache"), "PYTHONPATH": str(ROOT)}}


LESS = """
from dataclasses import replace
from fedmi_jax.presets import PRESETS
preset = PRESETS["quick"]
(quick,) = preset.experiments
less = {
    "local": replace(quick.local, epochs=1),
    "discovery": replace(quick.discovery, steps=20),
    "evaluation": replace(quick.evaluation, images_per_class=40),
}
PRESETS["quick"] = replace(preset, experiments=(replace(quick, **less),))
del replace, PRESETS, preset, quick, less
"""
"""What runs before the README's text: a `quick` with the same network and programs that takes fewer steps."""


def printed(program, as_a_user):
    done = subprocess.run([sys.executable, "-c", LESS + program], **as_a_user, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_python_snippet(as_a_user):
    (snippet,) = blocks("python")
    channels, mean = printed(snippet, as_a_user).splitlines()
    assert re.fullmatch(r"\[ ?\d+ +\d+ +0 +0 +0 +0\]", channels)  # client 0 holds the first two classes
    assert 0 <= float(mean) <= 1
    assert (as_a_user["cwd"] / "runs/short/result.nc").exists()


@pytest.mark.slow
def test_commands(as_a_user):
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("fedmi ")]
    assert len(lines) >= 7
    words = [shlex.split(line, comments=True)[1:] for line in lines]
    printed(f"from fedmi_jax.cli.main import main\nfor words in {words}: assert main(words) == 0, words", as_a_user)
    assert (as_a_user["cwd"] / "runs/again/result.nc").exists()


def test_make_targets_exist():
    named = {line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")}
    assert named == {"demo", "test", "quick"}
    assert named <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

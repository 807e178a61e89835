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

COMMANDS = """
from fedmi_jax.cli.main import main
print("commands:")
for words in {}:
    assert main(words) == 0, words
"""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder in which a user's process ran what the README shows, and what the Python snippet printed.

    In one process, so that the commands find the snippet's programs compiled.
    """
    here = tmp_path_factory.mktemp("user")
    environment = {**os.environ, "FEDMI_CACHE": str(here / "cache"), "PYTHONPATH": str(ROOT)}
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("fedmi ")]
    assert len(lines) >= 7
    (snippet,) = blocks("python")
    program = LESS + snippet + COMMANDS.format([shlex.split(line, comments=True)[1:] for line in lines])
    done = subprocess.run([sys.executable, "-c", program], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return here, done.stdout.split("commands:\n")[0]


@pytest.mark.slow
def test_python_snippet(shown):
    here, printed = shown
    channels, mean = printed.splitlines()
    assert re.fullmatch(r"\[ ?\d+ +\d+ +0 +0 +0 +0\]", channels)  # client 0 holds the first two classes
    assert 0 <= float(mean) <= 1
    assert (here / "runs/short/result.nc").exists()


@pytest.mark.slow
def test_commands(shown):
    assert (shown[0] / "runs/again/result.nc").exists()


def test_make_targets_exist():
    named = {line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")}
    assert named == {"demo", "test", "quick"}
    assert named <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

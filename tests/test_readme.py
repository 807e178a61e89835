"""What the README shows runs as it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from fedmi_jax import cli

# The snippet's programs are the commands' own: compiled once in a process.
pytestmark = pytest.mark.xdist_group("readme")
ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_snippet(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (snippet,) = blocks("python")
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
    channels, mean = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\[ ?\d+ +\d+ +0 +0 +0 +0\]", channels)  # client 0 holds the first two classes
    assert 0 <= float(mean) <= 1
    assert (tmp_path / "runs/short/result.nc").exists()


def test_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("fedmi ")]
    assert len(lines) >= 7
    for line in lines:
        assert cli.main(shlex.split(line, comments=True)[1:]) == 0, (line, capsys.readouterr())
    assert (tmp_path / "runs/again/result.nc").exists()


def test_make_targets_exist():
    named = {line.split()[1] for block in blocks("sh") for line in block.splitlines() if line.startswith("make ")}
    assert named == {"demo", "test"}
    assert named <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

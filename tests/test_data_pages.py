"""What docs/own-data.md and docs/from-results.md show runs as it stands there; nothing is trained."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from made_up import complete

from fedmi_jax.cli import main, sweep
from fedmi_jax.data import formats
from fedmi_jax.results import store

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture
def home(tmp_path, monkeypatch, pickled_files):
    """A folder with what the pages speak of: images, two runs of the same seeds; a sweep does nothing but read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDMI_CACHE", str(tmp_path / "cache"))
    images, labels = np.random.default_rng(0).integers(0, 256, (40, 8, 8)).astype(np.uint8), np.arange(40) % 2
    np.savez("mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    store.save(complete("two-class", seeds=2, rounds=2), "runs/a")
    store.save(complete("two-class", seeds=2, rounds=2, sparsity=0.9), "runs/b")
    swept = []
    monkeypatch.setattr(
        sweep, "_run", lambda out, folders, *_: [store.load("runs/a") for _ in map(swept.append, folders)]
    )
    return swept


@pytest.mark.parametrize("page", ["own-data.md", "from-results.md"])
def test_every_command_and_snippet_runs(page, home):
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    assert lines
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[0] == "fedmi"
        assert main.main(words[1:]) == 0, line
    names = {}
    for snippet in blocks(page, "python"):
        exec(snippet, names)
    assert len(home) == 2 * ("sweep" in " ".join(lines))


def test_every_format_has_its_row():
    rows = re.findall(r"^\| (?!what|---)(.*?) \|", (DOCS / "own-data.md").read_text(), re.MULTILINE)
    assert len(rows) == len(formats.FORMATS)

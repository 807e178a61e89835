"""What the README and the pages of docs/ show runs as it stands there.

One process of a user runs it all, page after page, so that programs are compiled once.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from processor import UNOPTIMISED

from fedmi_jax.cli import run
from fedmi_jax.cli.main import COMMANDS
from fedmi_jax.cli.parse import parsed
from fedmi_jax.config import refuse_unused
from fedmi_jax.presets import preset
from fedmi_jax.results.store import load

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "notebooks" / "first-circuits.ipynb"
RUN = ("README", "tutorial", "read-a-circuit", "commands", "resume", "own-method", "from-rounds", "own-split")
"""Pages that are run, in this order: later ones read what the first ones wrote."""
PARSED = {
    "read-a-circuit": "its run compiles the programs of nulls, which tests/test_controls.py runs",
    "own-method": "a dry run; its options are read and checked, as are those of the next pages",
    "own-split": "dry runs",
    "own-objective": "dry runs",
    "own-width": "dry runs",
    "many-clients": "dry runs",
    "gpu": "dry runs",
    "decisions": "trains for minutes; tests/test_decisions_page.py runs its example",
    "studies": "trains for minutes; tests/test_studies.py runs the studies",
    "reliability": "trains for minutes; tests/test_resumable.py does what it shows",
    "scaling": "needs two machines; tests/test_devices.py runs two processes",
    "report": "reads whatever runs a reader has; tests/test_report.py writes reports",
}
"""Pages whose commands are only read, as `fedmi` reads them, and why."""
ELSEWHERE = {
    "decisions": "tests/test_decisions_page.py runs its Python",
    "own-data": "tests/test_data_pages.py runs all of it",
    "from-results": "tests/test_data_pages.py runs all of it",
}
"""Pages of which some is run by another test."""
OTHER = {
    "python3 -m venv .venv", ".venv/bin/pip install .", "source .venv/bin/activate", "pip install '.[cuda]'",
    "python -c 'import jax; print(jax.devices())'", "pip install -e '.[gpu-plan]'",
}  # fmt: skip
"""What is neither `fedmi` nor `make` nor a script of this repository: these lines, and no others."""
WHEELS = ("pip download -d wheels", "pip install --no-index --find-links wheels")
"""But for what collects files for a machine without a network."""


def text(page: str) -> str:
    return (ROOT / "README.md" if page == "README" else DOCS / f"{page}.md").read_text("utf-8")


PAGES = ["README", *sorted(path.stem for path in DOCS.glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text(page), re.DOTALL)


def lines(page: str) -> list[str]:
    """Of its shell blocks, without comments."""
    whole = [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.join(words) for line in whole if (words := shlex.split(line, True))]


def commands(page: str) -> list[list[str]]:
    return [shlex.split(line)[1:] for line in lines(page) if line.startswith("fedmi ")]


LESS = """
import json, sys
import matplotlib
matplotlib.use("agg")
from dataclasses import replace
from fedmi_jax.cli.main import main
from fedmi_jax.presets import PRESETS
from fedmi_jax.report import figures
preset = PRESETS["quick"]
(quick,) = preset.experiments
less = {
    "model": replace(quick.model, channels=(4, 6, 8)),
    "data": replace(quick.data, images_per_client=200),
    "local": replace(quick.local, epochs=1),
    "discovery": replace(quick.discovery, steps=4),
    "evaluation": replace(quick.evaluation, images_per_class=10),
}
PRESETS["quick"] = replace(preset, experiments=(replace(quick, **less),))
draw = figures.draw_all
figures.draw_all = lambda runs, out, only=(), *how: draw(runs, out, only or ("partition",), *how)
for page, snippets, commands in json.load(sys.stdin):
    names = {}
    print("page:", page)
    if page == "README":
        exec("".join(snippets), names)
        print("commands:")
    for words in commands:
        assert main(words) == 0, words
    if page != "README":
        exec(compile("\\n".join(snippets), page, "exec"), names)
"""
"""A user's session. Its `quick` has a narrow network and takes fewer steps; its reports show one figure, for
tests/test_report.py and tests/test_figures.py draw the others."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder in which a user's process ran what the pages show, and what it printed, page by page."""
    here = tmp_path_factory.mktemp("user")
    environment = {**os.environ, UNOPTIMISED.upper(): "1", "FEDMI_CACHE": str(here / "cache"), "PYTHONPATH": str(ROOT)}
    work = [(page, runnable(page), [] if page in PARSED else commands(page)) for page in RUN]
    work.append(("notebook", cells(NOTEBOOK), []))
    done = subprocess.run(
        [sys.executable, "-c", LESS], cwd=here, env=environment, capture_output=True, text=True, input=json.dumps(work)
    )
    assert done.returncode == 0, done.stderr
    return here, dict(re.findall(r"^page: (\S+)\n(.*?)(?=^page: |\Z)", done.stdout, re.DOTALL | re.MULTILINE))


def runnable(page: str) -> list[str]:
    """Snippets but for those that say that they need something else."""
    return [snippet for snippet in blocks(page, "python") if not snippet.startswith("# needs: ")]


def cells(notebook: Path) -> list[str]:
    found = json.loads(notebook.read_text("utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == "code"]


@pytest.mark.slow
def test_the_readme(shown):
    here, printed = shown
    channels, mean = printed["README"].split("commands:\n")[0].splitlines()
    assert re.fullmatch(r"\[ ?\d+ +\d+ +0 +0 +0 +0\]", channels)  # client 0 holds the first two classes
    assert 0 <= float(mean) <= 1
    assert (here / "runs/short/result.nc").exists()


@pytest.mark.slow
def test_the_pages(shown):
    here, printed = shown
    assert (here / "runs/again/result.nc").exists()
    assert b"channels" in (here / "runs/sizes.svg").read_bytes()
    sizes = re.findall(r"^(?:local|global) +(\S+) +(\S+) +(\S+)$", printed["tutorial"], re.MULTILINE)
    assert sizes == [tuple(row) for row in sizes_of_circuits(here / "runs/first")]
    assert len(re.findall(r"^conv\d local \d+ global \d+ in both \d+$", printed["read-a-circuit"], re.MULTILINE)) == 3
    assert printed["resume"].splitlines()[-1] == "2"  # rounds
    assert printed["own-method"].startswith("my-median 0.")
    assert "cross_evaluation" in printed["from-rounds"]
    held = printed["own-split"].splitlines()
    assert [sum(map(int, line.split()[1:])) for line in held[-4:-1]] == [200, 200, 200]
    assert held[-1] == "[100, 200, 400]"
    assert "origin" in printed["notebook"]


def sizes_of_circuits(folder):
    """Mean channels of each layer in the last round, of local and of global circuits, one circuit after the other."""
    result = load(folder).isel(seed=0, round=-1)
    client, label = np.nonzero(result["analysed"].values)
    for origin in ("local", "global"):
        own = result["size"].sel(origin=origin).transpose("client", "class", "layer").values
        mean = np.mean([own[k, c] for k, c in zip(client, label, strict=True)], axis=0)
        yield [f"{value:.1f}" for value in mean]


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")])
def test_python_is_run_or_at_least_compiles(page):
    for snippet in blocks(page, "python"):
        compile(snippet, page, "exec")
    if page not in RUN and page not in ELSEWHERE:
        assert page in ("own-objective", "own-width", "results"), f"add {page} to RUN"


def test_snippets_without_a_run(capsys, monkeypatch):
    """They need no process of their own."""
    for page in ("own-objective", "own-width"):
        exec("\n".join(runnable(page)), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "bernoulli mean-map"
    assert float(printed[1]) == pytest.approx(0.25)  # half of 1 + 0 - 0.5; the first image is right by more than 1
    assert printed[2] == "[2]"  # the channel that sees
    assert printed[3] == "[0 4 8]"  # four positions a channel


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)])
def test_commands_are_run_or_read(page):
    assert page in RUN or page in PARSED or page in ELSEWHERE, f"add {page} to RUN, or to PARSED with a reason"
    if page in ELSEWHERE and page not in PARSED:
        return
    for name, *words in commands(page):
        if name == "run":
            (experiment,) = preset(words[0]).experiments
            refuse_unused(run.parse(experiment, words[0], words[1:]).experiment)
        elif name != "discover":  # its options are those of the run in the folder
            parsed(COMMANDS[name][0], words, prog=f"fedmi {name}")
        assert name in COMMANDS


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")])
def test_other_lines_are_known(page):
    others = {line for line in lines(page) if not line.startswith(("fedmi ", "make ", "python -m "))}
    assert {line for line in others if not line.startswith(WHEELS)} <= {shlex.join(shlex.split(line)) for line in OTHER}
    for line in lines(page):
        if line.startswith("python -m "):  # of this repository
            module = ROOT / line.split()[2].replace(".", "/")
            assert module.with_suffix(".py").exists() or (module / "__main__.py").exists()


def test_make_targets_exist():
    named = {line.split()[1] for page in PAGES for line in lines(page) if line.startswith("make ")}
    assert named >= {"demo", "test"}
    assert named <= set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


# --- the site ---


def test_every_page_is_in_the_index():
    trees = re.findall(r"```\{toctree\}\n(.*?)```", text("index"), re.DOTALL)
    named = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    assert len(named) == len(set(named))
    assert all(list(DOCS.glob(f"{name}.md")) for name in named)
    listed = {path.stem for name in named for path in DOCS.glob(f"{name}.md")}
    assert listed == {path.stem for path in DOCS.glob("*.md")} - {"index"}


def anchors(path: Path) -> set[str]:
    """As GitHub and Sphinx name the headings of a page."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    home = ROOT if page == "README" else DOCS
    content = re.sub(r"```python.*?```", "", text(page), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", content):
        if link.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = home / name if name else home / f"{page}.md"
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for name in re.findall(r"\{download\}`[^<]*<([^>]*)>`", content):
        assert (home / name).exists()

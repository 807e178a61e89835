"""Bring what quotes the stored results up to date, after runs were added to experiments/results or experiments/beyond.

    python -m tools.refresh_results --authors FOLDER

Draws every figure, writes claims.md, and replaces the blocks between `<!-- NAME -->` and `<!-- end -->` in
the READMEs of these folders. FOLDER holds the published results of the paper's authors, imported
with `fedmi import`; they are not stored here, for they have no licence. The sentences around the blocks are for a
person to check.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from experiments import averages_table, choices, deciding, dirichlet, paper, pieces, table
from experiments.methods import measured, told
from fedmi_jax.analysis import claims, runs
from fedmi_jax.errors import FedmiError
from fedmi_jax.files import replacing
from fedmi_jax.report import claims_table, figures

ROOT = Path(__file__).parent.parent
STORED = ROOT / "experiments" / "results"
BEYOND = ROOT / "experiments" / "beyond"
METHODS = ROOT / "experiments" / "methods"
ROUNDS = 4
"""Of the stored Dirichlet sweep."""


@dataclass(frozen=True)
class Refresh:
    """Tables and figures of the stored results, again."""

    authors: Path


def main(option: Refresh) -> None:
    found, rows = paper.report(STORED, draw=True)
    theirs = runs.gather([option.authors], paper_only=True)
    with replacing(STORED / "claims-of-the-published-runs.md") as temporary:
        temporary.write_text(claims_table.markdown(claims.judge(theirs), theirs), "utf-8")
    put(STORED / "README.md", "overview", claims_table.overview(rows))
    put(STORED / "README.md", "table", table.table(found, theirs))
    put(STORED / "README.md", "figures", figures.index(sorted((STORED / "figures").glob("*.svg"))))
    dirichlet.main(dirichlet.Dirichlet(BEYOND / "dirichlet", seeds=0, rounds=ROUNDS))
    put(BEYOND / "README.md", "dirichlet", (BEYOND / "dirichlet" / "dirichlet.md").read_text("utf-8"))
    choices.main(choices.Choices(BEYOND / "choices", seeds=0, base=STORED))
    put(BEYOND / "README.md", "choices", (BEYOND / "choices" / "choices.md").read_text("utf-8"))
    deciding.main(deciding.Deciding(BEYOND / "deciding", seeds=0))
    for name, block in (("predictions", "verdicts"), ("predictions-by-origin", "verdicts by origin")):
        verdicts, _ = (BEYOND / "deciding" / f"{name}.md").read_text("utf-8").split("\nIntervals:", 1)
        put(BEYOND / "deciding" / "README.md", block, verdicts)
    rows = averages_table.load(BEYOND / "deciding" / averages_table.FILE)
    averages_table.report(BEYOND / "deciding")
    put(BEYOND / "deciding" / "README.md", "averages", averages_table.judged(rows))
    points = measured.load(METHODS / "results" / measured.FILE)
    put(METHODS / "README.md", "two-class", told.verdicts(points, "two-class"))


def put(page: Path, name: str, text: str) -> None:
    """Raises FedmiError where the page has no such block."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->\n)", re.DOTALL)
    new, found = pattern.subn(lambda block: f"{block[1]}{text.strip()}\n{block[2]}", page.read_text("utf-8"))
    if not found:
        raise FedmiError(f"{page}: has no block <!-- {name} -->")
    with replacing(page) as temporary:
        temporary.write_text(new, "utf-8")


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Refresh)))

"""Bring what quotes the stored results up to date, after runs were added to experiments/results or experiments/beyond.

    python tools/refresh_results.py --authors FOLDER

Draws every figure, writes claims.md, and replaces the blocks between `<!-- NAME -->` and `<!-- end -->` in README.md
and in the README of both folders. FOLDER holds the published results of the paper's authors, imported with `fedmi
import`; they are not stored here, for they have no licence. The sentences around the blocks are for a person to check.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from experiments import choices, dirichlet, paper, pieces, table
from fedmi_jax.analysis import claims, runs
from fedmi_jax.config import FedmiError
from fedmi_jax.report import claims_table

ROOT = Path(__file__).parent.parent
STORED = ROOT / "experiments" / "results"
BEYOND = ROOT / "experiments" / "beyond"


@dataclass(frozen=True)
class Refresh:
    """Tables and figures of the stored results, again."""

    authors: Path


def main(option: Refresh) -> None:
    paper.report(STORED, draw=True)
    found = runs.gather([path for path in STORED.iterdir() if list(path.rglob("result.nc"))], paper_only=True)
    put(ROOT / "README.md", "overview", claims_table.overview(claims.judge(found)))
    put(STORED / "README.md", "table", table.table(found, runs.gather([option.authors])))
    dirichlet.report(BEYOND / "dirichlet", dirichlet.ALPHAS)
    choices.report(BEYOND / "choices")
    for name in ("dirichlet", "choices"):
        put(BEYOND / "README.md", name, (BEYOND / name / f"{name}.md").read_text("utf-8"))


def put(page: Path, name: str, text: str) -> None:
    """Raises FedmiError where the page has no such block."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->\n)", re.DOTALL)
    new, found = pattern.subn(lambda block: f"{block[1]}{text.strip()}\n{block[2]}", page.read_text("utf-8"))
    if not found:
        raise FedmiError(f"{page}: has no block <!-- {name} -->")
    page.write_text(new, "utf-8")


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Refresh)))

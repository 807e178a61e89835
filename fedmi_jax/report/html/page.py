"""The whole page: what stands in it, in which order, and nothing that it would have to fetch."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import xarray as xr

import fedmi_jax
from fedmi_jax.analysis import claims as judged
from fedmi_jax.analysis import runs as experiments
from fedmi_jax.analysis import second
from fedmi_jax.analysis.runs import Runs
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.errors import FedmiError
from fedmi_jax.report.html import channels, claims, sections, vector
from fedmi_jax.report.html.elements import el, script_json, text
from fedmi_jax.report.html.explored import explored

STYLES = ("page.css", "explorer.css")
SCRIPTS = ("unpack.js", "model.js", "make.js", "graph.js", "panels.js", "explorer.js")
"""Parts of the page's style and of its one script, in order."""


def report(folders: Iterable[Path], tell: Callable[[str], None] = lambda line: None) -> str:
    """The report of all results in these folders, as HTML. tell: is told, a line each, what takes a while.

    Raises FedmiError as `analysis.runs.gather` does.
    """
    loaded = experiments.load(folders)
    found = experiments.sort_out(loaded)
    rows, refused = _judged(loaded)
    tell("drawing the figures")
    figures, shapes, problems = vector.drawn(found)
    runs = []
    for name, ds in found.items():
        if channels.has_weights(ds):
            tell(f"{name}: looking for the images that excite each channel")
        runs.append(explored(name, ds))
    before = [_head(_title(found), f"{sections.shape(found)} Made by fedmi_jax {fedmi_jax.__version__}."), shapes]
    parts = [
        _section("Claims", "claims", claims.section(rows, refused)),
        _section("Figures", "figures", vector.section(figures, found)),
        _section(
            "Who holds what", "partition", [e for name, ds in found.items() for e in sections.partition(name, ds)]
        ),
        _section("How it was made", "made", [sections.made(name, ds) for name, ds in found.items()]),
        _section("What is missing", "missing-here", _missing(runs, problems)),
    ]
    there = [part for part in parts if part is not None]
    before.append(_contents(there))
    before.append(el("section", sections.at_a_glance(found), aria_label="At a glance"))
    return page(_title(found), before, [*there, _foot()], runs)


def single(ds: xr.Dataset, dataset: Dataset | None = None) -> str:
    """The explorer of one result alone, as HTML. dataset: the images that it was made of, where they are one's own.

    Raises FedmiError where these are others.
    """
    name = str(ds.attrs.get("name", "result"))
    if dataset is not None:
        channels.images_of(ds, dataset)
    return page(name, [], [], [explored(name, ds, dataset)])


def _judged(loaded: list[tuple[Path, xr.Dataset]]) -> tuple[list[judged.Row], str]:
    """The claims, judged on these results, or why none can be; empty: they are."""
    try:
        return judged.judge(experiments.sort_out(loaded, paper_only=True), second.of(loaded)), ""
    except FedmiError as error:
        return [], str(error)


def _title(runs: Runs) -> str:
    names = list(runs)
    return f"Circuits of {names[0]}" if len(names) == 1 else f"Circuits of {len(names)} experiments"


def _missing(runs: list[dict[str, Any]], problems: list[str]) -> list[Element]:
    lines: dict[str, list[str]] = {}
    for run in runs:
        for line in run["missing"]:
            lines.setdefault(line, []).append(run["name"])
    items = [el("li", f"{', '.join(names)}: {line}") for line, names in lines.items()]
    items += [el("li", f"Not drawn: {problem}") for problem in problems]
    return [el("ul", items, class_="missing")] if items else []


# --- the page ---


def _head(title: str, said: str) -> Element:
    return el("header", el("h1", title), el("p", said, class_="lede"))


def _contents(there: list[Element]) -> Element:
    links = [("Circuits", "explorer"), *((str(part.find("h2").text), part.attrib["id"]) for part in there)]  # type: ignore[union-attr]
    return el("nav", el("ul", (el("li", el("a", name, href=f"#{id_}")) for name, id_ in links)), aria_label="Contents")


def _section(title: str, id_: str, children: list[Element]) -> Element | None:
    return el("section", el("h2", title), children, id=id_) if children else None


def _foot() -> Element:
    return el("footer", "Circuits are those of “Mechanistic Analysis of Circuit Preservation in Federated Learning” "
              "(arXiv 2512.23043), found and measured with fedmi_jax. This file needs nothing but itself.")  # fmt: skip


def page(title: str, before: list[Element], after: list[Element], runs: list[dict[str, Any]]) -> str:
    """One HTML file: the explorer of these experiments, and what stands before and after it.

    The page may run this one script and show pictures that are in it, and fetch nothing: its own policy says so, so
    that a browser would refuse anything else.
    """
    script = _joined(SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"
    )
    parts = {
        "title": text(el("title", title)).removeprefix("<title>").removesuffix("</title>"),
        "policy": policy,
        "style": _joined(STYLES),
        "before": "".join(map(text, before)),
        "after": "".join(map(text, after)),
        "data": script_json(runs),
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _asset("page.html"))


@cache
def _joined(names: tuple[str, ...]) -> str:
    return "\n".join(_asset(name) for name in names)


def _asset(name: str) -> str:
    return resources.files("fedmi_jax.report.html").joinpath(name).read_text("utf-8")

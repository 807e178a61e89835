"""The judged claims in a page: each with its verdict, and every definition as a number beside its rule and chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.etree.ElementTree import Element

from fedmi_jax.analysis.claims import Row
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, OPEN, Finding
from fedmi_jax.report import claims_table
from fedmi_jax.report.html.elements import el

_MARKS = {HOLDS: ("holds", "●"), FAILS: ("fails", "○"), OPEN: ("open", "…")}
_PARTLY = ("partly", "◐")
"""Of a verdict that is more than one of these words."""


def section(rows: Sequence[Row], refused: str) -> list[Element]:
    """refused: why nothing is judged; empty: it is."""
    if refused:
        return [el("p", f"The claims are not judged: {refused}", class_="note")]
    judged = [row for row in rows if row.findings]
    rest = [row for row in rows if not row.findings]
    said = el("p", claims_table.legend(rows), class_="legend")
    return [_key(), *map(_claim, judged), *_rest(rest), said]


def _key() -> Element:
    words = {
        HOLDS: _MARKS[HOLDS],
        FAILS: _MARKS[FAILS],
        "in part, or without some experiment": _PARTLY,
        OPEN: _MARKS[OPEN],
    }
    parts = [el("span", _mark(*mark), " ", word) for word, mark in words.items()]
    for parts_, said in (
        ([el("path", d="M8 8H36", class_="interval"), _dot(22)], "mean and interval"),
        ([_null(22)], "by chance"),
        ([_band(6, 38)], "where the rule is met"),
    ):
        parts.append(el("span", _strip(parts_, 44), " ", said))
    return el("p", parts, class_="key")


def _mark(name: str, sign: str) -> Element:
    return el("span", sign, class_=f"mark {name}", aria_hidden="true")


def _claim(row: Row) -> Element:
    title = el("h3", el("span", row.claim.id, class_="id"), f" {row.claim.says}")
    mark = _mark(*_MARKS.get(row.verdict, _PARTLY))
    verdict = el("p", mark, " ", claims_table.verdict_text(row), class_="verdict")
    about = el("p", f"Paper ({row.claim.section}): {row.claim.paper}. Rule: {row.claim.rule}.", class_="rule")
    low, high = _limits(row.findings)
    lines = [_definition(finding, low, high) for finding in row.findings]
    head = el("tr", *(el("th", name, scope="col") for name in ("definition", "", "measured", "by chance", "alone")))
    whole = el("table", el("thead", head), el("tbody", lines), class_="definitions")
    scroll = el("div", whole, class_="scroll", tabindex="0", role="region", aria_label=f"definitions of {row.claim.id}")
    details = el("details", el("summary", _count(row.findings)), scroll)
    return el("article", title, verdict, about, details, *_deciding(row), class_="claim")


def _deciding(row: Row) -> list[Element]:
    """The same with circuits that decide, where there are some."""
    if not row.deciding:
        return []
    head = el("tr", *(el("th", name, scope="col") for name in ("number", "measured", "by chance", "seeds")))
    lines = [
        el(
            "tr",
            el("th", part.label, el("small", claims_table.said_of(part)), scope="row"),
            *(el("td", cell) for cell in (str(part.estimate), claims_table.null_of(part), str(part.estimate.seeds))),
        )
        for part in row.deciding
    ]
    whole = el("table", el("thead", head), el("tbody", lines), class_="definitions")
    name = f"{row.claim.id} with {claims_table.DECIDING}"
    scroll = el("div", whole, class_="scroll", tabindex="0", role="region", aria_label=name)
    return [el("details", el("summary", f"The same with {claims_table.DECIDING}"), scroll)]


def _count(findings: Sequence[Finding]) -> str:
    return "One definition" if len(findings) == 1 else f"All {len(findings)} definitions"


def _definition(finding: Finding, low: float, high: float) -> Element:
    said = "; ".join(part for part in (finding.caution, finding.detail) if part)
    beside = [el("small", f" ({said})")] if said else []
    number = str(finding.estimate) if finding.measured or finding.void else "no data"
    null = "–" if finding.null is None else f"{finding.null:.2f}{' *' if finding.null_meets_it else ''}"
    cells = [el("td", cell) for cell in (number, null, claims_table._mark(finding))]
    name = el("th", finding.definition or "mean", *beside, scope="row")
    return el("tr", name, el("td", _range(finding, low, high)), *cells)


def _rest(rows: Sequence[Row]) -> list[Element]:
    if not rows:
        return []
    items = [el("li", el("span", row.claim.id, class_="id"), f" {row.claim.says}: {claims_table.verdict_text(row)}")
             for row in rows]  # fmt: skip
    return [el("details", el("summary", f"{len(rows)} claims that these results cannot judge"), el("ul", items))]


# --- a number between its limits ---

WIDTH = 120
"""Of the little axis that a number stands on."""


def _limits(findings: Sequence[Finding]) -> tuple[float, float]:
    """Of all numbers of a claim, at least from 0 to 1."""
    found = [0.0, 1.0]
    for one in findings:
        found += [x for x in (one.estimate.mean, one.estimate.low, one.estimate.high, one.null) if x is not None]
    found = [x for x in found if not math.isnan(x)]
    return min(found), max(found)


def _range(finding: Finding, low: float, high: float) -> Element | None:
    """The number, its interval, chance, and where the rule is met. It says nothing that the table does not."""
    if not finding.measured:
        return None

    def at(value: float) -> float:
        return round(6 + (WIDTH - 12) * (min(max(value, low), high) - low) / (high - low), 1)

    e, rule = finding.estimate, finding.criterion
    parts = [] if finding.rule else [_band(at(rule.low), at(rule.high))]
    parts.append(el("path", d=f"M{at(0)} 3V13", class_="zero"))
    if finding.null is not None:
        parts.append(_null(at(finding.null)))
    if e.low is not None and e.high is not None:
        parts.append(el("path", d=f"M{at(e.low)} 8H{at(e.high)}", class_="interval"))
    return _strip([*parts, _dot(at(e.mean))])


def _strip(parts: Sequence[Element], width: int = WIDTH) -> Element:
    axis = el("path", d=f"M6 8H{width - 6}", class_="axis")
    return el("svg", axis, parts, viewBox=f"0 0 {width} 16", width=str(width), height="16", class_="range",
              aria_hidden="true")  # fmt: skip


def _band(start: float, end: float) -> Element:
    return el("rect", x=str(start), y="2", width=str(round(max(end - start, 1), 1)), height="12", class_="met")


def _dot(x: float) -> Element:
    return el("circle", cx=str(x), cy="8", r="3.5", class_="mean")


def _null(x: float) -> Element:
    return el("path", d=f"M{x} 4L{x + 4} 8L{x} 12L{x - 4} 8Z", class_="null")

"""The judged claims as a table for the terminal, as markdown and as JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from fedmi_jax.analysis import verdicts
from fedmi_jax.analysis.claims import Row
from fedmi_jax.analysis.parts import Part
from fedmi_jax.analysis.runs import Runs, differences
from fedmi_jax.analysis.verdicts import HOLDS, OPEN, Finding
from fedmi_jax.results.labels import held
from fedmi_jax.results.statistics import COVERAGE

LEGEND = (
    f"Intervals: 95 %, bootstrap over seeds. A verdict needs {verdicts.MIN_SEEDS} seeds and an interval wholly on one "
    "side of the rule; until then the means alone say what stands in brackets. Null: the same number for random "
    "circuits of the same sizes, or for random or empty masks; * where it meets the rule too, so that meeting it is no "
    "evidence. Found again: the same number of circuits against themselves, from a second search on the same weights, "
    "in the rounds that have one (mostly the last); † where search noise alone misses the rule, or meets an upper "
    "limit. Of few seeds these intervals are too narrow: simulated, "
    f"{', '.join(f'{n} seeds hold the true mean in {share:.0%}' for n, share in COVERAGE.items())}."
)


def as_values(rows: list[Row], runs: Runs) -> dict[str, Any]:
    """JSON values: fractions; None where there is nothing."""
    return {
        "legend": LEGEND,
        "runs": {name: describe(runs, name) for name in runs},
        "claims": [_row_values(row) for row in rows],
    }


def describe(runs: Runs, name: str) -> dict[str, Any]:
    """What an experiment's verdicts rest on: seeds, rounds, not_the_papers (settings that differ), and which circuits
    are degenerate, where the result says it."""
    ds = runs[name]
    found: dict[str, Any] = {
        "seeds": ds["seed"].values.tolist(), "rounds": ds.sizes["round"], "not_the_papers": differences(name, ds),
    }  # fmt: skip
    return found | (_degenerate(ds) if "degenerate" in ds else {})


def _degenerate(ds: xr.Dataset) -> dict[str, Any]:
    bad = ds["degenerate"].where(held(ds)).astype(float).mean(("seed", "round", "client", "class"))
    shares = {str(origin): round(float(bad.sel(origin=origin)), 4) for origin in ds["origin"].values}
    each = ds["degenerate"].where(held(ds), False).stack(circuit=("origin", "seed", "client", "class"))
    rounds = ds["round"].values
    flagged = [
        {"origin": str(o), "seed": int(s), "client": int(k), "class": int(c), "rounds": rounds[own].tolist()}
        for (o, s, k, c), own in zip(each["circuit"].values, each.transpose("circuit", "round").values, strict=True)
        if own.any()
    ]
    return {"degenerate_share": shares, "degenerate_circuits": flagged}


def _row_values(row: Row) -> dict[str, Any]:
    claim = row.claim
    return {
        "id": claim.id, "section": claim.section, "claim": claim.says, "paper": claim.paper, "rule": claim.rule,
        "seeds": row.seeds, "most_seeds": row.most_seeds, "verdict": row.verdict, "means_alone": row.leaning,
        "without": row.without,
        "findings": [_finding_values(finding) for finding in row.findings],
        "circuits_that_decide": [_part_values(part) for part in row.deciding],
    }  # fmt: skip


def _part_values(part: Part) -> dict[str, Any]:
    e = part.estimate
    return {
        "number": part.label, "mean": e.mean, "low": e.low, "high": e.high, "seeds": e.seeds, "null": part.null,
        "undefined_share": part.undefined, "detail": part.detail,
    }  # fmt: skip


def _finding_values(finding: Finding) -> dict[str, Any]:
    e = finding.estimate
    return {
        "definition": finding.definition, "mean": e.mean if e.mean == e.mean else None, "low": e.low, "high": e.high,
        "seeds": e.seeds, "null": finding.null, "ceiling": finding.ceiling,
        "criterion": finding.rule or str(finding.criterion), "verdict": finding.verdict,
        "mean_meets_it": finding.mean_meets_it, "null_meets_it": finding.null_meets_it,
        "ceiling_decides": finding.ceiling_decides, "caution": finding.caution, "detail": finding.detail,
    }  # fmt: skip


def verdict_text(row: Row) -> str:
    """The verdict; of an undecided one also what the means alone say."""
    if row.verdict != OPEN:
        return row.verdict
    if not row.findings:
        lacks = f"without {', '.join(row.lacking)}" if row.lacking else f"needs {' or '.join(row.claim.kinds)}"
        return f"{OPEN} ({lacks})"
    lacks = f"; without {', '.join(row.without)}" if row.without else ""
    return f"{OPEN} ({_seeds(row)} seed{'' if row.most_seeds == 1 else 's'}: {row.leaning}{lacks})"


def _seeds(row: Row) -> str:
    """Definitions may have different numbers: in some seeds there is nothing to measure."""
    return str(row.seeds) if row.seeds == row.most_seeds else f"{row.seeds} to {row.most_seeds}"


def _null(finding: Finding) -> str:
    return "-" if finding.null is None else f"{finding.null:.2f}{'*' if finding.null_meets_it else ''}"


def _beside(finding: Finding) -> str:
    """What is said of a definition besides its number."""
    again = (
        "" if finding.ceiling is None else f"found again {finding.ceiling:.2f}{'†' if finding.ceiling_decides else ''}"
    )
    said = "; ".join(part for part in (finding.caution, finding.detail, again) if part)
    return f" ({said})" if said else ""


def _mark(finding: Finding) -> str:
    """How one definition stands."""
    if not finding.measured:
        return "no say" if finding.void else "no data"
    alone = "yes" if finding.mean_meets_it else "no"
    return finding.verdict if finding.verdict != OPEN else f"{OPEN} ({alone})"


def render(rows: list[Row], runs: Runs) -> Group:
    """For the terminal: the claims, and below each its definitions."""
    names = ("claim", "paper", "measured", "null", "seeds", "verdict")
    table = Table(*(Column(name, overflow="fold") for name in names), title="Claims of arXiv 2512.23043",
                  title_justify="left", show_lines=False)  # fmt: skip
    for row in rows:
        claim = f"[bold]{row.claim.id}[/] {escape(row.claim.says)} ({row.claim.section})\n[dim]{row.claim.rule}[/]"
        table.add_row(claim, row.claim.paper, "", "", _seeds(row), Text(verdict_text(row), style=_style(row)))
        for f in row.findings:
            said = f"  {f.definition}{_beside(f)}"
            table.add_row(Text(said, style="dim"), "", str(f.estimate), _null(f), "", Text(_mark(f), style="dim"))
        if row.deciding:
            table.add_row(Text(f"  {DECIDING}:", style="dim italic"), "", "", "", "", "")
        for one in row.deciding:
            said = f"  {one.label}{said_of(one)}"
            table.add_row(Text(said, style="dim"), "", str(one.estimate), null_of(one), str(one.estimate.seeds), "")
        table.add_section()
    return Group(table, *(Text(_described(runs, name)) for name in runs), Text(legend(rows)))


DECIDING = "circuits that decide"
DECIDING_LEGEND = (
    f"With {DECIDING}: the same claim's number of circuits from the second search (docs/decisions.md), of models that "
    "decide about the class; undefined: the share of the others, of which there is no circuit to find. Null: random "
    "live sets of the same sizes. These are told beside the claims and are no verdicts; `fedmi predictions` has those."
)


def legend(rows: Sequence[Row]) -> str:
    """What the words and marks of the table mean."""
    return f"{LEGEND} {DECIDING_LEGEND}" if any(row.deciding for row in rows) else LEGEND


def said_of(part: Part) -> str:
    """What stands beside the number of a part."""
    share = "" if part.undefined is None or part.undefined != part.undefined else f"{part.undefined:.0%} undefined"
    said = "; ".join(one for one in (share, part.detail) if one)
    return f" ({said})" if said else ""


def null_of(part: Part) -> str:
    return "-" if part.null is None else f"{part.null:.2f}"


def _style(row: Row) -> str:
    return "bold green" if row.verdict == HOLDS else "bold yellow" if row.verdict == OPEN or row.without else "bold red"


def _described(runs: Runs, name: str) -> str:
    found = describe(runs, name)
    unlike = f"; unlike the paper's: {', '.join(found['not_the_papers'])}" if found["not_the_papers"] else ""
    shares = " / ".join(f"{100 * share:.0f} %" for share in found.get("degenerate_share", {}).values())
    last = runs[name]["round"].values[-1]
    flagged = [f for f in found.get("degenerate_circuits", []) if last in f["rounds"]]
    circuits = ", ".join(f"client {f['client']} class {f['class']} ({_which(found, f)})" for f in flagged[:12])
    more = f" and {len(flagged) - 12} more" if len(flagged) > 12 else ""
    degenerate = f"; degenerate in the last round: {circuits}{more}" if flagged else ""
    seeds = ", ".join(map(str, found["seeds"]))
    all_ = f"; degenerate in all rounds, local / global circuits: {shares}" if shares else ""
    return f"{name}: seeds {seeds}; {found['rounds']} rounds{unlike}{all_}{degenerate}"


def _which(found: dict[str, Any], flagged: dict[str, Any]) -> str:
    return flagged["origin"] + (f", seed {flagged['seed']}" if len(found["seeds"]) > 1 else "")


def markdown(rows: list[Row], runs: Runs) -> str:
    """The verdicts; every definition behind them; then the rules, and the runs."""
    said = legend(rows).replace("*", r"\*")
    rules = [f"- {row.claim.id} ({row.claim.section}): {row.claim.rule}." for row in rows]
    used = [f"- {_described(runs, name)}" for name in runs]
    every = ["| claim | definition | measured | null | alone |", "|---|---|---|---|---|"]
    every += [_definition(row, finding) for row in rows for finding in row.findings]
    parts = [overview(rows), "", said, "", "Every definition:", "", *every, "", *_deciding(rows), "Rules:", "", *rules]
    return "\n".join([*parts, "", "Runs:", "", *used, ""])


def _deciding(rows: list[Row]) -> list[str]:
    """The table of circuits that decide, where there are some."""
    every = [
        f"| {row.claim.id} | {part.label}{said_of(part)} | {part.estimate} | {null_of(part)} | {part.estimate.seeds} |"
        for row in rows
        for part in row.deciding
    ]
    head = [f"The same with {DECIDING}:", "", "| claim | number | measured | null | seeds |", "|---|---|---|---|---|"]
    return [*head, *every, ""] if every else []


def overview(rows: list[Row]) -> str:
    """One row per claim: the number as the paper measures it, the verdict over all definitions, and, where there are
    some, what circuits that decide say."""
    second = any(row.deciding for row in rows)
    head = "| claim | paper | measured as in the paper | null | seeds | verdict, all definitions |"
    rule = "|---|---|---|---|---|---|"
    lines = [_overview_row(row) + (f" {_beside_it(row)} |" if second else "") for row in rows]
    return "\n".join([head + (f" {DECIDING} |" if second else ""), rule + ("---|" if second else ""), *lines])


def _beside_it(row: Row) -> str:
    return "<br>".join(f"{part.label}: {part.estimate} (null {null_of(part)})" for part in row.deciding) or "-"


def _overview_row(row: Row) -> str:
    first = _as_in_the_paper(row)
    ours = "<br>".join(f"{_label(f)}{_number(f)}{f' ({f.caution})' if f.caution else ''}" for f in first) or "-"
    chance = "<br>".join(map(_chance, first)) or "-"
    cells = (f"**{row.claim.id}** {row.claim.says}", row.claim.paper, ours, chance, _seeds(row), verdict_text(row))
    return f"| {' | '.join(cells)} |"


def _as_in_the_paper(row: Row) -> list[Finding]:
    """The first definition of every experiment that the claim is about."""
    of_kind = [[f for f in row.findings if f.definition.startswith(f"{kind},")] for kind in row.claim.kinds]
    return [found[0] for found in of_kind if found] or row.findings[:1]


def _definition(row: Row, f: Finding) -> str:
    cells = (row.claim.id, f.definition or "mean", f"{_number(f)}{_beside(f)}", _chance(f), _mark(f))
    return f"| {' | '.join(cells)} |"


def _label(f: Finding) -> str:
    return f"{f.definition}: " if f.definition else ""


def _number(f: Finding) -> str:
    return str(f.estimate) if f.measured or f.void else "no data"


def _chance(f: Finding) -> str:
    return _null(f).replace("*", r"\*")

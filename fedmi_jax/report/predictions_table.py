"""The judged predictions as a table for the terminal, as markdown and as JSON values."""

from __future__ import annotations

from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table
from rich.text import Text

from fedmi_jax.analysis import verdicts
from fedmi_jax.analysis.instruments import Found
from fedmi_jax.analysis.parts import Part
from fedmi_jax.analysis.predictions import Row
from fedmi_jax.analysis.runs import differences
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, OPEN

LEGEND = (
    "Intervals: 95 %, bootstrap over seeds. Only circuits of models that decide about their class are judged; "
    "undefined: the share of the others, of which there is no circuit to find. A part holds, or does not, when "
    f"its whole interval meets, or misses, its criterion, with {verdicts.MIN_SEEDS} seeds or more. A prediction "
    "holds when all parts do, and does not when one does not. P1 to P9 are corrected together (Holm); p is "
    "corrected, and where nothing stands it is said how the prediction stood before. Null: the same number for "
    "random live sets; * where it meets the criterion too. Parts marked 'beside' decide nothing. All rules "
    "were fixed before any run over seeds; they were registered for seeds 0 to 4 of two-class (docs/evidence.md)."
)
BY_ORIGIN = (
    "What P0 says of circuits of global models closes only what is about these. This gate was registered when seeds 0 "
    "to 4 of two-class had been judged, for its seeds 5 to 9 (docs/evidence.md)."
)


def legend(by_origin: bool) -> str:
    """How to read the table, and what was registered when."""
    return f"{LEGEND} {BY_ORIGIN}" if by_origin else LEGEND


def as_values(rows: list[Row], found: Found, objective: str, by_origin: bool = False) -> dict[str, Any]:
    """JSON values: fractions; None where there is nothing."""
    return {
        "legend": legend(by_origin),
        "objective": objective,
        "by_origin": by_origin,
        "results": [
            {**key._asdict(), "seeds": ds["seed"].values.tolist(), "rounds": ds.sizes["round"],
             "not_the_papers": differences(key.experiment, ds)}
            for key, ds in found.results.items()
        ],
        "left_out": {str(path): why for path, why in found.left_out.items()},
        "predictions": [_row_values(row) for row in rows],
    }  # fmt: skip


def _row_values(row: Row) -> dict[str, Any]:
    one = row.prediction
    return {
        "id": one.id, "prediction": one.says, "rule": one.rule, "confidence": one.sure, "seeds": row.seeds,
        "verdict": row.after, "answer": row.named(row.after), "before_correction": row.before, "p": row.p,
        "gate": row.gate, "lacks": row.lacks, "parts": [_part_values(part) for part in row.parts],
    }  # fmt: skip


def _part_values(part: Part) -> dict[str, Any]:
    e = part.estimate
    return {
        "label": part.label, "experiments": list(part.experiments), "mean": e.mean if e.mean == e.mean else None,
        "low": e.low, "high": e.high, "seeds": e.seeds, "criterion": part.criterion, "verdict": part.verdict,
        "p_holds": part.holds_p, "p_fails": part.fails_p, "null": part.null, "null_meets_it": part.null_meets_it,
        "undefined_share": None if part.undefined != part.undefined else part.undefined, "detail": part.detail,
        "lacks": part.lacks, "beside": part.beside,
    }  # fmt: skip


def verdict_text(row: Row) -> str:
    """The verdict that stands; of an undecided one also how it stood before correction, or what is missing."""
    more = [row.gate] if row.gate else []
    if row.after == OPEN and row.before != OPEN:
        more.insert(0, f"before correction: {row.named(row.before)}")
    if row.p is not None:
        more.append("p < 0.001" if row.p < 0.001 else f"p {row.p:.3f}")
    if row.after == OPEN and row.lacks:
        more.append(f"{len(row.lacks)} of {len([p for p in row.parts if not p.beside])} parts cannot be judged")
    return row.named(row.after) + (f" ({'; '.join(more)})" if more else "")


def _null(part: Part) -> str:
    return "-" if part.null is None else f"{part.null:.2f}{'*' if part.null_meets_it else ''}"


def _said(part: Part) -> str:
    """What stands beside the number."""
    share = "" if part.undefined is None or part.undefined != part.undefined else f"{part.undefined:.0%} undefined"
    return "; ".join(one for one in ("beside" if part.beside else "", share, part.detail, part.lacks) if one)


def _number(part: Part) -> str:
    return str(part.estimate) if part.estimate.seeds else "no data"


def render(rows: list[Row], found: Found, objective: str, by_origin: bool = False) -> Group:
    """For the terminal: the predictions, and below each its parts."""
    names = ("prediction", "measured", "criterion", "null", "seeds", "verdict")
    title = f"Predictions about circuits found with objective {objective}"
    table = Table(*(Column(name, overflow="fold") for name in names), title=title, title_justify="left")
    for row in rows:
        said = f"[bold]{row.prediction.id}[/] {escape(row.prediction.says)}\n[dim]{escape(row.prediction.rule)}[/]"
        table.add_row(said, "", "", "", str(row.seeds), Text(verdict_text(row), style=_style(row)))
        for part in row.parts:
            label = f"  {part.label}" + (f" ({_said(part)})" if _said(part) else "")
            cells = (_number(part), part.criterion, _null(part), "", Text(_mark(part), style="dim"))
            table.add_row(Text(label, style="dim"), *cells)
        table.add_section()
    return Group(table, *(Text(line) for line in (*_used(found), legend(by_origin))))


def _mark(part: Part) -> str:
    return "" if part.lacks or part.beside else part.verdict


def _style(row: Row) -> str:
    return {HOLDS: "bold green", FAILS: "bold red"}.get(row.after, "bold yellow")


def _used(found: Found) -> list[str]:
    used = [
        f"{key}: seeds {', '.join(map(str, ds['seed'].values.tolist()))}; {ds.sizes['round']} rounds{_unlike(unlike)}"
        for key, ds in found.results.items()
        for unlike in [differences(key.experiment, ds)]
    ]
    return used + [f"left out: {path}: {why}" for path, why in found.left_out.items()]


def _unlike(fields: list[str]) -> str:
    """What a search decides is said by the name of the result."""
    other = [field for field in fields if not field.startswith("discovery.")]
    return f"; unlike the paper's: {', '.join(other)}" if other else ""


def markdown(rows: list[Row], found: Found, objective: str, by_origin: bool = False) -> str:
    """The verdicts; every part behind them; then the rules, and the results. by_origin: as they were judged."""
    head = ["| prediction | confidence before | seeds | verdict |", "|---|---|---|---|"]
    head += [
        f"| **{r.prediction.id}** {r.prediction.says} | {r.prediction.sure} | {r.seeds} | {verdict_text(r)} |"
        for r in rows
    ]
    every = ["| prediction | part | measured | criterion | null | alone |", "|---|---|---|---|---|---|"]
    every += [_part_row(row, part) for row in rows for part in row.parts]
    rules = [f"- {row.prediction.id}: {row.prediction.rule}." for row in rows]
    parts = [
        f"Circuits found with objective {objective}.",
        "",
        *head,
        "",
        legend(by_origin).replace("*", r"\*"),
        "",
        "Every part:",
    ]
    used = [f"- {line}" for line in _used(found)]
    return "\n".join([*parts, "", *every, "", "Rules:", "", *rules, "", "Results:", "", *used, ""])


def _part_row(row: Row, part: Part) -> str:
    label = part.label + (f" ({_said(part)})" if _said(part) else "")
    null = _null(part).replace("*", r"\*")
    cells = (row.prediction.id, label, _number(part), part.criterion or "-", null, _mark(part) or "-")
    return f"| {' | '.join(cells)} |"

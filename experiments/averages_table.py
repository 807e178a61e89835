"""What `experiments.averages` found, as a table, as a figure, and judged by what was predicted (docs/evidence.md)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from experiments import put_back
from fedmi_jax import files
from fedmi_jax.analysis.verdicts import Criterion, decide
from fedmi_jax.report import style
from fedmi_jax.results.statistics import Estimate, estimate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE, BASE = "averages.csv", "fedavg"
RULES = (
    "fedavg",
    "support-mean",
    "head-by-holders",
    "support-and-holders",
    "ties",
    "median",
    "matching",
    "calibration",
)
"""Methods that remember nothing and change nothing in local training."""
MEASURES = ("accuracy among held", "answer", "evidence")
Rows = list[dict[str, Any]]
"""seed, round, rule, measure, value; of circuits also client, class and random, the mean over random sets; of parts put
back also part, client and random."""


def per_seed(rows: Rows, rule: str, measure: str, column: str = "value") -> dict[int, float]:
    """Means over circuits, by seed."""
    wanted = [row for row in rows if (row["rule"], row["measure"], row.get("part")) == (rule, measure, None)]
    return put_back.by_seed(wanted, column)


def over(values: dict[int, float]) -> Estimate:
    return estimate(np.array(list(values.values())))


def last_round(rows: Rows) -> Rows:
    last = max(row["round"] for row in rows)
    return [row for row in rows if row["round"] == last]


def markdown(rows: Rows) -> str:
    """Of the last of the rounds: every rule's means, and below them the differences to FedAvg's, seed by seed."""
    rows = last_round(rows)
    head = ["rule", "seeds", *MEASURES, *(f"random sets: {measure}" for measure in MEASURES[1:])]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for rule in RULES:
        cells = [_cell(rows, rule, measure) for measure in MEASURES]
        cells += [str(over(per_seed(rows, rule, measure, "random"))) for measure in MEASURES[1:]]
        lines.append(f"| {rule} | {len(per_seed(rows, rule, MEASURES[0]))} | {' | '.join(cells)} |")
    notes = (
        f"Round {rows[0]['round']}; the same local models in every row. Means and 95 % intervals over seeds, below "
        "them the difference to FedAvg's, seed by seed. Accuracy among held: of the whole model, on and among classes "
        "that anyone holds. Answer (balanced accuracy) and evidence (AUC): of local circuits on this average."
    )
    return "\n".join([*lines, "", notes, ""])


def _cell(rows: Rows, rule: str, measure: str) -> str:
    own, base = per_seed(rows, rule, measure), per_seed(rows, BASE, measure)
    less = over({seed: own[seed] - base[seed] for seed in own if seed in base})
    return str(over(own)) if rule == BASE else f"{over(own)}<br>{less}"


def figure(rows: Rows) -> Figure:
    """A point per rule and seed."""
    rows = last_round(rows)
    made, axes = style.grid(len(MEASURES), len(MEASURES), 2.6, share=False)
    for one, measure in zip(axes, MEASURES, strict=True):
        for y, rule in enumerate(reversed(RULES)):
            own = list(per_seed(rows, rule, measure).values())
            one.plot(own, np.full(len(own), y), "o", color=style.BLUE, ms=3, mew=0, alpha=0.7)
            one.plot(np.mean(own), y, "|", color=style.BLACK, ms=9, mew=1.2)
            if measure != MEASURES[0]:
                chance_of = over(per_seed(rows, rule, measure, "random")).mean
                one.plot(chance_of, y, "x", color=style.VERMILLION, ms=4)
        one.set_yticks(range(len(RULES)), RULES[::-1] if one is axes[0] else [""] * len(RULES))
        one.set_xlim(-0.02 if measure == MEASURES[0] else 0.4, 1.02)
        one.set_xlabel(measure)
    seeds = len({row["seed"] for row in rows})
    style.say(made, f"round {rows[0]['round']}, {seeds} seeds: a point each, their mean a bar, random sets a cross")
    return made


class Predicted(NamedTuple):
    """One prediction."""

    id: str
    says: str
    number: Callable[[Rows], list[Estimate]]
    """Its parts, each of which must meet the criterion."""
    criterion: Criterion


def _less_fedavg(rule: str) -> Callable[[Rows], list[Estimate]]:
    def number(rows: Rows) -> list[Estimate]:
        own, base = per_seed(rows, rule, MEASURES[0]), per_seed(rows, BASE, MEASURES[0])
        return [over({seed: own[seed] - base[seed] for seed in own})]

    return number


def _given_back(part: str) -> Callable[[Rows], list[Estimate]]:
    return lambda rows: [estimate(put_back.given_back(put_back.of(rows), part, put_back.AMONG[0]))]


HALF, MOST = Criterion(low=0.5), Criterion(low=0.9)
PREDICTED = (
    Predicted("A1", "support mean minus FedAvg, among held", _less_fedavg("support-mean"), Criterion(low=0.1)),
    Predicted("A2", "support and holders minus FedAvg", _less_fedavg("support-and-holders"), Criterion(low=0.2)),
    Predicted("A3", "local circuits' answer on support and holders",
              lambda rows: [over(per_seed(rows, "support-and-holders", "answer"))], Criterion(low=0.75)),
    Predicted("A4", "their evidence under every rule but the median, lowest",
              lambda rows: [over(per_seed(rows, rule, "evidence")) for rule in RULES if rule != "median"], MOST),
    Predicted("W1", "given back by the client's own linear layer", _given_back("linear layer"), HALF),
    Predicted("W2", "given back by the client's own convolutions", _given_back("convolutions"), HALF),
    Predicted("W3", "averaged model among the client's own classes",
              lambda rows: [estimate(put_back.means(put_back.of(rows), put_back.NOTHING, put_back.AMONG[1]))], MOST),
)  # fmt: skip


def judged(rows: Rows) -> str:
    """The verdicts: a prediction holds when all its parts do, and does not when one does not."""
    rows = last_round(rows)
    lines = ["| | number | measured | criterion | verdict |", "|---|---|---|---|---|"]
    for one in PREDICTED:
        found = one.number(rows)
        said = [decide(part, one.criterion) for part in found]
        verdict = next((v for v in ("does not hold", "cannot tell yet") if v in said), "holds")
        least = min(found, key=lambda part: part.mean)
        lines.append(f"| {one.id} | {one.says} | {least} | {one.criterion} | {verdict} |")
    return "\n".join([*lines, ""])


def told(rows: Rows) -> str:
    """All of it."""
    return "\n".join([judged(rows), markdown(rows), put_back.markdown(put_back.of(last_round(rows)))])


def report(folder: Path) -> str:
    """Write table and figure of what the command left there. Returns the table."""
    rows = load(folder / FILE)
    text = told(rows)
    with style.styled():
        style.save(figure(rows), folder / "averages.svg")
    with files.replacing(folder / "averages.md") as temporary:
        temporary.write_text(text, "utf-8")
    return text


def load(path: Path) -> Rows:
    """What the command wrote."""
    table = pd.read_csv(path)
    return [{str(k): v for k, v in row.items() if v == v} for row in table.to_dict("records")]

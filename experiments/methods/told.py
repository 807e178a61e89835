"""The table: one row for each method, its mean with the interval over seeds, and below it the difference to FedAvg.

Axes: S seeds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr

from experiments import pieces
from experiments.methods import measured, rows
from experiments.methods.measured import Points
from experiments.methods.one_shot import RANDOM
from fedmi_jax.analysis.findings import MORE
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, OPEN, Criterion, decide
from fedmi_jax.results.statistics import Estimate, estimate, paired

Reduce = Callable[[xr.DataArray], xr.DataArray]
"""From (S, R) to (S,)."""


def last(values: xr.DataArray) -> xr.DataArray:
    """The last round's."""
    return values.isel(round=-1)


def over_rounds(values: xr.DataArray) -> xr.DataArray:
    """The mean of all rounds that have a number."""
    return values.mean("round")


class Column(NamedTuple):
    """One column of a table."""

    head: str
    measure: str
    null: str = ""
    """The measure that stands for chance, in brackets behind the row's own number."""
    reduce: Reduce = last


TABLES: dict[str, tuple[Column, ...]] = {
    "Accuracy": (
        Column("held classes, one model", rows.HELD, f"{rows.HELD}, {RANDOM}"),
        Column("own classes, the model a client gets", rows.OWN),
        Column("own classes, before averaging", "own accuracy, before"),
        Column("among held classes", rows.AMONG, f"{rows.AMONG}, {RANDOM}"),
        Column("with scale and biases refitted", "among held, scale and biases refitted"),
        Column("with the linear layer refitted", "among held, linear layer refitted"),
    ),
    "Circuits of the paper's search, on the averaged model": (
        Column("cross-evaluation", "cross-evaluation", "cross-evaluation, random masks"),
        Column("of those that work on their own model", "cross-evaluation, works at home"),
        Column("share out, all rounds", "out", reduce=over_rounds),
        Column("collapses per step, all rounds", "collapses"),
        Column("balanced accuracy, own model", "balanced, own model"),
        Column("balanced accuracy", "balanced"),
        Column("false-positive rate", "false positives"),
        Column("channels kept", "kept", "kept, by chance"),
        Column("local-to-global IoU, corrected", "IoU, corrected"),
        Column("found again, local", "found again, local"),
        Column("found again, global", "found again, global"),
        Column("channels, local", "channels, local"),
        Column("channels, global", "channels, global"),
        Column("degenerate", "degenerate"),
    ),
    "Circuits that decide (second search), on the averaged model": (
        Column("competent, local", "competent, local"),
        Column("competent, global", "competent, global"),
        Column("explained, own model", "explained, own model"),
        Column("explained", "explained"),
        Column("AUC, own model", "AUC, own model"),
        Column("AUC", "AUC"),
        Column("decision accuracy, own model", "decision, own model"),
        Column("decision accuracy", "decision"),
        Column("the same, one bias refitted", "decision, a bias refitted"),
        Column("channels kept", "kept, second", "kept, second, by chance"),
        Column("channels, local", "channels, second, local"),
        Column("channels, global", "channels, second, global"),
    ),
    "Why": (
        Column("support ratio, round 1", "support ratio", reduce=lambda values: values.isel(round=0)),
        Column("support ratio", "support ratio"),
        Column("sign conflict", "sign conflict"),
        Column("cancellation", "cancellation"),
        Column("global density", "global density"),
        Column("channels moved", "moved"),
        Column("put in another place by the server, all rounds", "reordered", reduce=over_rounds),
    ),
}
PRESERVES = ("cross-evaluation", "balanced", "kept")
"""Circuits are preserved where all three rise."""


def per_seed(points: Points, scenario: str, method: str, measure: str, reduce: Reduce = last) -> xr.DataArray:
    """(S,) of one row, of the seeds that have it; S may be 0."""
    values = by_round(points, scenario, method, measure)
    return reduce(values).dropna("seed") if values.sizes["round"] else values.sum("round")


def by_round(points: Points, scenario: str, method: str, measure: str) -> xr.DataArray:
    """(S, R) of the seeds and rounds that the row has, NaN in those without this measure; both may be 0."""
    place = {"scenario": scenario, "method": method}
    if any(label not in points[axis].values for axis, label in (place | {"measure": measure}).items()):
        return xr.DataArray(np.zeros((0, 0)), {"seed": np.zeros(0, int), "round": np.zeros(0, int)}, ("seed", "round"))
    row = points.sel(place, drop=True)
    made = row.notnull().any("measure")
    row = row.sel(seed=made.any("round"), round=made.any("seed"))
    return row.sel(measure=measure, drop=True).transpose("seed", "round")


def against(points: Points, scenario: str, method: str, measure: str, reduce: Reduce = last) -> Estimate:
    """The difference to FedAvg, seed by seed."""
    own, base = (per_seed(points, scenario, name, measure, reduce) for name in (method, rows.BASE))
    return paired(own, base)


def there(points: Points, scenario: str) -> list[str]:
    """The rows that have results in this scenario, in the order of the table."""
    if scenario not in points["scenario"].values:
        return []
    found = points.sel(scenario=scenario).notnull().any(("seed", "round", "measure"))
    return [name for name in rows.TABLE if name in found["method"].values and bool(found.sel({"method": name}))]


def best(points: Points, count: int = rows.BEST) -> list[str]:
    """The methods with the highest accuracy on held classes, by the sum of their ranks in the main scenarios; only
    methods with one model for all, and such as have results in both."""
    ranks: dict[str, float] = {}
    for scenario in rows.MAIN:
        means = {name: float(per_seed(points, scenario, name, "held accuracy").mean()) for name in _rivals(points)}
        order = sorted(means, key=lambda name: (-means[name], name))
        ranks = {name: ranks.get(name, 0) + place for place, name in enumerate(order)}
    return sorted(ranks, key=lambda name: (ranks[name], name))[:count]


def _rivals(points: Points) -> list[str]:
    everywhere = set.intersection(*(set(there(points, scenario)) for scenario in rows.MAIN))
    return [name for name in everywhere if rows.TABLE[name].block == rows.ONE and name != rows.BASE]


CUT = {measured.TRAINED: "training images of each client", measured.TESTED: "test images of each class"}


def cut(points: Points) -> str:
    """A sentence on runs that were not given all images; empty: there are none."""
    said = [_cut(points, scenario, measure) for scenario in rows.SCENARIOS for measure in CUT]
    return f"**Not all images**: {'; '.join(filter(None, said))}." if any(said) else ""


def _cut(points: Points, scenario: str, measure: str) -> str:
    """The numbers of images of this scenario's runs; empty: all images in all of them."""
    names = there(points, scenario)
    if not names or measure not in points["measure"].values:
        return ""
    found = points.sel({"scenario": scenario, "method": names})
    made = found.notnull().any(("round", "measure"))
    given = found.sel(measure=measure).max("round").values[made.values]
    numbers = [f"at most {number:g}" for number in np.unique(given[np.isfinite(given)])]
    numbers += ["all"] if np.isnan(given).any() else []
    return "" if numbers in ([], ["all"]) else f"{scenario}, {' or '.join(numbers)} {CUT[measure]}"


# --- what is preserved ---


def keeps_circuits(points: Points, scenario: str, method: str) -> str:
    """Yes: cross-evaluation, balanced accuracy and channels kept all rise against FedAvg. No: one of them does not. A
    rise is at least 0.01."""
    rises = [decide(against(points, scenario, method, measure), MORE) for measure in PRESERVES]
    return _answer(FAILS if FAILS in rises else HOLDS if set(rises) == {HOLDS} else OPEN)


def keeps_decisions(points: Points, scenario: str, method: str) -> str:
    """The same of the decision accuracy of the second search's local circuits on the averaged model."""
    return _answer(decide(against(points, scenario, method, "decision"), MORE))


def keeps_accuracy(points: Points, scenario: str, method: str) -> str:
    """Yes: the accuracy is not 0.01 or more below FedAvg's. No: it is. On held classes, and where every client gets a
    model of its own, on the client's classes."""
    return _answer(decide(against(points, scenario, method, accuracy_of(method)), Criterion(low=-0.01)))


def _answer(verdict: str) -> str:
    return {HOLDS: "yes", FAILS: "no"}.get(verdict, "cannot tell")


# --- markdown ---


def markdown(points: Points, problems: list[str]) -> str:
    """Every scenario that has results: what is preserved, and the tables."""
    parts = [part for scenario in rows.SCENARIOS for part in _scenario(points, scenario)]
    missing = [f"- {one}" for one in problems]
    cut_to = cut(points)
    head = [LEGEND, "", *([cut_to, ""] if cut_to else [])]
    return "\n".join([*head, *parts, *(["Could not be run:", "", *missing, ""] if missing else [])])


LEGEND = (
    "95 % intervals over seeds; below each mean the difference to FedAvg, seed by seed. Last round, but where it says "
    "otherwise. In brackets: what chance gives in the same models. Means are over clients, the classes of each, "
    "and layers. What is found again is an IoU as measured, in which two empty sets count as 1; where it is corrected "
    "for chance, such a pair has no say. One seed has no interval, and under three nothing is said to be "
    "preserved.\n\n"
    "Methods in italics give every client a model of its own. Their circuits are measured on that one, in place of the "
    "averaged model, and of the columns of accuracy only the second is theirs: the others, density and channels moved "
    "are of the mean of all clients' models, which no client is given.\n\n"
    "Cascade and ensemble are put together once, from FedAvg's last models and the circuits that the paper's search "
    "found in them; nothing is trained. By chance: random circuits of the same sizes. An ensemble is judged by its "
    "accuracy among held classes, for it has no other answers; nothing else in these tables is of either.\n\n"
    "Keeps circuits: cross-evaluation, balanced accuracy and channels kept all rise by at least 0.01 against FedAvg, "
    "each with its whole interval. Keeps decisions: decision accuracy of local circuits on the averaged model does. "
    "Keeps accuracy: it is not 0.01 or more below FedAvg's, with its whole interval."
)


def _scenario(points: Points, scenario: str) -> list[str]:
    names = there(points, scenario)
    if not names:
        return []
    lines = [f"## {scenario}", "", verdicts(points, scenario), ""]
    for title, columns in TABLES.items():
        some = [name for name in names if _any_of(points, scenario, name, columns)]
        lines += [f"### {title}", "", _table(points, scenario, some, columns), ""]
    return lines


def _any_of(points: Points, scenario: str, method: str, columns: tuple[Column, ...]) -> bool:
    """Whether the row has a number in this table."""
    return any(per_seed(points, scenario, method, column.measure, column.reduce).size for column in columns)


def verdicts(points: Points, scenario: str) -> str:
    """A table of what is preserved: the numbers that say most, and the three answers."""
    said = ("keeps circuits (paper's search)", "keeps decisions", "keeps accuracy")
    accuracies = ("accuracy, held classes, one model", "own classes, the model a client gets")
    heads = ("method", "seeds", "the server gets", *accuracies, *FIRST, *said)
    lines = []
    for name in there(points, scenario):
        unasked = 3 if name == rows.BASE else 2 if name in rows.ONE_SHOT else 0
        rules = (keeps_circuits, keeps_decisions, keeps_accuracy)[unasked:]
        answers = ["-"] * unasked + [of(points, scenario, name) for of in rules]
        seeds = str(per_seed(points, scenario, name, accuracy_of(name)).size)
        measured = [str(estimate(per_seed(points, scenario, name, one))) for one in (rows.OWN, *FIRST.values())]
        held = _held(points, scenario, name)
        lines.append([_named(name), seeds, rows.TABLE[name].sends, held, *measured, *answers])
    return pieces.markdown(heads, lines)


def _held(points: Points, scenario: str, name: str) -> str:
    """Accuracy of one model for all; of what has no other answers than held classes among these, which is easier."""
    measure = accuracy_of(name)
    if measure == rows.OWN:
        return "-"
    found = str(estimate(per_seed(points, scenario, name, measure)))
    return found if measure == rows.HELD else f"{found}, among held classes"


FIRST = {
    "circuits that decide, right on the averaged model": "decision",
    "cross-evaluation, paper's search": "cross-evaluation",
    "its circuits' calls of other classes": "false positives",
}
"""Head of a column, and the measure in it; after the accuracy."""


def accuracy_of(method: str) -> str:
    """The measure of accuracy: methods that give every client a model of its own are judged on the client's classes."""
    return rows.TABLE[method].accuracy


def _table(points: Points, scenario: str, names: list[str], columns: tuple[Column, ...]) -> str:
    heads = ["method", *(column.head + (" (by chance)" if column.null else "") for column in columns)]
    lines = ([_named(name), *(_cell(points, scenario, name, column) for column in columns)] for name in names)
    return pieces.markdown(heads, lines)


def _cell(points: Points, scenario: str, method: str, column: Column) -> str:
    own = str(estimate(per_seed(points, scenario, method, column.measure, column.reduce)))
    own += _null(points, scenario, method, column)
    if method == rows.BASE:
        return own
    return f"{own}<br>{against(points, scenario, method, column.measure, column.reduce)}"


def _null(points: Points, scenario: str, method: str, column: Column) -> str:
    if not column.null:
        return ""
    found = estimate(per_seed(points, scenario, method, column.null, column.reduce)).mean
    return "" if np.isnan(found) else f" ({found:.2f})"


def _named(name: str) -> str:
    return f"*{name}*" if own_models(name) else name


def own_models(name: str) -> bool:
    """Whether the method gives every client a model of its own."""
    return accuracy_of(name) == rows.OWN

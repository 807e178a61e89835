"""Beyond the paper: from IID to extreme label skew in one curve, which its section on future work asks for.

    python -m experiments.dirichlet runs/dirichlet --seeds 3
    python -m experiments.dirichlet runs/skew --seeds 3 --rounds 4 --decisions    # and with circuits that decide

Five clients, shares of every class drawn from Dir(alpha), alpha 0.05 to 100; otherwise as `iid` (99 % sparse, 10
rounds, classes 0, 1, 2, 7). About 90 s a round on two CPU cores: 1.8 hours a seed for all seven levels. Writes
OUT/dirichlet.svg and OUT/dirichlet.md: distance of the clients' label distributions (EMD, Jensen-Shannon;
`analysis.skew`) against overlap of circuits, with chance and a second search beside it, channels kept, and accuracy;
Spearman's rank correlation over the levels of each seed, and its interval over seeds.

With `--decisions` the models of the last round are also searched for circuits that decide, and every read-out is
refitted: OUT/skew.svg and more rows of the table say what falls first as labels part, the evidence of local circuits on
the averaged model, their answer, or the accuracy.

Expected (three seeds, 4 rounds; experiments/beyond): at alpha 100, 1 and 0.05 local-to-global IoU 0.88, 0.79 and 0.48,
channels kept 94, 88 and 77 %, global accuracy 91, 91 and 31 %; found again 0.87 to 0.95 throughout.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
import xarray as xr
from scipy import stats

from experiments import pieces
from experiments.methods import making, measured, rows
from fedmi_jax import files
from fedmi_jax.analysis import measures, nulls, skew
from fedmi_jax.config import Experiment, Split, replace
from fedmi_jax.errors import FedmiError
from fedmi_jax.presets import preset
from fedmi_jax.report import style
from fedmi_jax.results import schema
from fedmi_jax.results.statistics import Estimate, estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ALPHAS = (0.05, 0.1, 0.3, 0.5, 1.0, 5.0, 100.0)
DISTANCES = {"emd": "EMD to all labels (0 to 2)", "js": "Jensen-Shannon, bits"}
OVERLAPS = {
    "local-to-global IoU": ("local_global_iou", None),
    "inter-client IoU, local": ("inter_client_iou", "local"),
    "inter-client IoU, global": ("inter_client_iou", "global"),
}
MEASURED = {
    **OVERLAPS,
    "found again, local": ("rediscovery_iou", "local"),
    "found again, global": ("rediscovery_iou", "global"),
    "cross-evaluation": ("cross_evaluation", "local"),
    "its balanced accuracy": ("cross_evaluation_balanced_accuracy", "local"),
    "global accuracy": ("global_accuracy", None),
}
CHANCE, CORRECTED = ", by chance", ", corrected"
KEPT = "channels kept"
DECIDING: dict[str, tuple[str, float]] = {
    "evidence: AUC of local circuits on the averaged model": ("AUC", 0.5),
    "answer: their decision accuracy there": ("decision", 0.5),
    "their decision accuracy on their own model": ("decision, own model", 0.5),
    "explained there": ("explained", 0.0),
    "local models competent": ("competent, local", 0.0),
    "averaged models competent": ("competent, global", 0.0),
    "accuracy among held classes": ("among held", 0.1),
    "read-out refitted: scale and biases": ("among held, scale and biases refitted", 0.1),
    "read-out refitted: linear layer": ("among held, linear layer refitted", 0.1),
}
"""Of the second instrument and the read-out: the number's name in `methods.measured`, and what chance gives it."""
Point = dict[str, float]
"""One run: alpha, seed, its distances, and the outcomes of its last round."""


@dataclass(frozen=True)
class Dirichlet(pieces.Series):
    """Sweep the skew of a Dirichlet split."""

    alphas: tuple[float, ...] = ALPHAS
    decisions: bool = False
    """Search also for circuits that decide, and refit the read-out."""


def sweep(option: Dirichlet) -> list[Experiment]:
    """One per alpha."""
    (iid,) = preset("iid").experiments
    e = option.adapted(iid)
    e = replace(e, discovery=replace(e.discovery, repeat="last"))  # search noise stands beside every overlap
    if option.decisions:
        e = rows.for_both_instruments(e)
    return [
        replace(e, name=f"dirichlet-{alpha:g}", split=Split(kind="dirichlet", clients=5, alpha=alpha))
        for alpha in option.alphas
    ]


def main(option: Dirichlet) -> None:
    swept, seeds = sweep(option), range(option.seeds)
    beside = making.beside if option.decisions else pieces.nothing_beside
    option.in_time(lambda until: pieces.run_missing(option.out, swept, seeds, option.at_once, beside, until))
    points = [one for e in swept for one in _points(option, e)]
    if not points:
        raise FedmiError(f"{option.out}: no results yet; give --seeds")
    with style.styled():
        style.save(figure(points), option.out / "dirichlet.svg")
        if option.decisions:
            style.save(skew_figure(points), option.out / "skew.svg")
    text = markdown(points)
    with files.replacing(option.out / "dirichlet.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)
    option.pack()


def _points(option: Dirichlet, e: Experiment) -> list[Point]:
    found = pieces.load(option.out, [e])[e.name]
    if not option.decisions:
        return [point(e, ds) for ds in found]
    pairs = [making.pair(option.out, e.name, ds) for ds in found]
    return [point(e, pair.paper) | decided(pair) for pair in pairs]


def decided(pair: making.Pair) -> Point:
    """What both instruments and the read-out say of one run's last round."""
    numbers = measured.numbers(pair)
    return {label: float(numbers[name].isel(round=-1)) for label, (name, _) in DECIDING.items()}


def point(e: Experiment, ds: xr.Dataset) -> Point:
    """Of one run; means over clients, classes that they hold, and layers, each weighing the same."""
    distance, images = skew.label_distance(ds), ds["samples"].sel(true_class=ds["class"].values)
    ds = skew.where_held(ds).isel(round=[-1])
    chance, (kept, random) = nulls.expected(ds), measures.contained(ds)
    found = {"alpha": e.split.alpha, "seed": float(ds["seed"][0])}
    found |= {measure: float(distance[measure].mean()) for measure in DISTANCES}
    found["images per circuit, median"] = float(images.where(images > 0).median())
    found["held by fewer than 20 images"] = float((images < 20).where(images > 0).mean())
    channels = ds["size"].where(ds["analysed"]).sum("layer", min_count=ds.sizes["layer"])
    for origin in schema.ORIGINS:
        found[f"channels of 224, {origin}"] = _mean(channels, origin)
        found[f"degenerate, {origin}"] = _mean(ds["degenerate"].where(ds["analysed"]), origin)
    for label, (measure, origin) in MEASURED.items():
        found[label] = _mean(ds[measure], origin)
    for label, (measure, origin) in OVERLAPS.items():
        found[label + CHANCE] = _mean(chance[measure], origin)
        found[label + CORRECTED] = _mean(nulls.corrected(ds[measure], chance[measure]), origin)
    found["empty pairs, local-to-global"] = _mean(ds["empty_pairs_local_global"], None)
    return found | {KEPT: _mean(kept, None), KEPT + CHANCE: _mean(random, None)}


def _mean(values: xr.DataArray, origin: str | None) -> float:
    return float((values.sel(origin=origin) if origin else values).mean())


def levels(points: list[Point]) -> dict[float, list[Point]]:
    """The runs of each alpha, the most skewed first."""
    return {alpha: [p for p in points if p["alpha"] == alpha] for alpha in sorted({p["alpha"] for p in points})}


LOOKS = {
    KEPT: (style.GREEN, "D", True),
    KEPT + CHANCE: (style.GREEN, "x", True),
    "local-to-global IoU": (style.BLACK, "o", True),
    "local-to-global IoU, by chance": (style.BLACK, "x", True),
    "found again, local": (style.BLUE, "s", False),
    "found again, global": (style.ORANGE, "^", False),
    "inter-client IoU, local": (style.BLUE, "s", True),
    "inter-client IoU, global": (style.ORANGE, "^", True),
    "inter-client IoU, local, by chance": (style.BLUE, "x", True),
    "inter-client IoU, global, by chance": (style.ORANGE, "x", True),
    "cross-evaluation": (style.VERMILLION, "v", True),
    "its balanced accuracy": (style.PURPLE, "P", True),
    "global accuracy": (style.BLACK, "o", False),
}
PANELS = {
    "a client's circuit and the global model's": tuple(LOOKS)[:6],
    "two clients' circuits": tuple(LOOKS)[6:10],
    "what works": tuple(LOOKS)[10:],
}


def figure(points: list[Point]) -> Figure:
    """A row per distance: a client's circuit beside the global model's, two clients' beside each other, and what works.
    A point per run, the runs of a seed joined; above, where each alpha lies on average."""
    made, axes = style.grid(6, 3, 2.4, share=False)
    for i, (one, (measure, title)) in enumerate(zip(axes, itertools.product(DISTANCES, PANELS), strict=True)):
        what = "accuracy" if title == "what works" else "IoU, or share of channels"
        _panel(one, points, measure, {label: LOOKS[label] for label in PANELS[title]}, what)
        if i < len(PANELS):
            one.legend(loc="lower center", bbox_to_anchor=(0.5, 1.26), title=title, title_fontsize=7)
    _say_seeds(made, points)
    return made


Look = tuple[str, str, bool]
"""Colour, marker, filled."""


def _panel(one: Axes, points: list[Point], measure: str, looks: Mapping[str, Look], what: str) -> None:
    """Numbers over a distance of labels; what: they are, for the axis."""
    for label, look in looks.items():
        _lines(one, points, measure, label, look)
    one.set_xlabel(DISTANCES[measure])
    one.set_ylabel(what)
    one.set_ylim(0, 1.04)
    _name_levels(one, points, measure)


def _say_seeds(made: Figure, points: list[Point]) -> None:
    seeds = len(_seeds(points))
    style.say(made, f"last round; {seeds} seed{'' if seeds == 1 else 's'}, a point and a thin line for each")


SKEW = {
    "evidence: AUC of local circuits on the averaged model": (style.BLUE, "o", True),
    "answer: their decision accuracy there": (style.VERMILLION, "v", True),
    "their decision accuracy on their own model": (style.VERMILLION, "v", False),
    "accuracy among held classes": (style.BLACK, "s", True),
    "read-out refitted: scale and biases": (style.GREEN, "^", False),
    "read-out refitted: linear layer": (style.GREEN, "D", False),
}


def skew_figure(points: list[Point]) -> Figure:
    """What falls first as labels part: a point per run, the runs of a seed joined."""
    made, (one,) = style.grid(1, 1, 3.6, share=False)
    _panel(one, points, "emd", SKEW, "AUC, or accuracy")
    one.legend(loc="upper left", bbox_to_anchor=(1.02, 1))
    _say_seeds(made, points)
    return made


FIRST = (
    ("answer: their decision accuracy there", "evidence: AUC of local circuits on the averaged model"),
    ("accuracy among held classes", "read-out refitted: linear layer"),
)
"""What is predicted to fall before what (docs/evidence.md)."""


def later(points: list[Point], early: str, late: str) -> np.ndarray:
    """By how much the second falls later, (S,). What never does counts as the largest EMD of its seed."""
    most = np.array([max(p["emd"] for p in points if p["seed"] == seed) for seed in _seeds(points)])
    first, second = (falls(points, label) for label in (early, late))
    return np.where(np.isnan(second), most, second) - np.where(np.isnan(first), most, first)


def _seeds(points: list[Point]) -> list[float]:
    return sorted({p["seed"] for p in points})


def falls(points: list[Point], label: str, share: float = 0.1) -> np.ndarray:
    """The distance of labels (EMD) at which a measure has lost this share of what it has above chance at the level that
    is nearest to IID, read between levels, (S,); NaN for a seed in which it never does."""
    found = []
    for seed in _seeds(points):
        there = sorted((p["emd"], p[label]) for p in points if p["seed"] == seed and np.isfinite(p[label]))
        distance, value = np.array(there).T if there else np.empty((2, 0))
        chance = DECIDING[label][1]
        under = np.flatnonzero(value < chance + (1 - share) * (value[:1] - chance)) if len(value) else []
        found.append(_crossing(distance, value, int(under[0]), chance, share) if len(under) else np.nan)
    return np.array(found)


def _crossing(distance: np.ndarray, value: np.ndarray, i: int, chance: float, share: float) -> float:
    """Where the line between two levels meets the limit."""
    limit = chance + (1 - share) * (value[0] - chance)
    part = (value[i - 1] - limit) / (value[i - 1] - value[i])
    return float(distance[i - 1] + part * (distance[i] - distance[i - 1]))


def _lines(axes: Axes, points: list[Point], measure: str, label: str, look: Look) -> None:
    colour, marker, filled = look
    drawn = {"marker": marker, "color": colour, "mfc": colour if filled else "none", "ms": 2.6, "mew": 0.6, "lw": 0.5}
    drawn["ls"] = ":" if label.endswith(CHANCE) else "-"
    for seed in _seeds(points):
        there = [p for p in points if p["seed"] == seed and np.isfinite(p[label])]  # without a pair there is no IoU
        there.sort(key=lambda p: p[measure])
        axes.plot([p[measure] for p in there], [p[label] for p in there], **drawn)
    axes.plot([], [], label=label, **drawn)


def _name_levels(axes: Axes, points: list[Point], measure: str) -> None:
    above = axes.secondary_xaxis("top")
    at = {alpha: float(np.mean([p[measure] for p in level])) for alpha, level in levels(points).items()}
    above.set_xticks(list(at.values()), [f"{alpha:g}" for alpha in at], rotation=90, fontsize=6)
    above.set_xlabel("alpha", fontsize=6)


def markdown(points: list[Point]) -> str:
    """Mean and interval over the seeds of each alpha, and how strongly each outcome goes with the distance."""
    runs = levels(points)
    head = ["alpha", *(f"{alpha:g}" for alpha in runs), "rank correlation with EMD"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines.append(f"| seeds | {' | '.join(str(len(level)) for level in runs.values())} | |")
    for label in [name for name in points[0] if name not in ("alpha", "seed")]:
        cells = [str(estimate(np.array([p[label] for p in level]))) for level in runs.values()]
        cells.append("" if label in DISTANCES else str(correlation(points, label)))
        lines.append(f"| {DISTANCES.get(label, label)} | {' | '.join(cells)} |")
    if all(label in points[0] for label in DECIDING):
        lines += ["", "| what falls first | has lost a tenth of what it has above chance at EMD |", "|---|---|"]
        lines += [f"| {label} | {estimate(falls(points, label))} |" for label in SKEW]
        lines += [f"| {late} minus {early} | {estimate(later(points, early, late))} |" for early, late in FIRST]
    lines += [
        "",
        "Last round; means over clients, the analysed classes that each holds, and layers; 95 % intervals over seeds. "
        "Distances are over all ten classes. Found again: from other batches of the same images, so it is the noise of "
        "the search, not what few images leave open. Two empty sets count as 1 in IoU. Rank correlation: Spearman's "
        "over the levels of a seed, mean and interval over seeds.",
    ]
    return "\n".join([*lines, ""])


def correlation(points: list[Point], label: str) -> Estimate:
    """Spearman's, of each seed alone: runs of one seed share their start, so they are no independent points. Seeds with
    fewer than three levels, or without any differences, have none."""
    found = []
    for seed in {p["seed"] for p in points}:
        pairs = np.array([(p["emd"], p[label]) for p in points if p["seed"] == seed])
        pairs = pairs[np.isfinite(pairs).all(1)]
        if len(pairs) > 2 and np.ptp(pairs, 0).min() > 0:
            rank: Any = stats.spearmanr(pairs[:, 0], pairs[:, 1])
            found.append(rank.statistic)
    return estimate(np.array(found))


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Dirichlet)))

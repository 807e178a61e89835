"""Beyond the paper: from IID to extreme label skew in one curve, which its section on future work asks for.

    python -m experiments.dirichlet runs/dirichlet --seeds 3

Five clients, shares of every class drawn from Dir(alpha), alpha 0.05 to 100; otherwise as `iid` (99 % sparse, 10
rounds, classes 0, 1, 2, 7). About 90 s a round on two CPU cores: 1.8 hours a seed for all seven levels. Writes
OUT/dirichlet.svg and OUT/dirichlet.md: distance of the clients' label distributions (EMD, Jensen-Shannon;
`analysis.skew`) against overlap of circuits, as measured and corrected for chance, and accuracy, one point per run;
Spearman's rank correlation over the levels of each seed, and its interval over seeds.

Expected: accuracy and overlap fall with the distance. No numbers yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
import xarray as xr
from scipy import stats

from experiments import pieces
from fedmi_jax import results
from fedmi_jax.analysis import nulls, skew
from fedmi_jax.analysis.statistics import Estimate, estimate
from fedmi_jax.config import Experiment, FedmiError, Split, replace
from fedmi_jax.presets import preset
from fedmi_jax.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS = (0.05, 0.1, 0.3, 0.5, 1.0, 5.0, 100.0)
DISTANCES = {"emd": "EMD to all labels (0 to 2)", "js": "Jensen-Shannon, bits"}
OVERLAPS = {
    "local-to-global IoU": ("local_global_iou", None),
    "inter-client IoU, local": ("inter_client_iou", "local"),
    "inter-client IoU, global": ("inter_client_iou", "global"),
}
CHANCE = {f"{label}, by chance": what for label, what in OVERLAPS.items()}
CORRECTED = {f"{label}, corrected": what for label, what in OVERLAPS.items()}
AGAIN = {f"found again, {origin}": ("rediscovery_iou", origin) for origin in ("local", "global")}
WORKING = {
    "cross-evaluation": ("cross_evaluation", "local"),
    "its balanced accuracy": ("cross_evaluation_balanced_accuracy", "local"),
    "global accuracy": ("global_accuracy", None),
}
OUTCOMES = (*OVERLAPS, *AGAIN, *CHANCE, *CORRECTED, *WORKING)
Point = dict[str, float]
"""One run: alpha, seed, its distances, and the outcomes of its last round."""


@dataclass(frozen=True)
class Dirichlet(pieces.Series):
    """Sweep the skew of a Dirichlet split."""

    alphas: tuple[float, ...] = ALPHAS


def experiment(alpha: float, option: Dirichlet) -> Experiment:
    (iid,) = preset("iid").experiments
    e = option.adapted(iid)
    split = Split(kind="dirichlet", clients=5, alpha=alpha)
    # Fewer images of a class make its circuit less sure, so what a second search finds must stand beside every overlap.
    return replace(e, name=f"dirichlet-{alpha:g}", split=split, discovery=replace(e.discovery, repeat="last"))


def main(option: Dirichlet) -> None:
    swept = [experiment(alpha, option) for alpha in option.alphas]
    pieces.run_missing(option.out, swept, range(option.seeds), option.at_once)
    print(report(option.out, option.alphas))


def report(out: Path, alphas: Sequence[float]) -> str:
    """Draw and tabulate what is there. Raises FedmiError when nothing is."""
    names = [f"dirichlet-{alpha:g}" for alpha in alphas]
    points = [point(name, results.load(path)) for name in names for path in sorted((out / name).glob("*/result.nc"))]
    if not points:
        raise FedmiError(f"{out}: no results yet; give --seeds")
    with style.styled():
        style.save(figure(points), out / "dirichlet.svg")
    with results.replacing(out / "dirichlet.md") as temporary:
        temporary.write_text(markdown(points), "utf-8")
    return markdown(points)


def point(name: str, ds: xr.Dataset) -> Point:
    """Of one run; means over clients, classes, layers and pairs."""
    distance, ds = skew.label_distance(ds), skew.where_held(ds).isel(round=[-1])
    chance = nulls.expected(ds)
    found = {"alpha": float(name.removeprefix("dirichlet-")), "seed": float(ds["seed"][0])}
    found |= {measure: float(distance[measure].mean()) for measure in DISTANCES}
    for label, (measure, origin) in (OVERLAPS | AGAIN | WORKING).items():
        found[label] = _outcome(ds[measure], origin, ds)
    for label, (measure, origin) in OVERLAPS.items():
        found[f"{label}, by chance"] = _outcome(chance[measure], origin, ds)
        found[f"{label}, corrected"] = _outcome(nulls.corrected(ds[measure], chance[measure]), origin, ds)
    return found


def _outcome(values: xr.DataArray, origin: str | None, ds: xr.Dataset) -> float:
    values = values.sel(origin=origin) if origin else values
    if {"client", "class"} <= set(values.dims):  # of circuits: those of classes that the client holds
        values = values.where(ds["analysed"])
    return float(values.mean())


def levels(points: list[Point]) -> dict[float, list[Point]]:
    """The runs of each alpha, the most skewed first."""
    return {alpha: [p for p in points if p["alpha"] == alpha] for alpha in sorted({p["alpha"] for p in points})}


LOOKS = {
    "local-to-global IoU": (style.BLACK, "o", True),
    "found again, local": (style.BLUE, "s", False),
    "found again, global": (style.ORANGE, "^", False),
    "local-to-global IoU, by chance": (style.NULL, "x", True),
    "inter-client IoU, local": (style.BLUE, "s", True),
    "inter-client IoU, global": (style.ORANGE, "^", True),
    "inter-client IoU, local, by chance": (style.NULL, "+", True),
    "inter-client IoU, global, by chance": (style.NULL, "x", True),
    "cross-evaluation": (style.GREEN, "D", True),
    "its balanced accuracy": (style.PURPLE, "v", True),
    "global accuracy": (style.BLACK, "o", False),
}
"""Colour, marker, filled."""
PANELS = (
    ("local-to-global IoU", *AGAIN, "local-to-global IoU, by chance"),
    tuple(label for label in (*OVERLAPS, *CHANCE) if label.startswith("inter-client")),
    tuple(WORKING),
)


def figure(points: list[Point]) -> Figure:
    """A row per distance: a client's circuit beside the global model's, two clients' beside each other, and what works.
    A point per run, a line through the means of each alpha."""
    made, axes = style.grid(6, 3, 1.9, share=False)
    for one, (measure, labels) in zip(axes, [(m, labels) for m in DISTANCES for labels in PANELS], strict=True):
        for label in labels:
            colour, marker, filled = LOOKS[label]
            face = colour if filled else "none"
            one.plot(*_pairs(points, measure, label), marker, color=colour, mfc=face, ms=3, mew=0.7, label=label)
            means = [np.mean(_pairs(runs, measure, label), 1) for runs in levels(points).values()]
            one.plot(*np.array(means).T, "-", color=colour, lw=0.6)
        one.set_xlabel(DISTANCES[measure])
        one.set_ylabel("accuracy, last round" if labels == PANELS[-1] else "IoU, last round")
        one.set_ylim(0, 1.04)
    style.legend(made, axes, 4)
    return made


def _pairs(points: list[Point], measure: str, label: str) -> tuple[list[float], list[float]]:
    return [p[measure] for p in points], [p[label] for p in points]


def markdown(points: list[Point]) -> str:
    """Mean and interval over the seeds of each alpha, and how strongly each outcome goes with the distance."""
    runs = levels(points)
    head = ["alpha", *(f"{alpha:g}" for alpha in runs), "rank correlation with EMD"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for label in (*DISTANCES, *OUTCOMES):
        cells = [str(estimate(np.array([p[label] for p in level]))) for level in runs.values()]
        found = correlation(points, label)
        cells.append(str(found) if label not in DISTANCES else "")
        lines.append(f"| {DISTANCES.get(label, label)} | {' | '.join(cells)} |")
    seeds = ", ".join(sorted({f"{len(level)}" for level in runs.values()}))
    lines += [
        "",
        f"{seeds} seeds a level; means over clients, classes, layers and pairs in the last round, 95 % intervals over "
        "seeds. Rank correlation: Spearman's over the levels of a seed, mean and interval over seeds.",
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

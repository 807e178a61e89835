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

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro
import xarray as xr
from scipy import stats

from experiments import pieces
from fedmi_jax import results
from fedmi_jax.analysis import nulls, skew
from fedmi_jax.analysis.statistics import Estimate, estimate
from fedmi_jax.config import Experiment, Split, replace
from fedmi_jax.presets import preset
from fedmi_jax.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS = (0.05, 0.1, 0.3, 0.5, 1.0, 5.0, 100.0)
OVERLAPS = {
    "inter-client IoU, local": ("inter_client_iou", "local"),
    "inter-client IoU, global": ("inter_client_iou", "global"),
    "local-to-global IoU": ("local_global_iou", None),
}
CORRECTED = {f"{label}, corrected": what for label, what in OVERLAPS.items()}
WORKING = {"cross-evaluation": ("cross_evaluation", "local"), "global accuracy": ("global_accuracy", None)}
OUTCOMES = OVERLAPS | CORRECTED | WORKING


@dataclass(frozen=True)
class Dirichlet(pieces.Series):
    """Sweep the skew of a Dirichlet split."""

    alphas: tuple[float, ...] = ALPHAS


def experiment(alpha: float, option: Dirichlet) -> Experiment:
    (iid,) = preset("iid").experiments
    split = Split(kind="dirichlet", clients=5, alpha=alpha)
    return replace(option.adapted(iid), name=f"dirichlet-{alpha:g}", split=split)


def main(option: Dirichlet) -> None:
    swept = [experiment(alpha, option) for alpha in option.alphas]
    pieces.run_missing(option.out, swept, range(option.seeds), option.at_once)
    found = {e.name: [results.load(path) for path in sorted((option.out / e.name).glob("*/result.nc"))] for e in swept}
    points = table(found)
    with style.styled():
        style.save(figure(points), option.out / "dirichlet.svg")
    with results.replacing(option.out / "dirichlet.md") as temporary:
        temporary.write_text(markdown(points))
    print(markdown(points))


def table(found: Mapping[str, list[xr.Dataset]]) -> list[dict[str, float]]:
    """One row per run: alpha, distances (means over clients), outcomes of the last round."""
    rows = []
    for name, runs in found.items():
        for ds in runs:
            distance, ds = skew.label_distance(ds), skew.where_held(ds).isel(round=[-1])
            chance = nulls.expected(ds)
            row = {"alpha": float(name.removeprefix("dirichlet-")), "seed": float(ds["seed"][0])}
            row |= {measure: float(distance[measure].mean()) for measure in ("emd", "js")}
            row |= {label: _outcome(ds[name], origin, ds) for label, (name, origin) in (OVERLAPS | WORKING).items()}
            corrected = {label: (nulls.corrected(ds[name], chance[name]), o) for label, (name, o) in CORRECTED.items()}
            rows.append(row | {label: _outcome(*values, ds) for label, values in corrected.items()})
    return rows


def _outcome(values: xr.DataArray, origin: str | None, ds: xr.Dataset) -> float:
    values = values.sel(origin=origin) if origin else values
    if values.name == "cross_evaluation":
        values = values.where(ds["analysed"])
    return float(values.mean())


def figure(points: list[dict[str, float]]) -> Figure:
    """A column per distance, overlaps corrected for chance (0: as random sets) above what works; a point per run."""
    made, axes = style.grid(4, 2, 1.9, share=False)
    looks = dict(zip(CORRECTED | WORKING, zip(style.SERIES, style.MARKERS, strict=True), strict=False))
    places = [(kind, measure) for kind in (CORRECTED, WORKING) for measure in ("emd", "js")]
    for one, (labels, measure) in zip(axes, places, strict=True):
        for label, (colour, marker) in ((label, looks[label]) for label in labels):
            one.plot([p[measure] for p in points], [p[label] for p in points], marker, color=colour, ms=3, label=label)
        one.set_xlabel({"emd": "EMD to all labels (0 to 2)", "js": "Jensen-Shannon, bits"}[measure])
        one.set_ylabel("corrected IoU, last round" if labels is CORRECTED else "accuracy, last round")
        one.axhline(0, color=style.NULL, lw=0.6, zorder=0)
        one.set_ylim(top=1.04)
    style.legend(made, axes, 3)
    return made


def markdown(points: list[dict[str, float]]) -> str:
    """Every run, and how strongly each outcome falls with the distance."""
    columns = ["alpha", "seed", "emd", "js", *OUTCOMES]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [
        f"| {' | '.join(f'{p[c]:g}' if c in ('alpha', 'seed') else f'{p[c]:.2f}' for c in columns)} |" for p in points
    ]
    lines += [
        "",
        "Spearman's rank correlation with EMD over the levels of a seed; mean and 95 % interval over seeds:",
        "",
    ]
    for label in OUTCOMES:
        found = correlation(points, label)
        if found.seeds:
            lines.append(f"- {label}: {found} ({found.seeds} seeds)")
    return "\n".join([*lines, ""])


def correlation(points: list[dict[str, float]], label: str) -> Estimate:
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

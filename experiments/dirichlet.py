"""Beyond the paper: from IID to extreme label skew in one curve, which its section on future work asks for.

    python -m experiments.dirichlet runs/dirichlet --seeds 3

Five clients, shares of every class drawn from Dir(alpha), alpha 0.05 to 100; otherwise as `iid` (99 % sparse, 10
rounds, classes 0, 1, 2, 7). About 90 s a round on two CPU cores: 1.8 hours a seed for all seven levels. Writes
OUT/dirichlet.svg and OUT/dirichlet.md: distance of the clients' label distributions (EMD, Jensen-Shannon;
`analysis.skew`) against overlap of circuits and accuracy, one point per run, and Spearman's rank correlation over the
runs.

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
from fedmi_jax.analysis import skew
from fedmi_jax.config import Experiment, Split, replace
from fedmi_jax.presets import preset
from fedmi_jax.report import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALPHAS = (0.05, 0.1, 0.3, 0.5, 1.0, 5.0, 100.0)
OUTCOMES = {
    "inter-client IoU, local": ("inter_client_iou", "local"),
    "inter-client IoU, global": ("inter_client_iou", "global"),
    "local-to-global IoU": ("local_global_iou", None),
    "cross-evaluation": ("cross_evaluation", "local"),
    "global accuracy": ("global_accuracy", None),
}


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
            distance, ds = skew.label_distance(ds), skew.where_held(ds).isel(round=-1)
            row = {"alpha": float(name.removeprefix("dirichlet-")), "seed": float(ds["seed"][0])}
            row |= {measure: float(distance[measure].mean()) for measure in ("emd", "js")}
            rows.append(row | {label: _outcome(ds, *what) for label, what in OUTCOMES.items()})
    return rows


def _outcome(ds: xr.Dataset, name: str, origin: str | None) -> float:
    values = ds[name].sel(origin=origin) if origin else ds[name]
    if name == "cross_evaluation":
        values = values.where(ds["analysed"])
    return float(values.mean())


def figure(points: list[dict[str, float]]) -> Figure:
    """A column per distance, a row per kind of outcome; darker is more skewed."""
    made, axes = style.grid(2, 2, 2.4)
    for one, measure in zip(axes, ("emd", "js"), strict=True):
        for label, colour, marker in zip(OUTCOMES, style.SERIES, style.MARKERS, strict=False):
            one.plot([p[measure] for p in points], [p[label] for p in points], marker, color=colour, ms=3, label=label)
        one.set(xlabel={"emd": "EMD to all labels (0 to 2)", "js": "Jensen-Shannon, bits"}[measure], ylim=(-0.04, 1.04))
        one.tick_params(labelleft=True)
    axes[0].set_ylabel("last round")
    style.legend(made, axes, 5)
    return made


def markdown(points: list[dict[str, float]]) -> str:
    """Every run, and how strongly each outcome falls with the distance."""
    columns = ["alpha", "seed", "emd", "js", *OUTCOMES]
    lines = [f"| {' | '.join(columns)} |", "|" + "---|" * len(columns)]
    lines += [
        f"| {' | '.join(f'{p[c]:g}' if c in ('alpha', 'seed') else f'{p[c]:.2f}' for c in columns)} |" for p in points
    ]
    lines += ["", "Spearman's rank correlation with EMD over these runs (p):", ""]
    for label in OUTCOMES:
        pairs = np.array([(p["emd"], p[label]) for p in points])
        pairs = pairs[np.isfinite(pairs).all(1)]
        if len(pairs) > 2 and np.ptp(pairs, 0).min() > 0:
            found: Any = stats.spearmanr(pairs[:, 0], pairs[:, 1])
            lines.append(f"- {label}: {found.statistic:.2f} ({found.pvalue:.3g}, {len(pairs)} runs)")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Dirichlet)))

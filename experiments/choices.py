"""Beyond the paper: which findings depend on which choice that the paper leaves open.

    python -m experiments.choices runs/choices --seeds 3

The two-class experiment as the authors' code runs it, and with one choice changed: one global budget of weights instead
of one per layer (the paper's equation 1), no floor of weights per filter, mean instead of zero ablation, no sparsity at
all. About 70 s a round on two CPU cores (dense and mean ablation: several times that), an hour and a half a seed.
Writes OUT/choices.md: every figure of the last round with its interval, and its paired difference to the base.

Expected: no numbers yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import tyro
import xarray as xr

from experiments import pieces
from fedmi_jax import results
from fedmi_jax.analysis import interference, measures, runs
from fedmi_jax.analysis.statistics import estimate, over_seeds, paired
from fedmi_jax.config import Experiment, replace
from fedmi_jax.presets import preset

BASE = "base"


@dataclass(frozen=True)
class Choices(pieces.Series):
    """Change one choice of the method at a time."""


def variants(option: Choices) -> list[Experiment]:
    """The base first."""
    (two,) = preset("two-class").experiments
    two = option.adapted(two)
    return [
        replace(two, name=BASE),
        replace(two, name="global-scope", sparsity=replace(two.sparsity, scope="global")),
        replace(two, name="no-floor", sparsity=replace(two.sparsity, floor=0)),
        replace(two, name="mean-ablation", discovery=replace(two.discovery, ablation="mean")),
        replace(two, name="dense", sparsity=replace(two.sparsity, target=0)),
    ]


def figures(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """One number per seed each; of the last round, but for the share of outages."""
    last, cross = ds.isel(round=-1), measures.cross_evaluation(ds)
    found = {"global accuracy": last["global_accuracy"]}
    for origin in ("local", "global"):
        found[f"overlap of clients, {origin}"] = over_seeds(last["specialist_distinctness"].sel(origin=origin))
        degenerate = last["degenerate"].sel(origin=origin).where(last["analysed"].astype(bool))
        found[f"degenerate, {origin}"] = over_seeds(degenerate)
    return found | {
        "local-to-global IoU": over_seeds(last["local_global_iou"]),
        "cross-evaluation": over_seeds(cross.isel(round=-1)),
        "its balanced accuracy": over_seeds(last["cross_evaluation_balanced_accuracy"].sel(origin="local")),
        "share out, all rounds": over_seeds(interference.out(cross)),
    }


def markdown(found: Mapping[str, xr.Dataset]) -> str:
    """A row per figure; under each variant its mean, and its difference to the base."""
    values = {name: figures(ds) for name, ds in found.items()}
    lines = [f"| last round | {' | '.join(values)} |", "|" + "---|" * (len(values) + 1)]
    for label in values[BASE]:
        cells = [_cell(values, name, label) for name in values]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    seeds = found[BASE].sizes["seed"]
    return "\n".join([*lines, "", f"{seeds} seeds; 95 % intervals; below each: paired difference to the base.", ""])


def _cell(values: Mapping[str, Mapping[str, xr.DataArray]], name: str, label: str) -> str:
    own = str(estimate(values[name][label]))
    return own if name == BASE else f"{own}<br>{paired(values[name][label], values[BASE][label])}"


def main(option: Choices) -> None:
    wanted = variants(option)
    pieces.run_missing(option.out, wanted, range(option.seeds), option.at_once)
    found = {e.name: next(iter(runs.gather([option.out / e.name]).values())) for e in wanted}
    with results.replacing(option.out / "choices.md") as temporary:
        temporary.write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Choices)))

"""Beyond the paper: which findings depend on which choice that the paper leaves open.

    python -m experiments.choices runs/choices --seeds 3
    python -m experiments.choices runs/choices --seeds 3 --base runs/paper    # whose two-class is not run again

The two-class experiment as the authors' code runs it, and with one choice changed: one global budget of weights instead
of one per layer, no floor of weights per filter, no sparsity at all, mean instead of zero ablation, and both a global
budget and no floor (the paper's equation 1). At 99.5 % the floor, not the budget, decides how many weights a
convolution keeps, so it changes the sparsity too: the table says how many are left. Writes OUT/choices.md: every figure
of the last round with its interval, and its difference to the base, `two-class`, over the seeds that both have.

On one CPU core 60 s (dense) to 140 s (mean ablation) a round. Expected (one seed; experiments/beyond): global accuracy
30 %, with a global budget 10, without a floor 11, dense 60 %; all local circuits of dense models are empty, as is
everything found under a global budget; with mean ablation half of all circuits and rounds are out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro
import xarray as xr

from experiments import pieces
from fedmi_jax import files
from fedmi_jax.analysis import interference, measures, nulls, runs
from fedmi_jax.config import Experiment, replace
from fedmi_jax.errors import FedmiError
from fedmi_jax.presets import preset
from fedmi_jax.results.schema import ORIGINS
from fedmi_jax.results.statistics import estimate, over_seeds, paired

BASE = "two-class"


@dataclass(frozen=True)
class Choices(pieces.Series):
    """Change one choice of the method at a time."""

    base: Path | None = None
    """Folder of `experiments.paper`, whose two-class results are the base, with the seeds that are there; None: made in
    OUT like the others."""


def variants(option: Choices) -> list[Experiment]:
    """The base first."""
    (two,) = preset("two-class").experiments
    two = option.adapted(two)
    two = replace(two, discovery=replace(two.discovery, repeat="last"))  # a ceiling beside every overlap
    return [
        two,
        replace(two, name="global-scope", sparsity=replace(two.sparsity, scope="global")),
        replace(two, name="no-floor", sparsity=replace(two.sparsity, floor=0)),
        replace(two, name="dense", sparsity=replace(two.sparsity, target=0)),
        replace(two, name="mean-ablation", discovery=replace(two.discovery, ablation="mean")),
        replace(two, name="equation-1", sparsity=replace(two.sparsity, scope="global", floor=0)),
    ]


def figures(ds: xr.Dataset) -> dict[str, xr.DataArray]:
    """One number per seed each; of the last round, but for the share of outages. Overlaps are corrected for chance:
    denser models have larger circuits, which overlap more whatever they do."""
    last, cross = ds.isel(round=[-1]), measures.cross_evaluation(ds)
    chance, there = nulls.expected(last), last["analysed"].astype(bool)
    kept, random = measures.contained(last)

    def overlap(name: str, **origin: str) -> xr.DataArray:
        return over_seeds(nulls.corrected(last[name], chance[name]).sel(origin))

    def circuits(name: str, **origin: str) -> xr.DataArray:
        return over_seeds(last[name].where(there).sel(origin))

    found = {"global accuracy": over_seeds(last["global_accuracy"])}
    for origin in ORIGINS:
        found |= {
            f"zero weights, mean of layers, {origin}": over_seeds(last[f"realised_sparsity_{origin}"]),
            f"channels of 224, {origin}": circuits("size", origin=origin) * ds.sizes["layer"],
            f"degenerate, {origin}": circuits("degenerate", origin=origin),
            f"overlap of clients, {origin}, corrected": overlap("specialist_distinctness", origin=origin),
        }
    found |= {
        "local-to-global IoU": circuits("local_global_iou"),
        "local-to-global IoU, corrected": overlap("local_global_iou"),
        "channels kept": over_seeds(kept),
        "channels kept, by chance": over_seeds(random),
        "empty pairs, local-to-global": circuits("empty_pairs_local_global"),
    }
    found |= {f"found again, {origin}": circuits("rediscovery_iou", origin=origin) for origin in ORIGINS}
    return found | {
        "cross-evaluation": over_seeds(cross.isel(round=-1)),
        "its balanced accuracy": circuits("cross_evaluation_balanced_accuracy", origin="local"),
        "share out, all rounds": over_seeds(interference.out(cross)),
    }


def markdown(found: Mapping[str, xr.Dataset]) -> str:
    """A row per figure; under each variant its mean, and its difference to the base."""
    values = {name: figures(ds) for name, ds in found.items()}
    lines = [f"| last round | {' | '.join(values)} |", "|" + "---|" * (len(values) + 1)]
    for label in values[BASE]:
        cells = [_cell(values, name, label) for name in values]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    lines.append(f"| seeds | {' | '.join(str(ds.sizes['seed']) for ds in found.values())} |")
    notes = (
        "95 % intervals over seeds; below each variant's mean its difference to the base, over the seeds that both "
        "have. Two empty sets count as 1 in IoU."
    )
    return "\n".join([*lines, "", notes, ""])


def _cell(values: Mapping[str, Mapping[str, xr.DataArray]], name: str, label: str) -> str:
    own = str(estimate(values[name][label]))
    return own if name == BASE else f"{own}<br>{paired(values[name][label], values[BASE][label])}"


def gathered(option: Choices) -> dict[str, xr.Dataset]:
    """Every variant of which there are results, the seeds of each joined; the base first."""
    there = _base(option) | pieces.load(option.out, variants(option)[1:])
    return {name: runs.joined([(option.out / name, ds) for ds in found]) for name, found in there.items() if found}


def _base(option: Choices) -> dict[str, list[xr.Dataset]]:
    at = option.base or option.out
    there = pieces.load(at, variants(option)[:1])
    if not there[BASE]:
        how = "run experiments.paper there" if option.base else "give --seeds"
        raise FedmiError(f"{at}: no results of {BASE} yet; {how}")
    return there


def main(option: Choices) -> None:
    wanted = variants(option)
    if option.base is not None:
        _base(option)  # before hours of work
        wanted = wanted[1:]
    seeds, at_once = range(option.seeds), option.at_once
    option.in_time(lambda until: pieces.run_missing(option.out, wanted, seeds, at_once, until=until))
    text = markdown(gathered(option))
    with files.replacing(option.out / "choices.md") as temporary:
        temporary.write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    pieces.ending(partial(main, tyro.cli(Choices)))

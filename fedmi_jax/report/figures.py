"""Every figure by its name, and drawing those that a folder's results allow."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import xarray as xr

from fedmi_jax.analysis import alignment
from fedmi_jax.analysis.runs import ABLATION, KINDS, Runs, differences, is_a, objective
from fedmi_jax.errors import ConfigError, FedmiError, unknown
from fedmi_jax.presets import PRESETS
from fedmi_jax.report import deciding_figures, graphs, matrices, more_figures, paper_figures, style
from fedmi_jax.results import undefined
from fedmi_jax.results.schema import ORIGINS, conv_layers
from fedmi_jax.results.statistics import COVERAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)
_WIRES = ("class_name", *(f"connected_{origin}_{{layer}}" for origin in ORIGINS))
_CIRCUITS = ("degenerate", "class_name")
_AGAIN = ("rediscovery_iou", "empty_pairs_rediscovery", "local_global_iou", "empty_pairs_local_global")
_CROSS = ("cross_evaluation", *_CIRCUITS)


def _overlap(measure: str) -> tuple[str, ...]:
    return measure, "empty_pairs_" + measure.removesuffix("_iou"), *_CIRCUITS


_DECISIONS = ("status", *(f"{on}{name}" for on in ("", "cross_evaluation_") for name in ("auc", "decision_accuracy")))
Shows = Literal["bands", "means", "circuits", "first"]
"""Of the seeds: mean and interval, the mean alone, all their circuits together, or the first one, which the figure then
names."""


@dataclass(frozen=True)
class Across:
    """A figure that shows one or several experiments of the paper together."""

    kinds: tuple[str, ...]
    """Experiments it shows; it is drawn as soon as one of them is there."""
    needs: tuple[str, ...]
    """Variables; with {layer} in its name one for each convolution."""
    draw: Callable[[Runs], list[Figure]]
    """Its pages."""
    rounds: int = 1
    """At least so many."""
    shows: Shows = "bands"


@dataclass(frozen=True)
class PerRun:
    """A figure of every run."""

    needs: tuple[str, ...]
    draw: Callable[..., list[Figure]]
    """Of a run; of one of `CHOSEN` also of a place in it."""
    asked: bool = False
    """Needs what only a run that was asked for it has: not missed elsewhere."""
    shows: Shows = "bands"


ACROSS: dict[str, Across] = {
    "fig01": Across(("iid",), _overlap("inter_client_iou"), paper_figures.fig01),
    "fig02": Across(("iid",), _overlap("local_global_iou"), paper_figures.fig02),
    "fig03": Across(("one-class",), _overlap("specialist_distinctness"), paper_figures.fig03),
    "fig04": Across(("one-class", "two-class"), _CROSS, paper_figures.fig04),
    "fig05": Across(("one-class",), _overlap("local_global_iou"), paper_figures.fig05),
    "fig06": Across(("three-class",), _overlap("specialist_distinctness"), paper_figures.fig06),
    "fig07": Across(("three-class",), _CROSS, paper_figures.fig07),
    "fig08": Across(("three-class",), _overlap("local_global_iou"), paper_figures.fig08),
    "fig09": Across(("shared-class",), _CROSS, paper_figures.fig09),
    "fig10": Across(("iid",), _overlap("stability_iou"), paper_figures.fig10, rounds=2),
    "fig11": Across(("iid",), _WIRES, graphs.fig11, shows="first"),
    "fig12": Across(("iid",), _WIRES, graphs.fig12, rounds=2, shows="first"),
    "fig13": Across(("iid",), _WIRES, graphs.fig13, shows="first"),
    "fig14": Across(("two-class",), _overlap("specialist_distinctness"), paper_figures.fig14),
    "fig15": Across(("two-class",), _overlap("local_global_iou"), paper_figures.fig15),
    "fig16": Across(("two-class",), _overlap("local_global_iou"), paper_figures.fig16),
    "fig17": Across(("three-class",), _overlap("local_global_iou"), paper_figures.fig17),
    "fig18": Across(("shared-class",), _overlap("local_global_iou"), paper_figures.fig18),
    "fig19": Across((ABLATION,), _CROSS, paper_figures.fig19),
    "averaging": Across(KINDS, ("global_class_accuracy", "local_class_accuracy", "samples"), more_figures.averaging),
}
PER_RUN: dict[str, PerRun] = {
    "heatmap": PerRun(_CIRCUITS, matrices.heatmap, shows="first"),
    "drift": PerRun(("drift_gap", *_CIRCUITS), more_figures.drift),
    "pairwise": PerRun(("class_pair_iou", "empty_pairs_class_pair", *_CIRCUITS), matrices.pairwise, shows="means"),
    "partition": PerRun(("samples", "true_class_name"), matrices.partition, shows="first"),
    "sparsity": PerRun(("realised_sparsity_local", "realised_sparsity_global"), more_figures.sparsity),
    "accuracy": PerRun(("global_class_accuracy", "local_class_accuracy", "true_class_name"), more_figures.accuracy),
    "specificity": PerRun(
        ("call_rate", "cross_evaluation_call_rate", "true_class_name", *_CIRCUITS),
        matrices.specificity,
        shows="means",
    ),
    "sufficiency": PerRun(("sufficiency", "necessity", "degenerate"), more_figures.sufficiency),
    "outages": PerRun(_CROSS, more_figures.outages),
    "kept": PerRun(_CIRCUITS, more_figures.kept),
    "ceiling": PerRun(_AGAIN, more_figures.ceiling, asked=True),
    "aligned": PerRun(
        ("aligned_local_global_iou", "local_global_iou", "empty_pairs_local_global", "degenerate"),
        more_figures.aligned,
        asked=True,
    ),
    "sizes": PerRun(
        ("status", "curve", "curve_size", "explained", "size"), deciding_figures.sizes, asked=True, shows="circuits"
    ),
    "evidence": PerRun(_DECISIONS, deciding_figures.evidence, asked=True),
    "readout": PerRun(
        ("readout_accuracy_global", "readout_accuracy_local", "samples"), deciding_figures.readout, asked=True
    ),
    "removed": PerRun(
        ("call_rate", "cross_evaluation_call_rate", "removed_call_rate", "true_class_name", *_CIRCUITS),
        matrices.removed,
        asked=True,
        shows="means",
    ),
}
CHOSEN: dict[str, PerRun] = {"circuit": PerRun(_WIRES, graphs.chosen, asked=True, shows="first")}
"""A figure of one place in a run, drawn when it is asked for by name."""
ALL: dict[str, Across | PerRun] = ACROSS | PER_RUN | CHOSEN
NAMES = tuple(ACROSS | PER_RUN)
"""Those that are drawn where none is named."""
Place = Mapping[str, int | None]
"""seed, client, class and round; None: not chosen."""
NOWHERE: Place = {"seed": None, "client": None, "class": None, "round": None}

_HOW = {
    "rediscovery_iou": "fedmi run PRESET --discovery.repeat last",
    "aligned_local_global_iou": "fedmi run PRESET --execution.save-weights",
    "status": "fedmi run PRESET --discovery.objective decision",
    "curve": "fedmi run PRESET --discovery.objective decision",
    "removed_call_rate": "fedmi run PRESET --discovery.objective decision",
    "readout_accuracy_global": "fedmi run PRESET --evaluation.readout-images 20",
}


def draw_all(
    runs: Runs, out: Path, only: Sequence[str], formats: Sequence[str], width: float | None = None,
    place: Place = NOWHERE,
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """Draw these figures, or all that belong to the runs: `out`/NAME.FORMAT, or NAME-RUN.FORMAT for one per run. What
    does not fit on a page goes on in NAME-RUN-page-2.FORMAT and so on.

    width: of a page in inches, None: 6.9; place: what the figures of `CHOSEN` show. Existing files are replaced, each
    as a whole. Returns the files and, one line each, what could not be drawn and how
    to produce what is missing. Raises ConfigError for a figure that there is not.
    """
    for name in only:
        if name.lower() not in ALL:
            raise ConfigError(f"only: {unknown(name, ALL)}")
    only, wanted, drawn, problems = [name.lower() for name in only], bool(only), [], []
    runs = {name: undefined.left_out(ds) for name, ds in runs.items()}
    for name in only or NAMES:
        figures, missing = _across(name, runs, wanted) if name in ACROSS else _per_run(name, runs, wanted, place)
        problems += missing
        for stem, draw, data, shown in figures:
            said = [_of(shown, ALL[name].shows), _unlike(shown)]
            with style.styled(width):
                paths, problem = _attempt(draw, data, said, [out / f"{stem}.{kind}" for kind in formats])
            drawn += paths
            problems += [f"{stem}: {problem}"] if problem else []
    return drawn, problems


def _attempt(
    draw: Callable[[Any], list[Figure]], data: Any, said: Sequence[str], paths: Sequence[Path]
) -> tuple[list[Path], str]:
    """The files of one figure, or why there are none. Raises FedmiError where no file can be written."""
    pages = None
    try:
        with style.styled():
            pages = draw(data)
        wide = max((page.get_figwidth() for page in pages), default=0)
        over = (
            f"is {wide:.1f} in wide: what it shows needs more than {style.page():g} in" if wide > style.page() else ""
        )
        return _save(pages, said, paths), over if style.page() != style.PAGE else ""
    except FedmiError as error:
        if pages is not None:
            raise
        return [], str(error)  # too little to draw, which only the figure could tell
    except Exception as error:  # an error in this package, which must not take the other figures away
        _LOG.debug("a figure failed", exc_info=True)
        return [], f"cannot be drawn ({type(error).__name__}: {' '.join(str(error).split())[:100]}); please report it"


def _save(pages: Sequence[Figure], said: Sequence[str], paths: Sequence[Path]) -> list[Path]:
    """The first page under these paths, the others beside it; in the small print of each what is said of all."""
    drawn = []
    for number, page in enumerate(pages, 1):
        count = f"page\xa0{number}\xa0of\xa0{len(pages)}" if len(pages) > 1 else ""
        with style.styled():
            for part in (*said, count):
                style.say(page, part)
        own = paths if number == 1 else [path.with_name(f"{path.stem}-page-{number}{path.suffix}") for path in paths]
        drawn += [style.save(page, path) for path in own]
    return drawn


def _unlike(runs: Runs) -> str:
    """In what the runs are not the paper's; runs that differ in the same are named together."""
    found: dict[str, list[str]] = {}
    for name, ds in runs.items():
        found.setdefault(_differs(name, ds), []).append(name)
    return "; ".join(
        f"{', '.join(names)}: {differs}" if len(found) > 1 else differs for differs, names in found.items() if differs
    )


def _differs(name: str, ds: xr.Dataset) -> str:
    found = differences(name, ds)
    if (search := objective(ds)) != "class":
        share = undefined.share(ds)
        without = f" (without {share:.0%} of them, whose models decide nothing)" if share else ""
        said = f"circuits searched with objective {search}{without}"
        return ", ".join([said, *(one for one in found if one.startswith("data"))])
    if is_a(name, KINDS):
        return f"unlike the paper's: {', '.join(found)}" if found else ""
    return ", ".join(["none of the paper's experiments", *(one for one in found if one.startswith("data"))])


def _of(runs: Runs, shows: Shows) -> str:
    """What a figure shows: runs, how many seeds, what its bands are."""
    by_seeds: dict[int, list[str]] = {}
    for name, ds in runs.items():
        by_seeds.setdefault(ds.sizes["seed"], []).append(name)
    said = {n: f": {n} seeds ({_many(n, shows)})" if n > 1 else ": 1 seed" for n in by_seeds}
    return "; ".join(", ".join(names) + (said[n] if shows != "first" else "") for n, names in by_seeds.items())


def _many(seeds: int, shows: Shows) -> str:
    if shows != "bands":
        return "all circuits" if shows == "circuits" else "mean"
    narrow = f", which holds the true mean in {100 * COVERAGE[seeds]:.0f} % of cases" if seeds in COVERAGE else ""
    return f"mean, 95 % bootstrap interval{narrow}"


def index(files: Sequence[Path]) -> str:
    """Markdown: what each figure shows, with links to its files, relative to the folder above theirs."""
    lines = []
    for name in NAMES:
        own = [path for path in files if path.stem == name or path.stem.startswith(f"{name}-")]
        links = ", ".join(f"[{path.stem.removeprefix(f'{name}-')}]({path.parent.name}/{path.name})" for path in own)
        summary = " ".join((ALL[name].draw.__doc__ or "").split("\n\n")[0].split())
        lines += [f"- `{name}`: {summary} {links}"] if own else []
    return "\n".join(lines)


_Work = tuple[list[tuple[str, Callable, Any, Runs]], list[str]]
"""Stem of the file, how it is drawn and from what, and which runs that shows; what cannot be drawn."""


def _across(name: str, runs: Runs, wanted: bool) -> _Work:
    """Wanted by name: its experiment must be there."""
    spec = ACROSS[name]
    there = {run: ds for run, ds in runs.items() if is_a(run, spec.kinds)}
    if not there:
        how = " or ".join(f"`fedmi run {kind} --out DIR/{kind}`" for kind in spec.kinds)
        return [], [f"{name}: needs {' or '.join(spec.kinds)}, which is not there; produce it with {how}"] * wanted
    missing = [
        _missing(name, run, ds, spec.needs) or _too_short(name, run, ds, spec.rounds) for run, ds in there.items()
    ]
    usable = {run: ds for (run, ds), lack in zip(there.items(), missing, strict=True) if not lack}
    figures: list[tuple[str, Callable, Any, Runs]] = [(name, spec.draw, usable, usable)] if usable else []
    return figures, [lack for lack in missing if lack]


def _per_run(name: str, runs: Runs, wanted: bool, place: Place) -> _Work:
    spec, figures, problems = (PER_RUN | CHOSEN)[name], [], []
    stem = name
    if name in CHOSEN:
        spec = replace(spec, draw=partial(spec.draw, place=place))
        stem = "-".join([name, *(f"{dim}-{label}" for dim, label in place.items() if label is not None)])
    for run, ds in runs.items():
        lack = _missing(name, run, ds, spec.needs)
        if not lack:
            figures.append((f"{stem}-{run}", spec.draw, ds, {run: ds}))
        elif wanted or not spec.asked:
            problems.append(lack)
    return figures, problems


def _too_short(name: str, run: str, ds: xr.Dataset, rounds: int) -> str:
    if ds.sizes["round"] >= rounds:
        return ""
    return f"{name}: {run} has {ds.sizes['round']} round, {rounds} are needed; produce them with `--rounds {rounds}`"


def needed(needs: Sequence[str], ds: xr.Dataset) -> list[str]:
    """The variables of this result that a figure needs, layers filled in."""
    each = conv_layers(ds)
    return [name.format(layer=k) for name in needs for k in (each if "{layer}" in name else each[:1])]


def _missing(name: str, run: str, ds: xr.Dataset, needs: Sequence[str]) -> str:
    """What the figure lacks in this run, in one line; empty: nothing."""
    absent = [variable for variable in needed(needs, ds) if variable not in ds]
    if absent == ["aligned_local_global_iou"] and alignment.has_aligned(ds):
        return ""
    if not absent:
        return ""
    how = _HOW.get(absent[0], "fedmi run PRESET").replace("PRESET", run if run in PRESETS else "PRESET")
    imported = "" if "config" in ds.attrs else "; files of the paper's authors do not have it"
    return f"{name}: {run} has no {', '.join(absent)}; produce it with `{how} --out DIR`{imported}"

"""The paper's figures 1 to 19 but for the graphs (`graphs`), each from the runs of its experiment (METHOD: section 7).

Every function takes the runs (`analysis.runs.Runs`) and gives the figure's pages, mostly one. Captions of the paper say
less than one would wish; where they leave open whose circuits are shown, local and global ones stand side by side.
Functions raise FedmiError where there is nothing to show.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fedmi_jax.analysis import nulls
from fedmi_jax.analysis.runs import Runs, levels, sparsity_level
from fedmi_jax.report import style
from fedmi_jax.report.curves import (
    Panel,
    bars,
    cross_evaluation,
    draw,
    names,
    overlap,
    own_classes,
    require_values,
)
from fedmi_jax.results.schema import ORIGINS, conv_layers

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def _per_class(ds: xr.Dataset, measure: str) -> list[Figure]:
    """Classes side by side, as many as there is room for, local circuits above global ones."""
    labels = names(ds)
    columns = style.columns([f"{name}, global circuits" for name in labels.values()], len(labels))
    rows = [
        [overlap(f"{labels[c]}, {origin} circuits", ds, measure, origin, {"class": c}) for c in some]
        for some in style.chunks(list(labels), columns)
        for origin in ORIGINS
    ]
    return draw(style.in_rows(rows, columns), columns, "IoU")


def fig01(runs: Runs) -> list[Figure]:
    """IID: inter-client consistency."""
    return _per_class(runs["iid"], "inter_client_iou")


def fig02(runs: Runs) -> list[Figure]:
    """IID: local against global circuits, mean over clients."""
    ds = runs["iid"]
    panels = [overlap(name, ds, "local_global_iou", None, {"class": c}) for c, name in names(ds).items()]
    return draw(panels, len(panels), "local-to-global IoU")


def fig10(runs: Runs) -> list[Figure]:
    """IID: stability from round to round, mean over clients."""
    return _per_class(runs["iid"], "stability_iou")


def fig03(runs: Runs) -> list[Figure]:
    """One class per client: overlap between clients in the last round."""
    ds = runs["one-class"]
    figure, (axes,) = style.grid(1, 1, 1.9, style.column())
    last, chance = (part.isel(round=-1) for part in (ds, nulls.expected(ds)))
    value, null = last["specialist_distinctness"], chance["specialist_distinctness"].mean("seed")
    require_values(value, "no two clients have circuits in the last round")
    empty, places = last["empty_pairs_specialist_distinctness"], np.arange(ds.sizes["layer"])
    for at, (origin, colour) in zip((places, places + 0.38), style.ORIGINS.items(), strict=True):
        own = {"origin": origin}
        bars(axes, at, value.sel(own), empty.sel(own), 0.34, colour, f"{origin} circuits")
        axes.hlines(null.sel(own), at - 0.19, at + 0.19, color=style.NULL, lw=2, label="random sets")
    axes.set_xticks(places + 0.19, conv_layers(ds))
    axes.set(ylabel="IoU between clients, last round", ylim=(0, 1.04))
    style.legend(figure, [axes], 2)
    return [figure]


def _cross_panels(ds: xr.Dataset, prefix: str = "") -> list[Panel]:
    return [cross_evaluation(f"{prefix}client {k}", ds, k) for k in ds["client"].values.tolist()]


def _cross(panels: list[Panel], columns: int, height: float) -> list[Figure]:
    return draw(panels, columns, "cross-evaluation", height)


def _cross_by_run(runs: Runs, prefixes: dict[str, str], height: float) -> list[Figure]:
    """The clients of one run side by side, as many as there is room for, those of the next run below."""
    groups = [_cross_panels(runs[name], prefix) for name, prefix in prefixes.items()]
    titles = [panel.title for group in groups for panel in group]
    columns = style.columns(titles, max(map(len, groups)))
    return draw(style.in_rows(groups, columns), columns, "cross-evaluation", height)


def fig04(runs: Runs) -> list[Figure]:
    """One and two classes per client: local circuits on the global model. Of the two runs, those that are there."""
    return _cross_by_run(runs, {name: f"{name}, " for name in ("one-class", "two-class") if name in runs}, 1.45)


def fig07(runs: Runs) -> list[Figure]:
    """Three classes per client: local circuits on the global model."""
    return _cross(_cross_panels(runs["three-class"]), 1, 1.3)


def fig09(runs: Runs) -> list[Figure]:
    """A shared class: local circuits on the global model."""
    return _cross(_cross_panels(runs["shared-class"]), 3, 1.7)


def fig19(runs: Runs) -> list[Figure]:
    """Sparsity ablation: local circuits on the global model, one row per level."""
    return _cross_by_run(runs, {name: f"{100 * sparsity_level(name):g} % sparse, " for name in levels(runs)}, 1.25)


def _kept(ds: xr.Dataset, clients: list[int]) -> list[Panel]:
    """Local against global, one panel per client and class."""
    labels = names(ds)
    return [
        overlap(f"client {k}, {labels[c]}", ds, "local_global_iou", None, {"client": k, "class": c})
        for k in clients
        for c in own_classes(ds, k)
    ]


def _local_global(panels: list[Panel]) -> list[Figure]:
    return draw(panels, 3, "local-to-global IoU")


def fig05(runs: Runs) -> list[Figure]:
    """One class per client: local against global circuits."""
    ds = runs["one-class"]
    return _local_global(_kept(ds, ds["client"].values.tolist()))


def fig08(runs: Runs) -> list[Figure]:
    """Three classes per client: local against global circuits of client 0."""
    return _local_global(_kept(runs["three-class"], runs["three-class"]["client"].values[:1].tolist()))


def fig17(runs: Runs) -> list[Figure]:
    """Three classes per client: local against global circuits of all clients."""
    return _local_global(_kept(runs["three-class"], runs["three-class"]["client"].values.tolist()))


def fig15(runs: Runs) -> list[Figure]:
    """Two classes per client: local against global circuits, mean over a client's classes."""
    ds = runs["two-class"]
    clients = ds["client"].values.tolist()
    return _local_global([overlap(f"client {k}", ds, "local_global_iou", None, {"client": k}) for k in clients])


def fig16(runs: Runs) -> list[Figure]:
    """Two classes per client: local against global circuits, class by class."""
    ds = runs["two-class"]
    return draw(_kept(ds, ds["client"].values.tolist()), 2, "local-to-global IoU", 1.3)


def fig18(runs: Runs) -> list[Figure]:
    """A shared class: local against global circuits."""
    ds = runs["shared-class"]
    return _local_global(_kept(ds, ds["client"].values.tolist()))


def _between_clients(ds: xr.Dataset) -> list[Figure]:
    """Specialists share no class, so the union of each client's circuits is compared."""
    panels = [overlap(f"{o} circuits", ds, "specialist_distinctness", o, {}) for o in ("local", "global")]
    return draw(panels, 2, "IoU between clients", 1.7)


def fig06(runs: Runs) -> list[Figure]:
    """Three classes per client: overlap between clients."""
    return _between_clients(runs["three-class"])


def fig14(runs: Runs) -> list[Figure]:
    """Two classes per client: overlap between clients."""
    return _between_clients(runs["two-class"])

"""Figures that the paper does not have: what every single run can show about itself, over rounds or in bars, and what
averaging costs in all of them.

Each takes one result, or all (`analysis.runs.Runs`), and gives the figure's pages, mostly one (`matrices` has those
with cells). Functions raise FedmiError where there is nothing to show.

Axes: S seeds, R rounds, K clients, C classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from fedmi_jax.analysis import alignment, interference, measures, nulls
from fedmi_jax.analysis.runs import ABLATION, Runs, is_a, place, settings
from fedmi_jax.errors import FedmiError
from fedmi_jax.report import style
from fedmi_jax.report.curves import Curve, Panel, bars, convention, degenerate, draw, names, over_rounds, own_classes
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import conv_layers
from fedmi_jax.results.statistics import estimate, over_seeds
from fedmi_jax.results.worth import on_held_classes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def drift(ds: xr.Dataset) -> list[Figure]:
    """What the circuit found on the global model reaches beyond the local one there."""
    gap, flags, labels = ds["drift_gap"].sel(origin="local"), degenerate(ds, "local"), names(ds)
    panels = []
    for k in ds["client"].values.tolist():
        curves = [
            Curve(labels[c], gap.sel({"client": k, "class": c}), *style.look(c), flags.sel({"client": k, "class": c}))
            for c in own_classes(ds, k)
        ]
        panels.append(Panel(f"client {k}", curves))
    pages = draw(panels, 3, "drift gap: accuracy,\nglobal minus local circuit")
    for axes in (axes for figure in pages for axes in style.shown(figure)):
        axes.set(ylim=(-1.14, 1.14), yticks=(-1, 0, 1))
        axes.axhline(0, color=style.NULL, lw=0.6, zorder=0)
    return pages


LEAST = 1e-4
"""Where the logarithmic scale of shares ends."""


def sparsity(ds: xr.Dataset) -> list[Figure]:
    """Share of weights that are left, per tensor, after local training and after averaging; on a logarithmic scale."""
    panels = []
    for origin in ("local", "global"):
        values = 1 - ds[f"realised_sparsity_{origin}"]
        values = values.mean([d for d in values.dims if d not in ("seed", "round", "parameter_layer")])
        note = f"at {LEAST}: that or less" if (values < LEAST).any() else ""
        curves = [
            Curve(str(n), values.sel(parameter_layer=n).clip(min=LEAST), *style.look(i))
            for i, n in enumerate(values["parameter_layer"].values)
        ]
        panels.append(Panel(f"{origin} models", curves, note=note))
    pages = draw(panels, 2, "weights left, not 0", 1.7)
    lowest = min(float(curve.values.fillna(1).min()) for panel in panels for curve in panel.curves)
    for axes in style.shown(pages[0]):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set(ylim=(lowest / 1.3, 1.3))
    return pages


def accuracy(ds: xr.Dataset) -> list[Figure]:
    """The whole global model, class by class, beside it the mean of the local models of its holders."""
    local, panels = ds["local_class_accuracy"], []
    local = (local.where(ds["samples"] > 0) if "samples" in ds else local).mean("client")
    for c, name in names(ds, "true_class").items():
        own, whole = (values.sel(true_class=c) for values in (local, ds["global_class_accuracy"]))
        curves = [Curve("global model", whole, style.ORIGINS["global"], "o")]
        if own.notnull().any():  # somebody holds the class
            curves.append(Curve("local models of its holders", own, style.ORIGINS["local"], "s"))
        panels.append(Panel(name, curves))
    return draw(panels, 5, "accuracy", 1.3)


def averaging(runs: Runs) -> list[Figure]:
    """Accuracy of whole models on the classes that clients hold: what averaging costs. Grey: a model that gives one
    answer to everything."""
    panels = []
    for name, ds in sorted(runs.items(), key=lambda run: place(run[0])):
        found, known = on_held_classes(ds), settings(ds)
        title = "ablation" if is_a(name, (ABLATION,)) else name
        title += f", {100 * known['sparsity']['target']:g} % sparse" if known else ""
        curves = [
            Curve(label, over_rounds(found[f"{origin}_held_accuracy"]), style.ORIGINS[origin], marker)
            for origin, label, marker in (("local", "local models, own classes", "s"),
                                          ("global", "averaged model, all classes held", "o"))
        ]  # fmt: skip
        classes = (ds["samples"] > 0).any("client").sum("true_class")
        chance = (1 / classes.where(classes > 0)).broadcast_like(found["global_held_accuracy"])
        panels.append(Panel(title, curves, chance, "an averaged model with one answer to everything"))
    return draw(panels, 3, "accuracy", 1.3)


def sufficiency(ds: xr.Dataset) -> list[Figure]:
    """Accuracy on the class with only the circuit kept, and with exactly the circuit removed, means over circuits;
    dashed, the same of random masks of their sizes, where the run has them, else of the empty mask."""
    panels = []
    for name, title in (("sufficiency", "circuit kept"), ("necessity", "circuit removed")):
        chances = {f"random_{name}": "random masks"}
        if name == "sufficiency":
            chances["empty_mask_accuracy"] = "empty mask"
        random = next((of for of in chances if of in ds), None)
        curves = []
        for (origin, colour), mark in zip(style.ORIGINS.items(), style.MARKERS, strict=False):
            value, null = (of and over_rounds(ds[of].sel(origin=origin).where(held(ds))) for of in (name, random))
            flags = over_rounds(degenerate(ds, origin))
            curves.append(Curve(f"{origin} circuits", value, colour, mark, flags, null))  # type: ignore[arg-type]
        panels.append(Panel(f"{name}: {title}", curves, null_label=chances.get(random or "", "")))
    return draw(panels, 2, "accuracy on the class", 1.7)


def outages(ds: xr.Dataset) -> list[Figure]:
    """Share of circuits under 1 % on the global model, and how often and how long."""
    cross = measures.cross_evaluation(ds)
    flags = over_rounds(degenerate(ds, "local"))
    curve = Curve("local circuits", interference.out_share(cross), style.BLUE, "o", flags)
    found = measures.random_cross_evaluation(ds)
    label, null = ("", None) if found is None else (found[0], over_rounds(interference.out(found[1])))
    falls, back = (estimate(over_seeds(of(cross))) for of in (interference.collapses, interference.recoveries))
    longest = float(interference.longest_outage(cross).max())
    title = f"per circuit: collapses {falls}, recoveries {back} (also of circuits out from the start); longest outage "
    title += f"{longest:.0f} round{'' if longest == 1 else 's'}" if np.isfinite(longest) else "-"
    return draw([Panel(title, [curve], null, label)], 1, "share of circuits under 1 %", 1.9)


def kept(ds: xr.Dataset) -> list[Figure]:
    """How much of the local circuit lies in the global one, and of the global one in the local one; dashed, the same of
    random sets of their sizes. Where the first is near 1 and the second is not, the circuit has grown, not moved."""
    ways = (
        ("local circuit's channels that are in the global one", "local", "global", style.BLUE, "o"),
        ("global circuit's channels that are in the local one", "global", "local", style.ORANGE, "s"),
    )
    found = [(label, measures.contained(ds, inner, outer), colour, mark) for label, inner, outer, colour, mark in ways]
    if not any(values.notnull().any() for _, (values, _), *_ in found):
        raise FedmiError("there is nothing to show: no circuit has a channel")
    panels, flags = [], over_rounds(degenerate(ds, None))
    for layer in conv_layers(ds):
        curves = []
        for label, parts, colour, mark in found:
            value, null = (over_rounds(part.sel(layer=layer)) for part in parts)
            curves.append(Curve(label, value, colour, mark, flags, null))
        panels.append(Panel(layer, curves, null_label="random sets"))
    return draw(panels, 3, "share of channels", 1.7)


def ceiling(ds: xr.Dataset) -> list[Figure]:
    """Local-to-global IoU in the last round between its ceiling, a circuit found twice, and chance."""
    last, chance = ds.isel(round=-1), nulls.expected(ds).isel(round=-1)
    again, twice = last["rediscovery_iou"], last["empty_pairs_rediscovery"]
    rows: list[tuple[str, Any, Any, str]] = [
        (f"found again, {o}", again.sel(origin=o), twice.sel(origin=o), colour) for o, colour in style.ORIGINS.items()
    ]
    rows += [
        ("local to global", last["local_global_iou"], last["empty_pairs_local_global"], style.GREEN),
        ("random sets", chance["local_global_iou"], last["empty_pairs_local_global"], style.NULL),
    ]
    if not any(values.notnull().any() for _, values, *_ in rows):
        raise FedmiError("there is nothing to show: no client has a circuit in the last round")
    figure, (axes,) = style.grid(1, 1, 1.9, style.column())
    places = np.arange(ds.sizes["layer"])
    for i, (label, values, empty, colour) in enumerate(rows):
        bars(axes, places + 0.2 * i, over_rounds(values), over_rounds(empty), 0.18, colour, label)
    axes.set_xticks(places + 0.3, conv_layers(ds))
    axes.set(ylabel="IoU, last round", ylim=(0, 1.04))
    style.legend(figure, [axes], 2)
    return [figure]


def aligned(ds: xr.Dataset) -> list[Figure]:
    """Local-to-global IoU, the same after the best matching of channels, and the share of channels that this moves."""
    found, chance = alignment.aligned(ds), nulls.expected(ds)["local_global_iou"]
    note, flags = convention(ds["empty_pairs_local_global"]), over_rounds(degenerate(ds, None))
    panels = []
    for layer in conv_layers(ds):
        pairs = (
            ("as it is", ds["local_global_iou"], "o", style.BLUE),
            ("channels aligned", found["aligned_local_global_iou"], "s", style.VERMILLION),
            ("share of channels moved", found["moved"], "^", style.PURPLE),
        )
        curves = [
            Curve(label, over_rounds(v.sel(layer=layer)), colour, mark, flags) for label, v, mark, colour in pairs
        ]
        null = over_rounds(chance.sel(layer=layer))
        panels.append(Panel(layer, curves, null, "random sets", note))
    return draw(panels, 3, "local-to-global IoU,\nor share of channels")

"""Figures of circuits that decide (objective "decision" or "contrast", or `--evaluation.decisions`).

Each takes one result and gives the figure's pages. Functions raise FedmiError where there is nothing to show.

Axes: S seeds, R rounds, K clients, C classes, L sizes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from fedmi_jax.analysis import units
from fedmi_jax.analysis.runs import settings
from fedmi_jax.report import style
from fedmi_jax.report.curves import Curve, Panel, draw, over_rounds, require_values
from fedmi_jax.results.schema import ORIGINS, STATUS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = -0.25
"""Where the axis of the share explained ends: what is worse than a constant answer is not told apart."""


def sizes(ds: xr.Dataset) -> list[Figure]:
    """Share of the decision that the best channels explain, over how many of them, in the last round: the median of the
    circuits and the middle half of them; circles, the circuits after trimming; crosses, random live sets of their
    sizes."""
    last = ds.isel(round=slice(-1, None))
    require_values(units.of(last, "curve"), "no local model decides about its class in the last round")
    figure, axes = style.grid(2, 2, 2.2)
    for one, origin in zip(axes, ORIGINS, strict=True):
        _over_size(one, last, origin)
        if origin == "local":
            one.set_ylabel("share of the decision explained")
    style.legend(figure, axes)
    style.say(
        figure,
        "curves: on probe images; circles and crosses: on test images; line and band: median and middle half of "
        f"the circuits; at {LEAST}: that or less",
    )
    return [figure]


def _over_size(axes: Axes, last: xr.Dataset, origin: str) -> None:
    """One origin's curves."""
    curve, tried = (units.of(last, name, origin) for name in ("curve", "curve_size"))
    rows = np.isfinite(curve.values).all(-1)
    at = np.unique(tried.values[rows].astype(int))
    colour = style.ORIGINS[origin]
    if rows.any():
        each = _at_sizes(tried.values[rows], curve.values[rows], at)
        low, middle, high = np.maximum(np.quantile(each, (0.25, 0.5, 0.75), axis=0), LEAST)
        axes.fill_between(at, low, high, color=colour, alpha=0.18, lw=0)
        axes.plot(at, middle, color=colour, lw=1.6, label=f"{origin} circuits: best channels")
        _points(axes, last, origin, "explained", "o", colour, "the circuits")
        if "random_live_explained" in last:
            _points(axes, last, origin, "random_live_explained", "x", style.NULL, "random live sets")
    target = (settings(last) or {}).get("discovery", {}).get("target")
    if target is not None:
        axes.axhline(target, color=style.BLACK, lw=0.6, ls=(0, (1, 2)), zorder=1, label=f"target {target:g}")
    there, without = int(rows.sum()), int(np.nansum(units.undefined(last, origin).values))
    title = f"{origin} models: {there} circuit{'' if there == 1 else 's'}, {without} undefined"
    axes.set(title=title, xlabel="channels", ylim=(LEAST - 0.03, 1.05), yticks=(0, 0.5, 1))
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    if not rows.any():
        axes.text(0.5, 0.5, "no circuit", color=style.NULL, ha="center", va="center", transform=axes.transAxes)


def _at_sizes(tried: np.ndarray, curve: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Curves (n, L) of sizes (n, L) at these sizes; from all live channels on a curve stays where it ends."""
    return np.array([np.interp(np.log2(at), np.log2(own), values) for own, values in zip(tried, curve, strict=True)])


def _points(axes: Axes, last: xr.Dataset, origin: str, name: str, mark: str, colour: str, label: str) -> None:
    """What every circuit, or the mean of its random sets, explains at its size."""
    values = units.of(last, name, origin)
    values = values.mean("sample") if "sample" in values.dims else values
    flat = np.maximum(values.values.ravel(), LEAST)
    at, inside = units.size(last, origin).values.ravel(), "white" if mark == "o" else colour
    axes.plot(at, flat, mark, color=colour, mfc=inside, ms=2.6, mew=0.7, label=label)


def evidence(ds: xr.Dataset) -> list[Figure]:
    """What of local circuits is left on the averaged model: the evidence for the class, as AUC of its log-odds, and the
    answer, as balanced accuracy; dashed, the same of random live sets. Means over circuits of competent models."""
    require_values(units.of(ds, "auc"), "no local model decides about its class")
    panels = []
    for name, title in (("auc", "evidence: AUC of the class"), ("decision_accuracy", "answer: balanced accuracy")):
        curves = []
        ways = (("", "on their own models", style.ORIGINS["local"], "o"),
                ("cross_evaluation_", "on the averaged model", style.ORIGINS["global"], "s"))  # fmt: skip
        for prefix, label, colour, mark in ways:
            random = f"random_live_{prefix}{name}"
            null = over_rounds(units.of(ds, random)) if random in ds else None
            value = over_rounds(units.of(ds, prefix + name))
            curves.append(Curve(f"local circuits {label}", value, colour, mark, null=null))
        panels.append(Panel(title, curves, null_label="random live sets", note=_undefined(ds)))
    pages = draw(panels, 2, "", 2.1)
    for axes in (axes for page in pages for axes in style.shown(page)):
        axes.axhline(0.5, color=style.NULL, lw=0.6, zorder=0)
        axes.set(ylim=(0.37, 1.03), yticks=(0.5, 0.75, 1))
    return pages


def _undefined(ds: xr.Dataset) -> str:
    """For the small print: how many circuits are left out."""
    share = {origin: float(units.undefined(ds, origin).mean()) for origin in ORIGINS}
    said = ", ".join(f"{value:.0%} of {origin} ones" for origin, value in share.items())
    return f"{STATUS[-1]}, of models that decide nothing about the class, hence without a circuit: {said}"


_REFITTED = {
    "none": ("averaged model as it is", style.ORIGINS["global"], "s"),
    "scale-and-biases": ("its scale and biases refitted", style.VERMILLION, "^"),
    "linear": ("its linear layer refitted", style.PURPLE, "D"),
}


def readout(ds: xr.Dataset) -> list[Figure]:
    """Accuracy of the averaged model over the classes that its clients hold, as it is and with its read-out refitted on
    a few images; beside it the mean of the local models, each over its client's own classes."""
    whole, own = ds["readout_accuracy_global"], ds["readout_accuracy_local"].sel(refit="none")
    curves = [Curve("local models as they are", own.mean("client"), style.ORIGINS["local"], "o")]
    curves += [Curve(label, whole.sel(refit=name), colour, mark) for name, (label, colour, mark) in _REFITTED.items()]
    images = (settings(ds) or {}).get("evaluation", {}).get("readout_images")
    note = f"refitted on {images} training images of each class; " if images else ""
    classes = int((ds["samples"].isel(seed=0) > 0).any("client").sum())
    chance = whole.sel(refit="none", drop=True) * 0 + 1 / max(classes, 1)
    note += f"the averaged model chooses among {classes} classes, a local one among its client's"
    return draw(
        [Panel("read-out of the averaged model", curves, chance, "chance of the averaged model", note)],
        1,
        "accuracy",
        2.2,
    )

"""The paper's claims once more, with circuits that decide: the number of each that such circuits have.

They stand beside the claims and are no verdicts; what is decided about such circuits was predicted before any run
(`predictions`). Only circuits of competent models count (`units`), and how many are undefined stands beside.

Axes: S seeds, R rounds, K clients, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from fedmi_jax.analysis import instruments, interference, measures, predicted, runs, sizes, units
from fedmi_jax.analysis.instruments import Key, Results
from fedmi_jax.analysis.parts import Part, missing
from fedmi_jax.analysis.predicted import COMPETENT, ON_OTHER, ON_OWN, on
from fedmi_jax.analysis.predicted_sizes import MATCHED
from fedmi_jax.presets import LEVELS
from fedmi_jax.results.statistics import estimate, over_seeds


def of(loaded: Iterable[tuple[Path, xr.Dataset]]) -> dict[str, list[Part]]:
    """`told`, of those of these results that were searched for circuits that decide."""
    return told(instruments.sort_out([one for one in loaded if runs.objective(one[1]) == "decision"]).results)


def told(results: Results, objective: str = "decision") -> dict[str, list[Part]]:
    """By claim, C1 to C12, the parts that can be measured on these results."""
    there = {key: ds for key, ds in results.items() if key.objective == objective}
    found = {name: measure(there, objective) for name, measure in CLAIMS.items()} if there else {}
    return {name: [one for one in parts if not one.lacks] for name, parts in found.items()}


def _part(
    label: str, experiment: str, value: xr.DataArray, ds: xr.Dataset, null: xr.DataArray | None = None,
    detail: str = "", origin: str = "local",
) -> Part:  # fmt: skip
    """value, null: (S, ...), averaged over everything but the seeds."""
    found = estimate(over_seeds(value))
    chance = float(over_seeds(null).mean()) if null is not None and null.notnull().any() else None
    undefined = float(units.undefined(ds, origin).mean())
    if not found.seeds:
        return missing(label, experiment, "there is no such circuit", beside=True)
    return Part(label, (experiment,), found, null=chance, undefined=undefined, detail=detail, beside=True)


# --- overlaps ---


def _overlap(
    pairs: Callable[[sizes.Sets], sizes.Pairs], experiment: str, rounds: slice, results: Results, objective: str
) -> list[Part]:
    """Of local circuits as they are, and of their best channels at equal size."""

    def iou(ds: xr.Dataset, label: str, size: int | None) -> Part:
        there = units.competent(ds)
        sets = sizes.circuits(ds, there) if size is None else sizes.best(ds, units.found(ds), size)
        if pairs is not sizes.local_to_global:
            sets = sizes.Sets(*(part.sel(origin=["local"]) for part in sets))
        found = sizes.overlaps(pairs(sets))
        value, chance = (part.isel(round=rounds) for part in found)
        return _part(label, experiment, value, ds, chance, _found_again(ds) if size is None else "")

    key = Key(experiment, objective, predicted.asked(experiment))
    needs = ("status", "live_conv1", "score_conv1")
    return [
        on(results, key, needs, label, partial(iou, label=label, size=size))
        for label, size in (
            (f"{experiment}, IoU", None),
            (f"{experiment}, IoU of the best {MATCHED} channels", MATCHED),
        )
    ]


def _found_again(ds: xr.Dataset) -> str:
    if "rediscovery_iou" not in ds:
        return ""
    again = ds["rediscovery_iou"].where(units.competent(ds)).sel(origin="local")
    return f"found again {float(again.mean()):.2f}" if again.notnull().any() else ""


def _transfer(experiment: str, rounds: slice, results: Results, objective: str) -> list[Part]:
    """The functional twin of an overlap."""
    label = f"{experiment}, explained on the global model over what its own circuits explain"

    def ratio(ds: xr.Dataset) -> Part:
        across, own = units.of(ds, "cross_evaluation_explained"), units.of(ds, "explained", "global")
        value = units.ratio_of_means(across.isel(round=rounds), own.isel(round=rounds), 0)
        return _part(label, experiment, value, ds, origin="global")

    key = Key(experiment, objective, predicted.asked(experiment))
    return [on(results, key, ("cross_evaluation_explained", "explained"), label, ratio)]


def _c1(results: Results, objective: str) -> list[Part]:
    return _overlap(sizes.between_clients, "iid", measures.ALL_ROUNDS, results, objective)


def _c2(results: Results, objective: str) -> list[Part]:
    return _overlap(sizes.round_before, "iid", measures.LAST_ROUNDS, results, objective)


def _kept(experiment: str, rounds: slice, results: Results, objective: str) -> list[Part]:
    return _overlap(sizes.local_to_global, experiment, rounds, results, objective) + _transfer(
        experiment, rounds, results, objective
    )


def _c3(results: Results, objective: str) -> list[Part]:
    return _kept("iid", measures.LAST_ROUNDS, results, objective)


def _c9(results: Results, objective: str) -> list[Part]:
    return _kept("three-class", measures.ALL_ROUNDS, results, objective)


# --- clients with other classes ---


def _distinct(experiment: str, rounds: slice, results: Results, objective: str) -> list[Part]:
    """Overlap of what two clients use for any class, and what it costs to remove a client's circuits."""

    def unions(ds: xr.Dataset) -> Part:
        found = sizes.overlaps(sizes.between_clients(_unions(ds)))
        value, chance = (part.isel(round=rounds) for part in found)
        return _part(labels[0], experiment, value, ds, chance)

    def damage(ds: xr.Dataset) -> Part:
        own, others = _damage(ds.isel(round=rounds))
        detail = f"to the class itself {float(own.mean()):.2f}, to the others {float(others.mean()):.2f}"
        return _part(labels[1], experiment, own - others, ds, detail=detail, origin="global")

    labels = (
        f"{experiment}, IoU of two clients' channels",
        f"{experiment}, accuracy lost with a circuit removed from the global model: its class less all others",
    )
    key = Key(experiment, objective, predicted.asked(experiment))
    return [
        on(results, key, ("status", "live_conv1"), labels[0], unions),
        on(results, key, ("removed_class_accuracy", "global_class_accuracy"), labels[1], damage),
    ]


def _unions(ds: xr.Dataset) -> sizes.Sets:
    """Channels of any circuit of each client's local model, as circuits of one class, (S, R, O, K, C, channel)."""
    sets = sizes.circuits(ds, units.competent(ds))
    chosen, live = (part.sel(origin=["local"]).max("class").expand_dims("class", 4) for part in sets)
    return sizes.Sets(chosen, live)


def _damage(ds: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    """Accuracy of the whole global model less that without a client's circuit: on the circuit's class, and the mean of
    all other classes that are analysed; (S, R, K, C). The second is of some of the images that the first is of."""
    lost = ds["global_class_accuracy"] - units.of(ds, "removed_class_accuracy", "global")
    lost = lost.sel(true_class=ds["class"].values).transpose("seed", "round", "client", "class", "true_class")
    own = xr.DataArray(np.eye(ds.sizes["class"], dtype=bool), dims=("class", "true_class"))
    own = own.assign_coords(true_class=ds["class"].values)
    return lost.where(own).mean("true_class"), lost.where(~own).mean("true_class")


def _c4(results: Results, objective: str) -> list[Part]:
    return [
        one for name in ("one-class", "two-class") for one in _distinct(name, measures.LAST_ROUND, results, objective)
    ]


def _c7(results: Results, objective: str) -> list[Part]:
    return _distinct("three-class", measures.ALL_ROUNDS, results, objective)


# --- does it still work? ---


def _works(experiment: str, rounds: slice, classes: str, results: Results, objective: str) -> list[Part]:
    """What local circuits explain, know and call right on the global model."""
    names = {"explained": "explained", "auc": "AUC", "decision_accuracy": "balanced accuracy"}

    def across(ds: xr.Dataset, label: str, name: str) -> Part:
        last = _classes(ds, classes).isel(round=rounds)
        random = f"random_live_cross_evaluation_{name}"
        null = units.of(last, random).mean("sample") if random in last else None
        said = f"on its own model {float(over_seeds(units.of(last, name)).mean()):.2f}"
        if name == "decision_accuracy":
            whole = last["competence"].sel(origin="global", drop=True).where(units.of(last, name).notnull())
            said += f", of the whole global model {float(whole.mean()):.2f}"
        return _part(label, experiment, units.of(last, f"cross_evaluation_{name}"), last, null, said)

    key = Key(experiment, objective, predicted.asked(experiment))
    return [
        on(results, key, (f"cross_evaluation_{name}", "competence"), label, partial(across, label=label, name=name))
        for name, label in ((name, f"{experiment}, {said} on the global model") for name, said in names.items())
    ]


def _classes(ds: xr.Dataset, which: str) -> xr.Dataset:
    """All classes, those that all clients hold ("shared"), or the others ("own")."""
    if which == "all":
        return ds
    shared = measures.shared_classes(ds)
    return ds.sel({"class": [c for c in ds["class"].values.tolist() if (c in shared) == (which == "shared")]})


def _c5(results: Results, objective: str) -> list[Part]:
    return [
        one
        for name in ("one-class", "two-class")
        for one in _works(name, measures.LAST_ROUND, "all", results, objective)
    ]


def _c10(results: Results, objective: str) -> list[Part]:
    return _works("shared-class", measures.ALL_ROUNDS, "shared", results, objective)


def _c6(results: Results, objective: str) -> list[Part]:
    labels = [f"two-class, {what}, second half of the rounds minus first" for what in (
        f"IoU of the best {MATCHED} channels", "share of a local circuit's channels kept"
    )]  # fmt: skip

    def moved(ds: xr.Dataset) -> Part:
        there = units.found(ds)
        found = sizes.at_size(ds, there & there.all("origin"), (MATCHED,)).isel(size=0)
        return _part(labels[0], "two-class", measures.decline(found["iou"]), ds, measures.decline(found["expected"]))

    def kept(ds: xr.Dataset) -> Part:
        value, chance = (measures.decline(one) for one in units.kept(ds))
        return _part(labels[1], "two-class", value, ds, chance)

    key = Key("two-class", objective, "own")
    return [
        on(results, key, ("score_conv1", "live_conv1"), labels[0], moved),
        on(results, key, ("live_conv1",), labels[1], kept),
    ]


# --- out ---


def _outages(experiment: str, classes: str, collapse: Callable[[xr.DataArray], xr.DataArray], said: str,
             results: Results, objective: str) -> list[Part]:  # fmt: skip
    """Circuits that work less than `units.OUT` on the global model, among all and where that model is competent."""
    labels = [f"{experiment}, share of circuits {said}", f"{experiment}, share of circuits and rounds out",
              f"{experiment}, the same where the global model is competent"]  # fmt: skip

    def collapsed(ds: xr.Dataset) -> Part:
        out = units.out(_classes(ds, classes))
        return _part(labels[0], experiment, collapse(1 - out), ds)

    def share(ds: xr.Dataset, label: str, able: bool) -> Part:
        some = _classes(ds, classes)
        out = units.out(some)
        if able:
            out = out.where(~units.under(some["competence"].sel(origin="global", drop=True), COMPETENT))
        return _part(label, experiment, out, ds, detail=f"of {int(out.notnull().sum())}")

    key = Key(experiment, objective, predicted.asked(experiment))
    return [
        on(results, key, (ON_OTHER,), labels[0], collapsed),
        on(results, key, (ON_OTHER, ON_OWN), labels[1], partial(share, label=labels[1], able=False)),
        on(results, key, (ON_OTHER, "competence"), labels[2], partial(share, label=labels[2], able=True)),
    ]


def _c8(results: Results, objective: str) -> list[Part]:
    back = interference.recovered_share
    return _outages("three-class", "all", back, "that collapse and recover", results, objective)


def _c11(results: Results, objective: str) -> list[Part]:
    return _outages("shared-class", "own", interference.collapsed_share, "that collapse", results, objective)


def _c12(results: Results, objective: str) -> list[Part]:
    def share(ds: xr.Dataset, name: str) -> Part:
        return _part(f"{runs.sparsity_level(name):.1%}, share out", name, units.out(ds), ds)

    names = [f"{runs.ABLATION}-{level:g}" for level in LEVELS]
    return [on(results, Key(n, objective, "own"), (ON_OTHER,), n, partial(share, name=n)) for n in names]


CLAIMS: dict[str, Callable[[Any, str], list[Part]]] = {
    "C1": _c1, "C2": _c2, "C3": _c3, "C4": _c4, "C5": _c5, "C6": _c6, "C7": _c7, "C8": _c8, "C9": _c9, "C10": _c10,
    "C11": _c11, "C12": _c12,
}  # fmt: skip

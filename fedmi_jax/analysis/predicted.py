"""What predictions measure, P0 to P6 (docs/evidence.md): the parts of each, as fixed before any run over seeds.

`predicted_sizes` has the others.

Axes: S seeds, R rounds, K clients, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import xarray as xr

from fedmi_jax.analysis import measures, runs, units
from fedmi_jax.analysis.instruments import Key, Results
from fedmi_jax.analysis.parts import IN_PART, Part, missing, part
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, MIN_SEEDS, OPEN, Criterion
from fedmi_jax.presets import LEVELS
from fedmi_jax.results.statistics import Estimate, estimate, over_seeds, paired

FAITHFUL, AS_WELL = 0.8, 0.05
"""What a circuit explains at least, and how near its accuracy comes to the whole model's."""
COMPETENT = 0.75
"""Balanced accuracy from which on a model is."""
WEAK = 0.75
"""Balanced accuracy on the global model under which P5 asks what is left of a circuit."""
ABOUT_MODELS: tuple[str, ...] = ()
"""What a part says of whole models stands whether or not circuits can be found (P0)."""
ON_OWN, ON_OTHER = "decision_accuracy", "cross_evaluation_decision_accuracy"
RANDOM_ON_OTHER = f"random_live_{ON_OTHER}"


def asked(experiment: str) -> str:
    """The classes that a class is told from there."""
    return "probe" if experiment.startswith(("iid", "one-class")) else "own"


def on(
    results: Results, key: Key, needs: Sequence[str], label: str, measure: Callable[[xr.Dataset], Part],
    beside: bool = False, about: tuple[str, ...] = ("local",),
) -> Part:  # fmt: skip
    """The part, or what is missing for it. about: as `parts.part` has it."""
    ds = results.get(key)
    if ds is None:
        return missing(label, key.experiment, f"{key} is not there", beside, about)
    absent = [name for name in needs if name not in ds]
    if absent:
        return missing(label, key.experiment, f"{key} has no {', '.join(absent)}", beside, about)
    return measure(ds)


def _mean_sample(values: xr.DataArray) -> xr.DataArray:
    return values.mean("sample")


# --- P0: does the instrument work? ---


def p0(results: Results, objective: str) -> list[Part]:
    there = [key for key in results if key.objective == objective and key.negatives == asked(key.experiment)]
    if not there:
        return [missing("circuits are faithful", "any", f"no experiment with objective {objective}")]
    return [one for key in there for one in _gate(results, key)]


_FAITHFUL = ("explained", ON_OWN, "competence")


def _gate(results: Results, key: Key) -> list[Part]:
    name, most = key.experiment, Criterion(low=0.8)

    def share(ds: xr.Dataset, label: str, criterion: Criterion, origin: str = "local", prefix: str = "") -> Part:
        value = over_seeds(_faithful(ds, origin, prefix))
        return part(label, name, value, criterion, undefined=units.undefined(ds, origin), about=(origin,))

    labels = [f"{name}, {said}" for said in ("local circuits", "global circuits", "random live sets", "paper's search")]
    few, fewer = Criterion(high=0.1), Criterion(high=0.2)
    random = tuple(f"random_live_{one}" for one in ("explained", ON_OWN))
    return [
        on(results, key, _FAITHFUL, labels[0], lambda ds: share(ds, labels[0], most)),
        on(results, key, _FAITHFUL, labels[1], lambda ds: share(ds, labels[1], most, "global")),
        on(
            results,
            key,
            ("competence", *random),
            labels[2],
            lambda ds: share(ds, labels[2], few, prefix="random_live_"),
        ),
        on(results, key._replace(objective="class"), _FAITHFUL, labels[3], lambda ds: share(ds, labels[3], fewer)),
    ]


def _faithful(ds: xr.Dataset, origin: str, prefix: str) -> xr.DataArray:
    """1 for circuits that explain the decision and work as well as the whole model, 0 for others, NaN for none."""
    explains, works = (units.of(ds, prefix + name, origin) for name in ("explained", ON_OWN))
    good = (explains >= FAITHFUL) & (np.abs(works - units.of(ds, "competence", origin)) <= AS_WELL + units.ROUNDING)
    return good.astype(float).where(explains.notnull() & works.notnull())


# --- P1 to P3: what there is to find ---


def p1(results: Results, objective: str) -> list[Part]:
    dense = [name for name in ("two-class-0", f"{runs.ABLATION}-0") if Key(name, objective, "own") in results]
    names = [(dense or ["two-class-0"])[0], *(f"{runs.ABLATION}-{level:g}" for level in LEVELS[:2])]

    def empty(ds: xr.Dataset, name: str) -> Part:
        channels = units.size(ds)
        value = over_seeds((channels == 0).where(channels.notnull()).astype(float))
        return part(name, name, value, Criterion(high=0.05), undefined=units.undefined(ds, "local"))

    return [
        on(results, Key(name, objective, "own"), ("size",), name, lambda ds, name=name: empty(ds, name))
        for name in names
    ]


def _competent(ds: xr.Dataset, label: str, experiment: str, criterion: Criterion, beside: bool = False) -> Part:
    return part(label, experiment, 1 - over_seeds(units.undefined(ds, "local")), criterion, beside=beside,
                about=ABOUT_MODELS)  # fmt: skip


def p2(results: Results, objective: str) -> list[Part]:
    few, found = Criterion(high=0.1), []
    for name, beside in (("one-class", False), ("two-class", True)):
        label = f"{name}, local models competent"
        key = Key(name, objective, "probe")
        at = (label, name, few, beside)
        found.append(on(results, key, (), label, lambda ds, at=at: _competent(ds, *at), beside, ABOUT_MODELS))
    return found


def p3(results: Results, objective: str) -> list[Part]:
    key, name = Key("two-class", objective, "own"), "two-class"
    labels = ("local models competent", "the paper's circuits work", "circuits that decide work")

    def works(ds: xr.Dataset, label: str, criterion: Criterion, detail: str = "") -> Part:
        random = f"random_live_{ON_OWN}"
        null = over_seeds(_mean_sample(units.of(ds, random))) if random in ds else None
        value = over_seeds(units.of(ds, ON_OWN))
        return part(label, name, value, criterion, null=null, undefined=units.undefined(ds, "local"), detail=detail)

    both = [results.get(key), results.get(key._replace(objective="class"))]
    more = ""
    if all(ds is not None and ON_OWN in ds for ds in both):
        more = f"seed by seed {paired(*(over_seeds(units.of(ds, ON_OWN)) for ds in both if ds is not None))} more"
    return [
        on(results, key, (), labels[0], lambda ds: _competent(ds, labels[0], name, Criterion(low=0.95)),
           about=ABOUT_MODELS),
        on(results, key._replace(objective="class"), (ON_OWN,), labels[1],
           lambda ds: works(ds, labels[1], Criterion(high=0.6))),
        on(results, key, (ON_OWN,), labels[2], lambda ds: works(ds, labels[2], Criterion(low=0.95), more)),
    ]  # fmt: skip


# --- P4 to P6: what averaging does ---


def p4(results: Results, objective: str) -> list[Part]:
    def kept(ds: xr.Dataset, name: str, criterion: Criterion) -> Part:
        last = ds.isel(round=measures.LAST_ROUND)
        own, across = (units.of(last, of) for of in (ON_OWN, ON_OTHER))
        null = None
        if RANDOM_ON_OTHER in ds:
            null = units.ratio_of_means(_mean_sample(units.of(last, RANDOM_ON_OTHER)), own)
        whole = units.of(last, "competence"), last["competence"].sel(origin="global", drop=True)
        detail = f"of the whole models {estimate(units.ratio_of_means(whole[1].where(own.notnull()), whole[0]))}"
        return part(
            name, name, units.ratio_of_means(across, own), criterion, null=null,
            undefined=units.undefined(last, "local"), detail=detail,
        )  # fmt: skip

    ways = (("two-class", Criterion(high=0.5)), ("iid", Criterion(low=0.9)))
    return [
        on(results, Key(name, objective, asked(name)), (ON_OWN, ON_OTHER, "competence"), name,
           lambda ds, at=(name, criterion): kept(ds, *at))
        for name, criterion in ways
    ]  # fmt: skip


SURVIVES, DESTROYED = Criterion(low=0.9), Criterion(high=0.75)


def between(found: Estimate) -> str:
    """P5's answer: the evidence survives (holds), is destroyed (does not), or is left in part."""
    low, high = found.low, found.high
    if low is None or high is None or found.seeds < MIN_SEEDS:
        return OPEN
    if low >= SURVIVES.low:
        return HOLDS
    if high <= DESTROYED.high:
        return FAILS
    return IN_PART if low >= DESTROYED.high and high <= SURVIVES.low else OPEN


def p5(results: Results, objective: str) -> list[Part]:
    def evidence(ds: xr.Dataset, name: str, beside: bool) -> Part:
        weak = units.under(units.of(ds, ON_OTHER), WEAK)
        random = "random_live_cross_evaluation_auc"
        null = over_seeds(_mean_sample(units.of(ds, random)).where(weak)) if random in ds else None
        left = int(weak.sum()), int(units.competent(ds).sel(origin="local").sum())
        return part(
            name, name, over_seeds(units.of(ds, "cross_evaluation_auc").where(weak)), SURVIVES, null=null,
            undefined=units.undefined(ds, "local"), beside=beside, answer=between, fails=DESTROYED,
            detail=f"{left[0]} of {left[1]} circuits and rounds work that badly",
        )  # fmt: skip

    return [
        on(results, Key(name, objective, "own"), ("cross_evaluation_auc", ON_OTHER), name,
           lambda ds, at=(name, name != "two-class"): evidence(ds, *at), name != "two-class")
        for name in ("two-class", "three-class", "shared-class")
    ]  # fmt: skip


def p5_refit(results: Results, objective: str) -> list[Part]:
    def back(ds: xr.Dataset, refit: str, beside: bool) -> Part:
        last = ds.isel(round=-1)
        value = units.given_back(last, refit)
        before, after = (over_seeds(last["readout_accuracy_global"].sel(refit=one)) for one in ("none", refit))
        whole = last["readout_accuracy_local"].sel(refit="none")
        said = f"global {float(before.mean()):.2f}, refitted {float(after.mean()):.2f}, local {float(whole.mean()):.2f}"
        return part(refit, "two-class", value, Criterion(low=0.5), detail=said, beside=beside, about=ABOUT_MODELS)

    needs = ("readout_accuracy_local", "readout_accuracy_global")
    # It is about models, which are the same under both searches, and measured once.
    either = [Key("two-class", which, "own") for which in (objective, "class")]
    key = next((key for key in either if key in results and set(needs) <= set(results[key])), either[0])
    return [
        on(results, key, needs, refit, lambda ds, at=(refit, beside): back(ds, *at), beside, ABOUT_MODELS)
        for refit, beside in (("scale-and-biases", False), ("linear", True))
    ]


def p6(results: Results, objective: str) -> list[Part]:
    def coincide(ds: xr.Dataset, name: str) -> Part:
        shared = measures.shared_classes(ds) if name == "shared-class" else []
        classes = [c for c in ds["class"].values.tolist() if c not in shared]
        out, silent = (values.sel({"class": classes}) for values in (units.out(ds), units.silent(ds)))
        lost, working = (over_seeds((silent + 0 * out).where(out == state)) for state in (1, 0))
        judged = ds["competence"].sel({"origin": "global", "class": classes}, drop=True)
        unable = int((units.under(judged, COMPETENT) & (out == 1)).sum())
        detail = (
            f"{int((out == 1).sum())} of {int(out.notnull().sum())} are out; of {unable} of these the global model "
        )
        return part(
            name, name, lost, Criterion(low=0.8), null=working, undefined=units.undefined(ds, "local"),
            detail=f"{detail}is not competent",
        )  # fmt: skip

    return [
        on(results, Key(name, objective, "own"), (ON_OTHER, "global_class_accuracy", "competence"), name,
           lambda ds, name=name: coincide(ds, name))
        for name in ("three-class", "shared-class")
    ]  # fmt: skip

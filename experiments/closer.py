"""Circuits that decide, looked at from all sides: a table of the measures that neither figures nor predictions show.

Of local circuits in the last round: means over the circuits of a seed, with the interval over seeds.

Axes: S seeds, K clients, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import xarray as xr

from experiments import pieces
from fedmi_jax.analysis import units
from fedmi_jax.analysis.instruments import Key
from fedmi_jax.results.labels import held
from fedmi_jax.results.schema import NULLS, STATUS
from fedmi_jax.results.statistics import estimate, over_seeds

LITTLE = 0.1
"""Share of the decision that what is left of a model explains, at most, where the circuit was all of it."""
Measure = Callable[[xr.Dataset], xr.DataArray]
"""From a result's last round to (S, K, C, ...), NaN where there is no circuit."""


class Row(NamedTuple):
    """One line of the table."""

    says: str
    value: Measure
    null: Measure | None = None
    """What stands for chance, in brackets."""


def _of(name: str) -> Measure:
    return lambda ds: units.of(ds, name)


def _little_is_left(ds: xr.Dataset) -> xr.DataArray:
    rest = units.of(ds, "removed_explained")
    return (rest <= LITTLE).where(rest.notnull())


def _own_class_left(ds: xr.Dataset) -> xr.DataArray:
    """Accuracy on the circuit's class without the circuit."""
    return units.of(ds, "removed_class_accuracy").where(_same_class(ds)).sum("true_class", min_count=1)


def _other_classes_left(ds: xr.Dataset) -> xr.DataArray:
    """The same on the client's other classes."""
    others = (ds["samples"] > 0) & ~_same_class(ds)
    return units.of(ds, "removed_class_accuracy").where(others).mean("true_class")


def _same_class(ds: xr.Dataset) -> xr.DataArray:
    return ds["class"] == ds["true_class"]


def _no_worse_by_attribution(ds: xr.Dataset) -> xr.DataArray:
    searched, attributed = (units.of(ds, name) for name in ("area_excess", "attribution_area_excess"))
    return (attributed >= searched).where(searched.notnull() & attributed.notnull())


def _decides(null: str) -> Measure:
    """Share of circuits' models of this kind that decide about the class."""

    def share(ds: xr.Dataset) -> xr.DataArray:
        status = ds["null_status"].sel(origin="local", drop=True).isel(null=NULLS.index(null))
        return (status != STATUS.index("undefined")).astype(float).where(held(ds))

    return share


ROWS = (
    Row("explained, of the model's own answers", _of("explained"), _of("random_live_explained")),
    Row("the same at temperature 1", _of("explained_plain")),
    Row("with half of all other channels open: mean of ten halves", _of("robust_explained")),
    Row("the same, worst of ten", _of("robust_explained_worst")),
    Row("without the circuit: explained by the rest of the model", _of("removed_explained")),
    Row(f"share of circuits whose rest explains {LITTLE} at most", _little_is_left),
    Row("without the circuit: accuracy on its class", _own_class_left),
    Row("without the circuit: accuracy on the client's other classes", _other_classes_left),
    Row("half of the circuit removed: difference between circuit and model", _of("completeness_gap")),
    Row("channels worth more than 0.01, share", _of("minimal")),
    Row("channels that put out what they put out in the model (R^2 at least 0.8), share", _of("same_computation")),
    Row("channels silent on the class in the model, share", _of("silent")),
    Row("order of channels: area under the curve beyond random orders", _of("area_excess")),
    Row("the same of an order by attribution, without a search", _of("attribution_area_excess")),
    Row("share of circuits in which attribution orders as well or better", _no_worse_by_attribution),
    Row("untrained models that decide about the class, share", _decides("untrained")),
    Row("models with weights in random order that decide, share", _decides("permuted")),
)


def table(results: Mapping[Key, xr.Dataset], objective: str) -> str:
    """Markdown: a column for each experiment searched with this objective. Empty where there is none."""
    last = {key: ds.isel(round=[-1]) for key, ds in results.items() if key.objective == objective and _whole(ds)}
    if not last:
        return ""
    head = ["local circuits, last round", *(f"{key.experiment} ({ds.sizes['seed']})" for key, ds in last.items())]
    lines = [[row.says, *(_cell(row, ds) for ds in last.values())] for row in ROWS]
    return f"{pieces.markdown(head, lines)}\n\n{NOTE}"


NOTE = (
    "Means over circuits, with 95 % intervals over seeds; how many seeds stands behind the name. In round brackets: "
    "random sets of live channels, as many. A number at the end of a name is a sparsity; 0: dense models. Only what is "
    "kept has such random sets; what is removed, and halves, have none."
)


def _whole(ds: xr.Dataset) -> bool:
    """Whether the run was asked for all of it (`evaluation.null_samples`)."""
    return "completeness_gap" in ds and "null_status" in ds


def _cell(row: Row, ds: xr.Dataset) -> str:
    said = str(estimate(over_seeds(row.value(ds))))
    null = None if row.null is None else estimate(over_seeds(row.null(ds)))
    return f"{said} ({null.mean:.2f})" if null is not None and null.seeds else said

"""From a round's arrays to the result's labelled arrays (the table in `fedmi_jax.results.schema`).

Axes: S seeds, K clients, M models (those of the round's clients), C circuits (of all clients), Y classes, L weight
tensors, R rounds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import xarray as xr

from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.circuits.evaluation import Performance
from fedmi_jax.data import identity
from fedmi_jax.devices import start
from fedmi_jax.federation import agreement, programs
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params
from fedmi_jax.results import connectivity, schema, similarity, store

if TYPE_CHECKING:
    from fedmi_jax.aggregation import Method, State
    from fedmi_jax.federation.cases import Cases
    from fedmi_jax.federation.setup import Facts, Round, Setup

Record = dict[str, np.ndarray]


def snapshot(setup: Setup, round_: Round, losses: np.ndarray, local: Params, global_models: Params) -> Record:
    """What the models say: who took part, loss, agreement, sparsity, connectivity and, on request, weights."""
    facts, layout = setup.facts, setup.layout
    of_client = partial(_of_client, facts, round_)
    steps = facts.steps[round_.models]
    own = np.arange(losses.shape[1]) < steps[:, None]
    record = {
        "participates": of_client(np.ones(len(steps), bool)),
        "train_loss": of_client(losses.sum(1, where=own) / steps),
    }
    record |= agreement.measures(local, shape=round_.clients.shape, layout=layout)
    for where, params, placed in (("local", local, of_client), ("global", global_models, np.asarray)):
        count = round_.clients.size if where == "local" else len(round_.clients)
        zeros, connected = jax.tree.map(
            lambda leaf, n=count: np.asarray(leaf)[:n], programs.wiring(params, layout=layout)
        )
        layers = (*conv_layers(params), "fc")
        record[f"realised_sparsity_{where}"] = placed(np.stack([zeros[layer] for layer in layers], -1))
        record |= {f"connected_{where}_{layer}": placed(connected[layer]) for layer in layers}
        if facts.experiment.execution.save_weights:
            weights = programs.whole(params, count=count, layout=layout)
            record |= {f"weights_{where}_{k}": placed(v) for k, v in weights.items()}
    return record


def of_method(method: Method, state: State) -> Record:
    """What the method tells of the server's step, (S, ...)."""
    return {name: np.asarray(state.server[name]) for name in method.tells}


def _of_client(facts: Facts, round_: Round, values: Any) -> np.ndarray:
    """(M, ...) -> (S, K, ...), NaN (False) for clients that do not take part in the round."""
    values = np.asarray(values)
    everyone = np.full((*facts.counts.shape[:2], *values.shape[1:]), schema.fill(values.dtype), values.dtype)
    everyone[round_.models] = values
    return everyone


def of_circuits(cases: Cases, found: Circuit) -> Record:
    """Scores and masks (n, O_l)."""
    scores = {f"score_{layer}": cases.place(score) for layer, score in found.score.items()}
    return scores | {f"mask_{layer}": cases.place(mask) for layer, mask in found.mask.items()}


def of_measures(
    facts: Facts, round_: Round, cases: Cases, kept: Performance, crossed: Performance, necessity: Any, empty: Any,
    accuracy: Any,
) -> Record:  # fmt: skip
    """Measures (n,) and (n, Y) of every case, and the accuracy of every model."""
    label, placed = facts.circuits.label, cases.place
    sufficiency, cross = (_target(placed(p.call_rate), label) for p in (kept, crossed))
    false_positive, cross_false_positive = (placed(p.false_positive_rate) for p in (kept, crossed))
    overall, per_class = (np.asarray(a) for a in accuracy)
    of_client = partial(_of_client, facts, round_)
    local, server, served = np.split(np.arange(len(overall)), np.cumsum([round_.clients.size, len(round_.clients)]))
    record = {}
    if len(served):
        record = {"served_accuracy": overall[served], "served_class_accuracy": per_class[served]}
    return {name: of_client(values) for name, values in record.items()} | {
        "sufficiency": sufficiency,
        "necessity": placed(necessity),
        "cross_evaluation": cross,
        "drift_gap": sufficiency[::-1] - cross,
        "call_rate": placed(kept.call_rate),
        "false_positive_rate": false_positive,
        "balanced_accuracy": (sufficiency + 1 - false_positive) / 2,
        "target_softmax": placed(kept.target_softmax),
        "cross_evaluation_call_rate": placed(crossed.call_rate),
        "cross_evaluation_false_positive_rate": cross_false_positive,
        "cross_evaluation_balanced_accuracy": (cross + 1 - cross_false_positive) / 2,
        "cross_evaluation_softmax": placed(crossed.target_softmax),
        "failure_softmax": placed(crossed.failure_softmax),
        "empty_mask_accuracy": placed(empty[0]),
        "empty_mask_softmax": placed(empty[1]),
        "local_accuracy": of_client(overall[local]),
        "local_class_accuracy": of_client(per_class[local]),
        "global_accuracy": overall[server],
        "global_class_accuracy": per_class[server],
    }


def _target(rates: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(2, C, Y) -> (2, C), each circuit's own class."""
    return np.take_along_axis(rates, label[None, :, None], 2)[..., 0]


def assemble(
    facts: Facts, records: Sequence[Mapping[str, np.ndarray]], rounds: Sequence[int] | None = None
) -> xr.Dataset:
    """The result of a run: labelled, with the similarity measures, stamped with the configuration and the images.

    rounds: the records' numbers, ascending; None: 1, 2, ...
    """
    layers = schema.conv_layers(records[0])
    ds, rows = _empty(facts, rounds or range(1, len(records) + 1), layers), schema.variables(layers)
    for name in records[0]:
        row, values = rows[name], [record[name] for record in records]
        ds[name] = (row.dims, _dense(facts, np.stack(values), row) if row.of_circuits else np.stack(values, 1))
    ds = connectivity.edges(similarity.measures(similarity.sizes(ds)))
    told = start.settings()
    ds = ds.assign_attrs({"settings": json.dumps(told)} if told else {})
    return store.stamp(ds, facts.experiment, dataset=identity.describe(facts.dataset))


def _empty(facts: Facts, rounds: Sequence[int], layers: Sequence[str]) -> xr.Dataset:
    """Coordinates, and what is known before the first round."""
    dataset, circuits = facts.dataset, facts.circuits
    classes = circuits.classes
    analysed = circuits.by_client(np.ones(len(circuits.label), bool), facts.counts.shape[:2], False)
    return xr.Dataset(
        {
            "analysed": (("seed", "client", "class"), analysed),
            "samples": (("seed", "client", "true_class"), facts.counts),
        },
        {
            "seed": list(facts.experiment.seeds),
            "round": list(rounds),
            "origin": list(schema.ORIGINS),
            "client": np.arange(facts.counts.shape[1]),
            "class": classes,
            "class_name": ("class", [dataset.class_names[c] for c in classes]),
            "true_class": np.arange(dataset.num_classes),
            "true_class_name": ("true_class", list(dataset.class_names)),
            "layer": list(layers),
            "parameter_layer": [*layers, "fc"],
            **({"null": list(schema.NULLS)} if facts.experiment.thorough else {}),
            **({"refit": list(schema.REFITS)} if facts.experiment.evaluation.readout_images else {}),
        },
    )


def _dense(facts: Facts, values: np.ndarray, row: schema.Variable) -> np.ndarray:
    """(R, 2, C, ...) -> (S, R, 2, K, classes, ...), filled where a client does not analyse a class."""
    of_circuit = np.moveaxis(values, 2, 0).astype(row.dtype, copy=False)
    return np.moveaxis(facts.circuits.by_client(of_circuit, facts.counts.shape[:2], row.fill), (1, 2), (3, 4))

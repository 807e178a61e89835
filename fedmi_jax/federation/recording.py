"""From a round's arrays to the result's labelled arrays (the table in `fedmi_jax.results.schema`).

Axes: S seeds, K clients, M models (those of the round's clients), C circuits (of all clients), Y classes, L weight
tensors, R rounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from fedmi_jax.circuits.evaluation import Performance
from fedmi_jax.data import identity
from fedmi_jax.federation import programs
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Gates, Params
from fedmi_jax.results import connectivity, schema, similarity, store

if TYPE_CHECKING:
    from fedmi_jax.federation.setup import Round, Setup

Record = dict[str, np.ndarray]


def snapshot(setup: Setup, round_: Round, losses: np.ndarray, local: Params, globals_: Params) -> Record:
    """What the models themselves say: who took part, loss, sparsity, connectivity and, on request, weights."""
    spread, how = partial(_spread, setup, round_), setup.layout
    steps = setup.steps[round_.models]
    own = np.arange(losses.shape[1]) < steps[:, None]
    record = {
        "participates": spread(np.ones(len(steps), bool)),
        "train_loss": spread(losses.sum(1, where=own) / steps),
    }
    for where, params, placed in (("local", local, spread), ("global", globals_, np.asarray)):
        zeros, connected = programs.wiring(params, how=how)
        layers = (*conv_layers(params), "fc")
        record[f"realised_sparsity_{where}"] = placed(np.stack([zeros[layer] for layer in layers], -1))
        record |= {f"connected_{where}_{layer}": placed(connected[layer]) for layer in layers}
        if setup.experiment.execution.save_weights:
            record |= {f"weights_{where}_{k}": placed(v) for k, v in programs.whole(params, how=how).items()}
    return record


def _spread(setup: Setup, round_: Round, values: Any) -> np.ndarray:
    """(M, ...) -> (S, K, ...), NaN (False) for clients that do not take part in the round."""
    values = np.asarray(values)
    everyone = np.full((*setup.counts.shape[:2], *values.shape[1:]), schema.fill(values.dtype), values.dtype)
    everyone[round_.models] = values
    return everyone


def of_circuits(setup: Setup, round_: Round, scores: Gates) -> Record:
    """Scores (2, C, O_l)."""
    return {f"score_{layer}": by_origin(setup, round_, score) for layer, score in scores.items()}


def of_measures(
    setup: Setup, round_: Round, kept: Performance, crossed: Performance, necessity: Any, empty: Any, accuracy: Any
) -> Record:
    """Measures (2, C) and (2, C, Y), origin local first; and the models' accuracies."""
    label, placed = setup.circuits.label, partial(by_origin, setup, round_)
    sufficiency, cross = (_target(placed(p.call_rate), label) for p in (kept, crossed))
    false_positive, cross_false_positive = (placed(p.false_positive_rate) for p in (kept, crossed))
    overall, per_class = (np.asarray(a) for a in accuracy)
    models = round_.clients.size
    return {
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
        "local_accuracy": _spread(setup, round_, overall[:models]),
        "local_class_accuracy": _spread(setup, round_, per_class[:models]),
        "global_accuracy": overall[models:],
        "global_class_accuracy": per_class[models:],
    }


def by_origin(setup: Setup, round_: Round, values: Any) -> np.ndarray:
    """The round's circuits, local ones first -> (2, C, ...), NaN for circuits of clients that do not take part."""
    values = np.asarray(values)
    values = values.reshape(2, -1, *values.shape[1:])[:, : round_.found]
    everyone = np.full((2, len(setup.circuits.label), *values.shape[2:]), np.nan, values.dtype)
    everyone[:, round_.rows[: round_.found]] = values
    return everyone


def _target(rates: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(2, C, Y) -> (2, C), each circuit's own class."""
    return np.take_along_axis(rates, label[None, :, None], 2)[..., 0]


def assemble(setup: Setup, records: Sequence[Mapping[str, np.ndarray]]) -> xr.Dataset:
    """The result of a run: labelled, with the similarity measures, stamped with the configuration and the images."""
    layers = schema.conv_layers(records[0])
    ds, rows = _empty(setup, len(records), layers), schema.variables(layers)
    for name in records[0]:
        row, values = rows[name], [record[name] for record in records]
        ds[name] = (row.dims, _dense(setup, np.stack(values), row) if row.of_circuits else np.stack(values, 1))
    for layer in layers:
        score = ds[f"score_{layer}"]
        ds[f"mask_{layer}"] = score > 0
    ds = connectivity.edges(similarity.measures(similarity.sizes(ds)))
    return store.stamp(ds, setup.experiment, dataset=identity.describe(setup.dataset))


def _empty(setup: Setup, rounds: int, layers: Sequence[str]) -> xr.Dataset:
    """Coordinates, and what is known before the first round."""
    dataset, circuits = setup.dataset, setup.circuits
    classes = circuits.classes
    analysed = np.zeros((*setup.counts.shape[:2], len(classes)), bool)
    analysed[circuits.seed, circuits.client, np.searchsorted(classes, circuits.label)] = True
    return xr.Dataset(
        {
            "analysed": (("seed", "client", "class"), analysed),
            "samples": (("seed", "client", "true_class"), setup.counts),
        },
        {
            "seed": list(setup.experiment.seeds),
            "round": np.arange(1, rounds + 1),
            "origin": list(schema.ORIGINS),
            "client": np.arange(setup.counts.shape[1]),
            "class": classes,
            "class_name": ("class", [dataset.class_names[c] for c in classes]),
            "true_class": np.arange(dataset.num_classes),
            "true_class_name": ("true_class", list(dataset.class_names)),
            "layer": list(layers),
            "parameter_layer": [*layers, "fc"],
        },
    )


def _dense(setup: Setup, values: np.ndarray, row: schema.Variable) -> np.ndarray:
    """(R, 2, C, ...) -> (S, R, 2, K, classes, ...), filled where a client does not analyse a class."""
    circuits, (seeds, clients) = setup.circuits, setup.counts.shape[:2]
    rounds, origins, _, *rest = values.shape
    dense = np.full((seeds, clients, len(circuits.classes), rounds, origins, *rest), row.fill, row.dtype)
    slot = np.searchsorted(circuits.classes, circuits.label)
    dense[circuits.seed, circuits.client, slot] = np.moveaxis(values, 2, 0)
    return np.moveaxis(dense, (1, 2), (3, 4))

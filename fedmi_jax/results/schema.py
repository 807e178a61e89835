"""A result: labelled arrays in one netCDF4 file `result.nc`, from which every table and figure can be drawn again.

The result *is* an `xarray.Dataset`; any netCDF reader opens the file. `VARIABLES` and `COORDINATES` say what may be in
it. They decide how a run's arrays are put together, they give every variable its `long_name` and `units`, and `table`
prints them for docs/results.md. Not every variable is in every result: an imported file of the authors has no scores,
no softmax, no accuracy of the global model and no connectivity of the linear layer. Shares, accuracies and IoUs are
fractions from 0 to 1.

In names and dimensions `{layer}` stands for each convolution, conv1 to convN; `{source}` for the channels that its
edges start from (those of the convolution before, for conv1 those of the image); `{last}` for the last convolution.
How many convolutions there are is read from the result: `conv_layers`.

Attributes of a result: schema_version, created_by, name, config (JSON, `fedmi_jax.config.from_json`; absent when
unknown), dataset (JSON, the images: `fedmi_jax.data.identity.ImageSet`; absent when unknown), versions (JSON, of Python
and the packages). The file ends in its checksum (`fedmi_jax.files`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from fedmi_jax.network.layers import conv_layers as conv_layers

SCHEMA_VERSION = 2
ORIGINS = ("local", "global")
CIRCUIT_DIMS = ("seed", "round", "origin", "client", "class")
"""The axes that single out one circuit."""
LOCAL, GLOBAL = ("seed", "round", "client"), ("seed", "round")
"""The axes that single out one client's model of a round, and one global model."""

STATUS = ("none", "found", "not compact", "undefined")
"""What `status` counts: no such circuit; a circuit that explains enough; all live channels, which explain too little; a
model that decides nothing about the class, so that there is no circuit to find."""

REFITS = ("none", "scale-and-biases", "linear")
"""How a model's read-out is refitted before it is judged (`fedmi_jax.network.readout`)."""

NULLS = ("untrained", "permuted", "shuffled")
"""Where there is nothing that training made: the model before training; every filter's weights in random order; labels
that say nothing about the images."""


class Variable(NamedTuple):
    """A row of the table: one variable, or one for each convolution where its name holds `{layer}`."""

    dims: tuple[str, ...]
    dtype: str
    """numpy's name; "float": float32 or float64, as the run computed; "text"."""
    long_name: str
    units: str = "1"
    """"1" for pure numbers and labels, as in UDUNITS."""
    when: str = ""
    """Which results have it; empty: every run."""

    @property
    def fill(self) -> Any:
        """What stands where a client does not analyse the class, or does not take part in the round."""
        return fill("U" if self.dtype == "text" else self.dtype)

    @property
    def of_circuits(self) -> bool:
        """Has it one entry or more for every circuit?"""
        return self.dims[: len(CIRCUIT_DIMS)] == CIRCUIT_DIMS

    def at(self, **names: str) -> Variable:
        """With the placeholders in it written out."""
        return self._replace(
            dims=tuple(dim.format(**names) for dim in self.dims), long_name=self.long_name.format(**names)
        )


def fill(dtype: Any) -> Any:
    """NaN for floats, False for booleans, 0 for counts, no text."""
    return {"f": np.nan, "b": False, "i": 0, "u": 0, "U": ""}[np.dtype(dtype).kind]


def _label(dim: str, dtype: str, long_name: str, when: str = "") -> Variable:
    return Variable((dim,), dtype, long_name, when=when)


_IMPORTED, _NEVER = "as a coordinate in imported files", "never as a coordinate: numbered from 0"
COORDINATES = {
    "seed": _label("seed", "int64", "seed of the experiment"),
    "round": _label("round", "int64", "round, from 1 on"),
    "origin": _label(
        "origin", "text", 'model that the circuit was found on: "local", the client\'s, or "global", with its data'
    ),
    "client": _label("client", "int64", "client"),
    "class": _label("class", "int64", "class that a circuit is for: the labels that any client analyses"),
    "other_class": _label("other_class", "int64", "class of the other circuit of a pair"),
    "class_name": _label("class", "text", "name of the class"),
    "true_class": _label("true_class", "int64", "class of images: every label of the data set"),
    "true_class_name": _label("true_class", "text", "name of the class of images"),
    "layer": _label("layer", "text", "convolution"),
    "parameter_layer": _label("parameter_layer", "text", "layer with weights: a convolution, or fc, the linear one"),
    "channel_{layer}": _label("channel_{layer}", "int64", "output channel of {layer}", _IMPORTED),
    "image_channel": _label("image_channel", "int64", "channel of the image", _IMPORTED),
    "null": _label("null", "text", "where circuits are searched that training did not make", "as the null_ variables"),
    "refit": _label("refit", "text", "what of the read-out is refitted", "with evaluation.readout_images"),
    "tried_size": _label("tried_size", "int64", "size of a circuit that was tried", _NEVER),
    "sample": _label("sample", "int64", "random mask", _NEVER),
    "kernel_row": _label("kernel_row", "int64", "row of a kernel", _NEVER),
    "kernel_column": _label("kernel_column", "int64", "column of a kernel", _NEVER),
    "feature": _label("feature", "int64", "input of the linear layer: row, column, channel", _NEVER),
}  # fmt: skip
"""Every dimension, and the coordinates that label it."""


def _rows(
    dims: tuple[str, ...], dtype: str, rows: dict[str, str], when: str = "", units: str = "1"
) -> dict[str, Variable]:
    """Variables that differ in name and meaning only."""
    return {name: Variable(dims, dtype, text, units, when) for name, text in rows.items()}


def _of_models(dims: tuple[str, ...], dtype: str, rows: dict[str, str], when: str = "") -> dict[str, Variable]:
    """The same of the clients' models and of the global one, where ORIGIN stands in the name and in the text."""
    models = (("local", LOCAL, "the client's local model"), ("global", GLOBAL, "the global model"))
    return {
        name.replace("ORIGIN", origin): Variable((*lead, *dims), dtype, text.replace("ORIGIN", model), when=when)
        for name, text in rows.items()
        for origin, lead, model in models
    }


def _similarity(iou: str, dims: tuple[str, ...], text: str) -> dict[str, Variable]:
    """A measure of similarity (`fedmi_jax.results.similarity`), and the share of its pairs that are both empty."""
    empty = f"share of the pairs of {iou} in which both circuits have no channel"
    rows = {iou: text, "empty_pairs_" + iou.removesuffix("_iou"): empty}
    return _rows((*dims, "layer"), "float64", rows)


_SIZED = "with an objective other than class"
_DECIDES = f"{_SIZED}, or with evaluation.decisions"
_THOROUGH = f"{_SIZED} and evaluation.null_samples; in the last round"
_RANDOM, _AGAIN = "with evaluation.null_samples", "with discovery.repeat"
_SERVED = "with a method that serves every client a model of its own"
_WEIGHTS, _COMPACT = "with execution.save_weights", "in place of weights, see `fedmi_jax.analysis.compact`"
_CHANNEL, _ENDS = "channel_{layer}", ("channel_{layer}", "{source}")
VARIABLES: dict[str, Variable] = {
    **_rows(("seed", "client", "class"), "bool", {"analysed": "whether the client analyses the class"}),
    **_rows(LOCAL, "bool", {"participates": "whether the client takes part in the round"}, "absent: every client does"),
    **_rows(("seed", "client", "true_class"), "int64", {"samples": "training images"}),
    **_rows((*CIRCUIT_DIMS, _CHANNEL), "bool", {"mask_{layer}": "whether the circuit keeps the channel of {layer}"}),
    **_rows((*CIRCUIT_DIMS, _CHANNEL), "float32", {
        "score_{layer}": "final score of the channel of {layer}; the circuit keeps scores above 0",
    }),
    **_rows((*CIRCUIT_DIMS, "layer"), "int64", {
        "size": "channels of the circuit",
        "edges": "edges of the circuit's functional connectivity",
    }),
    **_rows(CIRCUIT_DIMS, "bool", {
        "degenerate": "whether some layer of the circuit has no channel: its output cannot depend on the image",
    }),
    **_rows(CIRCUIT_DIMS, "float32", {
        "sufficiency": "accuracy on the class with only the circuit kept",
        "necessity": "accuracy on the class with exactly the circuit removed",
        "cross_evaluation": "accuracy on the class of the circuit's mask on the other model: of a local circuit on the "
        "global model (the paper's), of a global circuit on the client's local model",
        "false_positive_rate": "share of images of other classes that the masked model calls the class",
        "balanced_accuracy": "one-vs-rest: mean of sufficiency and 1 - false_positive_rate",
        "target_softmax": "mean softmax of the class over its images with only the circuit kept",
        "drift_gap": "sufficiency of the client's circuit that was found on the other model, minus cross_evaluation",
        "cross_evaluation_softmax": "target_softmax of the mask on the other model",
        "cross_evaluation_false_positive_rate": "false_positive_rate of the mask on the other model",
        "cross_evaluation_balanced_accuracy": "balanced_accuracy of the mask on the other model",
        "empty_mask_accuracy": "control: accuracy on the class with no channel kept, so that biases alone decide",
        "empty_mask_softmax": "control: mean softmax of the class with no channel kept",
    }),
    **_rows((*CIRCUIT_DIMS, "true_class"), "float32", {
        "call_rate": "share of the images of each class that the masked model calls the circuit's class",
        "cross_evaluation_call_rate": "call_rate of the mask on the other model",
        "failure_softmax": "mean softmax of each class over the images that the mask on the other model gets wrong",
    }),
    **_rows((*CIRCUIT_DIMS, "sample"), "float32", {
        "random_sufficiency": "sufficiency of random masks with as many channels per layer as the circuit",
        "random_necessity": "necessity of such random masks",
        "random_cross_evaluation": "cross_evaluation of such random masks",
    }, _RANDOM),
    **_rows((*CIRCUIT_DIMS, "layer"), "float32", {
        "rediscovery_iou": "IoU with the circuit that is found again on the same weights from other batches",
        "empty_pairs_rediscovery": "whether both circuits of rediscovery_iou have no channel",
    }, _AGAIN),
    **_rows(CIRCUIT_DIMS, "int8", {
        "status": "1 found; 2 not compact, even all live channels explain less than the target; 3 undefined, the model "
        "does not decide about the class; 0 no such circuit",
    }, _DECIDES),
    **_rows(CIRCUIT_DIMS, "float32", {
        "spread": "what there was to explain: distance of the best constant answer from the model's, on probe images; "
        "for circuits of the paper's search on test images",
    }, _DECIDES, "nat"),
    **_rows(CIRCUIT_DIMS, "float32", {
        "competence": "balanced accuracy of the whole model on the class, against the classes it is told from",
        "explained": "share of the decision that the circuit explains: 1 for the model's very answers, at most 0 for a "
        "constant answer",
        "explained_plain": "explained, of the probabilities at temperature 1",
        "auc": "area under the ROC curve of the class's log-odds with only the circuit kept",
        "decision_accuracy": "balanced accuracy on the class against those it is told from, with only the circuit kept",
        "cross_evaluation_decision_accuracy": "decision_accuracy of the mask on the other model",
        "bias_accuracy": "the same of calling the class where its log-odds plus one bias are above 0; the bias is "
        "fitted on every second test image of each class and judged on the others, and the reverse",
        "cross_evaluation_bias_accuracy": "bias_accuracy of the mask on the other model",
        "kappa": "agreement of circuit and whole model on what is the class, beyond that of the best constant answer",
        "cross_evaluation_explained": "explained of the mask on the other model, of that model's own answers",
        "cross_evaluation_auc": "auc of the mask on the other model",
        "cross_evaluation_kappa": "kappa of the mask on the other model, with that model's own answers",
        "removed_explained": "share of the decision that the rest of the model explains without the circuit",
    }, _DECIDES),
    **_rows(CIRCUIT_DIMS, "int64", {
        "untrimmed_size": "channels of the circuit before those that could go were left out",
    }, _SIZED),
    **_rows((*CIRCUIT_DIMS, "layer"), "int64", {
        "live": "channels of the circuit's model with a path of weights from the image to the linear layer",
    }, _DECIDES),
    **_rows((*CIRCUIT_DIMS, _CHANNEL), "bool", {
        "live_{layer}": "whether the channel of {layer} has such a path",
    }, _DECIDES),
    **_rows((*CIRCUIT_DIMS, _CHANNEL), "int16", {
        "rank_{layer}": "place of the channel of {layer} in the order that sizes were tried in, over all layers, 1 the "
        "best; 0 without such a path",
    }, _SIZED),
    **_rows((*CIRCUIT_DIMS, "tried_size"), "int64", {"curve_size": "sizes of circuits that were tried"}, _SIZED),
    **_rows((*CIRCUIT_DIMS, "tried_size"), "float32", {
        "curve": "share of the decision that so many of the best channels explain, on probe images",
    }, _SIZED),
    **_rows((*CIRCUIT_DIMS, "true_class"), "float32", {
        "removed_call_rate": "call_rate of the model without the circuit",
        "removed_class_accuracy": "accuracy of the model without the circuit on each class, on the same images",
    }, _DECIDES),
    **_rows((*CIRCUIT_DIMS, "sample"), "float32", {
        "random_live_explained": "explained of random live channels, as many per layer as the circuit has",
        "random_live_auc": "auc of such channels",
        "random_live_decision_accuracy": "decision_accuracy of such channels",
        "random_live_bias_accuracy": "bias_accuracy of such channels",
        "random_live_cross_evaluation_explained": "cross_evaluation_explained of such channels",
        "random_live_cross_evaluation_auc": "cross_evaluation_auc of such channels",
        "random_live_cross_evaluation_decision_accuracy": "cross_evaluation_decision_accuracy of such channels",
        "random_live_cross_evaluation_bias_accuracy": "cross_evaluation_bias_accuracy of such channels",
    }, f"{_DECIDES} and evaluation.null_samples"),
    **_rows(CIRCUIT_DIMS, "float32", {
        "completeness_gap": "mean over random halves of the circuit: what its other half explains, less what the model "
        "explains without the first, as a distance",
        "robust_explained": "explained of the circuit with random halves of all other channels, mean",
        "robust_explained_worst": "the same, worst",
        "minimal": "share of the circuit's channels without any one of which it explains at least 0.01 less",
        "same_computation": "share of the circuit's channels whose fidelity is at least 0.8",
        "silent": "share of the circuit's channels that are 0 on all images of the class in the whole model",
        "area_excess": "area under the curve of the share explained by the best channels (0 where it is less) over the "
        "logarithm of their number, on test images, beyond that of random orders",
        "attribution_area_excess": "area_excess of the order by what each channel is worth while every other one is "
        "open with probability 1/2; NaN with step gates",
        "random_order_area": "the same area of 20 random orders whose first channels are as many in every layer, mean",
    }, _THOROUGH),
    **_rows((*CIRCUIT_DIMS, _CHANNEL), "float32", {
        "fidelity_{layer}": "R^2 of the output of the channel of {layer} in the circuit, as a prediction of its output "
        "in the whole model; NaN outside the circuit",
    }, _THOROUGH),
    **_rows((*CIRCUIT_DIMS, "null"), "float32", {
        "null_explained": "explained of the circuit found there, on probe images it was not searched on; of shuffled "
        "labels, by the size that explains most",
    }, _THOROUGH),
    **_rows((*CIRCUIT_DIMS, "null"), "int64", {
        "null_size": "channels of the circuit found there", "null_live": "live channels there",
    }, _THOROUGH),
    **_rows((*CIRCUIT_DIMS, "null"), "int8", {"null_status": "status there"}, _THOROUGH),
    **_similarity("inter_client_iou", ("seed", "round", "origin", "class"),
                  "IoU of two clients' circuits of the class, mean over pairs of clients"),
    **_similarity("stability_iou", CIRCUIT_DIMS, "IoU of the circuit with itself one round before"),
    **_similarity("local_global_iou", ("seed", "round", "client", "class"),
                  "IoU of the client's local circuit with its global one"),
    **_similarity("specialist_distinctness", ("seed", "round", "origin"),
                  "IoU of the channels that two clients use for any class, mean over pairs of clients"),
    **_similarity("inter_class_iou", ("seed", "round", "origin", "client"),
                  "IoU of the client's circuits of two classes, mean over pairs of classes"),
    **_similarity("class_pair_iou", ("seed", "round", "origin", "class", "other_class"),
                  "IoU of a circuit of the one class with a circuit of the other, mean over pairs of circuits"),
    **_rows((*LOCAL, "class", "layer"), "float64", {
        "aligned_local_global_iou": "local_global_iou after the best matching of channels",
    }, _COMPACT),
    **_rows(("seed", "round", "layer"), "float64", {
        "aligned_specialist_distinctness": "specialist_distinctness of local circuits after the best matching",
    }, _COMPACT),
    **_rows((*LOCAL, "layer"), "float64", {
        "moved": "share of the global model's channels that are matched to another number",
    }, _COMPACT),
    **_rows(LOCAL, "float64", {"train_loss": "mean training loss of the round"}, units="nat"),
    **_of_models((), "float", {"ORIGIN_accuracy": "accuracy of ORIGIN, every channel kept"}),
    **_of_models(("true_class",), "float", {"ORIGIN_class_accuracy": "accuracy of ORIGIN on each class"}),
    **_rows(LOCAL, "float", {"served_accuracy": "accuracy of the model that the server gives the client"}, _SERVED),
    **_rows((*LOCAL, "true_class"), "float", {
        "served_class_accuracy": "accuracy of the model that the server gives the client, on each class",
    }, _SERVED),
    **_of_models(("refit",), "float", {
        "readout_accuracy_ORIGIN": "mean accuracy of ORIGIN over the classes that its clients hold, among which alone "
        "it chooses, with its read-out refitted on a few training images",
    }, "with evaluation.readout_images"),
    **_of_models(("parameter_layer",), "float32", {
        "realised_sparsity_ORIGIN": "share of weights that are 0 in ORIGIN",
    }),
    **_rows(("seed", "round", "parameter_layer"), "float", {
        "support_ratio": "share of weights that any client of the round keeps, over the mean share that one keeps: 1 "
        "where all keep the same ones",
        "sign_conflict": "of the weights that two clients or more keep, the share that has both signs",
        "cancellation": "size of the sum of the clients' weights over the sum of their sizes: 1 where nothing cancels",
    }, "absent from older files"),
    **_rows(("seed", "round", "layer"), "float", {
        "reordered": "share of channels that the server put in another place, mean over the clients of the round",
    }, "with aggregation.kind matching"),
    **_of_models(_ENDS, "bool", {
        "connected_ORIGIN_{layer}": "whether {layer} of ORIGIN has a weight that is not 0 between the two",
    }),
    **_of_models(("true_class", "channel_{last}"), "bool", {
        "connected_ORIGIN_fc": "whether the linear layer of ORIGIN has a weight that is not 0 between the two",
    }),
    **_of_models(_ENDS, "uint8", {
        "strength_ORIGIN_{layer}": "norm of each kernel in {layer} of ORIGIN; 255 is the largest of the layer",
    }, _COMPACT),
    **_of_models(("kernel_row", "kernel_column", *reversed(_ENDS)), "float", {
        "weights_ORIGIN_{layer}_kernel": "kernels in {layer} of ORIGIN",
    }, _WEIGHTS),
    **_of_models((_CHANNEL,), "float", {"weights_ORIGIN_{layer}_bias": "biases in {layer} of ORIGIN"}, _WEIGHTS),
    **_of_models(("feature", "true_class"), "float", {
        "weights_ORIGIN_fc_kernel": "weights in the linear layer of ORIGIN",
    }, _WEIGHTS),
    **_of_models(("true_class",), "float", {
        "weights_ORIGIN_fc_bias": "biases in the linear layer of ORIGIN",
    }, _WEIGHTS),
}  # fmt: skip
"""Every variable that a result may have."""


# --- the rows of one result ---


def source(layer: str) -> str:
    """The dimension that this convolution's edges start from."""
    number = int(layer.removeprefix("conv"))
    return "image_channel" if number == 1 else f"channel_conv{number - 1}"


def variables(layers: Sequence[str]) -> dict[str, Variable]:
    """`VARIABLES` of a network of these convolutions, each name and dimension written out."""
    return _written_out(tuple(layers), coordinates=False)


def coordinates(layers: Sequence[str]) -> dict[str, Variable]:
    """`COORDINATES`, likewise."""
    return _written_out(tuple(layers), coordinates=True)


@lru_cache
def _written_out(layers: tuple[str, ...], coordinates: bool) -> dict[str, Variable]:
    last = layers[-1] if layers else ""
    return {
        name.format(layer=layer): row.at(layer=layer, source=source(layer), last=last)
        for name, row in (COORDINATES if coordinates else VARIABLES).items()
        for layer in (layers if "{layer}" in name else (last,))
    }


def described(ds: xr.Dataset) -> xr.Dataset:
    """`ds` with `long_name` and `units` on all its variables and coordinates that the tables have."""
    layers, ds = conv_layers(ds), ds.copy()
    rows = coordinates(layers) | variables(layers)
    for name in rows.keys() & ds.variables.keys():
        ds.variables[name].attrs = {"long_name": rows[name].long_name, "units": rows[name].units}
    return ds


def lacking(ds: xr.Dataset) -> str:
    """What a result must have and this dataset has not; empty: nothing. A result has `analysed` and a mask for each of
    its convolutions, which are numbered from 1."""
    layers = conv_layers(ds)
    labels = ds["layer"].values.tolist() if "layer" in ds.coords else []
    wanted = [f"conv{i + 1}" for i in range(max(len(labels), len(layers), 1))]
    return next((name for name in ("analysed", *(f"mask_{layer}" for layer in wanted)) if name not in ds), "")


# --- documentation ---


def table() -> str:
    """`COORDINATES` and `VARIABLES` as markdown. CIRCUIT stands for the axes that single out a circuit."""
    labels = ["| coordinate | dimension | dtype | meaning |", "|---|---|---|---|"]
    labels += [f"| `{name}` | {row.dims[0]} | {row.dtype} | {_meaning(row)} |" for name, row in COORDINATES.items()]
    rows = ["| variable | dimensions | dtype | fill | units | meaning |", "|---|---|---|---|---|---|"]
    rows += [
        f"| `{name}` | {_dims(row)} | {row.dtype} | {row.fill} | {row.units} | {_meaning(row)} |"
        for name, row in VARIABLES.items()
    ]
    return "\n".join([*labels, "", *rows, ""])


def _dims(row: Variable) -> str:
    rest = row.dims[len(CIRCUIT_DIMS) :]
    return ", ".join(("CIRCUIT", *rest) if row.of_circuits else row.dims)


def _meaning(row: Variable) -> str:
    return f"{row.long_name} ({row.when})" if row.when else row.long_name

"""A result: labelled arrays, one netCDF4 file `result.nc` per run, from which every table and figure can be drawn again.

The result *is* an `xarray.Dataset`; any netCDF reader opens the file. Not every variable is in every result: an
imported file of the authors has no scores, softmax, global accuracy or linear-layer connectivity.

| dimension | labels |
|---|---|
| seed | the experiment's seeds |
| round | 1 ... R |
| origin | "local", "global": circuits found on the client's local model / on the global model with its data |
| client | 0 ... K-1 |
| class, other_class | labels analysed by any client; coordinate class_name(class), as "0 - zero" |
| true_class | every label of the data set; coordinate true_class_name |
| layer, parameter_layer | conv1 conv2 conv3, and with fc |
| channel_conv1, channel_conv2, channel_conv3, image_channel | channel numbers |
| sample | which of the random masks (`evaluation.null_samples`) |

In the next table CIRCUIT stands for (seed, round, origin, client, class). Shares, accuracies and IoUs are fractions in
[0, 1], drift_gap in [-1, 1]; floats are NaN, booleans False and counts 0 where a client does not analyse the class or
does not take part in the round.

| variable | dimensions | meaning |
|---|---|---|
| analysed | seed, client, class | bool: does the client analyse the class |
| participates | seed, round, client | bool: does the client take part in the round; absent: all do |
| samples | seed, client, true_class | int: training images |
| mask_convN | CIRCUIT, channel_convN | bool: channels of the circuit |
| score_convN | CIRCUIT, channel_convN | final gate score; the circuit is score > 0 |
| size | CIRCUIT, layer | int: channels of the circuit |
| edges | CIRCUIT, layer | int: edges of its functional connectivity |
| degenerate | CIRCUIT | bool: some layer has no channel, so the output cannot depend on the image |
| sufficiency | CIRCUIT | accuracy on the class with only the circuit kept |
| necessity | CIRCUIT | accuracy on the class with exactly the circuit removed |
| cross_evaluation | CIRCUIT | accuracy of the mask on the other model: of a local circuit on the global model (the paper's), of a global circuit on the client's local model |
| cross_evaluation_softmax | CIRCUIT | of the same, mean softmax of the class over all its images |
| cross_evaluation_false_positive_rate, cross_evaluation_balanced_accuracy | CIRCUIT | of the same, as below |
| cross_evaluation_call_rate | CIRCUIT, true_class | of the same, as below |
| failure_softmax | CIRCUIT, true_class | of the same, mean softmax over the images it gets wrong |
| drift_gap | CIRCUIT | sufficiency of the client's circuit found on the other model, minus cross_evaluation |
| false_positive_rate | CIRCUIT | share of images of other classes that the masked model calls the class |
| balanced_accuracy | CIRCUIT | one-vs-rest: mean of sufficiency and 1 - false_positive_rate |
| call_rate | CIRCUIT, true_class | share of the images of each class that the masked model calls the class |
| target_softmax | CIRCUIT | mean softmax of the class over its images with only the circuit kept |
| empty_mask_accuracy, empty_mask_softmax | CIRCUIT | control: no channel kept, so biases alone decide |
| random_sufficiency, random_necessity, random_cross_evaluation | CIRCUIT, sample | on request: the same of random masks with as many channels per layer as the circuit |
| rediscovery_iou, empty_pairs_rediscovery | CIRCUIT, layer | on request (`discovery.repeat`): IoU with the circuit found again on the same weights from other batches; whether both are empty |
| aligned_local_global_iou, aligned_specialist_distinctness, moved | see `fedmi_jax.analysis.alignment.aligned` | where `fedmi_jax.analysis.compact` put them in place of the weights |
| strength_local_convN, strength_global_convN | as connected_local_convN ... | there too: uint8, norm of each edge's kernel, 255 for the layer's largest |
| inter_client_iou, stability_iou, ..., empty_pairs_* | see `fedmi_jax.results.similarity.measures` | similarity |
| global_accuracy, global_class_accuracy | seed, round; and true_class | full global model |
| local_accuracy, local_class_accuracy, train_loss | seed, round, client; and true_class | full local model; mean loss of the round |
| weights_local_X, weights_global_X | seed, round, (client,) and X's own | on request: every parameter |
| realised_sparsity_local, realised_sparsity_global | seed, round, (client,) parameter_layer | share of zero weights |
| connected_local_L, connected_global_L | seed, round, (client,) destination, source | bool: physical connectivity of layer L |

Attributes: schema_version, created_by, name, config (JSON, `fedmi_jax.config.from_json`; absent when unknown),
versions (JSON, of Python and the packages). The file ends in its checksum (`fedmi_jax.files`).
"""  # noqa: E501

from __future__ import annotations

import xarray as xr

from fedmi_jax.network.layers import CONV_LAYERS

SCHEMA_VERSION = 2
ORIGINS = ("local", "global")
_REQUIRED = ("analysed", *(f"mask_{layer}" for layer in CONV_LAYERS))
CIRCUIT_DIMS = ("seed", "round", "origin", "client", "class")
"""The axes that single out one circuit."""


def conv_layers(ds: xr.Dataset) -> tuple[str, ...]:
    """Names of the convolutions, from the image up."""
    return tuple(str(layer) for layer in ds["layer"].values)


def held(ds: xr.Dataset) -> xr.DataArray:
    """Which circuits there are, bool (seed, round, client, class): the client analyses the class and takes part in the
    round."""
    everyone = xr.ones_like(ds["round"], dtype=bool)
    there = ds["analysed"].astype(bool) & (ds["participates"].astype(bool) if "participates" in ds else everyone)
    return there.transpose("seed", "round", "client", "class")

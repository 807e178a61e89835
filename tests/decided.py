"""Results of the second instrument with known answers, on top of `made_up`.

Axes: S seeds, R rounds, O origins, K clients, C classes.
"""

import numpy as np
from made_up import CHANNELS, complete

from fedmi_jax.config import Discovery, Evaluation
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.results.schema import CIRCUIT_DIMS, REFITS

LIVE = 30
"""Channels of a layer that are live, the first ones."""
USUAL = {
    "status": 1, "spread": 0.3, "competence": 0.98, "explained": 0.9, "auc": 0.99, "decision_accuracy": 0.98,
    "cross_evaluation_explained": 0.9, "cross_evaluation_auc": 0.95, "cross_evaluation_decision_accuracy": 0.6,
    "removed_explained": 0.0, "untrimmed_size": 40,
}  # fmt: skip
"""Measures of every circuit, but for those that are asked for."""
RANDOM = {
    "explained": 0.0, "auc": 0.6, "decision_accuracy": 0.5, "cross_evaluation_explained": 0.0,
    "cross_evaluation_auc": 0.6, "cross_evaluation_decision_accuracy": 0.5,
}  # fmt: skip
TRIED = (1, 2, 4, 8, 16, 32, 64, 90)


def decided(kind, objective="decision", negatives="own", random=None, readout=None, calls=0.9, again=1.0, **how):
    """A run of this kind with a search of this objective. Measures of `USUAL`, `random` those of random live sets:
    numbers, or functions of (seed, round, origin, client, class). calls: on which share of a class's images the whole
    global model calls it, a number or a function of (seed, round, class). again: `rediscovery_iou`. readout: accuracy
    of the local models, and of the global one in every way to refit. Other words: of `made_up.complete`."""
    measures = {name: how.pop(name, value) for name, value in USUAL.items()}
    seeds = how.pop("numbers", None)
    usual = {"discovery": Discovery(objective=objective, negatives=negatives)}
    usual |= {"evaluation": Evaluation(decisions=objective == "class")}
    ds = complete(kind, true=10, **usual | {"rounds": 4} | how)
    if seeds is not None:
        ds = ds.assign_coords(seed=list(seeds))
    there = ds["analysed"].values.astype(bool)[:, None, None]
    new = {name: (CIRCUIT_DIMS, np.where(there, _filled(ds, of), np.nan)) for name, of in measures.items()}
    for name in ("status", "untrimmed_size"):
        new[name] = (CIRCUIT_DIMS, np.nan_to_num(new[name][1]).astype(int))
    for name, of in (RANDOM | (random or {})).items():
        found = np.where(there, _filled(ds, of), np.nan)
        new[f"random_live_{name}"] = ((*CIRCUIT_DIMS, "sample"), np.stack([found, found], -1))
    new |= _channels(ds) | _tried(ds, there)
    lengths = [ds.sizes[dim] for dim in (*CIRCUIT_DIMS, "layer")]
    last = (ds["round"] == ds["round"][-1]).values[:, None, None, None]
    new["rediscovery_iou"] = (
        (*CIRCUIT_DIMS, "layer"),
        np.where((there & last)[..., None], np.full(lengths, again), np.nan),
    )
    return ds.assign(new | _models(ds, calls, readout or {})).assign_coords(refit=list(REFITS))


def _channels(ds):
    """The first ones are live; the order of channels goes round the layers, and begins with the circuit."""
    new = {"live": ((*CIRCUIT_DIMS, "layer"), np.full([ds.sizes[dim] for dim in (*CIRCUIT_DIMS, "layer")], LIVE))}
    live = np.arange(CHANNELS) < LIVE
    for at, layer in enumerate(CONV_LAYERS):
        mask = ds[f"mask_{layer}"]
        order = np.argsort(~mask.values, -1, kind="stable").argsort(-1)
        rank = np.where(live, order * len(CONV_LAYERS) + at + 1, 0)
        new[f"live_{layer}"] = (mask.dims, np.broadcast_to(live, mask.shape))
        new[f"rank_{layer}"], new[f"score_{layer}"] = (mask.dims, rank), (mask.dims, -rank.astype(float))
    return new


def _tried(ds, there):
    """A curve that rises in even steps."""
    shape = [*(ds.sizes[dim] for dim in CIRCUIT_DIMS), len(TRIED)]
    dims, rising = (*CIRCUIT_DIMS, "tried_size"), np.broadcast_to(np.linspace(0, 1, len(TRIED)), shape)
    return {
        "curve_size": (dims, np.broadcast_to(TRIED, shape)),
        "curve": (dims, np.where(there[..., None], rising, np.nan)),
    }


def _models(ds, calls, readout):
    """What is known of whole models; seeds differ a little."""
    rate = [[[calls(s, r, c) if callable(calls) else calls for c in range(10)] for r in ds["round"].values.tolist()]
            for s in ds["seed"].values.tolist()]  # fmt: skip
    new = {"global_class_accuracy": (("seed", "round", "true_class"), np.array(rate, float))}
    found = {"local": 0.98, "none": 0.3, "scale-and-biases": 0.75, "linear": 0.9} | readout
    values = {"local": np.full(len(REFITS), found["local"]), "global": np.array([found[name] for name in REFITS])}
    for origin, lead in (("local", ("seed", "round", "client")), ("global", ("seed", "round"))):
        shape = [*(ds.sizes[dim] for dim in lead), len(REFITS)]
        apart = 0.002 * np.arange(shape[0]).reshape(-1, *(1,) * len(lead))
        new[f"readout_accuracy_{origin}"] = ((*lead, "refit"), np.broadcast_to(values[origin], shape) + apart)
    return new


def _filled(ds, of):
    """(S, R, O, K, C)."""
    shape = [ds.sizes[dim] for dim in CIRCUIT_DIMS]
    if not callable(of):
        return np.full(shape, of, float)
    labels = [ds[dim].values.tolist() for dim in CIRCUIT_DIMS]
    values = [of(*(axis[i] for axis, i in zip(labels, at, strict=True))) for at in np.ndindex(*shape)]
    return np.array(values, float).reshape(shape)

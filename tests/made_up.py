"""Results with known answers: every circuit is an interval of channels, so overlaps follow from where they start.

Axes: S seeds, R rounds, K clients, C classes.
"""

import numpy as np
import xarray as xr
from decided import USUAL, with_decisions

from fedmi_jax.config import Discovery, Evaluation, Experiment, Sparsity, Split
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.results import connectivity, schema, similarity, store
from fedmi_jax.results.schema import CIRCUIT_DIMS

CHANNELS, SIZE = 40, 10
MAPS = {
    "iid": ((0, 1), (0, 1), (0, 1)),
    "one-class": ((0,), (3,), (6,)),
    "two-class": ((0, 1), (3, 4), (6, 7)),
    "three-class": ((0, 1, 2), (3, 4, 5), (6, 7, 8)),
    "shared-class": ((0, 1, 2), (0, 3, 4), (0, 6, 7)),
    "sparsity-ablation": ((0, 1), (2, 3), (4, 5)),
}


def result(
    kind, local=0, global_=0, cross=1.0, balanced=1.0, seeds=3, rounds=None, sparsity=0.995, size=SIZE, **changes
):
    """A run of this kind, as long as the paper's. local, global_: where a circuit starts, in all layers or in each of
    the three; size: how many channels it has; cross, balanced: its figures. Numbers, or functions of (seed, round,
    client, class). A start of -1 is an empty circuit. changes: of the experiment; own: the classes of each client, if
    they are not those of `MAPS`."""
    held, rounds = changes.pop("own", MAPS[kind]), rounds or (50 if kind == "three-class" else 10)
    classes = sorted(set().union(*held))
    shape = (seeds, rounds, len(held), len(classes))
    coords = {
        "seed": np.arange(seeds), "round": np.arange(1, rounds + 1), "origin": list(schema.ORIGINS),
        "client": np.arange(len(held)), "class": classes, "class_name": ("class", [f"{c} - name" for c in classes]),
    }  # fmt: skip
    starts = np.stack([_filled(of, shape, coords, len(CONV_LAYERS)) for of in (local, global_)], 2)[..., None]
    away = np.arange(CHANNELS) - starts
    masks = (away >= 0) & (away < _filled(size, shape, coords, 1)[:, :, None, ..., None]) & (starts >= 0)
    analysed = np.array([[c in own for c in classes] for own in held])
    data = {"analysed": (("seed", "client", "class"), np.tile(analysed, (seeds, 1, 1)))}
    data |= {f"mask_{k}": ((*CIRCUIT_DIMS, f"channel_{k}"), masks[..., i, :]) for i, k in enumerate(CONV_LAYERS)}
    for layer in CONV_LAYERS:
        ends, size = (f"channel_{layer}", schema.source(layer)), (CHANNELS, 1 if layer == "conv1" else CHANNELS)
        data[f"connected_local_{layer}"] = (("seed", "round", "client", *ends), np.ones((*shape[:3], *size), bool))
        data[f"connected_global_{layer}"] = (("seed", "round", *ends), np.ones((*shape[:2], *size), bool))
    figures = {"cross_evaluation": cross, "cross_evaluation_balanced_accuracy": balanced}
    for name, of in figures.items():
        values = np.where(analysed, _filled(of, shape, coords, 1)[..., 0], np.nan)
        figures[name] = (CIRCUIT_DIMS, np.stack([values, values], 2))
    figures["drift_gap"] = (CIRCUIT_DIMS, 1 - figures["cross_evaluation"][1])
    ds = _measured(xr.Dataset(data, coords), masks).assign(figures)
    return store.stamp(ds, _experiment(kind, held, seeds, rounds, sparsity, changes))


def _measured(circuits, masks):
    """With sizes, similarities and edges, which are counted once for circuits that are alike."""
    shared = (circuits.sizes["seed"], circuits.sizes["round"], *circuits["class"].values.tolist())
    key = (*shared, masks.shape, masks.tobytes(), circuits["analysed"].values.tobytes())
    if key not in _KNOWN:
        _KNOWN[key] = connectivity.edges(similarity.measures(similarity.sizes(circuits)))
    return _KNOWN[key].copy(deep=True)


_KNOWN = {}


def complete(kind, true=4, **how):
    """With what only a run has: accuracy, call rates, samples, sparsity and controls, of so many true classes."""
    return with_decisions(_of_a_run(kind, true, **how))


def _of_a_run(kind, true, **how):
    """As `complete`, without measures of decisions."""
    ds = result(kind, **how)
    names = list("abcdefghijklmnopqrstuvwxyz"[:true])
    ds = ds.assign_coords(true_class=np.arange(true), true_class_name=("true_class", names), sample=[0, 1])
    ds = ds.assign_coords(parameter_layer=[*CONV_LAYERS, "fc"])
    rng, sizes = np.random.default_rng(0), ds.sizes
    drawn = {name: (dims, rng.random([sizes[dim] for dim in dims])) for name, dims in ADDED.items()}
    samples = rng.integers(0, 90, [sizes["seed"], sizes["client"], true])
    return ds.assign(drawn | {"samples": (("seed", "client", "true_class"), samples)})


def decided(kind, objective="decision", negatives="own", random=None, readout=None, calls=0.9, again=1.0, **how):
    """A run of this kind with a search of this objective. Measures as of `with_decisions`; calls: on which share of a
    class's images the whole global model calls it, a number or a function of (seed, round, class); again:
    `rediscovery_iou`, in the last round; numbers: of the seeds. Other words: of `complete`."""
    measures = {name: how.pop(name) for name in USUAL if name in how}
    numbers = how.pop("numbers", None)
    usual = {"discovery": Discovery(objective=objective, negatives=negatives)}
    usual |= {"evaluation": Evaluation(decisions=objective == "class")}
    ds = _of_a_run(kind, 10, **usual | {"rounds": 4} | how)
    ds = ds if numbers is None else ds.assign_coords(seed=list(numbers))
    ds = with_decisions(ds, random, readout, **measures)
    labels = [ds[dim].values.tolist() for dim in ("seed", "round", "true_class")]
    rate = [[[calls(s, r, c) if callable(calls) else calls for c in labels[2]] for r in labels[1]] for s in labels[0]]
    found = xr.full_like(ds["rediscovery_iou"], again).where(ds["analysed"] & (ds["round"] == ds["round"][-1]))
    dims = ("seed", "round", "true_class")
    return ds.assign(global_class_accuracy=(dims, np.array(rate, float)), rediscovery_iou=found)


ADDED = {
    "global_class_accuracy": ("seed", "round", "true_class"),
    "local_class_accuracy": ("seed", "round", "client", "true_class"),
    "realised_sparsity_local": ("seed", "round", "client", "parameter_layer"),
    "realised_sparsity_global": ("seed", "round", "parameter_layer"),
    "call_rate": (*CIRCUIT_DIMS, "true_class"),
    "removed_call_rate": (*CIRCUIT_DIMS, "true_class"),
    "cross_evaluation_call_rate": (*CIRCUIT_DIMS, "true_class"),
    "random_cross_evaluation": (*CIRCUIT_DIMS, "sample"),
    "sufficiency": CIRCUIT_DIMS,
    "necessity": CIRCUIT_DIMS,
    "random_sufficiency": (*CIRCUIT_DIMS, "sample"),
    "rediscovery_iou": (*CIRCUIT_DIMS, "layer"),
    "empty_pairs_rediscovery": (*CIRCUIT_DIMS, "layer"),
    "aligned_local_global_iou": ("seed", "round", "client", "class", "layer"),
    "aligned_specialist_distinctness": ("seed", "round", "layer"),
    "moved": ("seed", "round", "client", "layer"),
}


def _filled(of, shape, coords, width):
    """(*shape, width)"""
    if not callable(of):
        return np.broadcast_to(of, (*shape, width))
    labels = [np.asarray(coords[dim]).tolist() for dim in ("seed", "round", "client", "class")]
    values = [of(*(axis[i] for axis, i in zip(labels, where, strict=True))) for where in np.ndindex(shape)]
    return np.array([np.broadcast_to(value, width) for value in values]).reshape(*shape, width)


def _experiment(kind, held, seeds, rounds, sparsity, changes):
    own = {"class_map": held} if kind != "iid" else {}
    split = Split(kind="class-map" if own else "iid", clients=len(held), **own)
    settings = {"name": kind, "seeds": tuple(range(seeds)), "rounds": rounds, "split": split}
    return Experiment(**settings | {"sparsity": Sparsity(target=sparsity)} | changes)

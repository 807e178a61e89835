"""A stored result with made-up weights and circuits, on images whose last maps are 2 x 3, and models in plain numpy.

Axes: S seeds, R rounds, K clients, C classes with circuits, O_l channels of convolution l, Y classes.
"""

import numpy as np
import tiny
import xarray as xr

from fedmi_jax.config import Execution
from fedmi_jax.data import datasets, identity
from fedmi_jax.methods import Aggregation
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.results import connectivity, schema, similarity, store
from fedmi_jax.results.schema import CIRCUIT_DIMS

SIZE, CLASSES, CHANNELS = (16, 24), 4, (5, 6, 7)
SEEDS, ROUNDS, OWN = (3, 8), (1, 2), ((0, 1), (1, 3), (0,))
"""Class 0 is that of clients 0 and 2, class 1 of 0 and 1, class 3 of client 1, class 2 nobody's."""
EXPERTS = {0: 0, 1: 1, 3: 1}
SAMPLES = ((9, 2, 0, 0), (0, 5, 0, 5), (3, 0, 0, 0))


def images(count=90):
    """Test images: noise, with a bright bar whose place says the class."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, count)
    pixels = rng.integers(0, 120, (count, *SIZE))
    pixels[np.arange(count), 4 * labels + 1] += 130
    made = (pixels.astype(np.uint8), labels)
    return datasets.from_arrays(*made, *made, name="bars", class_names=[f"{c} - bar" for c in range(CLASSES)])


def shapes():
    """Of a model's parameters."""
    widths, found = (1, *CHANNELS), {}
    for layer, below, width in zip(CONV_LAYERS, widths, CHANNELS, strict=False):
        found |= {f"{layer}_kernel": (3, 3, below, width), f"{layer}_bias": (width,)}
    return found | {"fc_kernel": (2 * 3 * CHANNELS[-1], CLASSES), "fc_bias": (CLASSES,)}


def result(density=0.5):
    """Local models are random and half empty; the global one is their mean."""
    rng = np.random.default_rng(1)
    classes, lead = sorted(set().union(*OWN)), (len(SEEDS), len(ROUNDS))
    coords = {
        "seed": list(SEEDS), "round": list(ROUNDS), "origin": list(schema.ORIGINS), "client": range(len(OWN)),
        "class": classes, "class_name": ("class", [f"{c} - bar" for c in classes]), "true_class": range(CLASSES),
        "true_class_name": ("true_class", [f"{c} - bar" for c in range(CLASSES)]), "image_channel": [0],
    }  # fmt: skip
    analysed = np.array([[c in own for c in classes] for own in OWN])
    data = {
        "analysed": (("seed", "client", "class"), np.stack([analysed] * len(SEEDS))),
        "samples": (("seed", "client", "true_class"), np.stack([SAMPLES] * len(SEEDS))),
    }
    for layer, width in zip(CONV_LAYERS, CHANNELS, strict=True):
        mask = rng.random((*lead, 2, len(OWN), len(classes), width)) < density
        data[f"mask_{layer}"] = ((*CIRCUIT_DIMS, f"channel_{layer}"), mask & analysed[..., None])
    rows = schema.variables(CONV_LAYERS)
    for name, shape in shapes().items():
        local = rng.normal(size=(*lead, len(OWN), *shape))
        if name.endswith("kernel"):
            local *= rng.random(local.shape) < 0.5
        for origin, values in (("local", local), ("global", local.mean(2))):
            data[f"weights_{origin}_{name}"] = (rows[f"weights_{origin}_{name}"].dims, values)
            if name.startswith("conv") and name.endswith("kernel"):
                ends = rows[f"connected_{origin}_{name[:5]}"].dims
                data[f"connected_{origin}_{name[:5]}"] = (ends, (values != 0).any((-4, -3)).swapaxes(-1, -2))
    ds = similarity.measures(similarity.sizes(xr.Dataset(data, coords)))
    return store.stamp(connectivity.edges(ds), name="studied")


OWN_LAYERS = {"fedper": ("fc",), "lg-fedavg": CONV_LAYERS, "alone": (*CONV_LAYERS, "fc")}
"""Which layers a client keeps to itself, by method."""


def served(kind, **settings):
    """The same result as if it were of a method whose server gives every client a model of its own."""
    kept = Execution(client_chunk=1, precision="float64", save_weights=True)
    experiment = tiny.experiment(
        seeds=SEEDS, execution=kept, aggregation=Aggregation(kind=kind, **settings), rounds=len(ROUNDS)
    )
    ds = result()
    shape = (len(SEEDS), len(ROUNDS), len(OWN))
    ds["participates"] = (("seed", "round", "client"), np.ones(shape, bool))
    ds["served_accuracy"] = (("seed", "round", "client"), np.zeros(shape))
    ds = store.stamp(ds, experiment, dataset=identity.describe(images()))
    return ds.assign_attrs(method=kind)


def given(ds, seed, number, client):
    """The model that the server gave this client: the global one, but for the layers that are the client's own."""
    own = OWN_LAYERS.get(ds.attrs.get("method"), ())
    mine = model(ds, seed, number, client)
    kept = {name: value for name, value in mine.items() if name.partition("_")[0] in own}
    return model(ds, seed, number) | kept


def model(ds, seed, number, client=None):
    """Parameters of one model, numpy."""
    at, origin = ({}, "global") if client is None else ({"client": client}, "local")
    return {name: ds[f"weights_{origin}_{name}"].sel(seed=seed, round=number, **at).values.copy() for name in shapes()}


def circuit(ds, seed, number, client, label, origin="local"):
    """{layer: bool (O_l,)}"""
    at = {"seed": seed, "round": number, "origin": origin, "client": client, "class": label}
    return {layer: ds[f"mask_{layer}"].sel(at).values for layer in CONV_LAYERS}


def inputs(dataset):
    """(N, H, W, 1) in double precision, and labels."""
    return (dataset.test_images / 255 - dataset.mean[0]) / dataset.std[0], dataset.test_labels


def without(params, gone):
    """With kernels and biases of these channels 0."""
    changed = {name: value.copy() for name, value in params.items()}
    for layer, channels in gone.items():
        for channel in np.flatnonzero(channels):
            changed[f"{layer}_kernel"][..., channel] = 0
            changed[f"{layer}_bias"][channel] = 0
    return changed


def overwritten(params, source, put):
    changed = {name: value.copy() for name, value in params.items()}
    for layer, channels in put.items():
        for channel in np.flatnonzero(channels):
            changed[f"{layer}_kernel"][..., channel] = source[f"{layer}_kernel"][..., channel]
            changed[f"{layer}_bias"][channel] = source[f"{layer}_bias"][channel]
    return changed


def conv(x, kernel):
    """3x3, padding 1: (N, H, W, I) -> (N, H, W, O)."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))


def activated(y):
    """ReLU, then the largest of every 2x2."""
    n, height, width, channels = y.shape
    return np.maximum(y, 0).reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))


def logits(params, x):
    return onward(params, outputs(params, x)[CONV_LAYERS[-1]], CONV_LAYERS[-1])


def outputs(params, x):
    """Every convolution's, before ReLU."""
    found = {}
    for layer in CONV_LAYERS:
        found[layer] = conv(x, params[f"{layer}_kernel"]) + params[f"{layer}_bias"]
        x = activated(found[layer])
    return found


def onward(params, y, layer):
    """Logits from the output of a convolution."""
    x = activated(y)
    for later in CONV_LAYERS[CONV_LAYERS.index(layer) + 1 :]:
        x = activated(conv(x, params[f"{later}_kernel"]) + params[f"{later}_bias"])
    return x.reshape(len(x), -1) @ params["fc_kernel"] + params["fc_bias"]


def accuracy(params, x, labels, label):
    """On the images of one class."""
    return np.mean(logits(params, x[labels == label]).argmax(-1) == label)

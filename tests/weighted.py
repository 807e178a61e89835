"""A result with weights, and the images that it was made of; nothing is trained."""

import json

import numpy as np
from made_up import complete

import fedmi_jax
from fedmi_jax.data import identity
from fedmi_jax.results import schema
from fedmi_jax.results.schema import conv_layers


def pictures(count=40, seed=0):
    """Images of 4 classes, 9 x 8 pixels, which the three pools bring to 1 x 1."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 9, 8), np.uint8)
    return fedmi_jax.from_arrays(images, np.arange(count) % 4, images, np.arange(count) % 4, name="noise")


def _with_weights(ds, images, left=0.05):
    """Sparse weights, the connectivity that follows from them, and the images' names."""
    rng, sizes = np.random.default_rng(1), ds.sizes
    for origin, lead in (("local", schema.LOCAL), ("global", schema.GLOBAL)):
        outer = [sizes[dim] for dim in lead]
        for layer in conv_layers(ds):
            into, out = schema.source(layer), f"channel_{layer}"
            shape = (*outer, 3, 3, sizes[into], sizes[out])
            kernel = rng.normal(size=shape) * (rng.random(shape) < left)
            ds[f"weights_{origin}_{layer}_kernel"] = ((*lead, "kernel_row", "kernel_column", into, out), kernel)
            ds[f"weights_{origin}_{layer}_bias"] = ((*lead, out), rng.normal(size=(*outer, sizes[out])))
            wires = (kernel != 0).any((-4, -3)).swapaxes(-1, -2)
            ds[f"connected_{origin}_{layer}"] = ((*lead, out, into), wires)
        ds[f"weights_{origin}_fc_bias"] = ((*lead, "true_class"), np.zeros((*outer, sizes["true_class"])))
    return ds.assign_attrs(dataset=json.dumps(identity.to_values(identity.describe(images))))


def result(images):
    """Two-class, two seeds, three rounds: circuits of 10 channels that move on by the round, the global ones from
    elsewhere; client 1 has none for class 3 in round 2."""

    def start(seed, round_, client, label):
        return -1 if (client, label, round_) == (1, 3, 2) else round_ + client

    return _with_weights(complete("two-class", seeds=2, rounds=3, local=start, global_=12), images)

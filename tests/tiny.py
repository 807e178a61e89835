"""Small images, models and experiments, so that tests compile and run in little time.

Axes: N images, M models, C circuits, O_l channels of convolution l.
"""

import jax
import jax.numpy as jnp
import numpy as np

from fedmi_jax import config, from_arrays
from fedmi_jax.config import Data, Discovery, Evaluation, Execution, Experiment, Local, Model, Sparsity, Split
from fedmi_jax.devices.layout import resolve
from fedmi_jax.network import model
from fedmi_jax.network.images import Images

CLASSES, SIZE = 4, 8
CHANNELS = (4, 6, 8)


def squares(train=160, test=48):
    """Class c: the c-th quarter of a noisy 8x8 image is bright, somewhere between hardly and very."""
    rng = np.random.default_rng(0)
    images, labels = zip(*(_squares(rng, n) for n in (train, test)), strict=True)
    return from_arrays(images[0], labels[0], images[1], labels[1], name="squares")


def _squares(rng, n):
    labels = np.arange(n) % CLASSES
    images = rng.integers(0, 60, (n, 2, 4, 2, 4))
    images[np.arange(n), labels // 2, :, labels % 2] += rng.integers(20, 190, (n, 4, 4))
    return images.reshape(n, SIZE, SIZE).astype(np.uint8), labels


def on_device(pixels, labels, dtype=jnp.float64):
    """Images as the core wants them, channel axis included."""
    moments = (jnp.full(pixels.shape[-1], value, dtype) for value in (0.4, 0.3))
    return Images(jnp.asarray(pixels), jnp.asarray(labels, jnp.int32), *moments)


def noise(n=60, size=SIZE, dtype=jnp.float64):
    """Images without two equal windows, and labels."""
    rng = np.random.default_rng(1)
    return on_device(rng.integers(0, 256, (n, size, size, 1)).astype(np.uint8), rng.integers(0, CLASSES, n), dtype)


INIT = jax.jit(model.init, static_argnums=(1, 2, 3, 4))


def params(seed=0, size=SIZE, dtype=jnp.float64, sparsity=0.0, channels=CHANNELS):
    """A narrow model; of its weights the share `sparsity` is 0."""
    fresh = INIT(jax.random.key(seed), (size, size, 1), channels, CLASSES, dtype)
    rng = np.random.default_rng(seed)
    kernels = {k: rng.random(v.shape) >= sparsity for k, v in fresh.items() if k.endswith("kernel")}
    # wider than PyTorch's, so that so small a model's answer depends on the image
    return fresh | {k: jnp.asarray(4 * np.asarray(fresh[k]) * kept) for k, kept in kernels.items()}


def stacked(trees):
    """On the host, where no shape has to be compiled for."""
    return jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def layout(chunk, micro_batch=0, shard="auto"):
    return resolve(Execution(client_chunk=chunk, micro_batch=micro_batch, shard=shard))


def experiment(**changes):
    """Two seeds, two unlike clients, two rounds. Class 2 is looked for on both; the first has no image of it."""
    settings = {
        "name": "tiny",
        "seeds": (3, 5),
        "rounds": 2,
        "data": Data(images_per_client=70),
        "split": Split(kind="class-map", clients=2, class_map=((0, 1), (1, 2, 3))),
        "model": Model(channels=CHANNELS),
        # such that so narrow a model learns, and its circuits differ from one another and when found again
        "local": Local(epochs=4, batch_size=16, learning_rate=0.03),
        "sparsity": Sparsity(target=0.6),
        "discovery": Discovery(classes=(0, 2), steps=25, batch_size=8, l0=0.001, repeat="last"),
        "evaluation": Evaluation(batch_size=20, null_samples=2),
        "execution": Execution(client_chunk=1, precision="float64"),
    }
    return Experiment(**settings | changes)


DECIDING = Discovery(objective="decision", steps=25, batch_size=16, masks=4, probe=(16, 8), negatives="own")


def deciding(**changes):
    """`experiment` with the second instrument: a client of one class and one of three."""
    settings = {
        "split": Split(kind="class-map", clients=2, class_map=((0,), (1, 2, 3))),
        "discovery": config.replace(DECIDING, repeat="last"),
        "evaluation": Evaluation(batch_size=20, null_samples=2, readout_images=8),
        "execution": Execution(client_chunk=1, precision="float64", save_weights=True),
    }
    return experiment(**settings | changes)

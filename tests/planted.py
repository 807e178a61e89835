"""Networks whose circuits are known, because they were built by hand: each signal has an image channel of its own.

Images are 8 x 8 with one image channel per signal. Three convolutions with a pool each leave one position, so a path
of kernels with one weight in the middle carries a signal's value to the linear layer.

Axes: N images, I signals, Y classes.
"""

import jax.numpy as jnp
import numpy as np

WIDTHS = (6, 6, 6)


def images(signals, seed=0):
    """Floats (N, 8, 8, I) of these signals (N, I), all over the image, with a little noise in every pixel."""
    noise = np.random.default_rng(seed).normal(size=(len(signals), 8, 8, signals.shape[1]))
    return np.asarray(signals)[:, None, None] + 0.01 * noise


def one_per_class(classes, each, seed=0):
    """Signals (N, Y) and labels (N,): the signal of the image's class is high, all others are low."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), each)
    signals = rng.uniform(0, 0.1, (len(labels), classes))
    signals[np.arange(len(labels)), labels] = rng.uniform(0.5, 1, len(labels))
    return signals, labels


def pairs(label_of, each, seed=0):
    """Binary signals a and b (N, 2), as many of each of the four, and labels label_of(a, b)."""
    rng = np.random.default_rng(seed)
    bits = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], each, axis=0)
    labels = np.array([label_of(a, b) for a, b in bits])
    return bits + rng.uniform(-0.1, 0.1, bits.shape), labels


def network(signals, classes, wires, biases=(), heads=(), constant=(), scale=1.0, tiny_wires=()):
    """A model of these wires.

    Args: wires: (layer 1 to 3, from, to, weight); biases: (layer, channel, value); heads: (channel of conv3, class,
    weight) of the linear layer; constant: (class, value), its biases; scale: of the whole linear layer.
    """
    params = {}
    for i, (before, width) in enumerate(zip((signals, *WIDTHS), WIDTHS, strict=False), 1):
        params[f"conv{i}_kernel"], params[f"conv{i}_bias"] = np.zeros((3, 3, before, width)), np.zeros(width)
    params["fc_kernel"], params["fc_bias"] = np.zeros((WIDTHS[-1], classes)), np.zeros(classes)
    for layer, start, end, weight in wires:
        params[f"conv{layer}_kernel"][1, 1, start, end] = weight
    for layer, channel, value in biases:
        params[f"conv{layer}_bias"][channel] = value
    for channel, label, weight in heads:
        params["fc_kernel"][channel, label] = scale * weight
    for label, value in constant:
        params["fc_bias"][label] = scale * value
    return {name: jnp.asarray(leaf) for name, leaf in params.items()}


def path(signal, channel=None, weight=1.0):
    """Wires that carry a signal through all convolutions in the channel of its number."""
    channel = signal if channel is None else channel
    return [(1, signal, channel, weight), (2, channel, channel, 1.0), (3, channel, channel, 1.0)]


def distractors(signals):
    """Live paths of other signals that move every class's logit hardly at all."""
    return [wire for signal in signals for wire in path(signal)]


def channels(circuit):
    """{1: {...}, 2: {...}, 3: {...}}: the channels of a circuit by layer."""
    return {int(layer[4:]): set(np.flatnonzero(mask).tolist()) for layer, mask in circuit.mask.items()}

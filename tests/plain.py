"""The method once more, plain and slow, with one operation per line of the paper: what the package is tested against.

Axes: N images, H x W pixels, O channels, Y classes.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

CONVOLUTIONS = ("conv1", "conv2", "conv3")
"""The small models' of the tests."""


def convolutions(params):
    """A model's, however many."""
    numbers = [name.removeprefix("conv").removesuffix("_kernel") for name in params if name.endswith("_kernel")]
    return [f"conv{n}" for n in sorted(int(n) for n in numbers if n.isdecimal())]


def conv(x, kernel):
    """3x3, padding 1: (N, H, W, I) -> (N, H, W, O)."""
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def windows(x):
    """(N, H, W, O) -> (N, H // 2, W // 2, O, 4), a window's elements in row-major order."""
    n, height, width, channels = x.shape
    h, w = height // 2, width // 2
    x = x[:, : 2 * h, : 2 * w].reshape(n, h, 2, w, 2, channels)
    return x.transpose(0, 1, 3, 5, 2, 4).reshape(n, h, w, channels, 4)


def max_pool(x):
    """2x2; the first of equals wins, and gets the gradient."""
    elements = windows(x)
    return jnp.take_along_axis(elements, jnp.argmax(elements, -1)[..., None], -1)[..., 0]


def logits(params, x, gates=None, fill=None):
    """Gates stand before ReLU; a closed channel's output is 0, or the fill."""
    for layer in convolutions(params):
        y = conv(x, params[f"{layer}_kernel"]) + params[f"{layer}_bias"]
        if gates is not None:
            y = gates[layer] * y
        if fill is not None:
            y = y + (1 - gates[layer]) * fill[layer]
        x = max_pool(jax.nn.relu(y))
    return x.reshape(len(x), -1) @ params["fc_kernel"] + params["fc_bias"]


def normalised(images, index):
    return (images.pixels[index].astype(images.mean.dtype) / 255 - images.mean) / images.std


def cross_entropy(logits, labels):
    """Mean over the images."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1))


def prune(params, sparsity, floor):
    """Layer by layer, in numpy: the k largest and what equals them, but no filter with fewer than `floor`."""
    pruned = dict(params)
    for name in (name for name in params if name.endswith("_kernel")):
        weight = np.asarray(params[name])
        keep = max(1, int((1 - sparsity) * weight.size))
        kept = np.abs(weight) >= np.sort(np.abs(weight).ravel())[-keep]
        for o in range(weight.shape[-1]) if weight.ndim == 4 else ():
            if kept[..., o].sum() < floor:
                own = np.abs(weight[..., o])
                kept[..., o] = own >= np.sort(own.ravel())[-min(floor, own.size)]
        pruned[name] = jnp.asarray(np.where(kept, weight, 0))
    return pruned


def prune_margin(params, sparsity, floor):
    """How far `prune` is from keeping another weight: the smallest gap between a weight that is kept and one that is
    not, relative to the tensor's largest."""
    gaps = []
    for weight in (np.abs(np.asarray(params[name])) for name in params if name.endswith("_kernel")):
        keep = max(1, int((1 - sparsity) * weight.size))
        few = (weight >= np.sort(weight.ravel())[-keep]).reshape(-1, weight.shape[-1]).sum(0) < floor
        floored = [(weight[..., o], floor) for o in np.flatnonzero(few)] if weight.ndim == 4 else []
        gaps += [_gap(values, n) / weight.max() for values, n in [(weight, keep), *floored]]
    return min(gaps)


def _gap(values, keep):
    """Between the smallest of the `keep` largest and the next; infinite where there is none, or both are 0."""
    ordered = np.sort(values.ravel())[::-1]
    return np.inf if keep >= len(ordered) or ordered[keep - 1] == 0 else ordered[keep - 1] - ordered[keep]


def pool_margin(params, x):
    """How far the network is from handing a gradient to another element of a window, or from none to one: the smallest
    gap between the largest of an element's window and the next, or 0, relative to the layer's largest output."""
    gaps = []
    for elements in map(np.asarray, _pooled(params, x)):
        ordered = np.sort(elements, -1)
        top, second = ordered[..., -1], np.maximum(ordered[..., -2], 0)
        gap = np.where(top > 0, top - second, -top)
        gaps.append(gap[(gap > 0) | (top <= 0)].min() / np.abs(elements).max())  # equal sums are equal however rounded
    return min(gaps)


@jax.jit
def _pooled(params, x):
    """The windows of every layer's outputs."""
    found = []
    for layer in CONVOLUTIONS:
        y = conv(x, params[f"{layer}_kernel"]) + params[f"{layer}_bias"]
        found.append(windows(y))
        x = max_pool(jax.nn.relu(y))
    return found


def ramp(target, t, steps):
    """Sparsity at local step t of `steps`."""
    rise = steps // 2
    return target * t / rise if t < rise else target


def adam(loss, params, batches, learning_rate, after=lambda params, t: params, given=()):
    """Params after one step of a fresh Adam per batch, and the losses; `after` each step, e.g. pruning.

    loss(params, batch, *given): the same function with other things given is compiled but once.
    """
    state, losses = optax.adam(learning_rate).init(params), []
    for t, batch in enumerate(batches):
        params, state, value = _step(loss, learning_rate)(params, state, batch, *given)
        params = after(params, t)
        losses.append(float(value))
    return params, np.array(losses)


@cache
def _step(loss, learning_rate):
    optimiser = optax.adam(learning_rate)

    @jax.jit
    def step(params, state, batch, *given):
        value, gradient = jax.value_and_grad(loss)(params, batch, *given)
        updates, state = optimiser.update(gradient, state)
        return optax.apply_updates(params, updates), state, value

    return step


def task_loss(params, batch, images):
    return cross_entropy(logits(params, normalised(images, batch)), images.labels[batch])


def gate(score):
    """1 where score > 0, else 0; the gradient of sigmoid(score)."""
    smooth = jax.nn.sigmoid(score)
    return lax.stop_gradient((score > 0) * 1.0) + (smooth - lax.stop_gradient(smooth))


def discover(params, images, batches, label, settings, fill=None):
    """Final scores of one circuit."""
    start = {layer: jnp.full_like(params[f"{layer}_bias"], settings.initial_score) for layer in convolutions(params)}
    given = (params, images, label, settings.l0, fill)
    return adam(circuit_loss, start, batches, settings.learning_rate, given=given)[0]


def circuit_loss(scores, batch, params, images, label, l0, fill):
    gates = {layer: gate(score) for layer, score in scores.items()}
    labels = jnp.full(len(batch), label)
    task = cross_entropy(logits(params, normalised(images, batch), gates, fill), labels)
    return task + l0 * sum(jnp.sum(jax.nn.sigmoid(score)) for score in scores.values())

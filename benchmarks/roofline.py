"""The least time the work could take here: the model's arithmetic and traffic against what the machine can do.

Axes: H x W positions, I input and O output channels, Y classes, B images of a batch, D devices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from fedmi_jax.devices.layout import AXIS, Layout


class Layer(NamedTuple):
    """A convolution with its pool, or the linear layer."""

    inputs: int
    """Numbers it reads per image."""
    outputs: int
    """Numbers it hands on per image, after the pool."""
    weights: int
    products: int
    """Multiplications (each with an addition) per image, of the direct form."""


def layers(image_shape: Sequence[int], channels: Sequence[int], classes: int) -> list[Layer]:
    """Of the model with so many channels in each convolution, for images (H, W, I)."""
    height, width, depth = image_shape
    found = []
    for out in channels:
        inputs, weights = height * width * depth, 9 * depth * out
        products = height * width * weights
        height, width, depth = height // 2, width // 2, out
        found.append(Layer(inputs, height * width * depth, weights + out, products))
    features = height * width * depth
    return [*found, Layer(features, classes, (features + 1) * classes, features * classes)]


def training_flops(model: list[Layer]) -> int:
    """Per image of a training step: forward, gradient of the weights, and of the inputs except the image."""
    passes = [2, *[3] * (len(model) - 1)]
    return sum(2 * n * layer.products for n, layer in zip(passes, model, strict=True))


def training_bytes(model: list[Layer], batch: int, item: int = 4) -> float:
    """Per image of a training step, of which no layer does more than it must.

    Forward a layer reads its inputs and writes its outputs; backward it reads its inputs, its outputs' gradient and a
    byte per output (which element of the pooling window it was), and writes its inputs' gradient, except the image's.
    Per step, Adam reads and writes weights and both moments, and gradients are written and read: eight passes.
    """
    moved = sum(item * (2 * layer.inputs + 2 * layer.outputs) + layer.outputs for layer in model)
    moved += sum(item * layer.inputs for layer in model[1:])
    return moved + 8 * item * sum(layer.weights for layer in model) / batch


@dataclass(frozen=True)
class Peak:
    """What the machine can do, measured."""

    flops: float
    """Per second, in the best matrix product tried."""
    bytes: float
    """Per second, read and written, in an elementwise pass over memory."""
    by: str
    """Which matrix product it was."""

    def least_seconds(self, flops: float, moved: float) -> float:
        return max(flops / self.flops, moved / self.bytes)


def measure_peak(layout: Layout, size: int | None = None, seconds: float = 2.0) -> Peak:
    """Products of `size` x `size` float32 matrices, copies of 64 MiB, on every device: the best in `seconds` each."""
    cpu = jax.default_backend() == "cpu"
    size, devices = size or (1536 if cpu else 8192), layout.devices
    on_each = NamedSharding(layout.mesh, P(AXIS))
    a = jax.device_put(jnp.ones((devices, size, size), jnp.float32), on_each)
    products: dict[str, tuple[int, Callable[[], Any]]] = {"XLA": (devices, partial(_matmul, a, a))}
    if cpu:  # XLA's is not the best of products on a CPU
        host = np.ones((size, size), np.float32)
        products["BLAS"] = (1, partial(np.matmul, host, host))
    rates = {k: n * 2 * size**3 / _best(product, seconds) for k, (n, product) in products.items()}
    by = max(rates, key=rates.__getitem__)
    x = jax.device_put(jnp.ones((devices, 2**24), jnp.float32), on_each)
    return Peak(rates[by], 2 * x.nbytes / _best(partial(_add_one, x), seconds), by)


_matmul = jax.jit(jnp.matmul)


@jax.jit
def _add_one(x: jax.Array) -> jax.Array:
    return x + 1


def _best(work: Callable[[], Any], seconds: float) -> float:
    """Its shortest time, after a first call, of as many as fit."""
    jax.block_until_ready(work())
    end, best = time.perf_counter() + seconds, float("inf")
    while best == float("inf") or time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(work())
        best = min(best, time.perf_counter() - start)
    return best

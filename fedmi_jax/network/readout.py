"""Refit of a model's read-out: its linear layer, or no more than its scale and biases, on a few images.

Says whether a model still holds what its own linear layer no longer reads out.

Axes: N images, F features, Y classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from fedmi_jax.network import model
from fedmi_jax.network.model import Params

What = Literal["scale-and-biases", "linear"]
RIDGE = 1e-3
"""Weight of the squared distance from the read-out that the refit begins with, halved: small beside what images say,
and enough for a finite optimum where they say nothing, or are told apart without an error."""
ITERATIONS, MEMORY = 500, 30
"""Of L-BFGS. A scale and biases take about 20 iterations, a linear layer that fits noise a few hundred; with optax's
own memory of 10 it takes three times as many."""


def refit(params: Params, images_x: Array, labels: Array, what: What, classes: Array | None = None) -> Params:
    """The model with the read-out that minimises the mean cross-entropy of these images plus a small ridge.

    - "scale-and-biases": logits = a * (features @ fc_kernel) + b with one scale a > 0 and a bias for each class. Zeros
      of the kernel stay zeros. The ridge is RIDGE / 2 * (log(a)^2 + |b - fc_bias|^2).
    - "linear": all weights and biases. Zeros of the kernel may become non-zero, but not those of features that are 0
      on every image. The ridge is RIDGE / 2 * the squared distance from fc_kernel and fc_bias.

    Args: images_x (N, H, W, I), normalised; labels (N,); classes bool (Y,): only these compete, the others keep their
    bias and (but for the scale) their weights. None: all do. Images whose label is no such class, as -1, have no say;
    the bias of a class that competes without images falls until the ridge holds it. Where no image has a say, the model
    is as it was. Pure: for `jit` and `vmap`. The solver is optax's L-BFGS with its zoom line search.
    """
    features = model.features(params, images_x)
    fit = Fit(features, labels, params["fc_kernel"], params["fc_bias"], _competing(classes, params["fc_bias"]))
    solved = minimised(lambda point: loss(fit, point), beginning(fit, what))
    kernel, bias = _read_out(fit, solved)
    return dict(params) | {"fc_kernel": kernel, "fc_bias": bias}


class Fit(NamedTuple):
    """What a refit is made from."""

    features: Array
    """(N, F)."""
    labels: Array
    """(N,)."""
    kernel: Array
    """(F, Y), before."""
    bias: Array
    """(Y,), before."""
    classes: Array
    """bool (Y,): who competes."""


Point = dict[str, Array]
"""What the solver changes, 0 where it begins: {"bias": (Y,)} and "log_scale" () or "kernel" (F, Y)."""


def beginning(fit: Fit, what: What) -> Point:
    """The read-out that the model has. Raises ValueError for another `what`."""
    if what == "scale-and-biases":
        return {"bias": jnp.zeros_like(fit.bias), "log_scale": jnp.zeros((), fit.bias.dtype)}
    if what == "linear":
        return {"bias": jnp.zeros_like(fit.bias), "kernel": jnp.zeros_like(fit.kernel)}
    raise ValueError(f'what: "scale-and-biases" or "linear"; got {what!r}')


def loss(fit: Fit, point: Point) -> Array:
    """Mean cross-entropy of the images that have a say, plus the ridge."""
    kernel, bias = _read_out(fit, point)
    logits = jnp.where(fit.classes, _times(fit.features, kernel) + bias, -jnp.inf)
    label = jnp.clip(fit.labels, 0, len(fit.bias) - 1)
    counts = (fit.labels == label) & fit.classes[label]
    # An image without a say is given a class that competes: the gradient of an infinite loss would be no number.
    label = jnp.where(counts, label, jnp.argmax(fit.classes))
    total = jnp.sum(counts * optax.softmax_cross_entropy_with_integer_labels(logits, label))
    ridge = sum(jnp.sum(part**2) for part in point.values())
    return total / jnp.maximum(jnp.sum(counts), 1) + RIDGE / 2 * ridge


def minimised(function: Callable[[Any], Array], start: Any) -> Any:
    """Where the function is least, as far as ITERATIONS and the precision allow; never more than at the start."""
    dtype = jax.tree.leaves(start)[0].dtype
    solver, tolerance = (
        optax.lbfgs(memory_size=MEMORY),
        jnp.finfo(dtype).eps ** 0.75,
    )  # of the gradient; rounding allows no more
    value_and_gradient = optax.value_and_grad_from_state(function)

    def step(carry: tuple) -> tuple:
        point, state, count, _ = carry
        value, gradient = value_and_gradient(point, state=state)
        updates, state = solver.update(gradient, state, point, value=value, grad=gradient, value_fn=function)
        return optax.apply_updates(point, updates), state, count + 1, optax.tree.norm(gradient)

    def going(carry: tuple) -> Array:
        return (carry[2] < ITERATIONS) & (carry[3] > tolerance)

    begun = (start, solver.init(start), jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, dtype))
    found, *_ = lax.while_loop(going, step, begun)
    better = function(found) <= function(start)
    return jax.tree.map(lambda a, b: jnp.where(better, a, b), found, start)


def _read_out(fit: Fit, point: Point) -> tuple[Array, Array]:
    """The kernel and the bias of a point."""
    bias = fit.bias + point["bias"]
    if "log_scale" in point:
        return fit.kernel * jnp.exp(point["log_scale"]), bias
    return fit.kernel + point["kernel"], bias


def _times(features: Array, kernel: Array) -> Array:
    """In full precision everywhere: by default a GPU rounds the factors of a float32 product to 10 bits (TF32)."""
    return jnp.matmul(features, kernel, precision="highest")


def _competing(classes: Array | None, bias: Array) -> Array:
    return jnp.ones(bias.shape, bool) if classes is None else jnp.asarray(classes, bool)

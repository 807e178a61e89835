"""FedAvgM (Hsu et al. 2019), FedAdam and FedYogi (Reddi et al. 2021): the mean update is the server's gradient.

Momentum carries a weight past 0 in a round in which every client pruned it. With `masked` such a weight becomes 0, as
in FedAvg; without, the global model is denser than its clients. A weight that is 0 in the global model and in every
client stays exactly 0 either way, which `optax.yogi` does not give: its first moment begins at 1e-6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax import Array

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.fedavg import tree_mean
from fedmi_jax.aggregation.means import Weighting, shares
from fedmi_jax.methods import METHODS, FedAdam, FedAvgM, FedYogi
from fedmi_jax.network.layers import is_weight
from fedmi_jax.network.model import Params

REDDI = "Reddi et al. 2021, arXiv 2003.00295"


def fedavgm(settings: FedAvgM, weighting: Weighting = "uniform") -> Method:
    """v = momentum * v - d and x = x - learning_rate * v, with d the clients' mean update: optax's `sgd`."""
    optimiser = optax.sgd(settings.learning_rate, settings.momentum)
    return _server("fedavgm", optimiser, settings.masked, weighting, "Hsu et al. 2019, arXiv 1909.06335")


def fedadam(settings: FedAdam, weighting: Weighting = "uniform") -> Method:
    """v = b2 * v + (1 - b2) * d^2; see `adaptive`."""

    def second(v: Array, d: Array) -> Array:
        return settings.b2 * v + (1 - settings.b2) * d**2

    return _server("fedadam", adaptive(settings, second), settings.masked, weighting, REDDI)


def fedyogi(settings: FedYogi, weighting: Weighting = "uniform") -> Method:
    """v = v - (1 - b2) * d^2 * sign(v - d^2); see `adaptive`."""

    def second(v: Array, d: Array) -> Array:
        return v - (1 - settings.b2) * d**2 * jnp.sign(v - d**2)

    return _server("fedyogi", adaptive(settings, second), settings.masked, weighting, REDDI)


def adaptive(settings: FedAdam, second: Callable[[Array, Array], Array]) -> optax.GradientTransformation:
    """m = b1 * m + (1 - b1) * d; v = second(v, d), from tau^2 on; x = x + learning_rate * m / (sqrt(v) + tau).

    As published: without the bias correction that optax's Adam has.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(jnp.zeros_like, params), jax.tree.map(lambda p: jnp.full_like(p, settings.tau**2), params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple:
        d = jax.tree.map(jnp.negative, updates)
        m = jax.tree.map(lambda m, d: settings.b1 * m + (1 - settings.b1) * d, state[0], d)
        v = jax.tree.map(second, state[1], d)
        step = jax.tree.map(lambda m, v: settings.learning_rate * m / (jnp.sqrt(v) + settings.tau), m, v)
        return step, (m, v)

    return optax.GradientTransformation(init, update)


def _server(
    name: str, optimiser: optax.GradientTransformation, masked: bool, weighting: Weighting, source: str
) -> Method:  # fmt: skip
    def init(params: Params, clients_total: int) -> State:
        return State(optimiser.init(dict(params)))

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        mean = tree_mean(clients.params, shares(clients, weighting))
        gradient = {name: params[name] - mean[name] for name in params}
        step, remembered = optimiser.update(gradient, state.server)
        new = cast("Params", optax.apply_updates(dict(params), step))
        return _without_pruned(new, clients) if masked else new, State(remembered)

    return Method(name, apply, init, summary=METHODS[name], source=source)


def _without_pruned(params: Params, clients: Clients) -> Params:
    """With 0 in the place of weights that every client with samples pruned."""

    def kept(name: str, leaf: Array) -> Array:
        stacked = clients.params[name]
        there = (clients.samples > 0).reshape(-1, *[1] * leaf.ndim)
        return jnp.where(jnp.any((stacked != 0) & there, 0), leaf, 0)

    return {name: kept(name, leaf) if is_weight(name) else leaf for name, leaf in params.items()}

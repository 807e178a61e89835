"""Federated methods, one per file: what the server does with the clients' models, and what it changes in training.

A new method is one file with a function that returns a `Method`, a line in `METHODS` here, and its name, its summary
and its settings in `fedmi_jax.config`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from fedmi_jax.aggregation.base import NO_STATE, Clients, Method, State, with_hooks
from fedmi_jax.aggregation.fedavg import fedavg, tree_mean
from fedmi_jax.aggregation.fedprox import fedprox, towards_start
from fedmi_jax.aggregation.fedrs import fedrs, restricted
from fedmi_jax.config import Aggregation, Local
from fedmi_jax.errors import ConfigError

METHODS: dict[str, Callable[[Aggregation, Local], Method]] = {
    "fedavg": lambda server, local: fedavg(server.weighting),
    "fedprox": lambda server, local: fedprox(server.fedprox.mu, server.weighting),
    "fedrs": lambda server, local: fedrs(server.fedrs.alpha, server.weighting),
}
"""How each method is made from an experiment's settings. The names are those of `aggregation.kind`."""


@functools.cache  # equal settings give the very same method, for which programs are compiled once
def chosen(server: Aggregation, local: Local, own: Method | None = None) -> Method:
    """The method of an experiment with these settings: the one that `server.kind` names, or one of the user's own.

    `local.fedprox` and `local.fedrs` add their hook to it. Raises ConfigError where the settings of a named method
    would have no effect.
    """
    if own is not None and server != Aggregation():
        raise ConfigError(f"aggregation: these settings have no effect on a method of your own ({own.name})")
    method = METHODS[server.kind](server, local) if own is None else own
    if local.fedprox:
        method = with_hooks(method, correct=towards_start(local.fedprox))
    if local.fedrs < 1:
        method = with_hooks(method, logits=restricted(local.fedrs))
    return method


__all__ = [
    "METHODS", "NO_STATE", "Clients", "Method", "State", "chosen", "fedavg", "fedprox", "fedrs", "restricted",
    "towards_start", "tree_mean", "with_hooks",
]  # fmt: skip

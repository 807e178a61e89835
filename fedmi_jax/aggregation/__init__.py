"""Federated methods: what the server does with the clients' models, and what it changes in training.

One file holds one method, or a few that differ in a line. A new method is a function that returns a `Method`, a row in
`METHODS` here, and its name, its summary and its settings in `fedmi_jax.methods`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

from fedmi_jax.aggregation.base import NO_STATE, Clients, Method, Sees, State, with_hooks
from fedmi_jax.aggregation.calibration import calibrated, calibration
from fedmi_jax.aggregation.ceilings import alone, pooled
from fedmi_jax.aggregation.circuit_mean import circuit_mean
from fedmi_jax.aggregation.fedavg import fedavg, tree_mean
from fedmi_jax.aggregation.fedbabu import fedbabu
from fedmi_jax.aggregation.fedlc import fedlc
from fedmi_jax.aggregation.fedprox import fedprox, towards_start
from fedmi_jax.aggregation.fedrs import fedrs, restricted
from fedmi_jax.aggregation.holders import head_by_holders, support_and_holders
from fedmi_jax.aggregation.matching import matching
from fedmi_jax.aggregation.orthogonality import orthogonality
from fedmi_jax.aggregation.owner_channels import owner_channels
from fedmi_jax.aggregation.personal import fedper, lg_fedavg
from fedmi_jax.aggregation.robust import median, trimmed_mean
from fedmi_jax.aggregation.server_optimisers import fedadam, fedavgm, fedyogi
from fedmi_jax.aggregation.support_mean import support_mean
from fedmi_jax.aggregation.ties import ties
from fedmi_jax.config import Aggregation, Local
from fedmi_jax.errors import ConfigError

METHODS: dict[str, Callable[[Aggregation, Local], Method]] = {
    "fedavg": lambda server, local: fedavg(server.weighting),
    "fedprox": lambda server, local: fedprox(server.fedprox.mu, server.weighting),
    "fedrs": lambda server, local: fedrs(server.fedrs.alpha, server.fedrs.form, server.weighting),
    "fedlc": lambda server, local: fedlc(server.fedlc.tau, server.weighting),
    "fedbabu": lambda server, local: fedbabu(server.fedbabu.pruned, server.weighting),
    "fedper": lambda server, local: fedper(server.weighting),
    "lg-fedavg": lambda server, local: lg_fedavg(server.lg_fedavg.shared_layers, server.weighting),
    "owner-channels": lambda server, local: owner_channels(
        server.owner_channels.form, server.owner_channels.common, server.weighting
    ),
    "orthogonality": lambda server, local: orthogonality(server.orthogonality.weight, server.weighting),
    "support-mean": lambda server, local: support_mean(server.weighting),
    "head-by-holders": lambda server, local: head_by_holders(server.weighting),
    "support-and-holders": lambda server, local: support_and_holders(server.weighting),
    "ties": lambda server, local: ties(server.ties, server.weighting),
    "circuit-mean": lambda server, local: circuit_mean(server.circuit_mean.blocks, server.weighting),
    "matching": lambda server, local: matching(server.matching, server.weighting),
    "calibration": lambda server, local: calibration(server.calibration, server.weighting),
    "median": lambda server, local: median(),
    "trimmed-mean": lambda server, local: trimmed_mean(server.trimmed_mean.beta),
    "fedavgm": lambda server, local: fedavgm(server.fedavgm, server.weighting),
    "fedadam": lambda server, local: fedadam(server.fedadam, server.weighting),
    "fedyogi": lambda server, local: fedyogi(server.fedyogi, server.weighting),
    "pooled": lambda server, local: pooled(),
    "alone": lambda server, local: alone(server.weighting),
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
    "METHODS", "NO_STATE", "Clients", "Method", "Sees", "State", "calibrated", "chosen", "fedavg", "fedprox", "fedrs",
    "restricted", "towards_start", "tree_mean", "with_hooks",
]  # fmt: skip

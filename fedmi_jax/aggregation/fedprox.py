"""FedProx (Li et al. 2020): FedAvg whose clients are held near the model that they started from."""

from __future__ import annotations

from collections.abc import Callable

import jax

from fedmi_jax.aggregation.base import Method, State, with_hooks
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.methods import METHODS
from fedmi_jax.network.model import Params


def fedprox(mu: float, weighting: Weighting = "uniform") -> Method:
    """FedAvg with `towards_start` on every client."""
    plain = fedavg(weighting)._replace(name="fedprox", summary=METHODS["fedprox"], source="Li et al. 2020, 1812.06127")
    return with_hooks(plain, correct=towards_start(mu))


def towards_start(mu: float) -> Callable[[Params, Params, Params, State], Params]:
    """For `Method.correct`: adds the gradient of mu/2 |w - w_start|^2, over all weights and biases."""

    def correct(gradient: Params, params: Params, start: Params, state: State) -> Params:
        return jax.tree.map(lambda g, w, w0: g + mu * (w - w0), gradient, params, start)

    return correct

"""Head by holders: a class's row of the linear layer comes from the clients that hold the class (as HeteroFL's server
has it, Diao et al. 2021), and the same with the support mean for all other weights.

A client without images of a class only ever pushes the class's logit down; it has nothing to say of its row.
"""

from __future__ import annotations

from fedmi_jax.aggregation.base import Clients, Method, State
from fedmi_jax.aggregation.means import Weighting, head, mean_where, shares
from fedmi_jax.aggregation.support_mean import over_support
from fedmi_jax.methods import METHODS
from fedmi_jax.network.model import Params

SOURCE = "Diao et al. 2021, HeteroFL, arXiv 2010.01264"


def head_by_holders(weighting: Weighting = "uniform") -> Method:
    """FedAvg for the convolutions; row c of the linear layer is the mean over the clients that hold class c."""

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        weights = shares(clients, weighting)
        body = {name: mean_where(leaf, weights, True, 0) for name, leaf in clients.params.items()}
        return body | head(params, clients, weights), state

    return Method("head-by-holders", apply, summary=METHODS["head-by-holders"], source=SOURCE)


def support_and_holders(weighting: Weighting = "uniform") -> Method:
    """Support mean for the convolutions; row c of the linear layer is the mean over the clients that hold class c."""

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        weights = shares(clients, weighting)
        body = {name: over_support(name, leaf, weights) for name, leaf in clients.params.items()}
        return body | head(params, clients, weights), state

    return Method("support-and-holders", apply, summary=METHODS["support-and-holders"], source=SOURCE)

"""Read-out calibration: after averaging, the server refits the linear layer on a few images (as Luo et al. 2021 do with
features that they draw, CCVR).

Says how much of what averaging loses is lost in the read-out alone. It costs privacy, which the settings name: with
"clients" every client gives some images away; with "nobody" the server has images of its own.
"""

from __future__ import annotations

import jax.numpy as jnp

from fedmi_jax.aggregation.base import Clients, Method, Sees, State, seen
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.methods import METHODS
from fedmi_jax.methods import Calibration as Settings
from fedmi_jax.network.model import Params
from fedmi_jax.network.readout import What, refit


def calibration(settings: Settings, weighting: Weighting = "uniform") -> Method:
    """FedAvg, calibrated."""
    method = calibrated(fedavg(weighting), settings.what, Sees(settings.images_per_class, settings.images))
    return method._replace(
        name="calibration", summary=METHODS["calibration"], source="after Luo et al. 2021, CCVR, arXiv 2106.05001"
    )


def calibrated(method: Method, what: What, sees: Sees) -> Method:
    """Any method, whose new global model gets a refitted read-out (`network.readout.refit`): the next round begins with
    it. The classes of the images compete; the others keep their biases."""

    def apply(state: State, params: Params, clients: Clients) -> tuple[Params, State]:
        new, state = method.apply(state, params, clients)
        images, labels = seen(clients)
        classes = jnp.any(labels[:, None] == jnp.arange(params["fc_bias"].shape[0]), 0)
        return refit(new, images, labels, what, classes), state

    return method._replace(name=f"calibrated {method.name}", apply=apply, sees=sees)

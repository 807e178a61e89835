"""What no federated method can be expected to beat: one model for everybody's images, and each client by itself.

The first is the ceiling of accuracy, the second that of circuits: nothing is averaged there that averaging could break.
"""

from __future__ import annotations

from fedmi_jax.aggregation.base import Method
from fedmi_jax.aggregation.fedavg import Weighting, fedavg
from fedmi_jax.aggregation.personal import personal
from fedmi_jax.methods import METHODS
from fedmi_jax.network.layers import conv_layers


def pooled() -> Method:
    """Sparse training on the images of all clients, each image once, by one client that stands for all of them: as many
    epochs as theirs, hence more steps in a round. Circuits are searched with each client's own images, as ever."""
    return fedavg()._replace(
        name="pooled", pooled=True, summary=METHODS["pooled"], source="no federation: a ceiling of accuracy"
    )


def alone(weighting: Weighting = "uniform") -> Method:
    """Every layer is the client's own: what its circuits are when nothing is averaged."""
    source = "no federation: a ceiling of circuits"
    return personal("alone", lambda params: (*conv_layers(params), "fc"), weighting, source)

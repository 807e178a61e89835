"""What the server does with the clients' models: one aggregator per file, each an `init`/`apply` pair."""

from fedmi_jax.aggregation.base import Aggregator
from fedmi_jax.aggregation.fedavg import fedavg
from fedmi_jax.config import Aggregation


def aggregator(settings: Aggregation) -> Aggregator:
    """The aggregator these settings name."""
    return fedavg(settings.weighting)


__all__ = ["Aggregator", "aggregator", "fedavg"]

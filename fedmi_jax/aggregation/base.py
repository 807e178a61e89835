"""The interface of an aggregator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from fedmi_jax.network.model import Params


class Aggregator(NamedTuple):
    """Two pure functions of ONE federation; seeds are lifted over them."""

    init: Callable[[Params], Any]
    """(global parameters) -> server state, any pytree."""
    apply: Callable[[Any, Params, Params, Array], tuple[Params, Any]]
    """(state, global parameters, clients' parameters with leading axis K, samples (K,)) -> new global parameters,
    new state."""

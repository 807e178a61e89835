"""Rows: what is found or measured on models, one row for every case, each with its own model.

Axes: M models, n rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import PartitionSpec as P

from fedmi_jax.devices.layout import Layout
from fedmi_jax.devices.lift import deal, gathered
from fedmi_jax.federation.homes import Models, all_open, pick, size, specs
from fedmi_jax.network.ablation import Ablation
from fedmi_jax.network.images import Images


class Masked(NamedTuple):
    """Masked models to be judged, one a row. Axes: n rows."""

    model: Any
    """(n,): which of the stacked models."""
    gates: Mapping[str, Any]
    """(n, O_l) a layer."""
    ablation: Ablation
    """Leading axis n."""
    label: Any
    """(n,): the class that is judged."""


def stacked(parts: Sequence[Masked]) -> Masked:
    """The rows of all parts, one part after the other; on the host, where nothing need be compiled for it."""
    return jax.tree.map(lambda *columns: np.concatenate(columns), *parts)


def whole_models(models: Models, like: Ablation) -> Masked:
    """Every model with all channels open, as rows that can be judged together with others of this kind of ablation."""
    first = np.arange(size(models))
    unused = jax.tree.map(lambda v: np.zeros((len(first), *v.shape[1:]), v.dtype), like)
    return Masked(first, all_open(models), unused, np.zeros_like(first))


def over_rows(fn: Callable[..., Any], layout: Layout, models: Models, which: Array, rows: tuple, shared: tuple) -> Any:
    """fn(params, *one of rows, *shared) for every row, dealt out over the devices, the results everywhere.

    Args: models with leading axis M, or a stack of a round's, to whose homes the rows have been taken (`at_home`);
    which (n,), each row's model; rows: pytrees with leading axis n.
    """

    def one(which: Array, rows: tuple, models: Models, shared: tuple) -> Any:
        return fn(pick(models, which, layout), *rows, *shared)

    return gathered(deal(one, layout, (which, rows), (models, shared), (specs(models, layout), P())), layout)


def of_seed(images: Images, seed: Array) -> Images:
    return images._replace(pixels=images.pixels[seed], labels=images.labels[seed])

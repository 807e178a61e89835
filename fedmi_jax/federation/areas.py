"""How good is the order that a search puts channels in? The area under the curve of what the first channels of an order
explain, beside that of random orders, and of an order by attribution, which no search has made.

Axes: n cases, C channels of all convolutions, r sets of channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from fedmi_jax import keys
from fedmi_jax.circuits.deciding import compiled_for
from fedmi_jax.devices import lift
from fedmi_jax.federation import instrument, programs, sets
from fedmi_jax.federation.homes import at_home
from fedmi_jax.results.schema import STATUS

if TYPE_CHECKING:
    from fedmi_jax.federation.cases import Cases
    from fedmi_jax.federation.homes import Models
    from fedmi_jax.federation.instrument import Decided
    from fedmi_jax.federation.programs import Masked
    from fedmi_jax.federation.setup import Setup

ORDERS = 20
"""Random orders of every circuit's channels."""
STEPS = 64
"""Batches of a search that attribution takes, with as many samples of all gates as a search has in each."""
NAMES = ("area_excess", "attribution_area_excess", "random_order_area")


def areas(
    setup: Setup, models: Models, cases: Cases, decided: Decided, own: Masked, number: int
) -> dict[str, np.ndarray]:  # fmt: skip
    """`NAMES`, each (n,); NaN where there is nothing to explain, or only one live channel to order, and for the
    attribution where gates are not sampled."""
    defined = decided.status != STATUS.index("undefined")
    values = attributed(setup, models, cases, decided, number) if defined.any() else None
    orders = list(_orders(setup, cases, decided, own, defined, values, number))
    tried = [(row, kind, np.unique(decided.sizes[row]), order) for row, kind, order in orders]  # type: ignore[index]
    if not tried:  # no model decides anything, as where every client holds one class
        return dict.fromkeys(NAMES, np.full(len(defined), np.nan, np.float32))
    kept = [mask for _, _, sizes, order in tried for mask in first(order, sizes, _width(own))]
    rows = np.repeat([row for row, *_ in tried], [len(sizes) for _, _, sizes, _ in tried]).astype(int)
    explained = sets.explained(setup, models, decided, own, rows, np.array(kept, bool))
    found: dict[str, list[list[float]]] = {kind: [[] for _ in defined] for kind in ("search", "attribution", "random")}
    ends = np.cumsum([len(sizes) for _, _, sizes, _ in tried])[:-1]
    for (row, kind, sizes, _), curve in zip(tried, np.split(explained, ends), strict=True):
        found[kind][row].append(area(sizes, curve))
    search, attribution, random = (
        np.array([np.mean(each) if each else np.nan for each in rows], np.float32) for rows in found.values()
    )
    return dict(zip(NAMES, (search - random, attribution - random, random), strict=True))


def area(sizes: np.ndarray, curve: np.ndarray) -> float:
    """Under the curve of what is explained, over the logarithm of the size as a share of its largest: between 0 and 1,
    since what explains less than nothing counts as nothing. Sizes ascend from 1; curve: of the same length."""
    place, height = np.log2(sizes) / np.log2(sizes[-1]), np.maximum(curve, 0)
    return float(np.sum(np.diff(place) * (height[1:] + height[:-1]) / 2))


def first(order: np.ndarray, sizes: np.ndarray, width: int) -> np.ndarray:
    """Masks bool (L, C = width) of the first channels of an order, so many of them."""
    place = np.full(width, width)
    place[order] = np.arange(len(order))
    return place < sizes[:, None]


def in_layers(order: np.ndarray, layer: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random order in which every place belongs to the same layer as before: so many of the first channels are as
    many in each layer. layer (C,): every channel's."""
    found = order.copy()
    for one in np.unique(layer):
        places = layer[order] == one
        found[places] = rng.permutation(order[places])
    return found


def _orders(
    setup: Setup, cases: Cases, decided: Decided, own: Masked, defined: np.ndarray, values: np.ndarray | None,
    number: int,
) -> Iterator[tuple[int, str, np.ndarray]]:  # fmt: skip
    """(row, kind, live channels in their order) of every circuit that is defined."""
    assert decided.rank is not None
    rank = np.concatenate(list(decided.rank.values()), 1)
    layer = np.repeat(np.arange(len(own.gates)), [gate.shape[1] for gate in own.gates.values()])
    for row, key in enumerate(cases.keys(setup.facts.experiment.seeds, keys.ORDER, number)):
        live = np.flatnonzero(rank[row])
        if not defined[row] or len(live) < 2:
            continue
        order = live[np.argsort(rank[row][live])]
        yield row, "search", order
        if values is not None:
            yield row, "attribution", live[np.argsort(-values[row][live], kind="stable")]
        rng = keys.generator(*key)
        for _ in range(ORDERS):
            yield row, "random", in_layers(order, layer, rng)


def attributed(
    setup: Setup, models: Models, cases: Cases, decided: Decided, number: int
) -> np.ndarray | None:  # fmt: skip
    """What every channel is worth to the decision while any other is open with probability 1/2, (n, C); None where
    gates are not sampled."""
    settings, facts = setup.facts.experiment.discovery, setup.facts
    if settings.gates != "bernoulli":
        return None
    settings = replace(settings, steps=STEPS)
    _, at, back = np.unique(cases.model, return_index=True, return_inverse=True)
    each = instrument.survey(setup, models, decided.rows, cases.seed[at])
    probed = jax.tree.map(lambda leaf: leaf[back], each)
    keyed = cases.keys(facts.experiment.seeds, keys.ATTRIBUTE, number)
    draw = partial(instrument.tasks, setup, cases, decided.others, keyed, models, settings)

    def run(which: np.ndarray, rows: Any) -> Any:
        row, seeds, probed = rows
        return programs.attribute(
            models, which, setup.probe, seeds, probed, lift.drawn(draw, row, setup.layout), layout=setup.layout,
            settings=compiled_for(settings), searched=facts.dataset.num_classes * settings.probe[0],
        )  # fmt: skip

    found = at_home(run, models, cases.model, (np.arange(len(back)), cases.seed, probed), setup.layout)
    return np.concatenate([np.asarray(part) for part in found.values()], 1)


def _width(own: Masked) -> int:
    return sum(gate.shape[1] for gate in own.gates.values())

"""Linear layer: which of two classes has the larger weights on the channels that both circuits use, or only one does?

On the mean of the two experts, for every channel of the last convolution: the signed mean of its weights (one a
position) in either class's row; the class with the larger absolute mean wins. The authors' script is `cls_debug.py`,
for classes 1 and 9. There a tie goes to the first class, and in sparse models most blocks are all 0 in both rows: here
a tie is nobody's, and the weights that are not 0 and their absolute sum stand beside it.

Axes: O channels of the last convolution, N random sets.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.chance import generator, of_size
from fedmi_jax.studies.stored import Moment, Stored, pair_name
from fedmi_jax.studies.tidy import Row

Pair = tuple[int, int]
TITLES = {"shared": "of both circuits", "first only": "of the first only", "second only": "of the second only"}
SETS = tuple(TITLES)


def sets(moment: Moment, pair: Pair, layer: str) -> dict[str, np.ndarray]:
    """Channels of both circuits, and of only one of the two."""
    first, second = (moment.circuits[label][layer] for label in pair)
    return dict(zip(SETS, (first & second, first & ~second, second & ~first), strict=True))


def masks(stored: Stored) -> list[Row]:
    """How many channels of the last convolution are shared, and how many are one class's only."""
    last = stored.layers[-1]
    return [
        Row(moment.seed, moment.round, "channels", int(own.sum()), {"pair": pair_name(pair), "set": name})
        for moment in stored.moments
        for pair in moment.pairs
        for name, own in sets(moment, pair, last).items()
    ]


class Blocks(NamedTuple):
    """Of two classes' rows, by channel: (2, O) each."""

    mean: np.ndarray
    """Signed."""
    nonzero: np.ndarray
    """Weights that are not 0."""
    l1: np.ndarray
    """Sum of absolute values."""

    @property
    def lead(self) -> np.ndarray:
        """(O,): 1 where the first class has the larger absolute mean, -1 where the second has, 0 for a tie."""
        size = np.abs(self.mean)
        return np.sign(size[0] - size[1])


def blocks(kernel: np.ndarray, pair: Pair, channels: int) -> Blocks:
    """kernel: (positions * O, Y), channel fastest, as in this project."""
    rows = np.asarray(kernel, float)[:, list(pair)].T.reshape(2, -1, channels)
    return Blocks(rows.mean(1), (rows != 0).sum(1), np.abs(rows).sum(1))


def weights(stored: Stored, bench: None = None) -> list[Row]:
    """Channel by channel, and who wins how many. Null: as many random channels."""
    pairs = [(moment, pair) for moment in stored.moments for pair in moment.pairs]
    return masks(stored) + [row for moment, pair in pairs for row in _of_pair(stored, moment, pair)]


def _of_pair(stored: Stored, moment: Moment, pair: Pair) -> list[Row]:
    layer, kernels = stored.layers[-1], stored.ds["weights_local_fc_kernel"].transpose("seed", "round", "client", ...)
    both = [kernels.values[(*moment.at, stored.clients.index(moment.experts[label]))] for label in pair]
    there = sets(moment, pair, layer)
    found = blocks((both[0] + both[1]) / 2, pair, len(there["shared"]))
    rows = []
    for number, (name, own) in enumerate(there.items()):
        rows += _of_set(stored, moment, pair, found, (number, name, own))
        rows += [row for channel in np.flatnonzero(own) for row in _of_channel(moment, pair, found, name, int(channel))]
    return rows


def _of_set(stored: Stored, moment: Moment, pair: Pair, found: Blocks, of: tuple[int, str, np.ndarray]) -> list[Row]:
    """Shares of the set's channels; NaN of an empty set."""
    number, name, own = of
    drawn = [
        of_size(len(own), int(own.sum()), generator(moment.seed, "linear", moment.round, n, *pair, number))
        for n in stored.samples()
    ]
    at, labels = (moment.seed, moment.round), {"pair": pair_name(pair), "set": name}
    shares = {
        "first_wins": found.lead > 0, "second_wins": found.lead < 0, "tied": found.lead == 0,
        "all_zero": (found.nonzero == 0).all(0),
    }  # fmt: skip
    rows = [
        Row(*at, measure, _share(wins, own), labels, np.array([_share(wins, one) for one in drawn]))
        for measure, wins in shares.items()
    ]
    return [row for row in rows if own.any()]


def _share(wins: np.ndarray, own: np.ndarray) -> float:
    return float(wins[own].mean()) if own.any() else np.nan


def _of_channel(moment: Moment, pair: Pair, found: Blocks, name: str, channel: int) -> list[Row]:
    at, of = (moment.seed, moment.round), {"pair": pair_name(pair), "set": name, "channel": channel}
    rows = [
        Row(*at, measure, float(values[i, channel]), {"class": label, **of})
        for i, label in enumerate(pair)
        for measure, values in (("mean_weight", found.mean), ("nonzero", found.nonzero), ("l1", found.l1))
    ]
    lead = found.lead[channel]
    return [*rows, Row(*at, "winner", np.nan if lead == 0 else pair[0] if lead > 0 else pair[1], of)]


STUDY = Study(
    masks=masks,
    weights=weights,
    tables=(
        Table(
            "channels of the last convolution, by whose rows weigh more", ("pair", "set"),
            (
                Column("channels", "channels", "count"),
                Column("first class", "first_wins", null=True),
                Column("second class", "second_wins", null=True),
                Column("tied", "tied", null=True),
                Column("no weight at all", "all_zero", null=True),
            ),
        ),
    ),
    panels=(
        *(
            Panel(
                f"channels {title}", "pair", (Series("of the last convolution", "channels"),), "channels", share=False,
                where={"set": name},
            )
            for name, title in TITLES.items()
        ),
        *(
            Panel(
                title, "pair",
                (Series("first class", "first_wins"), Series("second class", "second_wins"), Series("tied", "tied")),
                "share of channels", where={"set": name},
            )
            for name, title in TITLES.items()
        ),
    ),
    needs_images=False,
    by_pairs=True,
    caption="whose mean weight is larger, channel by channel; first and second: of the pair",
)  # fmt: skip

"""Activation patching: where did the signal get lost? A client's own activations are put into its global model.

Candidates are the (layer, channel) that circuits of more than one client use, found on the *global* model, most
circuits first. On images of a user's class that the global model gets wrong and the client's own model right, the own
model's output of one channel, or of the whole layer, is put in (bias included, before ReLU): is the answer now right?
A layer that rescues: the signal was lost upstream, else in the logic downstream.

The authors' scripts are `ablation_patching/{find_conflicting_neurons,patching_analysis}.py`. They test the first user
of a candidate on the first wrong image of its class, do not look whether the own model is right about it, and have no
null. What they would have written down stands beside our rates. Every channel of the network is patched here, one by
one, so the nulls are exact: random channels of the same layer, and of other layers.

Axes: U users (client and class), N images (padded), g groups of B of them, O_l channels of convolution l.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from fedmi_jax.circuits.evaluation import EvaluationSet, groups
from fedmi_jax.circuits.narrowing import has_outgoing
from fedmi_jax.federation.homes import pick
from fedmi_jax.network import model
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import Params, all_open
from fedmi_jax.network.ops import conv_windows, relu_pool, windows
from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.bench import Bench, logits_of, of_classes
from fedmi_jax.studies.chance import generator, of_size
from fedmi_jax.studies.stored import Moment, Stored
from fedmi_jax.studies.tidy import Row

User = tuple[int, int]
"""Client and class."""


class Candidate(NamedTuple):
    """A channel of circuits of more than one client."""

    layer: str
    channel: int
    users: tuple[User, ...]
    """Client by client, class by class."""


def candidates(used: dict[str, np.ndarray], clients: list[int], classes: list[int]) -> list[Candidate]:
    """Most users first; of equals by the layer's name, then by channel. used: bool (K, C, O_l) a layer."""
    found = [
        Candidate(layer, int(channel), tuple((clients[k], classes[c]) for k, c in np.argwhere(mask[..., channel])))
        for layer, mask in sorted(used.items())
        for channel in np.flatnonzero(mask.any(1).sum(0) > 1)
    ]
    return sorted(found, key=lambda one: -len(one.users))  # stable


def of_moment(stored: Stored, moment: Moment) -> list[Candidate]:
    there = stored.there[moment.at][..., None]
    used = {layer: mask[moment.at] & there for layer, mask in stored.masks("global").items()}
    return candidates(used, stored.clients, stored.ds["class"].values.tolist())


def masks(stored: Stored) -> list[Row]:
    """How many candidates there are, and how many circuits use each. Null: random circuits of the same sizes."""
    return [row for moment in stored.moments for row in _of_moment(stored, moment)]


def _of_moment(stored: Stored, moment: Moment) -> list[Row]:
    at, found = (moment.seed, moment.round), of_moment(stored, moment)
    drawn = [_random_counts(stored, moment, n) for n in stored.samples()]
    rows = []
    for layer in stored.layers:
        null = np.array([one[layer] for one in drawn], float)
        count = sum(one.layer == layer for one in found)
        rows.append(Row(*at, "contested_channels", count, {"layer": layer}, null))
    for rank, one in enumerate(found, 1):
        of = {"layer": one.layer, "channel": one.channel}
        rows.append(Row(*at, "rank", rank, of))
        rows.append(Row(*at, "circuits", len(one.users), of))
        rows += [Row(*at, "used", 1, {"class": label, "client": client, **of}) for client, label in one.users]
    return rows


def _random_counts(stored: Stored, moment: Moment, n: int) -> dict[str, int]:
    rng = generator(moment.seed, "patching", moment.round, n, 0)
    counts, there = {}, stored.there[moment.at]
    for layer, every in stored.masks("global").items():
        mask = every[moment.at]
        used = np.zeros((len(mask), mask.shape[-1]), int)
        for k, c in np.argwhere(there):
            used[k] |= of_size(mask.shape[-1], int(mask[k, c].sum()), rng)
        counts[layer] = int((used.astype(bool).sum(0) > 1).sum())
    return counts


# --- with weights ---


def _onward(params: Params, y: Array, layer: str) -> Array:
    """Logits (N, Y) from the output of this convolution, bias included, before ReLU."""
    layers = conv_layers(params)
    x = relu_pool(windows(y), jnp.zeros(y.shape[-1], y.dtype))
    for later in layers[layers.index(layer) + 1 :]:
        x = relu_pool(conv_windows(x, params[f"{later}_kernel"]), params[f"{later}_bias"])
    return x.reshape(len(x), -1) @ params["fc_kernel"] + params["fc_bias"]


def _patched(
    params: Params,
    source: Array,
    label: Array,
    index: Array,
    local_models: Params,
    test: EvaluationSet,
    *,
    narrowing: bool,
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Whether the answer is the class, with every channel patched, (O_l, N) a layer, and with the whole layer, (N,).

    Args: index (g, B): images that the global model gets wrong, so that a channel nobody listens to rescues none.
    """
    own = pick(local_models, source)
    heard = {layer: has_outgoing(params, layer) for layer in conv_layers(params)}

    def of_group(index: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        x = test.images.normalised(index)
        here, there = model.conv_outputs(params, x), model.conv_outputs(own, x)

        def right(y: Array, layer: str) -> Array:
            return jnp.argmax(_onward(params, y, layer), -1) == label

        def channel(number: Array, layer: str) -> Array:
            def patched() -> Array:
                one = jnp.arange(here[layer].shape[-1]) == number
                return right(jnp.where(one, there[layer], here[layer]), layer)

            return lax.cond(heard[layer][number], patched, lambda: jnp.zeros(len(index), bool))

        one_by_one = {k: lax.map(lambda n, k=k: channel(n, k), jnp.arange(y.shape[-1])) for k, y in here.items()}
        return one_by_one, {layer: right(y, layer) for layer, y in there.items()}

    channels, whole = lax.map(of_group, index)
    return (
        {layer: part.swapaxes(0, 1).reshape(part.shape[1], -1) for layer, part in channels.items()},
        {layer: part.ravel() for layer, part in whole.items()},
    )


def _called(params: Params, label: Array, test: EvaluationSet, *, narrowing: bool) -> Array:
    """What the model calls every image of this class, (N,)."""
    return jnp.argmax(logits_of(params, all_open(params), label[None], test, narrowing)[0], -1)


class Rescue(NamedTuple):
    """Of one user's images."""

    fair: np.ndarray
    """bool (N,): of the images that the global model gets wrong, which the own model gets right."""
    channels: dict[str, np.ndarray]
    """bool (O_l, N) a layer: rescued."""
    whole: dict[str, np.ndarray]
    """bool (N,) a layer."""

    def rate(self, layer: str) -> np.ndarray:
        """(O_l,): share of the fair images that each channel rescues; NaN where there is none."""
        return _share(self.channels[layer][:, self.fair])

    def layer_rate(self, layer: str) -> float:
        return float(_share(self.whole[layer][self.fair]))


def _share(right: np.ndarray) -> np.ndarray:
    return right.mean(-1) if right.shape[-1] else np.full(right.shape[:-1], np.nan)


def weights(stored: Stored, bench: Bench) -> list[Row]:
    """Rescue rates of the first candidates, user by user, and their means by layer beside random channels'."""
    tested = [of_moment(stored, moment)[: stored.options.limit] for moment in stored.moments]
    users = [(m, user) for m, some in enumerate(tested) for user in sorted({u for one in some for u in one.users})]
    rescues = dict(zip(users, _rescues(stored, bench, users), strict=True))
    rows = masks(stored)
    for m, (moment, some) in enumerate(zip(stored.moments, tested, strict=True)):
        known = {user: rescue for (at, user), rescue in rescues.items() if at == m}
        rows += [row for one in some for row in _of_candidate(moment, one, known)]
        rows += [row for layer in stored.layers for row in _of_layer(stored, moment, layer, some, known)]
    return rows


def _rescues(stored: Stored, bench: Bench, users: list[tuple[int, User]]) -> list[Rescue]:
    if not users:
        return []
    labels, test = np.array([label for _, (_, label) in users]), bench.test
    given, source = ([place(m, client) for m, (client, _) in users] for place in (bench.given, bench.local))
    global_answers, local_answers = (
        bench.judge(_called, models, which, (labels,), (test,))
        for models, which in ((bench.global_models, given), (bench.local_models, source))
    )
    place, valid = map(np.asarray, of_classes(jnp.asarray(labels), test))
    wrong = valid & (global_answers != labels[:, None])
    fair = [own[missed] == label for own, missed, label in zip(local_answers, wrong, labels, strict=True)]
    batch = test.indices.shape[1]
    most = max(1, -(-int(wrong.sum(1).max()) // batch))
    index = np.stack([groups(own[missed], batch, most)[0] for own, missed in zip(place, wrong, strict=True)])
    columns = (np.array(source), labels, index)
    channels, whole = bench.judge(_patched, bench.global_models, given, columns, (bench.local_models, test))
    return [
        Rescue(own, *({k: v[i][..., : len(own)] for k, v in part.items()} for part in (channels, whole)))
        for i, own in enumerate(fair)
    ]


def _of_candidate(moment: Moment, one: Candidate, known: dict[User, Rescue]) -> list[Row]:
    at, rows = (moment.seed, moment.round), []
    for client, label in one.users:
        rescue = known[client, label]
        of = {"class": label, "source": client, "layer": one.layer, "channel": one.channel}
        channel, whole = rescue.channels[one.layer][one.channel][rescue.fair], rescue.whole[one.layer][rescue.fair]
        null = np.delete(rescue.rate(one.layer), one.channel)
        rows += [
            Row(*at, "images", int(rescue.fair.sum()), of),
            Row(*at, "channel_rescue", float(_share(channel)), of, null, wilson(channel)),
            Row(*at, "layer_rescue", float(_share(whole)), of, None, wilson(whole)),
        ]
    return rows + _as_the_authors(moment, one, known[one.users[0]])


def _as_the_authors(moment: Moment, one: Candidate, rescue: Rescue) -> list[Row]:
    """The first user, the first image that the global model gets wrong; nothing where it gets none wrong."""
    if not len(rescue.fair):
        return []
    client, label = one.users[0]
    of = {"class": label, "source": client, "layer": one.layer, "channel": one.channel}
    return [
        Row(moment.seed, moment.round, name, bool(right), of)
        for name, right in (
            ("first_image_channel", rescue.channels[one.layer][one.channel][0]),
            ("first_image_layer", rescue.whole[one.layer][0]),
            ("first_image_own_right", rescue.fair[0]),
        )
    ]


def wilson(right: np.ndarray) -> tuple[float, float] | None:
    """95 % interval of a share of images; None of no image."""
    from scipy import stats  # here: it takes long to import

    if not len(right):
        return None
    found = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


Rates = dict[User, dict[str, np.ndarray]]
"""(O_l,) of each layer's channels, for every user."""


def _of_layer(
    stored: Stored, moment: Moment, layer: str, some: list[Candidate], known: dict[User, Rescue]
) -> list[Row]:  # fmt: skip
    """Means over the layer's candidates and their users. Nulls: as many channels of this layer, or of the others, drawn
    at random for the same users."""
    own, at, of = [one for one in some if one.layer == layer], (moment.seed, moment.round), {"layer": layer}
    if not own:
        return []
    rates = {user: {k: rescue.rate(k) for k in stored.layers} for user, rescue in known.items()}
    found = _mean([rates[user][layer][one.channel] for one in own for user in one.users])
    same, wrong = [], []
    for n in stored.samples():
        rng = generator(moment.seed, "patching", moment.round, n, 1, stored.layers.index(layer))
        same.append(_random_rate(own, [layer], rates, rng))
        wrong.append(_random_rate(own, [k for k in stored.layers if k != layer], rates, rng))
    whole = _mean([known[user].layer_rate(layer) for user in sorted({user for one in own for user in one.users})])
    return [
        Row(*at, "mean_channel_rescue", found, of, np.array(same)),
        Row(*at, "mean_rescue_against_other_layers", found, of, np.array(wrong)),
        Row(*at, "mean_layer_rescue", whole, of),
    ]


def _random_rate(own: list[Candidate], layers: list[str], rates: Rates, rng: np.random.Generator) -> float:
    """As the mean over these candidates, with a channel of these layers, all of them together, in place of each."""
    flat = {user: np.concatenate([by_layer[k] for k in layers] or [np.zeros(0)]) for user, by_layer in rates.items()}
    total = len(next(iter(flat.values())))
    if not total:
        return np.nan
    drawn = rng.permutation(total)[: len(own)]  # candidates of a layer may be more than the others' channels together
    return _mean([flat[user][channel] for one, channel in zip(own, drawn, strict=False) for user in one.users])


def _mean(values: list[Any]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else np.nan


STUDY = Study(
    masks=masks,
    weights=weights,
    tables=(
        Table(
            "channels that circuits of several clients use", (),
            (Column("contested", "contested_channels", "count", null=True),),
        ),
        Table(
            "wrong images that are put right, mean over the most contested channels and their users", ("layer",),
            (
                Column("one channel patched (random: same layer)", "mean_channel_rescue", null=True),
                Column("the same (random: other layers)", "mean_rescue_against_other_layers", null=True),
                Column("whole layer patched", "mean_layer_rescue"),
            ),
        ),
        Table(
            "most contested first", ("layer", "channel"),
            (Column("rank", "rank", "count"), Column("circuits", "circuits", "count")),
        ),
        Table(
            "channel by channel", ("class", "source", "layer", "channel"),
            (
                Column("images", "images", "count"),
                Column("one channel", "channel_rescue", null=True),
                Column("whole layer", "layer_rescue"),
                Column("authors' image: channel", "first_image_channel", "flag"),
                Column("layer", "first_image_layer", "flag"),
                Column("own model right", "first_image_own_right", "flag"),
            ),
        ),
    ),
    panels=(
        Panel(
            "wrong images put right", "layer",
            (
                Series("one contested channel patched", "mean_channel_rescue"),
                Series("whole layer patched", "mean_layer_rescue"),
            ),
            "share of images",
        ),
        Panel(
            "contested channels", "layer", (Series("used by several clients", "contested_channels"),), "channels",
            share=False,
        ),
    ),
    every_user=True,
    caption="images that the global model gets wrong and the client's own model right",
)  # fmt: skip

"""Injection: the channels that several experts' circuits use are overwritten with one client's own; who gains?

Kernels and biases of all layers' shared channels at once; what the next layers do with them stays. Every class is asked
about in the global model that its expert got. The authors' script is `shared_neurons.py`. Shared is counted by class,
as there, so that two classes of one client count; how many channels several *clients* use stands beside it.

Axes: N random sets, O_l channels of convolution l.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jax import Array

from fedmi_jax.circuits.evaluation import EvaluationSet
from fedmi_jax.federation.homes import pick
from fedmi_jax.network.model import Params, all_open
from fedmi_jax.studies.base import Column, Panel, Series, Study, Table
from fedmi_jax.studies.bench import Answers, Bench, answers, replaced
from fedmi_jax.studies.cascade import users
from fedmi_jax.studies.chance import Channels, generator, like
from fedmi_jax.studies.stored import Moment, Stored, usage
from fedmi_jax.studies.tidy import Row


def shared(circuits: Mapping[int, Channels]) -> dict[str, np.ndarray]:
    """Channels of more than one class's circuit."""
    return {layer: count > 1 for layer, count in usage(circuits.values()).items()}


def masks(stored: Stored) -> list[Row]:
    """How many channels are shared, by class and by client."""
    return [row for moment in stored.moments for row in _of_moment(stored, moment)]


def _of_moment(stored: Stored, moment: Moment) -> list[Row]:
    at, rows = (moment.seed, moment.round), []
    counts = [_counts(c, moment, stored) for c in (moment.circuits, *(_random(moment, n) for n in stored.samples()))]
    for measure, i in (("shared_channels", 0), ("shared_by_clients", 1)):
        for layer in stored.layers:
            own, *null = (one[i][layer] for one in counts)
            rows.append(Row(*at, measure, own, {"layer": layer}, np.array(null, float)))
    return rows


def _counts(circuits: Mapping[int, Channels], moment: Moment, stored: Stored) -> tuple[dict[str, int], dict[str, int]]:
    by_client = users(circuits, moment.experts, stored.clients)
    return (
        {layer: int(both.sum()) for layer, both in shared(circuits).items()},
        {layer: int((used.sum(0) > 1).sum()) for layer, used in by_client.items()},
    )


def _random(moment: Moment, n: int) -> dict[int, dict[str, np.ndarray]]:
    rng = generator(moment.seed, "injection", moment.round, n, 0)
    return {label: like(circuit, rng) for label, circuit in moment.circuits.items()}


def _injected(
    params: Params, source: Array, channels: Mapping[str, Array], classes: Array, local_models: Params,
    test: EvaluationSet, *, narrowing: bool,
) -> Answers:  # fmt: skip
    changed = replaced(params, pick(local_models, source), channels)
    return answers(changed, all_open(params), classes, test, narrowing=narrowing)


def weights(stored: Stored, bench: Bench) -> list[Row]:
    """Accuracy of every expert's class before, and after every expert client's channels are put in. Null: as many
    random channels are put in."""
    moments, cases = stored.moments, stored.cases
    before = dict(zip(cases, bench.own_answers(cases, bench.whole(len(cases))).top1, strict=True))
    rows = []
    for (m, label), accuracy in before.items():
        rows.append(Row(moments[m].seed, moments[m].round, "global_accuracy", float(accuracy), {"class": label}))
    for (m, client), after in _after(stored, bench).items():
        rows += _rows(moments[m], client, {c: before[m, c] for c in after}, after)
    return masks(stored) + rows


def _after(stored: Stored, bench: Bench) -> dict[tuple[int, int], dict[int, np.ndarray]]:
    """By moment and source: of every expert's class, the accuracy with its channels, and with random ones, (1 + N,)."""
    put = [[shared(moment.circuits), *(_channels(moment, n) for n in stored.samples())] for moment in stored.moments]
    asked = [(m, client, c) for m, c in stored.cases for client in dict.fromkeys(stored.moments[m].experts.values())]
    each = [(m, client, c, channels) for m, client, c in asked for channels in put[m]]
    models = bench.given_to_experts([(m, c) for m, _, c, _ in each])
    source, label = (np.array(column) for column in zip(*((bench.local(m, k), c) for m, k, c, _ in each), strict=True))
    rows = (source, bench.gates([channels for *_, channels in each]), label[:, None])
    found = bench.judge(_injected, bench.global_models, models, rows, (bench.local_models, bench.test))
    own = found.called[np.arange(len(each)), 0, label].reshape(len(asked), -1)
    after: dict[tuple[int, int], dict[int, np.ndarray]] = {}
    for (m, client, c), accuracy in zip(asked, own, strict=True):
        after.setdefault((m, client), {})[c] = accuracy
    return after


def _channels(moment: Moment, n: int) -> dict[str, np.ndarray]:
    return like(shared(moment.circuits), generator(moment.seed, "injection", moment.round, n, 1))


def _rows(moment: Moment, client: int, before: Mapping[int, float], after: Mapping[int, np.ndarray]) -> list[Row]:
    at, rows = (moment.seed, moment.round), []
    gains = {c: then - before[c] for c, then in after.items()}
    for c, then in after.items():
        of, gain = {"class": c, "source": client}, gains[c]
        rows.append(Row(*at, "accuracy", float(then[0]), of, then[1:]))
        rows.append(Row(*at, "gain", float(gain[0]), of, gain[1:]))
    for measure, own in (("gain_of_own", True), ("gain_of_others", False)):
        some = [gain for c, gain in gains.items() if (moment.experts[c] == client) == own]
        if some:
            mean = np.mean(some, 0)
            rows.append(Row(*at, measure, float(mean[0]), {"source": client}, mean[1:]))
    return rows


STUDY = Study(
    masks=masks,
    weights=weights,
    tables=(
        Table(
            "channels that several circuits use", (),
            (
                Column("by class", "shared_channels", "count", null=True),
                Column("by client", "shared_by_clients", "count", null=True),
            ),
        ),
        Table(
            "accuracy with them from one client", ("class", "source"),
            (
                Column("after", "accuracy", null=True),
                Column("gain", "gain", "points", null=True),
            ),
        ),
        Table("global model", ("class",), (Column("accuracy", "global_accuracy"),)),
        Table(
            "mean gain", ("source",),
            (
                Column("of the client's classes", "gain_of_own", "points", null=True),
                Column("of other classes", "gain_of_others", "points", null=True),
            ),
        ),
    ),
    panels=(
        Panel(
            "shared channels", "layer",
            (Series("by several classes", "shared_channels"), Series("by several clients", "shared_by_clients")),
            "channels", share=False,
        ),
        Panel(
            "gain by whose channels are put in", "source",
            (Series("of the client's classes", "gain_of_own"), Series("of other classes", "gain_of_others")),
            "accuracy after minus before", share=False,
        ),
    ),
    caption="shared channels of all layers are overwritten with one client's own",
)  # fmt: skip

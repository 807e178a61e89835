"""Every study against a slow version in plain numpy, on made-up models; what it refuses; where the answer is known."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
import studied
from studied import CHANNELS, CLASSES, EXPERTS, ROUNDS, SEEDS

from fedmi_jax.circuits.evaluation import make_evaluation_set
from fedmi_jax.config import replace as replaced
from fedmi_jax.data import mnist
from fedmi_jax.errors import FedmiError
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.studies import STUDIES, bench, centroids, chance, dominator, patching, stored, study, tidy

NULLS = 2


@pytest.fixture(scope="module")
def images():
    return studied.images()


@pytest.fixture(scope="module")
def run():
    return studied.result()


@pytest.fixture(scope="module")
def found(run, images):
    """What every study finds, {study: {(seed, round, measure, labels): row}}, computed when it is asked for."""
    known = {}

    def ask(name):
        if name not in known:
            rows = study(name, run, rounds="all", dataset=images, nulls=NULLS).rows
            known[name] = {(row.seed, row.round, row.measure, row.key): row for row in rows}
            assert len(known[name]) == len(rows)  # no number twice
        return known[name]

    return ask


def value(rows, at, measure, **of):
    return rows[(*at, measure, tidy.Row(0, 0, "", 0, of).key)].value


def null(rows, at, measure, **of):
    return rows[(*at, measure, tidy.Row(0, 0, "", 0, of).key)].null


def same(a, b):
    assert a == pytest.approx(b, abs=1e-9, nan_ok=True)


MOMENTS = [(seed, number) for seed in SEEDS for number in ROUNDS]
PAIRS = [(0, 1), (0, 3)]


def experts_circuits(run, at):
    return {label: studied.circuit(run, *at, client, label) for label, client in EXPERTS.items()}


# --- weights ---


@pytest.mark.parametrize("at", MOMENTS)
def test_ablation(at, found, run, images):
    rows, (x, labels) = found("ablation"), studied.inputs(images)
    for label, circuit in experts_circuits(run, at).items():
        params = studied.given(run, *at, EXPERTS[label])
        kept = studied.without(params, {k: ~own for k, own in circuit.items()})
        before, after = (studied.accuracy(model, x, labels, label) for model in (params, kept))
        same(value(rows, at, "global_accuracy", **{"class": label}), before)
        same(value(rows, at, "circuit_accuracy", **{"class": label}), after)
        same(value(rows, at, "drop", **{"class": label}), before - after)
        same(value(rows, at, "false_positive_rate", **{"class": label}), called_wrongly(kept, x, labels, label))
        random = [null(rows, at, name, **{"class": label}) for name in ("circuit_accuracy", "false_positive_rate")]
        assert np.shape(random) == (2, NULLS)
        for n, (right, wrong) in enumerate(zip(*random, strict=True)):
            drawn = chance.like(circuit, chance.generator(at[0], "ablation", at[1], n, 1, label))
            closed = studied.without(params, {k: ~own for k, own in drawn.items()})
            same(right, studied.accuracy(closed, x, labels, label))
            same(wrong, called_wrongly(closed, x, labels, label))


def called_wrongly(params, x, labels, label):
    """Share of the images of other classes that are called this one."""
    return np.mean(studied.logits(params, x[labels != label]).argmax(-1) == label)


def test_ablation_on_a_run_is_what_the_run_measured(counted_run, squares):
    """Cross-evaluation, and accuracy of the global model: the rows without weights are those with them."""
    result, _ = counted_run
    ours = study("ablation", result, rounds="all", dataset=squares, nulls=0).rows
    alone = result.drop_vars([v for v in result if str(v).startswith("weights_")])
    measured = study("ablation", alone, rounds="all", nulls=0).rows
    assert {row.measure for row in measured} >= {"circuit_accuracy", "global_accuracy", "drop", "false_positive_rate"}
    expected = {(row.seed, row.round, row.measure, row.key): row.value for row in measured}
    assert {(row.seed, row.round, row.measure, row.key): row.value for row in ours} == pytest.approx(expected, abs=1e-6)


def test_what_circuits_share(found, run):
    """Channels of another expert's circuit, and what only one has."""
    for at in MOMENTS:
        circuits = experts_circuits(run, at)
        for label, own in circuits.items():
            rest = [other for c, other in circuits.items() if c != label]
            sets = {k: (set(np.flatnonzero(own[k])), set().union(*(np.flatnonzero(o[k]) for o in rest))) for k in own}
            shared = sum(len(mine & theirs) for mine, theirs in sets.values())
            assert value(found("ablation"), at, "shared_channels", **{"class": label}) == shared
            for layer, (mine, theirs) in sets.items():
                of = {"class": label, "layer": layer}
                assert value(found("ablation"), at, "kept_channels", **of) == len(mine)
                assert value(found("dominator"), at, "own_channels", **of) == len(mine - theirs)


@pytest.mark.parametrize("at", MOMENTS)
def test_dominator(at, found, run, images):
    rows, (x, labels), circuits = found("dominator"), studied.inputs(images), experts_circuits(run, at)
    given = {label: studied.given(run, *at, client) for label, client in EXPERTS.items()}
    accuracies = {label: studied.accuracy(params, x, labels, label) for label, params in given.items()}
    first = max(accuracies, key=lambda label: accuracies[label])
    gone = {
        layer: circuits[first][layer] & ~np.any([circuits[c][layer] for c in EXPERTS if c != first], 0)
        for layer in CONV_LAYERS
    }
    for label, params in given.items():
        assert value(rows, at, "dominator", **{"class": label}) == (label == first)
        before, after = (statistics(model, x, labels, label) for model in (params, studied.without(params, gone)))
        for name in before:
            same(value(rows, at, name, **{"class": label}), before[name])
            same(value(rows, at, f"{name}_after", **{"class": label}), after[name])
            same(value(rows, at, f"{name}_change", **{"class": label}), after[name] - before[name])


def statistics(params, x, labels, label):
    values = studied.logits(params, x[labels == label])
    order = np.argsort(-values, axis=1, kind="stable")
    shares = np.exp(values - values.max(1, keepdims=True))
    return {
        "top1": np.mean(order[:, 0] == label),
        "top3": np.mean((order[:, :3] == label).any(1)),
        "softmax": np.mean(shares[:, label] / shares.sum(1)),
    }


@pytest.mark.parametrize("at", MOMENTS)
def test_cascade(at, found, run, images):
    rows, (x, labels) = found("cascade"), studied.inputs(images)
    held = np.isin(labels, [*EXPERTS])
    built = cascade({c: studied.model(run, *at, c) for c in set(EXPERTS.values())}, experts_circuits(run, at))
    values, before = (studied.logits(params, x) for params in (built, studied.model(run, *at)))
    same(value(rows, at, "accuracy"), np.mean(values.argmax(1) == labels))
    same(value(rows, at, "global_accuracy"), np.mean(before.argmax(1) == labels))
    few = np.full(CLASSES, -np.inf)
    few[[*EXPERTS]] = 0
    same(value(rows, at, "held_accuracy"), np.mean((values + few)[held].argmax(1) == labels[held]))
    same(value(rows, at, "global_held_accuracy"), np.mean((before + few)[held].argmax(1) == labels[held]))
    for layer in CONV_LAYERS:
        assert value(rows, at, "active_channels", layer=layer) == (built[f"{layer}_bias"] != 0).sum()


def cascade(models, circuits):
    """Channel by channel, row by row."""
    built = {name: np.zeros(shape) for name, shape in studied.shapes().items()}
    for layer, width in zip(CONV_LAYERS, CHANNELS, strict=True):
        for channel in range(width):
            users = {EXPERTS[label] for label, circuit in circuits.items() if circuit[layer][channel]}
            for part in ("kernel", "bias") if users else ():
                own = [models[client][f"{layer}_{part}"][..., channel] for client in users]
                built[f"{layer}_{part}"][..., channel] = np.mean(own, 0)
    for label, circuit in circuits.items():
        for feature in range(len(built["fc_kernel"])):
            if circuit["conv3"][feature % CHANNELS[-1]]:
                built["fc_kernel"][feature, label] = models[EXPERTS[label]]["fc_kernel"][feature, label]
        if circuit["conv3"].any():
            built["fc_bias"][label] = models[EXPERTS[label]]["fc_bias"][label]
    return built


@pytest.mark.parametrize("at", MOMENTS)
def test_ensemble(at, found, run, images):
    rows, (x, labels), params = found("ensemble"), studied.inputs(images), studied.model(run, *at)
    held, classes = np.isin(labels, [*EXPERTS]), np.array([*EXPERTS])
    circuits = experts_circuits(run, at)
    closed = [studied.without(params, {k: ~own for k, own in circuits[label].items()}) for label in classes]
    said = np.stack([studied.logits(model, x)[:, label] for model, label in zip(closed, classes, strict=True)], 1)
    answer = classes[said.argmax(1)]
    plain_answer = classes[studied.logits(params, x)[:, classes].argmax(1)]
    same(value(rows, at, "accuracy"), np.mean(answer[held] == labels[held]))
    same(value(rows, at, "global_accuracy"), np.mean(plain_answer[held] == labels[held]))
    for label in classes:
        own = labels == label
        same(value(rows, at, "class_accuracy", **{"class": label}), np.mean(answer[own] == label))


@pytest.mark.parametrize("at", MOMENTS)
def test_injection(at, found, run, images):
    rows, (x, labels) = found("injection"), studied.inputs(images)
    circuits = experts_circuits(run, at).values()
    shared = {layer: np.sum([own[layer] for own in circuits], 0) > 1 for layer in CONV_LAYERS}
    for client in (0, 1):
        for label, expert in EXPERTS.items():
            params = studied.given(run, *at, expert)
            changed = studied.overwritten(params, studied.model(run, *at, client), shared)
            before, after = (studied.accuracy(model, x, labels, label) for model in (params, changed))
            of = {"class": label, "source": client}
            same(value(rows, at, "accuracy", **of), after)
            same(value(rows, at, "gain", **of), after - before)
    for layer in CONV_LAYERS:
        assert value(rows, at, "shared_channels", layer=layer) == shared[layer].sum()


def test_shared_by_clients_counts_two_classes_of_one_client_once(found, run):
    for at in MOMENTS:
        first, second, third = experts_circuits(run, at).values()  # the last two are client 1's
        for layer in CONV_LAYERS:
            both = (first[layer] & (second[layer] | third[layer])).sum()
            assert value(found("injection"), at, "shared_by_clients", layer=layer) == both
            assert value(found("cascade"), at, "averaged_channels", layer=layer) == both


@pytest.mark.parametrize("at", MOMENTS)
def test_pairwise(at, found, run, images):
    rows, (x, labels) = found("pairwise"), studied.inputs(images)
    assert {row[3] for row in rows if row[:3] == (*at, "shared_channels")} == {
        (("pair", stored.pair_name(pair)),) for pair in PAIRS
    }
    for pair in PAIRS:
        circuits = [studied.circuit(run, *at, EXPERTS[label], label) for label in pair]
        models = [studied.model(run, *at, EXPERTS[label]) for label in pair]
        mean = {name: (models[0][name] + models[1][name]) / 2 for name in models[0]}
        shared = {layer: circuits[0][layer] & circuits[1][layer] for layer in CONV_LAYERS}
        name = stored.pair_name(pair)
        assert value(rows, at, "shared_channels", pair=name) == sum(both.sum() for both in shared.values())
        for client, model in zip((EXPERTS[label] for label in pair), models, strict=True):
            changed = studied.overwritten(mean, model, shared)
            for label in pair:
                of = {"pair": name, "class": label}
                same(value(rows, at, "mean_accuracy", **of), studied.accuracy(mean, x, labels, label))
                after = studied.accuracy(changed, x, labels, label)
                same(value(rows, at, "accuracy", **of, source=client), after)


@pytest.mark.parametrize("at", MOMENTS)
def test_centroids(at, found, run, images):
    rows, (x, labels) = found("centroids"), studied.inputs(images)
    for pair in PAIRS:
        models = [studied.model(run, *at, EXPERTS[label]) for label in pair]
        mean = {name: (models[0][name] + models[1][name]) / 2 for name in models[0]}
        centres = [features(mean, x[labels == label]).mean(0) for label in pair]
        name = stored.pair_name(pair)
        same(value(rows, at, "distance", pair=name), cosine_distance(*centres))
        same(value(rows, at, "distance_looked_at", pair=name), cosine_distance(*centres))  # fewer than 256 images
        for label, centre, model in zip(pair, centres, models, strict=True):
            same(value(rows, at, "norm", pair=name, **{"class": label}), np.sqrt((centre**2).sum()))
            own = cosine_distance(*(features(model, x[labels == c]).mean(0) for c in pair))
            same(value(rows, at, "distance_on_own_model", pair=name, source=EXPERTS[label]), own)
        assert null(rows, at, "distance", pair=name).shape == (NULLS,)
        collapsed = cosine_distance(*centres) < 0.01
        assert value(rows, at, "collapsed", pair=name) == collapsed
        norms = [np.linalg.norm(centre) for centre in centres]
        wins = collapsed and abs(norms[0] - norms[1]) > 5
        same(value(rows, at, "winner", pair=name), pair[int(np.argmax(norms))] if wins else np.nan)


def features(params, x):
    y = np.maximum(studied.outputs(params, x)["conv3"], 0)
    n, height, width, channels = y.shape
    return y.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4)).reshape(n, -1)


def cosine_distance(a, b):
    return 1 - (a @ b) / (np.sqrt(a @ a) * np.sqrt(b @ b))


@pytest.mark.parametrize("at", MOMENTS)
def test_linear(at, found, run):
    rows = found("linear")
    for pair in PAIRS:
        models = [studied.model(run, *at, EXPERTS[label])["fc_kernel"] for label in pair]
        circuits = [studied.circuit(run, *at, EXPERTS[label], label)["conv3"] for label in pair]
        kernel = (models[0] + models[1]) / 2
        for name, own in (("shared", circuits[0] & circuits[1]), ("first only", circuits[0] & ~circuits[1])):
            for channel in np.flatnonzero(own):
                of = {"pair": stored.pair_name(pair), "set": name, "channel": int(channel)}
                weights = [[kernel[p * CHANNELS[-1] + channel, label] for p in range(6)] for label in pair]
                for label, block in zip(pair, weights, strict=True):
                    same(value(rows, at, "mean_weight", **of, **{"class": label}), sum(block) / 6)
                    same(value(rows, at, "l1", **of, **{"class": label}), sum(map(abs, block)))
                    same(value(rows, at, "nonzero", **of, **{"class": label}), sum(w != 0 for w in block))
                sizes = [abs(sum(block)) for block in weights]
                same(value(rows, at, "winner", **of), pair[0] if sizes[0] > sizes[1] else pair[1])


def test_a_tie_is_nobodys(run, images):
    """The authors' script gives it to the first class."""
    without = run.assign(weights_local_fc_kernel=run["weights_local_fc_kernel"] * 0)
    rows = study("linear", without, dataset=images, nulls=1).rows
    shares = {row.measure: row for row in rows if row.of.get("set") == "first only" and "channel" not in row.of}
    assert shares["tied"].value == shares["all_zero"].value == 1
    assert shares["first_wins"].value == shares["second_wins"].value == 0
    assert all(np.isnan(row.value) for row in rows if row.measure == "winner")


def patched(run, at, user, images, layer, channel):
    """Of the images of the user's class that its global model gets wrong: which its own model gets right, and which the
    global one does with the channel patched, and with the whole layer."""
    (label, client), (x, labels) = user, studied.inputs(images)
    params, own = studied.given(run, *at, client), studied.model(run, *at, client)
    x = x[labels == label]
    x = x[studied.logits(params, x).argmax(1) != label]
    if not len(x):
        return [np.zeros(0, bool)] * 3
    here, there = (studied.outputs(model, x)[layer] for model in (params, own))
    mixed = here.copy()
    mixed[..., channel] = there[..., channel]
    said = (studied.logits(own, x), studied.onward(params, mixed, layer), studied.onward(params, there, layer))
    return [one.argmax(1) == label for one in said]


@pytest.mark.parametrize("at", MOMENTS[:2])
def test_patching(at, found, run, images):
    rows = {key: row for key, row in found("patching").items() if key[:2] == at}
    places = [dict(key) for (*_, measure, key) in rows if measure == "images"]
    assert {(0, 0), (0, 2)} <= {(of["class"], of["source"]) for of in places}  # client 2 is no expert
    as_patched(rows, at, run, images)


def test_patching_without_the_first_class(run, images):
    """One moment, whose users are of classes 1 and 3: a class is no place in a list."""
    at, some = (SEEDS[1], ROUNDS[0]), run.copy(deep=True)
    some["analysed"] = some["analysed"] & (some["class"] != 0)
    for layer in CONV_LAYERS:
        some[f"mask_{layer}"] = some[f"mask_{layer}"] & some["analysed"]
        some[f"mask_{layer}"].loc[{"origin": "global"}] = some["analysed"]
    made = study("patching", some, seeds=at[:1], rounds=at[1:], dataset=images, nulls=NULLS, limit=99).rows
    rows = {(row.seed, row.round, row.measure, row.key): row for row in made}
    assert {dict(key)["class"] for (*_, measure, key) in rows if measure == "images"} == {1, 3}
    as_patched(rows, at, some, images)


def as_patched(rows, at, run, images):
    """The plain model, one channel and image after the other, says the same of every user."""
    places = [dict(key) for (*_, measure, key) in rows if measure == "images"]
    for of in places:
        user = of["class"], of["source"]
        fair, right, whole = patched(run, at, user, images, of["layer"], of["channel"])
        assert value(rows, at, "images", **of) == fair.sum()
        same(value(rows, at, "channel_rescue", **of), right[fair].mean() if fair.any() else np.nan)
        same(value(rows, at, "layer_rescue", **of), whole[fair].mean() if fair.any() else np.nan)
    firsts = [dict(key) for (*_, measure, key) in rows if measure == "first_image_layer"]
    assert firsts
    for of in firsts:
        fair, right, whole = patched(run, at, (of["class"], of["source"]), images, of["layer"], of["channel"])
        said = [value(rows, at, f"first_image_{what}", **of) for what in ("own_right", "channel", "layer")]
        assert said == [fair[0], right[0], whole[0]]


@pytest.mark.parametrize("at", MOMENTS)
def test_random_channels_of_patching(at, found):
    """A channel's null is the rates of the layer's others; a layer's mean is over its candidates and their users."""
    rows = {key: row for key, row in found("patching").items() if key[:2] == at}
    rates = {tuple(dict(key).values()): row for (*_, m, key), row in rows.items() if m == "channel_rescue"}
    for (label, client, layer, channel), row in rates.items():
        others = [c for c in range(CHANNELS[CONV_LAYERS.index(layer)]) if c != channel]
        assert row.null.shape == (len(others),)
        for other, rate in zip(others, row.null, strict=True):
            if (label, client, layer, other) in rates:
                same(rate, rates[label, client, layer, other].value)
    for layer in {key[2] for key in rates}:
        own = [row.value for key, row in rates.items() if key[2] == layer]
        known = [rate for rate in own if not np.isnan(rate)]
        same(value(rows, at, "mean_channel_rescue", layer=layer), np.mean(known) if known else np.nan)
        for measure in ("mean_channel_rescue", "mean_rescue_against_other_layers"):
            assert null(rows, at, measure, layer=layer).shape == (NULLS,)


def test_a_channel_that_must_rescue_does_and_no_other(run, images):
    """The global model is client 0's without one channel of conv3: patched back, it is the client's again."""
    at, channel = (SEEDS[0], ROUNDS[-1]), 4
    own = studied.model(run, *at, 0)
    own["fc_bias"][0] = -40  # so that class 0 is answered by what the channel says
    own["conv3_bias"][channel] = 30
    own["fc_kernel"][channel :: CHANNELS[-1], 0] = 3
    broken = studied.without(own, {"conv3": np.arange(CHANNELS[-1]) == channel})
    planted = run.copy(deep=True)
    for name in studied.shapes():
        planted[f"weights_local_{name}"].loc[{"seed": at[0], "round": at[1], "client": 0}] = own[name]
        planted[f"weights_global_{name}"].loc[{"seed": at[0], "round": at[1]}] = broken[name]
    for layer in CONV_LAYERS:  # so that every channel is a candidate
        planted[f"mask_{layer}"].loc[{"origin": "global"}] = True
    rows = study("patching", planted, rounds="all", dataset=images, nulls=NULLS, limit=99).rows
    mine = [row for row in rows if (row.seed, row.round) == at]
    mine = [row for row in mine if (row.of.get("class"), row.of.get("source")) == (0, 0)]
    assert next(row.value for row in mine if row.measure == "images") > 5
    rescues = {(r.of["layer"], r.of["channel"]): r.value for r in mine if r.measure == "channel_rescue"}
    assert rescues.pop(("conv3", channel)) == 1
    assert set(rescues.values()) == {0}
    whole = {row.of["layer"]: row.value for row in mine if row.measure == "layer_rescue"}
    assert whole == {"conv1": 0, "conv2": 0, "conv3": 1}


@pytest.mark.parametrize("name", ["cascade", "ensemble", "patching"])
def test_side_by_side_as_one_by_one(name, found, run, images, monkeypatch):
    """As on a GPU."""
    resolve = bench.resolve
    monkeypatch.setattr(bench, "resolve", lambda settings, *more: resolve(replaced(settings, client_chunk=3), *more))
    for row in study(name, run, rounds="all", dataset=images, nulls=NULLS).rows:
        same(row.value, found(name)[row.seed, row.round, row.measure, row.key].value)


def test_clients_that_sat_out_have_no_say(run, images):
    """Their weights are not there; another client stands for the class, or nobody."""
    absent, at = run.copy(deep=True), {"seed": 3, "round": 1, "client": 0}
    absent["participates"] = (("seed", "round", "client"), np.ones((2, 2, 3), bool))
    absent["participates"].loc[at] = False
    other = absent.copy(deep=True)
    for name in (name for name in run if str(name).startswith("weights_local_")):
        absent[name].loc[at], other[name].loc[at] = np.nan, 1
    assert stored.Stored(absent, [3], [1], stored.Options()).moments[0].experts == {0: 2, 1: 1, 3: 1}
    for name in ("cascade", "injection", "linear"):
        first, second = (study(name, ds, rounds="all", dataset=images, nulls=NULLS).rows for ds in (absent, other))
        assert [(row.measure, row.key) for row in first] == [(row.measure, row.key) for row in second]
        same([row.value for row in first], [row.value for row in second])
        assert not {row.of.get("source") for row in first if (row.seed, row.round) == (3, 1)} & {0}


# --- circuits alone ---


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "centroids"])
def test_without_weights_the_circuits_say_the_same(name, found, run):
    alone = run.drop_vars([v for v in run if str(v).startswith("weights_")])
    findings = study(name, alone, rounds="all", nulls=NULLS)
    assert "--execution.save-weights" in findings.missing
    assert len(findings.missing.splitlines()) == 1
    assert findings.rows
    for row in findings.rows:
        other = found(name)[row.seed, row.round, row.measure, row.key]
        same(row.value, other.value)
        assert (row.null is None) == (other.null is None)
        assert row.null is None or (row.null == other.null).all()


def test_candidates_are_ordered_by_circuits_then_layer_then_channel():
    used = {layer: np.zeros((2, 2, 4), bool) for layer in ("conv1", "conv2", "conv10")}
    used["conv1"][0, :, 3] = True  # two circuits of one client: not contested
    used["conv1"][:, 0, 2] = used["conv2"][:, 0, 1] = used["conv10"][:, 1, 0] = used["conv2"][:, 0, 0] = True
    used["conv2"][0, 1, 1] = True
    found = patching.candidates(used, [7, 9], [4, 6])
    assert [(one.layer, one.channel) for one in found] == [("conv2", 1), ("conv1", 2), ("conv10", 0), ("conv2", 0)]
    assert found[0].users == ((7, 4), (7, 6), (9, 4))


LOOKED = {(1, 5): (69, 52), (1, 9): (69, 55), (5, 9): (52, 55), (0, 3): (69, 77), (0, 6): (69, 66), (3, 6): (77, 66)}


@pytest.mark.parametrize("pair", LOOKED)
def test_how_many_images_the_authors_look_at(pair):
    """Facts about MNIST's test set and their rule."""
    labels = mnist.read().test_labels
    places = [np.flatnonzero(labels == label) for label in pair]
    stop = centroids.looked_at(*places)
    assert tuple(int((place < stop).sum()) for place in places) == LOOKED[pair]


def test_the_authors_look_until_both_have_more_than_fifty():
    """At the end of a batch of 256; where that never comes, at all."""
    every = np.arange(0, 512, 5)  # 52 in the first batch
    assert centroids.looked_at(every, every) == 256
    assert centroids.looked_at(every[2:], every) == 512  # 50 are not more than 50
    assert centroids.looked_at(every[:40], every) >= 511


def test_random_splits_have_the_classes_sizes(images):
    unused = np.zeros(1)
    pixels = Images(images.test_images, images.test_labels, unused, unused)
    test = make_evaluation_set(pixels, images.test_labels, CLASSES, 20)
    weight, count = centroids.weightings(test, (0, 3), [np.random.default_rng(0)])
    sizes = [(images.test_labels == label).sum() for label in (0, 3)]
    assert count.tolist() == sizes * 3
    assert (weight[:2].sum(0) == weight[4:].sum(0)).all()  # the same images
    assert not (weight[:2] == weight[4:]).all()


def test_no_own_channel_no_change(run, images):
    """Where the circuits are the same nothing is the dominator's alone."""
    same_circuits = run.assign({f"mask_{k}": (run[f"mask_{k}"] * 0 + 1).astype(bool) for k in CONV_LAYERS})
    rows = study("dominator", same_circuits, rounds="all", dataset=images, nulls=NULLS).rows
    assert {row.value for row in rows if row.measure.endswith("_change")} == {0}
    assert {row.value for row in rows if row.measure == "own_channels"} == {0}


def test_an_ensemble_of_constants_has_one_answer(run, images):
    """Its accuracy is then a class's share of the images; so is that of a cascade without a channel."""
    empty = run.assign(mask_conv2=run["mask_conv2"] & False)
    counts = np.array([(images.test_labels == label).sum() for label in EXPERTS])
    rows = study("ensemble", empty, rounds="all", dataset=images, nulls=NULLS).rows
    assert {row.value for row in rows if row.measure == "all_constant"} == {1}
    for row in (row for row in rows if row.measure == "accuracy"):
        assert np.isclose(row.value, counts / counts.sum()).any()
    rows = study("cascade", empty, rounds="all", dataset=images, nulls=NULLS).rows
    whole = np.bincount(images.test_labels) / len(images.test_labels)
    for row in (row for row in rows if row.measure == "accuracy"):
        assert np.isclose(row.value, whole).any()


# --- random sets ---


def test_random_sets_are_keyed(run):
    """They do not depend on what else is asked for."""
    both = study("ablation", run.drop_vars([v for v in run if "weights_" in str(v)]), rounds="all", nulls=3).rows
    alone = study("ablation", run.drop_vars([v for v in run if "weights_" in str(v)]), seeds=[8], rounds=[2], nulls=2)
    wanted = {(row.measure, row.key): row.null for row in both if (row.seed, row.round) == (8, 2)}
    for row in alone.rows:
        if row.null is not None:
            assert row.null.tolist() == wanted[row.measure, row.key][:2].tolist()
    nulls = {at: [row.null for row in both if (row.seed, row.round) == at and row.null is not None] for at in MOMENTS}
    drawn = {tuple(np.concatenate(own).tolist()) for own in nulls.values()}
    assert len(drawn) == len(MOMENTS)


def test_every_part_of_the_key_counts():
    own = (3, "ablation", 1, 0)
    others = [(4, *own[1:]), (3, "linear", 1, 0), (3, "ablation", 2, 0), (3, "ablation", 1, 1), (*own, 7), (*own, 8)]
    first = [chance.generator(*key).integers(2**60) for key in [own, *others]]
    assert len(set(first)) == len(first)
    assert chance.generator(*own).integers(2**60) == first[0]


def test_random_sets_are_as_large(run):
    circuit = studied.circuit(run, 3, 1, 0, 0)
    drawn = [chance.like(circuit, chance.generator(3, "ablation", 1, n, 0)) for n in range(5)]
    for one in drawn:
        assert {k: v.sum() for k, v in one.items()} == {k: v.sum() for k, v in circuit.items()}
    assert len({one["conv3"].tobytes() for one in drawn}) > 1


# --- over seeds, and as a file ---


def test_over_seeds():
    null = np.array([0.0, 1.0])
    rows = [tidy.Row(seed, 1, "m", float(seed), {"class": 0}, null * seed) for seed in (1, 3)]
    (cell,) = tidy.over_seeds(rows).values()
    assert (cell.mean, cell.seeds, cell.low, cell.high) == (2, 2, 1, 3)
    assert cell.null == 1  # of (0, 2): the n-th sets of both seeds belong together
    assert (cell.null_low, cell.null_high) == pytest.approx((0.05, 1.95))
    (alone,) = tidy.over_seeds(rows[:1]).values()
    assert (alone.low, alone.high) == (None, None)


def test_csv_is_tidy():
    rows = [
        tidy.Row(0, 5, "kept", 3, {"class": 1, "layer": "conv1"}),
        tidy.Row(0, 5, "rate", 0.1, {"class": 1}, np.array([0.0, 0.5]), (0.05, 0.2)),
        tidy.Row(1, 5, "rate", np.nan),
    ]
    lines = list(csv.DictReader(io.StringIO(tidy.as_csv("ablation", rows))))
    assert lines[0]["study"] == "ablation"
    assert [line["value"] for line in lines] == ["3", "0.1", ""]
    assert (lines[1]["low"], lines[1]["high"], lines[1]["null_mean"]) == ("0.05", "0.2", "0.25")
    assert (lines[0]["layer"], lines[1]["layer"], lines[1]["null_sets"], lines[0]["null_sets"]) == (
        "conv1",
        "",
        "2",
        "",
    )
    assert "pair" not in lines[0]


def test_wilson():
    """By its closed form."""
    z, n, p = 1.959963984540054, 10, 0.3
    middle, half = (p + z**2 / 2 / n) / (1 + z**2 / n), z / (1 + z**2 / n) * np.sqrt(p * (1 - p) / n + z**2 / 4 / n**2)
    assert patching.wilson(np.arange(10) < 3) == pytest.approx((middle - half, middle + half))
    assert patching.wilson(np.zeros(0, bool)) is None


# --- refused ---


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"name": "ablatoin"}, "unknown name 'ablatoin'; there are .* did you mean ablation"),
        ({"seeds": [4]}, "seed: 4 is not in the result, which holds 3, 8"),
        ({"rounds": [9]}, "round: 9 is not in the result, which holds 1, 2"),
        ({"experts": {2: None}}, "experts: no client has a circuit of class 2 in seed 3, round 2; .* classes 0, 1, 3"),
        ({"experts": {9: None}}, "experts: no client has a circuit of class 9"),
        ({"experts": {3: 0}}, "experts: client 0 has no circuit of class 3 in seed 3, round 2; client 1 has"),
        ({"nulls": -1}, "nulls: give at least 0; got -1"),
        ({"name": "patching", "limit": 0}, "limit: give at least 1; got 0"),
        ({"name": "pairwise", "experts": {1: 1, 3: 1}}, "pairwise: there is no pair of classes whose experts are"),
        (
            {"name": "linear", "experts": {1: 1, 3: 1}},
            "linear: there is no pair of classes whose experts are different",
        ),
        ({"name": "centroids", "experts": {0: None}}, "centroids: there is no pair of classes"),
        ({"name": "patching", "experts": {0: None}}, "experts: patching asks every client that has a circuit; leave"),
        ({"rounds": "first"}, 'round: give numbers, "all" or "last"; got \'first\''),
        ({"seeds": 4}, "seed: 4 is not in the result, which holds 3, 8"),
        ({"rounds": []}, "round: give at least one, or all"),
        ({"experts": {}}, "experts: give at least one class, or leave them out"),
    ],
)
def test_refused_in_one_line(asked, said, run, images):
    with pytest.raises(FedmiError, match=said) as error:
        study(**{"name": "ablation", "result": run, "dataset": images, "nulls": 1} | asked)
    assert len(str(error.value).splitlines()) == 1


def test_one_seed_and_round_may_be_given_as_they_are(run):
    ours, same_ones = (study("linear", run, seeds=a, rounds=b).rows for a, b in (([8], [1]), (8, np.int64(1))))
    assert [(row.key, row.value) for row in ours] == [(row.key, row.value) for row in same_ones]


def test_weights_that_are_not_there_are_refused(run, images):
    gap = run.copy(deep=True)
    gap["weights_local_conv2_bias"].loc[{"seed": 3, "round": 2, "client": 1}] = np.nan
    with pytest.raises(FedmiError, match=r"seed 3, round 2: the weights of client 1 are not finite \(conv2\)"):
        study("ablation", gap, dataset=images)
    none = run.copy(deep=True)
    for name in (name for name in run if str(name).startswith("weights_local")):
        none[name].loc[{"seed": 3, "round": 2, "client": 1}] = np.nan
    with pytest.raises(FedmiError, match="seed 3, round 2: the result has no weights of client 1; keep the weights"):
        study("ablation", none, dataset=images)
    gap["weights_local_conv2_bias"].loc[{"seed": 3, "round": 2, "client": 1}] = [np.inf, *np.zeros(5)]
    with pytest.raises(FedmiError, match=r"seed 3, round 2: the weights of client 1 are not finite \(conv2\)"):
        study("ablation", gap, dataset=images)
    alone = run.drop_vars([v for v in run if "weights_" in str(v)])
    with pytest.raises(FedmiError, match=r"centroids: needs the models' weights, .* --execution.save-weights"):
        study("centroids", alone)


def test_imported_files_of_an_unknown_set_are_refused(run):
    """Images of another set may have MNIST's size."""
    for names, said in (
        (
            ["0 - o", "1 - ki", "3 - tsu"],
            "classes are named 0 - o, 1 - ki, 3 - tsu, which are of no set known here; give",
        ),
        (["0 - zero", "1 - ki", "3 - three"], "which are of no set known here"),
    ):
        with pytest.raises(FedmiError, match=said):
            study("ablation", run.assign_coords(class_name=("class", names)))
    with pytest.raises(FedmiError, match="images of mnist give"):  # and the network is another
        study("ablation", run.assign_coords(class_name=("class", ["0 - zero", "1 - one", "3 - three"])))


def test_other_images_are_refused(run, images):
    with pytest.raises(FedmiError, match=r"takes 1 image channels and has 42 features and 4 classes; images of small"):
        study("ablation", run, dataset=replace(images, name="small", test_images=images.test_images[:, :8],
                                               train_images=images.train_images[:, :8]))  # fmt: skip


def test_a_client_without_images_of_the_class_is_no_expert(run):
    """A search without images leaves a circuit empty, and that is none."""
    fewer = run.copy(deep=True)
    fewer["samples"].loc[{"client": 1, "true_class": [1, 3]}] = 0
    asked = stored.Stored(fewer, [3], [1], stored.Options())
    assert asked.moments[0].experts == {0: 0, 1: 0}
    unknown = stored.Stored(run.drop_vars("samples"), [3], [1], stored.Options())
    assert unknown.moments[0].experts == {0: 0, 1: 0, 3: 1}  # the first that has one


def test_the_dominator_is_the_first_of_equals():
    assert dominator.dominator({4: 0.5, 1: 0.9, 7: 0.9}) == 1
    assert dominator.dominator({4: np.nan, 7: 0.1}) == 7
    assert dominator.dominator({4: np.nan}) is None

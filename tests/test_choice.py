"""How many channels a circuit has: against a plain loop, and against all sets of channels of small networks.

Axes: C channels of all convolutions, K of them live.
"""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fedmi_jax.circuits import choice, deciding, question
from fedmi_jax.circuits.choice import GRID, PASSES, Judged
from fedmi_jax.circuits.deciding import Probed, Task
from fedmi_jax.circuits.discovery import Searched, by_layer
from fedmi_jax.circuits.narrowing import heard, seeing
from fedmi_jax.circuits.survey import survey
from fedmi_jax.config import Discovery
from fedmi_jax.data import probe
from fedmi_jax.network import model
from fedmi_jax.network.layers import conv_layers

pytestmark = pytest.mark.usefixtures("x64")
LABEL, OTHERS = 1, np.arange(tiny.CLASSES) != 1
INDEX = np.arange(60).reshape(3, 20)


def sizes_of(params):
    return {layer: params[f"{layer}_bias"].shape[0] for layer in conv_layers(params)}


@jax.jit
def asked(params):
    """The model's means on some images, and what it makes of them."""
    images = tiny.noise()
    logits, means = survey(params, images, INDEX, np.ones(INDEX.shape, bool), narrowing=False)
    weights = question.balanced(images.labels, LABEL, OTHERS, logits.dtype)
    return means, question.ask(logits, LABEL, question.temperature(logits, LABEL, weights), weights)


@jax.jit
def explained(params, mask, means, what):
    """Of one set of channels (C,), on the model as it is."""
    gates = by_layer(mask.astype(float), sizes_of(params))
    return question.explained(model.apply(params, tiny.noise().normalised(INDEX.ravel()), gates, means), what)


def some(seed):
    """A model with dead channels, and scores with ties, some of which the values tell apart."""
    rng, params = np.random.default_rng(seed), tiny.params(seed, sparsity=0.3)
    params["conv2_kernel"] = params["conv2_kernel"].at[..., 0].set(0).at[:, :, 1].set(0)
    drawn = ({layer: rng.integers(-4, 7, n) * 1.0 for layer, n in sizes_of(params).items()} for _ in range(2))
    return params, Searched(*drawn)


def slow(params, searched, explains, target):
    """The same choice, one step after the other."""
    sees, is_heard = (np.concatenate([np.asarray(v) for v in side(params).values()]) for side in (seeing, heard))
    score, value = (np.concatenate(list(part.values())) for part in searched)
    order = sorted(np.flatnonzero(sees & is_heard), key=lambda i: (-score[i], -value[i], i))
    grid = [min(k, len(order)) for k in GRID if k < len(score)] + [len(order)]

    def of(channels):
        return float(explains(jnp.asarray(np.isin(np.arange(len(score)), list(channels)))))

    curve = [of(order[:k]) for k in grid]
    enough = [k for i, k in enumerate(grid) if all(f >= target for f in curve[i:])]
    kept, tried = (list(order), []) if not enough else (order[: enough[0]], order[: enough[0]][::-1])
    for _ in range(PASSES):
        for channel in tried:
            rest = [i for i in kept if i != channel]
            if channel in kept and of(rest) >= target:
                kept = rest
    return {
        "kept": sorted(kept), "untrimmed": enough[0] if enough else len(order), "compact": bool(enough),
        "grid": grid, "curve": curve, "explained": of(kept), "order": order,
    }  # fmt: skip


CHOOSE = jax.jit(choice.choose, static_argnames=("narrowing", "by_size"))


@pytest.mark.parametrize("narrowing", [True, False])
@pytest.mark.parametrize(("seed", "target"), [(0, 0.9), (1, 0.6), (2, 0.9), (3, 2.0)])
def test_is_the_plain_loop(seed, target, narrowing):
    params, searched = some(seed)
    means, what = asked(params)
    expected = slow(params, searched, partial(explained, params, means=means, what=what), target)
    found = CHOOSE(params, searched, means, Judged(tiny.noise(), INDEX, what), target, narrowing=narrowing)
    flat = {name: np.concatenate(list(getattr(found, name).values())) for name in ("mask", "live", "rank", "score")}
    assert np.flatnonzero(flat["mask"]).tolist() == expected["kept"]
    assert (found.untrimmed, found.compact) == (expected["untrimmed"], expected["compact"])
    assert found.compact == (target < 1)
    assert found.sizes.tolist() == expected["grid"]
    np.testing.assert_allclose(found.curve, expected["curve"], rtol=1e-9, atol=1e-10)
    assert found.explained == pytest.approx(expected["explained"], rel=1e-9)
    assert sorted(expected["order"]) == np.flatnonzero(flat["live"]).tolist()
    assert [int(flat["rank"][i]) for i in expected["order"]] == list(range(1, len(expected["order"]) + 1))
    assert (flat["rank"][~flat["live"]] == 0).all()
    np.testing.assert_array_equal(flat["score"] > 0, flat["mask"])
    assert np.isneginf(flat["score"][~flat["live"]]).all()
    assert np.isfinite(flat["score"][flat["live"]]).all()


def test_what_was_tried_is_not_all_the_same():
    """So that the comparison above is one of something."""
    found = []
    for seed, target in ((0, 0.9), (1, 0.6), (2, 0.9)):
        params, searched = some(seed)
        means, what = asked(params)
        expected = slow(params, searched, partial(explained, params, means=means, what=what), target)
        found.append((len(expected["kept"]), expected["untrimmed"]))
        assert len(expected["order"]) < 18  # some are dead
    assert all(0 < kept < untrimmed for kept, untrimmed in found)


def test_by_score_alone_a_circuit_is_what_is_live_and_positive():
    params, searched = some(0)
    means, what = asked(params)
    found = CHOOSE(params, searched, means, Judged(tiny.noise(), INDEX, what), 0.9, by_size=False, narrowing=False)
    flat = {name: np.concatenate(list(getattr(found, name).values())) for name in ("mask", "live")}
    score = np.concatenate(list(searched.score.values()))
    np.testing.assert_array_equal(flat["mask"], (score > 0) & flat["live"])
    assert found.untrimmed == flat["mask"].sum()
    kept = explained(params, jnp.asarray(flat["mask"]), means, what)
    assert found.explained == pytest.approx(float(kept), rel=1e-9)


# --- the smallest set of all ---

SMALL = (3, 3, 4)


def all_sets(channels):
    """Gates of all sets of so many channels, (2 ** channels, channels)."""
    return jnp.asarray(list(itertools.product([0.0, 1.0], repeat=channels)))


EVERY = all_sets(sum(SMALL))
SETTINGS = Discovery(objective="decision", probe=(32, 25), batch_size=64, masks=8, steps=120, target=0.9)
TARGET = SETTINGS.target


def probed_images():
    """As `probe.draw` lays them out: 32 of every class, then 25 of every class."""
    data = tiny.squares(train=57 * tiny.CLASSES)
    drawn = probe.draw(data.train_labels, tiny.CLASSES, SETTINGS.probe, 0)
    return tiny.on_device(data.train_images[drawn], data.train_labels[drawn])


@jax.jit
@partial(jax.vmap, in_axes=(0, None, 0, 0, 0, 0, 0, 0))
def searched(params, images, label, others, plan, draws, chosen, valid):
    """The circuits that are found."""
    first = tiny.CLASSES * SETTINGS.probe[0]
    index = np.arange(len(images.pixels)).reshape(-1, 57)
    logits, means = survey(params, images, index, index < first, narrowing=False)
    task = Task(label, others, plan, draws, chosen, valid, False)
    found = deciding.decide(
        params, images, Probed(logits, means), task, settings=SETTINGS, searched=first, micro_batch=64,
        narrowing=False,
    )  # fmt: skip
    return found, logits, means


@jax.jit
def of_all_sets(models, images, label, others, chosen, valid, logits, means, temperature):
    """What every set of channels explains on the images that sizes are chosen on, (M, 1024)."""

    def of_model(one):
        params, label, others, chosen, valid, logits, means, temperature = one
        rows = jnp.where(valid, images.labels[chosen], -1).ravel()
        weights = question.balanced(rows, label, others, logits.dtype)
        what = question.ask(logits[chosen.ravel()], label, temperature, weights)
        x = images.normalised(chosen.ravel())

        def of(*gates):
            kept = dict(zip(sizes_of(params), gates, strict=True))
            return question.explained(model.apply(params, x, kept, means), what)

        # Layer by layer, so that what a layer makes of an image is computed once for all sets of later layers.
        for layer in reversed(range(len(SMALL))):
            of = jax.vmap(of, [0 if i == layer else None for i in range(len(SMALL))])
        return of(*map(all_sets, SMALL)).ravel()

    return jax.lax.map(of_model, (models, label, others, chosen, valid, logits, means, temperature))


@jax.jit
def most_decided(models, images):
    """The class about which each model says most."""

    def of_model(params):
        logits = model.apply(params, images.normalised(np.arange(len(images.labels))))
        apart = [np.arange(tiny.CLASSES) != c for c in range(tiny.CLASSES)]
        return jnp.argmax(jnp.stack([question.spread(logits, images.labels, c, apart[c]) for c in range(tiny.CLASSES)]))

    return jax.lax.map(of_model, models)


@cache
def excess(number):
    """Channels of the found circuits beyond the smallest ones that explain enough, of the models of a block that decide
    something."""
    seeds, images = range(BLOCK * number, BLOCK * (number + 1)), probed_images()
    models = tiny.stacked([tiny.params(seed, channels=SMALL) for seed in seeds])
    labels = np.asarray(most_decided(models, images))
    others = np.arange(tiny.CLASSES) != labels[:, None]
    tasks = [
        (*probe.search_plan(label, apart, SETTINGS, (seed, 0), sum(SMALL)),
         *probe.selection(label, apart, SETTINGS.probe, 50))
        for seed, label, apart in zip(seeds, labels.tolist(), others, strict=True)
    ]  # fmt: skip
    plan, draws, chosen, valid = jax.tree.map(lambda *parts: np.stack(parts), *tasks)
    with jax.debug_nans(True):
        found, logits, means = searched(models, images, labels, others, plan, draws, chosen, valid)
        values = of_all_sets(models, images, labels, others, chosen, valid, logits, means, found.temperature)
    masks, values = np.concatenate(list(found.choice.mask.values()), 1), np.asarray(values)
    decides = np.asarray(found.spread) >= question.LEAST_SPREAD
    own = values[np.arange(BLOCK), masks @ (1 << np.arange(sum(SMALL))[::-1])]
    assert (own >= TARGET - 1e-9)[decides].all()
    np.testing.assert_allclose(own[decides], found.choice.explained[decides], rtol=0, atol=1e-9)
    smallest = np.where(values >= TARGET, np.asarray(EVERY).sum(1), np.inf).min(1)
    return (masks.sum(1) - smallest)[decides].astype(int).tolist()


BLOCK = 25
"""Models that are searched side by side."""


def rates(blocks, deciding):
    """Shares of circuits with one channel more than the smallest, at most, and with none. More than this share of the
    models decides something."""
    found = np.concatenate([excess(number) for number in blocks])
    assert len(found) > deciding * BLOCK * len(blocks)
    return np.mean(found <= 1), np.mean(found == 0)


@pytest.mark.slow
def test_a_circuit_is_the_smallest_of_all_or_nearly():
    near, smallest = rates([0], deciding=0.6)
    assert near >= 0.9
    assert smallest >= 0.8  # an eighth without the trim


@pytest.mark.slow
def test_a_circuit_is_the_smallest_of_all_or_nearly_over_200_models():
    near, smallest = rates(range(8), deciding=0.7)
    print(f"smallest: {smallest:.1%}; at most one channel more: {near:.1%}")
    assert near >= 0.9

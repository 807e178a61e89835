"""Whether a circuit computes what its model computes, and how good the order of its channels is: against slow plain
versions, and on networks whose circuits are known."""

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import planted
import pytest
import tiny

from fedmi_jax.circuits import deciding, evaluation, question
from fedmi_jax.circuits.deciding import Probed, Task
from fedmi_jax.circuits.sameness import sameness
from fedmi_jax.circuits.survey import survey
from fedmi_jax.config import Discovery, Experiment
from fedmi_jax.data import probe
from fedmi_jax.federation import areas, thorough
from fedmi_jax.federation.cases import Cases
from fedmi_jax.federation.instrument import Decided
from fedmi_jax.network import model
from fedmi_jax.network.ablation import MeanMap
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.results.schema import STATUS

pytestmark = pytest.mark.usefixtures("x64")
LABEL, OTHERS = 1, np.array([True, False, True, False])
SAME = jax.jit(sameness)


@jax.jit
def outputs(params, images, gates=None, means=None):
    """{layer: (N, h, w, O)}."""
    x = images.normalised(np.arange(len(images.labels)))
    return model.activations(params, x, *(() if gates is None else (gates, means)))[0]


def asked():
    """A model with a dead, a constant and a silent channel, a circuit of some channels, and images of which the last
    batch is padded."""
    params, images = tiny.params(3, sparsity=0.3), tiny.noise()
    params["conv1_kernel"] = params["conv1_kernel"].at[..., 0].set(0)
    params["conv1_bias"] = params["conv1_bias"].at[0].set(0.3)
    params["conv2_bias"] = params["conv2_bias"].at[2].set(-100)
    means = MeanMap({layer: jnp.asarray(y.mean(0)) for layer, y in outputs(params, images).items()})
    rng = np.random.default_rng(0)
    gates = {layer: jnp.asarray(rng.random(mean.shape[-1]) < 0.6, float) for layer, mean in means.outputs.items()}
    labels = np.asarray(images.labels)
    test = evaluation.make_evaluation_set(images, labels, tiny.CLASSES, 25)
    return params, gates, means, images, labels, test


def test_fidelity_and_silence_are_the_plain_ones():
    params, gates, means, images, labels, test = asked()
    found = SAME(params, gates, means, LABEL, OTHERS, test)
    whole, kept = (jax.tree.map(np.asarray, outputs(params, images, *masked)) for masked in ((), (gates, means)))
    weights = np.where(labels == LABEL, 0.5 / (labels == LABEL).sum(), 0)
    for other in np.flatnonzero(OTHERS):
        weights[labels == other] = 0.25 / (labels == other).sum()
    for layer, y in whole.items():
        for o in range(y.shape[-1]):
            error = sum(weights[i] * ((kept[layer][i, ..., o] - y[i, ..., o]) ** 2).sum() for i in range(len(y)))
            mean = sum(weights[i] * y[i, ..., o] for i in range(len(y)))
            variance = sum(weights[i] * ((y[i, ..., o] - mean) ** 2).sum() for i in range(len(y)))
            if variance > 1e-20:
                assert found.fidelity[layer][o] == pytest.approx(1 - error / variance, abs=1e-9), (layer, o)
            assert found.silent[layer][o] == (y[labels == LABEL][..., o] == 0).all()
    assert found.silent["conv2"][2]
    assert not np.concatenate(list(found.silent.values())).all()
    assert found.fidelity["conv1"][0] == 1 or gates["conv1"][0] == 0  # constant, and replaced by itself
    opened = np.asarray(found.fidelity["conv1"])[np.asarray(gates["conv1"]) > 0]
    np.testing.assert_allclose(opened, 1)  # of a circuit's first layer nothing is different


def test_the_whole_model_is_itself_and_its_means_explain_nothing():
    params, gates, means, _, _, test = asked()
    everything = OTHERS | ~OTHERS  # then the means are those of ... images that are weighted otherwise
    whole, nothing = (jax.tree.map(lambda g, v=v: jnp.full_like(g, v), gates) for v in (1, 0))
    for layer, values in SAME(params, whole, means, LABEL, everything, test).fidelity.items():
        np.testing.assert_array_equal(values, 1, err_msg=layer)
    for values in SAME(params, nothing, means, LABEL, everything, test).fidelity.values():
        varying = np.isfinite(values) & (values != 1)
        assert (np.asarray(values)[varying] <= 1e-9).all()
        assert varying.any()


def test_a_channel_that_a_mask_has_woken_is_not_the_same():
    """conv2's channel 5 is 0 in the whole model, because one input is always larger than the other. Without that input
    it varies: the circuit computes what the model does not."""
    signals, labels = planted.one_per_class(3, 40)
    pixels = planted.images(signals)
    params = planted.network(
        3, 3, [*planted.path(0), (1, 1, 4, 1.0), (2, 0, 5, 1.0), (2, 4, 5, -50.0)], [(1, 4, 5.0)], [(0, 0, 1.0)]
    )
    images = Images(jnp.asarray(pixels), jnp.asarray(labels, jnp.int32), jnp.zeros(3), jnp.ones(3))
    test = evaluation.make_evaluation_set(images, labels, 3, 60)
    zero = MeanMap({layer: jnp.zeros(y.shape[1:]) for layer, y in outputs(params, images).items()})
    gates = {layer: jnp.ones(6) for layer in conv_layers(params)}
    found = SAME(params, gates | {"conv1": gates["conv1"].at[4].set(0)}, zero, 0, np.arange(3) != 0, test)
    assert found.silent["conv2"][5]
    assert np.isneginf(found.fidelity["conv2"][5])
    assert found.fidelity["conv2"][0] == 1


# --- the order of channels ---


def test_area_by_hand():
    """Over log size: 0, 1/2, 1. What explains less than nothing counts as nothing."""
    sizes = np.array([1, 4, 16])
    assert areas.area(sizes, np.array([1, 1, 1])) == 1
    assert areas.area(sizes, np.array([-7, 0.5, 1])) == pytest.approx(0.5 * 0.25 + 0.5 * 0.75)
    assert areas.area(np.array([1, 2, 4, 16]), np.array([0, 0, 0, 1])) == pytest.approx(0.25)


def test_the_first_of_an_order():
    masks = areas.first(np.array([4, 0, 2]), np.array([1, 3]), 5)
    np.testing.assert_array_equal(masks, [[0, 0, 0, 0, 1], [1, 0, 1, 0, 1]])


def test_random_orders_go_from_layer_to_layer_as_the_order_does():
    layer, order = np.array([0, 0, 0, 1, 1, 1, 1]), np.array([3, 0, 6, 1, 4])
    drawn = [areas.in_layers(order, layer, np.random.default_rng(seed)) for seed in range(40)]
    for one in drawn:
        np.testing.assert_array_equal(layer[one], layer[order])
        assert sorted(one) == sorted(order)  # no dead channel comes in
    assert len(np.unique(drawn, axis=0)) == 12  # 2! of the first layer times 3! of the second


def test_where_no_model_decides_there_is_no_order_to_judge():
    """As where every client holds one class: its model calls everything that class."""
    e = Experiment(discovery=Discovery(objective="decision", gates="step"))
    facts: Any = SimpleNamespace(facts=SimpleNamespace(experiment=e))
    one = np.zeros(2, int)
    cases = Cases(one, one, one, np.array([3, 4]), np.array([0, 1]), one, one, one, one == 0, 1)
    undefined = np.full(2, STATUS.index("undefined"))
    nothing = dict.fromkeys(Decided._fields)
    decided = Decided(**nothing | {"status": undefined, "rank": {"conv1": np.ones((2, 5), int)}})
    own = SimpleNamespace(gates={"conv1": np.zeros((2, 5))})
    found = areas.areas(facts, facts, cases, decided, own, 1)
    assert found.keys() == set(areas.NAMES)
    for values in found.values():
        np.testing.assert_array_equal(values, [np.nan, np.nan])


SETTINGS = Discovery(objective="decision", probe=(32, 16), batch_size=32, masks=4, steps=6)


def attribution_of(params, pixels, labels, label, settings):
    """What the package finds, and all that a plain version needs."""
    classes, searched = params["fc_bias"].shape[0], settings.probe[0]
    apart = np.arange(classes) != label
    drawn = probe.draw(labels, classes, settings.probe, 0)
    channels = pixels.shape[-1]
    images = Images(
        jnp.asarray(pixels[drawn]), jnp.asarray(labels[drawn], jnp.int32), jnp.zeros(channels), jnp.ones(channels)
    )
    plan, draws = probe.search_plan(
        label, apart, settings, (0, 0), sum(params[f"{k}_bias"].size for k in conv_layers(params))
    )
    index = np.arange(len(drawn))[None]
    task = Task(label, apart, plan, draws, index, index >= 0, False)

    @jax.jit
    def both():
        logits, means = survey(params, images, index, index < classes * searched, narrowing=False)
        return logits, means, deciding.attribution(
            params, images, Probed(logits, means), task, settings=settings, searched=classes * searched,
            micro_batch=settings.batch_size, narrowing=False,
        )  # fmt: skip

    logits, means, found = both()
    return np.concatenate(list(found.values())), images, logits[: classes * searched], means, plan, draws, apart


@jax.jit
def asked_of(logits, labels, apart):
    weights = question.balanced(labels, 1, apart, logits.dtype)
    return question.ask(logits, 1, question.temperature(logits, 1, weights), weights)


def test_attribution_is_the_mean_slope_of_gates_that_toss_a_coin():
    """Sample after sample, gates written out, all of them leaves."""
    data = tiny.squares(train=192)
    params, pixels = tiny.params(138, channels=(3, 3, 4)), data.train_images
    pixels = pixels.reshape(*pixels.shape[:3], 1)
    found, images, logits, means, plan, draws, apart = attribution_of(params, pixels, data.train_labels, 1, SETTINGS)
    what = asked_of(logits, images.labels[: len(logits)], apart)

    @jax.jit
    def slope(gates, index):
        def loss(gates):
            by_layer = dict(zip(("conv1", "conv2", "conv3"), jnp.split(gates, [3, 6]), strict=True))
            m = question.margin(model.apply(params, images.normalised(index), by_layer, means), 1, what.temperature)
            return (
                jnp.sum(question.cross_entropy(m, what.answers[index]))
                / SETTINGS.batch_size
                / jnp.maximum(what.spread, question.LEAST_SPREAD)
            )

        return jax.grad(loss)(gates)

    total = np.zeros(10)
    for index, u in zip(plan.indices, draws, strict=True):
        for sample, own in zip(np.concatenate([u, 255 - u]), np.split(index, SETTINGS.masks), strict=True):
            total -= np.asarray(slope(jnp.asarray(sample < 128, float), own))
    np.testing.assert_allclose(found, total / SETTINGS.steps, rtol=1e-9, atol=1e-12)


def test_attribution_finds_a_single_path():
    signals, labels = planted.one_per_class(3, 48)
    params = planted.network(
        3, 3, planted.path(0) + planted.distractors([1, 2]), (), [(0, 0, 8.0), (1, 1, 1e-3), (2, 2, 1e-3)], [(0, -3.0)]
    )
    worth = attribution_of(params, planted.images(signals), labels, 0, SETTINGS)[0]
    assert set(np.argsort(-worth)[:3]) == {0, 6, 12}
    assert np.sort(worth)[-3] > 10 * abs(np.sort(worth)[-4])


# --- of a run ---


def test_a_run_has_them_in_its_last_round(deciding_run):
    run = deciding_run
    defined = (run["status"] == 1) | (run["status"] == 2)
    names = ("same_computation", "silent", "area_excess", "attribution_area_excess", "random_order_area")
    for name in names:
        assert run[name].isel(round=0).isnull().all(), name
        last = run[name].isel(round=-1)
        assert last.where(~defined.isel(round=-1)).isnull().all(), name
    last, there = run.isel(round=-1), defined.isel(round=-1)
    assert there.any()
    for name in ("random_order_area", "area_excess", "attribution_area_excess"):
        assert last[name].where(there, 0).notnull().all(), name
    area = last["random_order_area"] + last["area_excess"]
    assert ((area > 0) & (area <= 1 + 1e-6)).where(there, True).all()
    assert float(last["area_excess"].mean()) > 0  # a search's order is better than a random one
    kept, high, found = 0, 0, []
    for layer in ("conv1", "conv2", "conv3"):
        fidelity, mask = last[f"fidelity_{layer}"], last[f"mask_{layer}"]
        np.testing.assert_array_equal(fidelity.notnull(), mask & there)
        kept, high = kept + mask.sum(f"channel_{layer}"), high + (fidelity >= 0.8).sum(f"channel_{layer}")
        found.append(fidelity)
    np.testing.assert_allclose(found[0].where(last["mask_conv1"], 1), 1, atol=1e-5)
    share = (high / kept).where(there & (kept > 0))
    np.testing.assert_allclose(last["same_computation"].transpose(*share.dims), share, atol=1e-6)


# --- labels that say nothing ---


def test_shuffled_labels_are_explained_by_what_the_search_found():
    """A whole model explains less than nothing of them, so that 0.9 of that is reached by no circuit, and all live
    channels stand in for one (`choose`). What is asked is whether any size explains more."""
    curve = np.array([[-0.1, 0.3, -0.2, -0.7], [-0.4, -0.1, -0.3, -0.3]])
    nothing = dict.fromkeys(Decided._fields)
    decided = Decided(**nothing | {"sizes": np.array([[1, 2, 4, 8], [1, 2, 4, 5]]), "curve": curve})
    size, explained = thorough.best_tried(decided)
    np.testing.assert_array_equal(size, [2, 2])
    np.testing.assert_array_equal(explained, [0.3, -0.1])

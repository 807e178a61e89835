"""Measures of circuits and models against numpy.

Axes: N test images, C circuits, Y classes.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import tiny

from fedmi_jax.circuits import evaluation
from fedmi_jax.federation import programs
from fedmi_jax.network.ablation import ZERO, Mean

WHICH, TARGET = np.array([0, 1, 1]), np.array([1, 0, 3])


def test_images():
    """The first one, which padding repeats, is of class 1, a target."""
    noise = tiny.noise()
    return noise._replace(labels=(noise.labels + 3) % tiny.CLASSES)


test_images.__test__ = False


def models():
    """As many as circuits, so that one program measures both. The second calls everything 0."""
    first, second, third = (tiny.params(k, sparsity=0.3) for k in range(3))
    return tiny.stacked([first, {**second, "fc_bias": second["fc_bias"].at[0].add(200)}, third])


def circuit_gates():
    """A circuit of three quarters of the channels, one of most, one of none."""
    rng = np.random.default_rng(5)
    widths = zip(plain.CONVOLUTIONS, tiny.CHANNELS, strict=True)
    share = np.array([[0.75], [0.9], [0.0]])
    return {layer: jnp.asarray(rng.random((3, width)) < share, jnp.float64) for layer, width in widths}


def circuit_means():
    rng = np.random.default_rng(6)
    return Mean({layer: jnp.asarray(rng.normal(size=gate.shape)) for layer, gate in circuit_gates().items()})


LOGITS = jax.jit(plain.logits)


def circuit(i, ablation):
    """Logits (N, Y) of the i-th masked model, labels, probabilities."""
    images, params = test_images(), {name: leaf[WHICH[i]] for name, leaf in models().items()}
    gates = {layer: gate[i] for layer, gate in circuit_gates().items()}
    x = plain.normalised(images, np.arange(len(images.labels)))
    logits = LOGITS(params, x, gates, means_of(ablation, i))
    return np.asarray(logits), np.asarray(images.labels), np.asarray(jax.nn.softmax(logits))


def means_of(ablation, i):
    return None if ablation == ZERO else {layer: mean[i] for layer, mean in ablation.outputs.items()}


def test_set(batch, **kwargs):
    images = test_images()
    return evaluation.make_evaluation_set(images, np.asarray(images.labels), tiny.CLASSES, batch, **kwargs)


test_set.__test__ = False


def judged(chunk, batch, ablation=ZERO):
    """All rows on all images, and on those of their class alone."""
    masked = programs.Masked(WHICH, circuit_gates(), ablation, TARGET)
    return programs.judge_both(models(), test_set(batch), masked, masked, layout=tiny.layout(chunk))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ablation", ["zero", "mean"])
@pytest.mark.parametrize(("chunk", "batch"), [(1, 7), (100, 60)])  # with padding and without
def test_performance_of_circuits(chunk, batch, ablation):
    replaced = circuit_means() if ablation == "mean" else ZERO
    (found, accuracy), _ = judged(chunk, batch, replaced)
    for i, target in enumerate(TARGET):
        logits, labels, probabilities = circuit(i, replaced)
        called = logits.argmax(1) == target
        assert accuracy.overall[i] == pytest.approx((logits.argmax(1) == labels).mean(), abs=1e-12)
        assert (len(np.unique(called)) == 2) == (i == 0)  # only the first one tells images apart
        np.testing.assert_allclose(found.call_rate[i], [called[labels == c].mean() for c in range(4)], atol=1e-12)
        np.testing.assert_allclose(found.false_positive_rate[i], called[labels != target].mean(), atol=1e-12)
        np.testing.assert_allclose(found.target_softmax[i], probabilities[labels == target, target].mean(), rtol=1e-9)
        failures = (labels == target) & ~called
        if failures.any():
            np.testing.assert_allclose(found.failure_softmax[i], probabilities[failures].mean(0), rtol=1e-9)
        else:
            assert np.isnan(found.failure_softmax[i]).all()
    assert np.isnan(found.failure_softmax[1]).all()  # nothing fails
    assert not np.isnan(found.failure_softmax[2]).any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("chunk", "batch"), [(1, 7), (100, 60)])
def test_accuracy_on_the_class_alone(chunk, batch):
    _, found = judged(chunk, batch)
    for i, target in enumerate(TARGET):
        logits, labels, _ = circuit(i, ZERO)
        assert found[i] == pytest.approx((logits.argmax(1) == target)[labels == target].mean(), abs=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("chunk", "batch"), [(1, 7), (100, 60)])
def test_accuracy_of_whole_models(chunk, batch):
    overall, per_class = programs.judge_models(models(), test_set(batch), layout=tiny.layout(chunk))
    images = test_images()
    labels = np.asarray(images.labels)
    for i in range(3):
        params = {name: leaf[i] for name, leaf in models().items()}
        right = np.asarray(LOGITS(params, plain.normalised(images, np.arange(60)))).argmax(1) == labels
        assert overall[i] == pytest.approx(right.mean(), abs=1e-12)
        np.testing.assert_allclose(per_class[i], [right[labels == c].mean() for c in range(4)], atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_the_empty_mask_is_the_model_with_every_gate_closed(ablation):
    replaced = circuit_means() if ablation == "mean" else ZERO
    called, softmax = programs.empty_masks(models(), WHICH, replaced, TARGET, layout=tiny.layout(1))
    images = test_images()
    x = plain.normalised(images, np.arange(3))
    for i, target in enumerate(TARGET):
        params = {name: leaf[WHICH[i]] for name, leaf in models().items()}
        closed = {layer: jnp.zeros(width) for layer, width in zip(plain.CONVOLUTIONS, tiny.CHANNELS, strict=True)}
        logits = LOGITS(params, x, closed, means_of(replaced, i))
        assert np.ptp(np.asarray(logits), axis=0).max() < 1e-12  # the image does not matter
        assert called[i] == (logits[0].argmax() == target)
        assert softmax[i] == pytest.approx(float(jax.nn.softmax(logits[0])[target]), rel=1e-9)


@pytest.mark.usefixtures("x64")
def test_mean_outputs():
    images, labels = test_images(), np.arange(23)
    index, valid = evaluation.groups(labels, 7)
    pairs = (index[None], valid[None])
    found = programs.mean_outputs(models(), images, np.array([1]), *pairs, layout=tiny.layout(1))
    params = {name: leaf[1] for name, leaf in models().items()}
    x = plain.normalised(images, labels)
    for layer in plain.CONVOLUTIONS:
        y = plain.conv(x, params[f"{layer}_kernel"]) + params[f"{layer}_bias"]
        chex.assert_trees_all_close(found.outputs[layer][0], y.mean((0, 1, 2)), rtol=1e-10)
        x = plain.max_pool(jax.nn.relu(y))


# --- groups of images ---


def test_groups_hold_every_index_once():
    index, valid = evaluation.groups(np.array([5, 6, 9]), 2)
    assert index.shape == valid.shape == (2, 2)
    assert index[valid].tolist() == [5, 6, 9]
    index, valid = evaluation.groups(np.array([5]), 2, total=3)
    assert index.shape == (3, 2)
    assert index[valid].tolist() == [5]


@pytest.mark.parametrize("per_class", [None, 2])
def test_test_set_by_class_and_together(per_class):
    labels = np.array([3, 0, 1, 0, 2, 0, 3, 1])
    test = evaluation.make_evaluation_set(None, labels, 4, 3, per_class)
    chosen = [np.flatnonzero(labels == c)[:per_class].tolist() for c in range(4)]
    for own, index, valid in zip(chosen, np.asarray(test.class_indices), np.asarray(test.class_valid), strict=True):
        assert index[valid].tolist() == own
    together = np.asarray(test.indices)[np.asarray(test.valid)]
    assert together.tolist() == sorted(i for own in chosen for i in own)


def test_test_set_among_some_images_only():
    labels = np.array([0, 1, 0, 1, 0, 1])
    test = evaluation.make_evaluation_set(None, labels, 2, 10, among=np.array([4, 1, 0]))
    assert np.asarray(test.indices)[np.asarray(test.valid)].tolist() == [0, 1, 4]
    assert test.indices.shape == (1, 3)  # a batch no wider than the set


def test_accuracy_among_classes_by_hand():
    """Other classes do not compete, and one without images has no share in the mean."""
    labels = np.array([0, 0, 1, 2, 2])
    images = tiny.on_device(np.zeros((5, 8, 8, 1), np.uint8), labels, jnp.float32)
    test = evaluation.make_evaluation_set(images, labels, tiny.CLASSES, batch=3)  # padding repeats an image of class 0
    logits = jnp.asarray([[2, 1, 0, 9], [1, 2, 0, 9], [0, 1, 2, 9], [0, 1, 2, 9], [2, 0, 1, 9], [9, 0, 0, 0]], float)
    of = [evaluation.accuracy_among(logits, jnp.asarray(among), test)
          for among in ([True, True, False, False], [True, True, True, False], [True, True, True, True])]  # fmt: skip
    assert of == [pytest.approx((0.5 + 1) / 2), pytest.approx((0.5 + 0 + 0.5) / 3), 0]
    among = jnp.asarray([True, True, False, True])
    assert evaluation.accuracy_among(logits.at[:, 3].set(-9), among, test) == pytest.approx((0.5 + 1) / 2)

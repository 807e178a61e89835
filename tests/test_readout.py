"""The refit of a read-out, against scipy's optimum of the same sum written in numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from scipy import optimize, special

from fedmi_jax.network import model, readout

BOTH = ["scale-and-biases", "linear"]
pytestmark = pytest.mark.usefixtures("x64")


def given(n=40, seed=0, dtype=jnp.float64):
    """A model, images as it takes them, and labels."""
    images, params = tiny.noise(n), tiny.params(seed, sparsity=0.5)
    x = images.normalised(jnp.arange(n))
    return {name: leaf.astype(dtype) for name, leaf in params.items()}, x.astype(dtype), images.labels


def refitted(params, x, labels, what, classes=None):
    """Compiled once for every shape: a line search without a compiler takes seconds."""
    return COMPILED(params, x, labels, what, jnp.ones(tiny.CLASSES, bool) if classes is None else jnp.asarray(classes))


COMPILED = jax.jit(readout.refit, static_argnums=3)


def objective(params, x, labels, what, classes):
    """(vector -> loss, its length): mean cross-entropy and ridge in plain numpy."""
    features = np.asarray(model.features(params, x), float)
    kernel, bias = (np.asarray(params[name], float) for name in ("fc_kernel", "fc_bias"))
    there = np.isin(labels, np.flatnonzero(classes))

    def value(point):
        scale, weights = (np.exp(point[0]), kernel) if what == "scale-and-biases" else (1, None)
        weights = kernel + point[: kernel.size].reshape(kernel.shape) if weights is None else scale * weights
        logits = features @ weights + bias + point[-len(bias) :]
        logs = special.log_softmax(logits[:, classes], axis=1)
        own = np.searchsorted(np.flatnonzero(classes), np.asarray(labels)[there])
        return -logs[there][np.arange(there.sum()), own].mean() + readout.RIDGE / 2 * np.sum(point**2)

    return value, len(bias) + (1 if what == "scale-and-biases" else kernel.size)


def point_of(params, fitted, what):
    """The vector that the refit found."""
    bias = np.ravel(fitted["fc_bias"] - params["fc_bias"])
    kernel, new = (np.asarray(p["fc_kernel"], float) for p in (params, fitted))
    if what == "linear":
        return np.concatenate([(new - kernel).ravel(), bias])
    largest = np.argmax(np.abs(kernel))
    return np.concatenate([[np.log(new.flat[largest] / kernel.flat[largest])], bias])


@pytest.mark.parametrize("what", BOTH)
@pytest.mark.parametrize("held", [(0, 1, 2, 3), (1, 2)])
def test_the_loss_is_scipys_least_and_its_gradient_is_zero(what, held):
    params, x, labels = given()
    classes = np.isin(np.arange(tiny.CLASSES), held)
    fitted = refitted(params, x, labels, what, classes)
    value, size = objective(params, x, labels, what, classes)
    found = point_of(params, fitted, what)
    expected = optimize.minimize(value, np.zeros(size), method="BFGS", options={"gtol": 1e-7}).fun
    assert value(found) <= expected + 1e-9
    np.testing.assert_allclose(optimize.approx_fprime(found, value, 1e-7), 0, atol=1e-6)
    chex.assert_trees_all_equal(*({k: v for k, v in p.items() if k[:2] != "fc"} for p in (fitted, params)))


@pytest.mark.parametrize("what", BOTH)
def test_single_precision_and_stacks_find_the_same(what):
    many = [given(seed=seed) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *many)
    together = jax.jit(jax.vmap(lambda *one: readout.refit(*one, what)))(*stacked)
    for i, (params, x, labels) in enumerate(many):
        alone = refitted(params, x, labels, what)
        chex.assert_trees_all_close(jax.tree.map(lambda leaf, i=i: leaf[i], together), alone, rtol=1e-6, atol=1e-7)
    single = refitted(*given(seed=1, dtype=jnp.float32), what)
    chex.assert_trees_all_close(single, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), alone), rtol=0, atol=3e-2)
    classes = np.ones(tiny.CLASSES, bool)
    value, _ = objective(*many[1], what, classes)
    assert value(point_of(many[1][0], single, what)) <= value(point_of(many[1][0], alone, what)) + 1e-5


@pytest.mark.parametrize("what", BOTH)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_what_is_told_apart_without_an_error_stays_finite(what, dtype):
    """Four images, and a scale that could grow for ever. The others have no say."""
    params, x, _ = given(dtype=dtype)
    few = jnp.arange(len(x)) < 4
    labels = jnp.where(few, jnp.argmax(model.apply(params, x), 1), -1)
    fitted = refitted(params, x, labels, what)
    chex.assert_tree_all_finite(fitted)
    chex.assert_trees_all_equal_shapes_and_dtypes(fitted, params)
    assert (jnp.argmax(model.apply(fitted, x), 1) == labels)[few].all()


def test_another_scale_and_other_biases_are_undone():
    """Images labelled as the model itself would have it, at random."""
    images = tiny.noise(4000)
    params, x = tiny.params(0, sparsity=0.5), images.normalised(jnp.arange(4000))
    labels = jax.random.categorical(jax.random.key(0), model.apply(params, x))
    shift = jnp.array([2.0, -1, 0.5, -1.5])
    moved = params | {"fc_kernel": 0.2 * params["fc_kernel"], "fc_bias": params["fc_bias"] + shift}
    fitted = refitted(moved, x, labels, "scale-and-biases")
    np.testing.assert_allclose(fitted["fc_kernel"], params["fc_kernel"], rtol=0.1)
    bias = [np.asarray(one["fc_bias"] - one["fc_bias"].mean()) for one in (fitted, params)]
    np.testing.assert_allclose(*bias, atol=0.15)


@pytest.mark.parametrize("what", BOTH)
def test_who_has_no_say_changes_nothing(what):
    """Images without a class that competes, whatever they show; classes that do not; no image at all. The least loss,
    which `scipy` finds above, is the mean over the other images alone."""
    params, x, labels = given()
    classes = jnp.array([False, True, True, False])
    some = jnp.where(classes[labels], labels, -1)
    fitted = refitted(params, x, some, what, classes)
    chex.assert_trees_all_equal(fitted, refitted(params, x, labels, what, classes))
    other = jnp.where(classes[labels][:, None, None, None], x, 7 - 3 * x)
    chex.assert_trees_all_equal(fitted, refitted(params, other, some, what, classes))
    np.testing.assert_array_equal(fitted["fc_bias"][~classes], params["fc_bias"][~classes])
    chex.assert_trees_all_equal(refitted(params, x, jnp.full_like(labels, -1), what), params)


def test_a_class_without_images_that_competes_is_held_by_the_ridge():
    params, x, labels = given()
    fitted = refitted(params, x, jnp.where(labels == 3, 2, labels), "scale-and-biases")
    fall = params["fc_bias"][3] - fitted["fc_bias"][3]
    assert 2 < fall < np.sqrt(2 * np.log(40) / readout.RIDGE)


def test_zeros_of_the_kernel_stay_with_a_scale_and_with_a_dead_channel():
    params, x, labels = given()
    zero = np.asarray(params["fc_kernel"]) == 0
    assert zero.any()
    scaled = refitted(params, x, labels, "scale-and-biases")["fc_kernel"]
    assert (np.asarray(scaled)[zero] == 0).all()
    dead = params | {"conv3_bias": params["conv3_bias"].at[0].set(-1e3)}
    fitted = np.asarray(refitted(dead, x, labels, "linear")["fc_kernel"])
    of_dead = np.arange(len(zero)) % tiny.CHANNELS[-1] == 0
    np.testing.assert_array_equal(fitted[of_dead], params["fc_kernel"][of_dead])
    assert (fitted[~of_dead][zero[~of_dead]] != 0).any()


def test_features_are_what_the_linear_layer_reads():
    params, x, _ = given()
    logits = model.features(params, x) @ params["fc_kernel"] + params["fc_bias"]
    np.testing.assert_allclose(logits, model.apply(params, x), rtol=1e-10, atol=1e-12)


def test_another_read_out_is_refused():
    with pytest.raises(ValueError, match=r'^what: "scale-and-biases" or "linear"; got \'all\'$'):
        readout.refit(*given(), "all")

"""A layer that is finished channel by channel, and answers of which only what changed is computed again: against the
layer and the model as they are."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_sparse_ops import SHAPES, kernel_with

from fedmi_jax.circuits import narrowing
from fedmi_jax.circuits.answers import answers
from fedmi_jax.circuits.narrowing import on_live_channels
from fedmi_jax.circuits.survey import survey
from fedmi_jax.network import model, ops, sparse_layer, sparse_ops
from fedmi_jax.network.ablation import ZERO, MeanMap
from fedmi_jax.network.layers import conv_layers

pytestmark = pytest.mark.usefixtures("x64")


@partial(jax.jit, static_argnums=4)
def visited(x, kernel, bias, offset, most):
    """Images first, as in `ops`."""
    (weights,) = sparse_ops.compress([kernel], [most])
    added = None if offset is None else offset.swapaxes(1, 4)
    return sparse_layer.conv_relu_pool(x.transpose(3, 1, 2, 0), weights, bias, added).transpose(3, 1, 2, 0)


@jax.jit
def plainly(x, kernel, bias, offset):
    elements = ops.conv_windows(x, kernel)
    return ops.relu_pool(elements if offset is None else elements + offset, bias)


@pytest.mark.parametrize(("share", "offset"), [(0, True), (0.02, False), (0.3, True), (1, False)])
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient(shape, share, offset):
    """Some windows have equal elements, of which the first gets the gradient; some are shut by ReLU."""
    n, height, width, inputs, outputs = shape
    rng, count = np.random.default_rng(0), int(share * 9 * inputs * outputs)
    x = rng.normal(size=(n, height, width, inputs))
    x[0] = 1.0
    x, kernel, bias = jnp.asarray(x), kernel_with(count, inputs, outputs), jnp.asarray(rng.normal(size=outputs))
    added = jnp.asarray(rng.normal(size=(4, 1, height // 2, width // 2, outputs))) if offset else None
    found, pull = jax.vjp(lambda x: visited(x, kernel, bias, added, count), x)
    expected, pull_expected = jax.vjp(lambda x: plainly(x, kernel, bias, added), x)
    g = jnp.asarray(rng.normal(size=expected.shape))
    chex.assert_trees_all_close((found, pull(g)), (expected, pull_expected(g)), rtol=1e-12, atol=1e-12)
    assert share < 0.3 or 0 < np.count_nonzero(expected) < expected.size


INDEX = np.arange(60).reshape(3, 20)


def sets_of_channels():
    """Some that follow each other closely, and some that do not; (n, C)."""
    rng = np.random.default_rng(0)
    far, near = rng.random((4, 18)) < 0.6, np.ones((8, 18), bool)
    for i, channel in enumerate(rng.permutation(18)[:8]):
        near[i:, channel] = i % 3 == 1  # it comes back
    return [*near, *far, *far[:1], np.zeros(18, bool), np.ones(18, bool)]


@partial(jax.jit, static_argnames="form")
def answered(params, means, masks, form):
    """Of all sets one after the other, (n, 60, Y). form: what the network then is."""
    folded, ablation = means.folded(params)

    def work(network, channels, masks):
        start, answer = answers(network, channels, ablation, tiny.noise(), INDEX)
        return jax.lax.scan(lambda state, mask: answer(state, mask)[::-1], start, masks)[1]

    every = {layer: jnp.ones(mask.shape[1], bool) for layer, mask in masks.items()}
    return on_live_channels(work, folded, every, masks, widths=narrowing.WIDTHS[:1])


@jax.jit
def plain_answers(params, means, masks):
    x = tiny.noise().normalised(INDEX.ravel())
    gates = {layer: mask.astype(x.dtype) for layer, mask in masks.items()}
    return jax.lax.map(lambda one: model.apply(params, x, one, means), gates)


@pytest.mark.parametrize("kind", ["mean-map", "zero"])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_answers_of_sets_that_follow_each_other(kind, form, monkeypatch):
    """Whatever was tried before, to the bit of one program; and those of the model as it is, to rounding."""
    monkeypatch.setattr(narrowing, "DENSEST", 0.01 if form == "dense" else 1)
    params = tiny.params(3, sparsity=0.8)
    outputs, _ = jax.jit(model.activations)(params, tiny.noise().normalised(INDEX.ravel()))
    means = MeanMap({layer: y.mean(0) for layer, y in outputs.items()}) if kind == "mean-map" else ZERO
    ends = np.cumsum([params[f"{layer}_bias"].shape[0] for layer in conv_layers(params)])[:-1]
    masks = dict(zip(conv_layers(params), np.split(np.array(sets_of_channels()), ends, 1), strict=True))
    found = answered(params, means, masks, form)
    for order in (np.arange(len(found))[::-1], np.random.default_rng(1).permutation(len(found))):
        in_turn = answered(params, means, {layer: mask[order] for layer, mask in masks.items()}, form)
        np.testing.assert_array_equal(in_turn, found[order])
    np.testing.assert_allclose(found, plain_answers(params, means, masks), rtol=1e-9, atol=1e-10)
    assert len(np.unique(np.asarray(found).round(6), axis=0)) > 8


def test_a_survey_looks_at_more_images_at_a_time():
    """The same answers and means, of images in the same order."""
    look = jax.jit(survey, static_argnames="narrowing")
    valid = np.arange(60).reshape(3, 20) < 50
    params = tiny.params(3, sparsity=0.9)
    found, expected = (look(params, tiny.noise(), INDEX, valid, narrowing=on) for on in (True, False))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-9, atol=1e-10)
    for layer, heard in narrowing.heard(params).items():  # means of others say nothing
        means = (np.asarray(of.outputs[layer])[..., heard] for of in (found[1], expected[1]))
        np.testing.assert_allclose(*means, rtol=1e-9, atol=1e-10)

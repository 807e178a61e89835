"""Mean outputs at every position in place of closed channels, and what a whole model makes of images."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import tiny

from fedmi_jax.circuits.narrowing import heard, seeing
from fedmi_jax.circuits.survey import survey
from fedmi_jax.network import model, sparse_ops
from fedmi_jax.network.ablation import MeanMap
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.network.model import SparseModel

pytestmark = pytest.mark.usefixtures("x64")
INDEX = np.arange(60).reshape(3, 20)
VALID = np.arange(60).reshape(3, 20) < 45
APPLY, SURVEY = jax.jit(model.apply), jax.jit(survey, static_argnames="narrowing")
ACTIVATIONS, FOLDED = jax.jit(model.activations), jax.jit(MeanMap.folded)


def params():
    """Of conv1, channel 0 sees no image; of conv2, channel 1 sees channel 0 alone: both are constant, and heard."""
    made = tiny.params(3)
    made["conv1_kernel"] = made["conv1_kernel"].at[..., 0].set(0)
    made["conv1_bias"] = made["conv1_bias"].at[0].set(0.7)
    made["conv2_kernel"] = made["conv2_kernel"].at[:, :, 1:, 1].set(0)
    made["conv2_bias"] = made["conv2_bias"].at[1].set(3)
    return made


def some_gates(n, open_=(), seed=0):
    """Every image's own, (N, O_l), but for the channels (layer, number) that are open for all."""
    rng = np.random.default_rng(seed)
    gates = {
        k: (rng.random((n, o)) < 0.6).astype(float) for k, o in zip(plain.CONVOLUTIONS, tiny.CHANNELS, strict=True)
    }
    for layer, channel in open_:
        gates[layer][:, channel] = 1
    return {layer: jnp.asarray(gate) for layer, gate in gates.items()}


def test_means_and_logits_are_those_of_a_plain_loop():
    images, x = tiny.noise(), tiny.noise().normalised(np.arange(60))
    logits, means = SURVEY(params(), images, INDEX, VALID, narrowing=False)
    np.testing.assert_allclose(logits, APPLY(params(), x), rtol=1e-10, atol=1e-12)
    outputs = [np.asarray(y) for y in ACTIVATIONS(params(), x)[0].values()]
    for found, y in zip(means.outputs.values(), outputs, strict=True):
        np.testing.assert_allclose(found, y[:45].mean(0), rtol=1e-12, atol=1e-14)


def test_what_nobody_hears_is_left_out_and_changes_nothing_else():
    silent = tiny.params(4, sparsity=0.4)
    silent["conv3_kernel"] = silent["conv3_kernel"].at[:, :, 2].set(0)
    whole, narrow = (SURVEY(silent, tiny.noise(), INDEX, VALID, narrowing=on) for on in (False, True))
    np.testing.assert_allclose(narrow[0], whole[0], rtol=1e-10)
    for layer, is_heard in heard(silent).items():
        means = np.asarray(narrow[1].outputs[layer])
        np.testing.assert_allclose(means[..., is_heard], whole[1].outputs[layer][..., is_heard], rtol=1e-9, atol=1e-12)
    assert not heard(silent)["conv2"][2]


def test_a_channel_that_does_not_depend_on_the_image_is_open_or_closed_to_the_bit():
    made, x = params(), tiny.noise().normalised(np.arange(60))
    _, means = SURVEY(made, tiny.noise(), INDEX, VALID, narrowing=False)
    constant = [("conv1", 0), ("conv2", 1)]
    assert all(np.ptp(ACTIVATIONS(made, x)[0][layer][..., channel], 0).max() == 0 for layer, channel in constant)
    assert np.ptp(means.outputs["conv2"][..., 1]) > 0  # the border differs, so that one mean would not do
    opened = some_gates(60, constant)
    closed = {layer: gate.at[:, [c for k, c in constant if k == layer]].set(0) for layer, gate in opened.items()}
    np.testing.assert_array_equal(APPLY(made, x, opened, means), APPLY(made, x, closed, means))
    # such a channel counts all the same for a mean that is another's
    assert (APPLY(made, x, opened, means) != APPLY(made, x, closed, jax.tree.map(lambda m: 1 + m, means))).any()


@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("each", [True, False], ids=["gates of every image", "gates of all"])
def test_a_folded_model_gives_the_same_logits(form, each):
    made, x = params(), tiny.noise().normalised(np.arange(60))
    _, means = SURVEY(made, tiny.noise(), INDEX, VALID, narrowing=False)
    gates = some_gates(60) if each else {layer: gate[0] for layer, gate in some_gates(60).items()}
    expected = APPLY(made, x, gates, means)
    folded, deviation = FOLDED(means, made)
    if form == "sparse":
        kernels = [folded[f"{layer}_kernel"] for layer in conv_layers(folded)]
        compressed = sparse_ops.compress(kernels, [kernel.size for kernel in kernels])
        folded = SparseModel(folded, dict(zip(conv_layers(made), compressed, strict=True)))
    np.testing.assert_allclose(APPLY(folded, x, gates, deviation), expected, rtol=1e-9, atol=1e-11)
    assert np.ptp(expected, 0).max() > 1e-2
    if not each:  # closed channels of a folded model put out nothing, whatever their means
        outputs, _ = ACTIVATIONS(folded, x, gates, deviation)
        for layer, gate in gates.items():
            assert (np.asarray(outputs[layer])[..., np.asarray(gate) == 0] == 0).all()


def test_with_every_channel_closed_it_is_the_silent_logits():
    _, means = SURVEY(params(), tiny.noise(), INDEX, VALID, narrowing=False)
    nothing = {layer: jnp.zeros(o) for layer, o in zip(plain.CONVOLUTIONS, tiny.CHANNELS, strict=True)}
    logits = APPLY(params(), tiny.noise().normalised(np.arange(60)), nothing, means)
    np.testing.assert_allclose(logits, np.tile(means.silent_logits(params(), "conv3"), (60, 1)), rtol=1e-12)


@pytest.mark.parametrize("kind", ["zero", "mean-map"])
def test_gradients_of_gates_are_those_of_the_line_between_open_and_closed(kind):
    """Of closed gates too, and through all layers: central differences in the gates' values."""
    made, x = tiny.params(5), tiny.noise().normalised(np.arange(12))
    # All channels speak somewhere: a layer that puts out nothing but 0 leaves ties to the pool after it, a kink.
    made |= {name: leaf + 1 for name, leaf in made.items() if name.endswith("_bias")}
    _, means = SURVEY(made, tiny.noise(), INDEX, VALID, narrowing=False)
    replaced = means if kind == "mean-map" else MeanMap(jax.tree.map(jnp.zeros_like, means.outputs))
    gates, weight = {k: g[0] for k, g in some_gates(1).items()}, np.random.default_rng(0).normal(size=(12, 4))

    @jax.jit
    def loss(gates):
        return jnp.sum(weight * model.apply(made, x, gates, replaced))

    found, step = jax.jit(jax.grad(loss))(gates), 1e-6
    for layer, gate in gates.items():
        moved = [[loss(gates | {layer: gate.at[i].add(sign * step)}) for sign in (1, -1)] for i in range(len(gate))]
        central = np.array([(up - down) / (2 * step) for up, down in moved])
        np.testing.assert_allclose(found[layer], central, rtol=1e-5, atol=1e-6)
        assert np.abs(central[np.asarray(gate) == 0]).max() > 1e-3


# --- paths of non-zero weights ---


def reaches(params, forwards):
    """Channels with a path from the image, or to the linear layer, found by walking from channel to channel."""
    layers = conv_layers(params)
    kernels = [np.asarray(params[f"{layer}_kernel"]) for layer in layers]
    fc = np.asarray(params["fc_kernel"]).reshape(-1, kernels[-1].shape[-1], params["fc_bias"].shape[0])
    links = [(kernel != 0).any((0, 1)) for kernel in kernels]

    def walk(level, channel):
        if forwards:
            inputs = np.flatnonzero(links[level][:, channel])
            return any(level == 0 or walk(level - 1, before) for before in inputs)
        if level == len(layers) - 1:
            return (fc[:, channel] != 0).any()
        return any(walk(level + 1, after) for after in np.flatnonzero(links[level + 1][channel]))

    return {layer: [bool(walk(i, c)) for c in range(kernels[i].shape[-1])] for i, layer in enumerate(layers)}


@pytest.mark.parametrize("seed", range(4))
def test_paths_are_those_that_walking_finds(seed):
    made, rng = tiny.params(seed), np.random.default_rng(seed)
    for name, leaf in made.items():
        if name.endswith("kernel"):  # whole links are cut, not single weights
            cut = rng.random(leaf.shape[-2:]) < (0.75 if leaf.ndim == 4 else 0.9)
            made[name] = jnp.where(cut, 0, leaf)
    found = {layer: is_heard.tolist() for layer, is_heard in heard(made).items()}
    seen = {layer: sees.tolist() for layer, sees in seeing(made).items()}
    assert (found, seen) == (reaches(made, forwards=False), reaches(made, forwards=True))
    flat = [value for side in (found, seen) for layer in side.values() for value in layer]
    assert 0 < sum(flat) < len(flat)


def test_only_the_gates_gradient_of_mean_maps_is_new():
    """Zero ablation keeps the gradient that it had: a closed gate gets exactly nothing."""
    made, x = tiny.params(5), tiny.noise().normalised(np.arange(12))
    gates = {k: g[0] for k, g in some_gates(1).items()}
    gradient = jax.jit(jax.grad(lambda gates: jnp.sum(model.apply(made, x, gates))))(gates)
    for layer, gate in gates.items():
        assert (np.asarray(gradient[layer])[np.asarray(gate) == 0] == 0).all()
    chex.assert_trees_all_close(
        gradient, jax.jit(jax.grad(partial(_published, made, x)))(gates), rtol=1e-10, atol=1e-12
    )


def _published(params, x, gates):
    """The gate before ReLU, as the paper writes it."""
    return jnp.sum(plain.logits(params, x, gates, None))

"""Matching of clients' channels to the global model's, against planted orders and every order there is.

Axes: K clients of the round.
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from method_table import METHODS, first, mean, models, step
from scipy import optimize

from fedmi_jax.aggregation.matching import by_weights
from fedmi_jax.network import model
from fedmi_jax.network.layers import conv_layers


def permuted(params, order):
    """Channel i of the new model is channel order[i] of the old one, written out."""
    new = {}
    one, two = order["conv1"], order["conv2"]
    new["conv1_kernel"], new["conv1_bias"] = params["conv1_kernel"][..., one], params["conv1_bias"][one]
    new["conv2_kernel"], new["conv2_bias"] = params["conv2_kernel"][:, :, one][..., two], params["conv2_bias"][two]
    rows = np.arange(len(params["fc_kernel"])).reshape(-1, len(two))[:, two].ravel()
    return new | {"fc_kernel": params["fc_kernel"][rows], "fc_bias": params["fc_bias"]}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("size", [28, 32])
def test_a_model_in_another_order_is_the_same_function(size):
    """MNIST's 3 x 3 and CIFAR's 4 x 4 features of a channel, three convolutions."""
    params, rng = tiny.params(size=size), np.random.default_rng(0)
    order = {f"conv{i + 1}": rng.permutation(n) for i, n in enumerate(tiny.CHANNELS)}
    x = rng.normal(size=(2, size, size, 1))
    same = model.apply(model.narrow(params, order), x)
    np.testing.assert_allclose(same, model.apply(params, x), rtol=1e-11, atol=1e-11)


MATCHINGS = ["matching", "matching without biases", "matching of activations"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MATCHINGS)
def test_a_planted_order_is_found_and_undone(name):
    """Clients that are the global model in other orders, slightly changed: the mean is near the global model."""
    rng, start = np.random.default_rng(0), {k: np.asarray(v) for k, v in first(models()).items()}
    clients = []
    for _ in range(3):
        order = {"conv1": rng.permutation(6), "conv2": rng.permutation(8)}
        noisy = {k: v + 0.01 * rng.normal(size=v.shape) for k, v in start.items()}
        clients.append(permuted(noisy, order))
    new, _ = step(METHODS[name], start, {k: np.stack([one[k] for one in clients]) for k in start})
    chex.assert_trees_all_close(new, start, atol=0.05, rtol=0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MATCHINGS)
def test_it_is_told_how_many_channels_were_put_in_another_place(name):
    """Of planted orders: none, two channels swapped, any. The last client has no images, and so no say."""
    rng, start = np.random.default_rng(0), {k: np.asarray(v) for k, v in first(models()).items()}
    orders = [{"conv1": np.arange(6), "conv2": np.arange(8)} for _ in range(3)]
    orders[1]["conv2"][[2, 5]] = 5, 2
    orders[2] = {layer: rng.permutation(order) for layer, order in orders[2].items()}
    clients = [permuted({k: v + 0.01 * rng.normal(size=v.shape) for k, v in start.items()}, order) for order in orders]
    stacked = {k: np.stack([one[k] for one in clients]) for k in start}
    assert METHODS[name].tells == ("reordered",)
    shares = [[np.mean(own != np.arange(len(own))) for own in order.values()] for order in orders]
    for there, samples in ((3, [100, 300, 2]), (2, [100, 300, 0])):
        _, state = step(METHODS[name], start, stacked, samples=np.array(samples))
        np.testing.assert_allclose(state.server["reordered"], np.mean(shares[:there], 0), rtol=1e-12)


def matched(reference, client, biases):
    """The orders by coordinate descent: layer by layer scipy's best matching of all that touches a channel."""
    layers = conv_layers(reference)
    own = {layer: np.arange(len(reference[f"{layer}_bias"])) for layer in layers}
    order, before = own, {}
    while not before or any((before[layer] != order[layer]).any() for layer in layers):
        before = order
        for layer in layers:
            beside = model.narrow(client, order | {layer: own[layer]})  # the other layers as they are ordered by now
            alike = np.einsum("id,jd->ij", *(touching(one, layer, biases) for one in (reference, beside)))
            stay = 1e-10 * np.abs(alike).max() * np.eye(len(alike))  # of equal ones that which moves less
            order = order | {layer: optimize.linear_sum_assignment(alike + stay, maximize=True)[1]}
    return order


def touching(params, layer, biases):
    """All weights that touch each channel of a layer, and its bias, (O, D)."""
    after, size = dict(itertools.pairwise(conv_layers(params))).get(layer), len(params[f"{layer}_bias"])
    if after is None:  # features are position-major, channel fastest
        out = params["fc_kernel"].reshape(-1, size, params["fc_bias"].size).swapaxes(0, 1)
    else:
        out = np.moveaxis(params[f"{after}_kernel"], 2, 0)
    into = np.moveaxis(params[f"{layer}_kernel"], 3, 0)
    bias = biases * params[f"{layer}_bias"]
    return np.concatenate([part.reshape(size, -1) for part in (into, out, bias)], 1)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("biases", [True, False])
def test_the_order_found_is_never_further_away_and_its_last_layer_is_the_best_of_all(biases):
    """Of unlike, sparse models, with channels without any weight; against every order of a layer."""
    for seed in range(3):
        params = {k: np.array(v) for k, v in models(2, seed=seed, zeros=0.7).items()}
        params["conv1_kernel"][:, ..., :2] = 0
        reference, client = ({k: jnp.asarray(v[i]) for k, v in params.items()} for i in range(2))
        order = {k: np.asarray(v) for k, v in jax.jit(by_weights, static_argnums=2)(reference, client, biases).items()}
        own = {"conv1": np.arange(6), "conv2": np.arange(8)}
        assert all(sorted(order[k]) == list(own[k]) for k in own)

        def distance(order, reference=reference, client=client):
            moved = permuted({k: np.asarray(v) for k, v in client.items()}, order)
            names = [k for k in moved if k.endswith("kernel") or (biases and k.startswith("conv"))]
            return sum(np.sum((np.asarray(reference[k]) - moved[k]) ** 2) for k in names)

        found = distance(order)
        assert found <= distance(own) + 1e-9
        others = [distance(order | {"conv1": np.array(one)}) for one in itertools.permutations(range(6))]
        assert found <= min(others) + 1e-9


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", MATCHINGS)
def test_models_that_are_alike_stay_in_their_order(name):
    """Even where channels without weights could be anywhere: nothing has `moved`."""
    params = models(zeros=0.5)
    params["conv1_kernel"][..., :3], params["conv2_kernel"][..., 2:5] = 0, 0
    near = {k: v[:1] * (1 + 1e-3 * np.random.default_rng(0).normal(size=v.shape)) for k, v in params.items()}
    new, _ = step(METHODS[name], first(params), near)
    chex.assert_trees_all_close(new, mean(near), rtol=1e-12, atol=1e-14)

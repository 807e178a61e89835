"""The network: initial weights, gates, fills, and the smaller model."""

import hashlib
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import tiny
from scipy import stats

from fedmi_jax import keys
from fedmi_jax.circuits.narrowing import WIDTHS, has_outgoing, is_sparse, menu, on_live_channels
from fedmi_jax.config import Model
from fedmi_jax.network import model
from fedmi_jax.network.ablation import Mean

FAN_IN = {"conv1": 9, "conv2": 9 * 32, "conv3": 9 * 64, "fc": 128 * 3 * 3}


INIT = jax.jit(model.init, static_argnums=(1, 2, 3, 4))
CHANNELS = Model().channels


@pytest.fixture(scope="module")
def fresh():
    return INIT(jax.random.key(0), (28, 28, 1), CHANNELS, 10)


def test_shapes_and_number_of_parameters(fresh):
    assert {k: v.shape for k, v in fresh.items()} == {
        "conv1_kernel": (3, 3, 1, 32), "conv1_bias": (32,),
        "conv2_kernel": (3, 3, 32, 64), "conv2_bias": (64,),
        "conv3_kernel": (3, 3, 64, 128), "conv3_bias": (128,),
        "fc_kernel": (1152, 10), "fc_bias": (10,),
    }  # fmt: skip
    assert sum(v.size for v in fresh.values()) == 104_202
    cifar = jax.eval_shape(lambda key: model.init(key, (32, 32, 3), CHANNELS, 10), jax.random.key(0))
    assert cifar["conv1_kernel"].shape == (3, 3, 3, 32)
    assert cifar["fc_kernel"].shape == (4 * 4 * 128, 10)


def test_initial_weights_are_pytorchs(fresh):
    for name, value in fresh.items():
        bound = 1 / np.sqrt(FAN_IN[name.split("_")[0]])
        assert bound * (1 - 8 / value.size) < np.abs(value).max() <= bound
        scaled = (np.asarray(value).ravel() / bound + 1) / 2
        assert stats.kstest(scaled, "uniform").pvalue > 1e-3, name
        if value.size > 1000:  # the standard deviation of a uniform variable
            np.testing.assert_allclose(np.std(value), bound / np.sqrt(3), rtol=0.02)


def test_initial_arrays_differ_by_seed_and_from_one_another(fresh):
    other = INIT(jax.random.key(1), (28, 28, 1), CHANNELS, 10)
    for name, value in fresh.items():
        assert np.mean(np.asarray(value) == other[name]) < 1e-3  # float32 has few enough values for a few to agree
    assert not np.isin(fresh["conv1_bias"], fresh["conv1_kernel"]).any()


@pytest.mark.parametrize(
    ("dtype", "digest"),
    [
        ("float32", "865d2ab33bef6c0a4bef688cbcfd1601e88b7e69c3ca60eff2ff007eeb432e0d"),
        ("float64", "6c97593ddd5c90a604e3a24386c401ebe73003bf80555e40aba6721cc8c0813f"),
    ],
)
def test_the_papers_model_starts_from_the_weights_of_the_stored_results(dtype, digest):
    """Bit for bit: recorded before width and depth could be chosen, for MNIST and seed 7."""
    with jax.enable_x64(dtype == "float64"):
        own = INIT(jax.random.fold_in(jax.random.key(7), keys.INIT), (28, 28, 1), CHANNELS, 10, np.dtype(dtype))
    found = hashlib.sha256()
    for name in sorted(own):
        found.update(name.encode() + np.asarray(own[name]).tobytes())
    assert found.hexdigest() == digest


# --- gates ---

APPLY, PLAIN = jax.jit(model.apply), jax.jit(plain.logits)

GATES = {"conv1": [1, 0, 1, 1], "conv2": [1, 1, 0, 1, 0, 1], "conv3": [0, 1, 1, 1, 1, 0, 1, 1]}


def gates(dtype=jnp.float64):
    return {layer: jnp.asarray(gate, dtype) for layer, gate in GATES.items()}


def fills(value=None):
    rng = np.random.default_rng(3)
    draw = rng.normal if value is None else lambda size: np.full(size, value)
    return {k: jnp.asarray(draw(size=len(v))) for k, v in GATES.items()}


ODD = 15
"""An odd row and column in the first two layers."""


def inputs(size=tiny.SIZE):
    return jnp.asarray(np.random.default_rng(4).normal(size=(5, size, size, 1)))


def derivatives(apply, params, *args):
    """Logits, and the gradients of some function of them with respect to parameters and gates."""

    def loss(params, gates, x, *fill):
        out = apply(params, x, gates, *fill)
        return jnp.sum(jnp.sin(out)), out

    (_, out), pulled = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(params, *args)
    return out, pulled


@pytest.mark.usefixtures("x64")
def test_gates_stand_before_relu():
    params = tiny.params(size=ODD)
    fast, slow = (derivatives(f, params, gates(), inputs(ODD)) for f in (model.apply, plain.logits))
    chex.assert_trees_all_close(fast, slow, rtol=1e-11, atol=1e-12)
    for layer, gate in gates().items():  # a closed gate gets exactly nothing from the task
        assert np.all((np.asarray(fast[1][1][layer]) == 0)[np.asarray(gate) == 0])


@pytest.mark.usefixtures("x64")
def test_without_gates_all_are_open():
    params, x = tiny.params(), inputs()
    opened = jax.tree.map(jnp.ones_like, gates())
    chex.assert_trees_all_close(APPLY(params, x), APPLY(params, x, opened), rtol=1e-13)
    chex.assert_trees_all_close(APPLY(params, x), PLAIN(params, x), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_mean_ablation_replaces_closed_channels():
    params, means = tiny.params(size=ODD), fills()
    fast = derivatives(model.apply, params, gates(), inputs(ODD), Mean(means))
    slow = derivatives(plain.logits, params, gates(), inputs(ODD), means)
    chex.assert_trees_all_close(fast, slow, rtol=1e-11, atol=1e-12)
    closed = np.asarray(fast[1][1]["conv3"])[np.asarray(gates()["conv3"]) == 0]
    assert np.any(closed != 0)  # here a closed gate may learn


@pytest.mark.usefixtures("x64")
def test_a_fill_of_zero_is_zero_ablation():
    params = tiny.params(size=ODD)
    filled = derivatives(model.apply, params, gates(), inputs(ODD), Mean(fills(0.0)))
    zeroed = derivatives(model.apply, params, gates(), inputs(ODD))
    chex.assert_trees_all_close(filled, zeroed, rtol=1e-11, atol=1e-12)


# --- outputs and the smaller model ---


@pytest.mark.usefixtures("x64")
def test_outputs_of_every_convolution():
    params, x = tiny.params(size=ODD), inputs(ODD)
    for layer, found in model.conv_outputs(params, x).items():
        expected = plain.conv(x, params[f"{layer}_kernel"]) + params[f"{layer}_bias"]
        chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-13)
        x = plain.max_pool(jax.nn.relu(expected))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", [1, -1])
def test_the_smaller_model_is_the_masked_one(order):
    params, x = tiny.params(size=16), inputs(16)  # the linear layer sees 2 x 2 positions
    channels = {layer: np.flatnonzero(gate)[::order] for layer, gate in GATES.items()}
    small = model.narrow(params, channels)
    assert small["conv3_kernel"].shape == (3, 3, 4, 6)
    chex.assert_trees_all_close(APPLY(small, x), APPLY(params, x, gates()), rtol=1e-12)


def _widths(small, channels):
    """The model's; negative where it visits weight by weight."""
    sign = -1 if isinstance(small, model.SparseModel) else 1
    params = small.params if isinstance(small, model.SparseModel) else small
    layers = plain.convolutions(params)
    assert [len(channels[k]) for k in layers] == [len(params[f"{k}_bias"]) for k in layers]
    return jnp.stack([sign * params[f"{layer}_bias"].shape[0] * jnp.ones((), int) for layer in layers])


def _full_model(weights):
    """weights(I, O) bool (3, 3, I, O): which weights of conv2 and conv3 are not zero."""
    params, before = {"fc_kernel": jnp.ones((128, 4)), "fc_bias": jnp.zeros(4)}, 1
    for layer, width in zip(plain.CONVOLUTIONS, CHANNELS, strict=True):
        kernel = jnp.ones((3, 3, 1, width)) if layer == "conv1" else weights(before, width).astype(float)
        params |= {f"{layer}_kernel": jnp.asarray(kernel), f"{layer}_bias": jnp.zeros(width)}
        before = width
    return params


def _one_each(inputs, outputs):
    """Every channel has a weight in and a weight out."""
    kernel = np.zeros((3, 3, inputs, outputs), bool)
    kernel[1, 1, np.arange(outputs) % inputs, np.arange(outputs)] = True
    return kernel


def _all(inputs, outputs):
    return np.ones((3, 3, inputs, outputs), bool)


def _open(counts):
    """The last so many channels of each layer."""
    return {k: jnp.arange(n)[::-1] < m for k, n, m in zip(plain.CONVOLUTIONS, CHANNELS, counts, strict=True)}


@pytest.mark.parametrize(
    ("weights", "live", "expected"),
    [
        (_one_each, (32, 64, 128), (-32, -64, -128)),
        (_one_each, (17, 1, 1), (-32, -64, -128)),
        (_one_each, (16, 32, 32), (-16, -32, -32)),
        (_one_each, (16, 17, 1), (-16, -32, -32)),
        (_one_each, (16, 16, 16), (-16, -16, -16)),
        (_one_each, (0, 0, 0), (-16, -16, -16)),
        (_one_each, (1, 33, 1), (-32, -64, -128)),
        (_all, (32, 64, 128), (32, 64, 128)),
        (_all, (16, 32, 33), (32, 64, 128)),
        (_all, (16, 16, 16), (-16, -16, -16)),  # 2304 weights are left between conv1 and conv2, an eighth
        (_all, (16, 17, 1), (32, 64, 128)),  # 2448 are
    ],
)
def test_the_smallest_model_that_fits_is_run(weights, live, expected):
    found = jax.jit(on_live_channels, static_argnums=0)(_widths, _full_model(weights), _open(live))
    assert tuple(found.tolist()) == expected


def test_of_models_known_to_be_sparse_no_other_form_is_compiled():
    params = _full_model(_one_each)
    for narrowing, forms in ((True, 4), ("sparse", 3)):
        chosen = partial(on_live_channels, _widths, narrowing=narrowing)
        (switch,) = (e for e in jax.make_jaxpr(chosen)(params, _open((1, 1, 1))).eqns if e.primitive.name == "cond")
        assert len(switch.params["branches"]) == forms
        for counts, expected in (((17, 1, 1), (-32, -64, -128)), ((16, 17, 1), (-16, -32, -32))):
            assert tuple(chosen(params, _open(counts)).tolist()) == expected


@pytest.mark.parametrize("weights", [0, 1, 2304, 2305])
def test_a_model_is_sparse_up_to_an_eighth_of_each_convolution_but_the_first(weights):
    """2304 of 18 432 weights of conv2."""
    params = {"conv1_kernel": jnp.ones((3, 3, 1, 32)), "conv2_kernel": np.zeros((3, 3, 32, 64))}
    params["conv2_kernel"].flat[:weights] = -1
    assert bool(is_sparse(params)) == (weights <= 2304)


def test_side_by_side_all_take_the_smallest_model_that_holds_the_widest():
    """And that one alone is run: what is chosen is the same for all, so a choice it remains."""

    def widths(live):
        return on_live_channels(_widths, _full_model(_one_each), live, beside="beside")

    together = jax.jit(jax.vmap(widths, axis_name="beside"))
    for counts, expected in (
        ([(16, 32, 32), (3, 2, 1)], (16, 32, 32)),
        ([(16, 16, 1), (3, 2, 16)], (16, 16, 16)),
        ([(1, 1, 33), (17, 1, 1)], (32, 64, 128)),
    ):
        live = jax.tree.map(lambda *gates: jnp.stack(gates), *map(_open, counts))
        assert together(live).tolist() == [list(expected)] * 2  # dense: nobody visits weights
        assert "stablehlo.case" in together.lower(live).as_text()


def _logits(small, channels, gates, x):
    return model.apply(small, x, {layer: gates[layer][channels[layer]] for layer in gates})


def _with_few(gates, params, is_open, x):
    return jnp.sum(jnp.sin(on_live_channels(_logits, params, is_open, gates, x)))


def _with_all(gates, params, is_open, x):
    return jnp.sum(jnp.sin(model.apply(params, x, gates)))


WITH_FEW, WITH_ALL = (jax.jit(jax.value_and_grad(function)) for function in (_with_few, _with_all))
SMALL = 9  # an odd size


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("live", [(32, 64, 128), (16, 20, 32), (7, 16, 9)])
@pytest.mark.parametrize("share", [0.01, 0.12, 1])
def test_the_smaller_model_gives_the_same_logits_and_gradients(live, share):
    """Of gates: weight by weight or not, wide or narrow."""
    params = tiny.params(size=SMALL, sparsity=1 - share, channels=CHANNELS)
    is_open, x = _open(live), inputs(SMALL)
    gates = {layer: gate.astype(float) for layer, gate in is_open.items()}
    found, expected = (function(gates, params, is_open, x) for function in (WITH_FEW, WITH_ALL))
    chex.assert_trees_all_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_a_channel_that_nothing_listens_to_is_left_out():
    """It may be open; it has no say."""
    params = tiny.params(sparsity=0.3)
    params["conv2_kernel"] = params["conv2_kernel"].at[:, :, 1:].set(0)  # only conv1's channel 0 is heard
    params["fc_kernel"] = params["fc_kernel"].at[3::8].set(0)  # conv3's channel 3 is not

    def logits(small, channels):
        return model.apply(small, inputs())

    opened = {layer: jnp.ones(len(gate), bool) for layer, gate in GATES.items()}
    found = jax.jit(on_live_channels, static_argnums=0)(logits, params, opened)
    chex.assert_trees_all_close(found, APPLY(params, inputs()), rtol=1e-12)
    assert has_outgoing(params, "conv1").tolist() == [True, False, False, False]
    assert has_outgoing(params, "conv2").all()
    assert has_outgoing(params, "conv3").tolist() == [i != 3 for i in range(8)]


# --- any depth ---


@pytest.mark.parametrize(
    ("full", "expected"),
    [
        ((32, 64, 128), [(32, 64, 128), (16, 32, 32), (16, 16, 16)]),
        ((40,), [(40,), (20,)]),
        ((8, 16), [(8, 16), (4, 4), (4, 2)]),
        ((16, 32, 64, 64), [(16, 32, 64, 64), (8, 16, 32, 16), (8, 16, 16, 8)]),
        ((1, 1), [(1, 1)]),
        ((8,) * 11, [(8,) * 11, (*[4] * 10, 2), (*[4] * 5, *[2] * 5, 1)]),
    ],
)
def test_widths_of_the_smaller_models(full, expected):
    assert menu(full, WIDTHS) == expected


def _filled(small, channels, gates, fill, x):
    kept, means = ({k: values[k][channels[k]] for k in values} for values in (gates, fill))
    return model.apply(small, x, kept, Mean(means))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("channels", [(5,), (3, 4, 5, 6)], ids=["one", "four"])
def test_any_number_of_convolutions(channels):
    """Masked and filled, against the plain model; and the smaller models."""
    size = 2 ** len(channels) + 1
    params, x = tiny.params(size=size, channels=channels, sparsity=0.9), inputs(size)
    layers, rng = plain.convolutions(params), np.random.default_rng(8)
    gates = {layer: jnp.asarray(np.arange(n) % 3 > 0, float) for layer, n in zip(layers, channels, strict=True)}
    fill = {layer: jnp.asarray(rng.normal(size=gate.shape)) for layer, gate in gates.items()}
    fast = derivatives(model.apply, params, gates, x, Mean(fill))
    slow = derivatives(plain.logits, params, gates, x, fill)
    chex.assert_trees_all_close(fast, slow, rtol=1e-11, atol=1e-12)
    closed = APPLY(params, x, gates)
    small = model.narrow(params, {layer: np.flatnonzero(gate) for layer, gate in gates.items()})
    chex.assert_trees_all_close(APPLY(small, x), closed, rtol=1e-12)
    live = jax.jit(on_live_channels, static_argnums=0, static_argnames="widths")
    none = {layer: jnp.zeros_like(gate) for layer, gate in gates.items()}
    is_open = {layer: gate > 0 for layer, gate in gates.items()}
    found = live(_filled, params, is_open, gates, none, x, widths=((0, 0),))
    chex.assert_trees_all_close(found, closed, rtol=1e-10, atol=1e-12)

"""What the server of each method computes: by hand, against plain loops, and FedAvg where it must be.

Axes: K clients of the round, Y classes.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from method_table import CLASSES, METHODS, SAMPLES, SHAPES, first, masks, mean, models, of, report, step

from fedmi_jax import config
from fedmi_jax.aggregation import NO_STATE, base, chosen, fedavg
from fedmi_jax.aggregation.means import mean_where
from fedmi_jax.aggregation.robust import trimmed_mean
from fedmi_jax.aggregation.ties import trimmed
from fedmi_jax.config import Aggregation, Local
from fedmi_jax.methods import UNWEIGHTED
from fedmi_jax.network import model


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("weighting", "weights"), [("uniform", np.ones(3)), ("samples", SAMPLES)])
def test_fedavg_is_the_mean_of_the_clients(weighting, weights):
    params = models()
    new, state = step(fedavg(weighting), {name: leaf[0] for name, leaf in params.items()}, params)
    assert state == NO_STATE
    expected = {name: np.average(leaf, axis=0, weights=weights) for name, leaf in params.items()}
    chex.assert_trees_all_close(new, expected, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_all_weigh_alike_the_mean_over_those_who_are_there_is_their_sum_over_their_number(dtype):
    """To the last bit; and whoever is there alone is copied, by whatever number of samples it is weighed."""

    def plain(stacked, there):
        return jnp.sum(there * stacked, 0) / jnp.maximum(jnp.sum(there, 0), 1)

    with jax.enable_x64(dtype == np.float64):
        rng = np.random.default_rng(0)
        stacked, there = rng.normal(size=(5, 40, 30)).astype(dtype), rng.random((5, 40, 30)) < 0.3
        found, weighed = (
            jax.jit(mean_where)(stacked, weights, there, 0.0)
            for weights in (np.ones(5), np.array([7, 100, 300, 2, 41]))
        )
        np.testing.assert_array_equal(found, jax.jit(plain)(stacked, there.astype(dtype)))
        alone = there.sum(0) == 1
        for one in (found, weighed):
            np.testing.assert_array_equal(np.asarray(one)[alone], np.sum(there * stacked, 0)[alone])


ALL_HOLD_ALL = np.full((3, CLASSES), 5)
REDUCTIONS = {
    "fedavgm without momentum": (of("fedavgm", momentum=0), {}),
    "support mean of dense models": (of("support-mean"), {}),
    "holders who hold everything": (of("head-by-holders"), {"counts": ALL_HOLD_ALL}),
    "circuits of every channel": (of("circuit-mean"), {"counts": ALL_HOLD_ALL, "circuits": masks(share=2)}),
    "blocks of every channel": (of("circuit-mean", blocks=True), {"counts": ALL_HOLD_ALL, "circuits": masks(share=2)}),
    "circuits of no channel": (of("circuit-mean"), {"counts": ALL_HOLD_ALL, "circuits": masks(share=0)}),
    "nothing trimmed": (trimmed_mean(0), {}),
    "median of two": (of("median"), {"samples": np.array([3, 0, 2])}),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", REDUCTIONS)
def test_is_fedavg_where_it_must_be(name):
    method, fields = REDUCTIONS[name]
    params = models()
    new, _ = step(method, {k: leaf[0] + 1 for k, leaf in params.items()}, params, **fields)
    chex.assert_trees_all_close(new, mean(params, fields.get("samples", SAMPLES) > 0), rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_ties_of_weights_of_one_sign_is_the_support_mean():
    params = {name: np.abs(leaf) for name, leaf in models(zeros=0.5).items()}
    here, _ = step(of("ties"), first(params), params)
    there, _ = step(of("support-mean"), first(params), params)
    chex.assert_trees_all_close(here, there, rtol=1e-12)


def one_entry(values, before=0.0, counts=None):
    """Params of which one weight of the linear layer, in the row of class 1, is `values` (K,) and `before` (): all
    else is 1."""
    params = {name: np.ones((len(values), *shape)) for name, shape in SHAPES.items()}
    params["fc_kernel"][:, 0, 1] = values
    start = first(params)
    return start | {"fc_kernel": start["fc_kernel"].at[0, 1].set(before)}, params


BY_HAND = {
    "support-mean": (of("support-mean"), [2, 0, 4], 3),
    "support-mean, one": (of("support-mean"), [0, 0, 4], 4),
    "support-mean, nobody": (of("support-mean"), [0, 0, 0], 0),
    "support-mean by samples": (METHODS["support mean by samples"], [2, 8, 0], (2 * 100 + 8 * 300) / 400),
    "holders": (of("head-by-holders"), [2, 0, 5], (2 + 0) / 2),
    "support and holders": (of("support-and-holders"), [2, 0, 5], (2 + 0) / 2),
    "ties, two against one": (of("ties"), [1, 2, -4], -4),
    "ties, one pruned": (of("ties"), [1, 0, -0.5], 1),
    "ties, a tie goes to the most": (of("ties"), [1, 0, -1], 1),
    "ties of updates": (of("ties", of="updates"), [1, 2, -5], 0.5 + -5.5),
    "ties, scaled": (of("ties", of="updates", scale=0.4), [1, 2, 0], 0.5 + 0.4 * 1),
    "median": (of("median"), [9, 1, 2], 2),
    "median, two pruned": (of("median"), [9, 0, 0], 0),
    "trimmed": (of("trimmed-mean", beta=0.34), [9, 1, 2], 2),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", BY_HAND)
def test_one_weight_by_hand(name):
    """Clients 0 and 1 hold class 1, client 2 does not; the weight was 0.5 before."""
    method, values, expected = BY_HAND[name]
    start, params = one_entry(values, 0.5)
    new, _ = step(method, start, params, counts=np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0]]))
    np.testing.assert_allclose(new["fc_kernel"][0, 1], expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["support-mean", "support-and-holders"])
def test_a_bias_of_zero_is_no_pruned_bias(kind):
    params = models()
    params["conv1_bias"][0] = 0
    new, _ = step(of(kind), first(params), params)
    np.testing.assert_allclose(new["conv1_bias"], params["conv1_bias"].mean(0), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_of_each_clients_votes_the_largest_are_counted():
    """As in the published code one more than density * d, of all parameters together."""
    params = first(models())
    kept = trimmed(params, 0.2)
    sizes = np.concatenate([np.abs(leaf).ravel() for leaf in params.values()])
    threshold = np.sort(sizes)[::-1][int(0.2 * sizes.size)]
    chex.assert_trees_all_equal(kept, {k: np.where(np.abs(v) >= threshold, v, 0) for k, v in params.items()})
    assert sum(int(np.count_nonzero(leaf)) for leaf in kept.values()) == int(0.2 * sizes.size) + 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["head-by-holders", "support-and-holders", "circuit-mean", "owner-channels"])
def test_a_class_that_nobody_holds_keeps_its_row(kind):
    params = models()
    start = {name: leaf[0] + 1 for name, leaf in params.items()}
    new, _ = step(of(kind), start, params)
    for name in ("fc_kernel", "fc_bias"):
        np.testing.assert_array_equal(new[name][..., 2], start[name][..., 2])
        assert (np.asarray(new[name][..., :2]) != start[name][..., :2]).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("blocks", "without"), [(False, []), (True, []), (False, [1]), (True, [1])])
def test_circuit_mean_is_a_loop_over_channels(blocks, without):
    """Clients without any circuit have a say in the channels that nobody uses, and in the rows of their classes."""
    params, circuits = models(), masks(share=0.15)
    for mask in circuits.values():
        mask[without] = False
    counts = np.array([[5, 0, 1], [0, 2, 0], [3, 7, 0]])
    new, _ = step(of("circuit-mean", blocks=blocks), first(params), params, counts=counts, circuits=circuits)
    for layer, mask in circuits.items():
        for o in range(mask.shape[-1]):
            who = np.flatnonzero(mask[:, :, o].any(1))
            who = who if len(who) else np.arange(3)
            for name in (f"{layer}_kernel", f"{layer}_bias"):
                np.testing.assert_allclose(new[name][..., o], params[name][who][..., o].mean(0), rtol=1e-12)
    for c in range(CLASSES):
        holders = np.flatnonzero(counts[:, c])
        np.testing.assert_allclose(new["fc_bias"][c], params["fc_bias"][holders, c].mean(), rtol=1e-12)
        for feature in range(32):
            own = [k for k in holders if circuits["conv2"][k, c, feature % 8]] if blocks else holders
            who = own if len(own) else holders
            np.testing.assert_allclose(new["fc_kernel"][feature, c], params["fc_kernel"][who, feature, c].mean())


def plain_server(kind, d, state, learning_rate, b1=0.9, b2=0.99, tau=1e-3):
    """One step of one array in plain numpy: the change, and what is remembered. Algorithm 2 of Reddi et al.; Hsu et al.
    section 4.1."""
    if kind == "fedavgm":
        v = b1 * state - d
        return -learning_rate * v, v
    m, v = state
    m = b1 * m + (1 - b1) * d
    v = b2 * v + (1 - b2) * d**2 if kind == "fedadam" else v - (1 - b2) * d**2 * np.sign(v - d**2)
    return learning_rate * m / (np.sqrt(v) + tau), (m, v)


OTHERWISE = {"learning_rate": 0.3, "b1": 0.7, "b2": 0.8, "tau": 0.02}
"""Settings that no default is."""


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("settings", [{}, OTHERWISE], ids=["by default", "otherwise"])
@pytest.mark.parametrize("kind", ["fedavgm", "fedadam", "fedyogi"])
def test_server_optimisers_are_plain_loops_over_three_rounds(kind, settings):
    """Two more than one: the delta is not the moment, and nothing is corrected for a bias."""
    params, momentum = models(), kind == "fedavgm"
    given = {"momentum" if k == "b1" else k: v for k, v in settings.items() if k in ("learning_rate", "b1")}
    method = of(kind, **(given if momentum else settings))
    plain = {"learning_rate": 1.0 if momentum else 1e-2} | settings
    new, state = {name: leaf[0] + 1 for name, leaf in params.items()}, None
    slow = dict(new)
    remembered = dict.fromkeys(slow, 0 if momentum else (0, plain.get("tau", 1e-3) ** 2))
    for seed in range(3):
        params = models(seed=seed)
        new, state = step(method, new, params, state)
        for name, average in mean(params).items():
            change, remembered[name] = plain_server(kind, average - slow[name], remembered[name], **plain)
            slow[name] = slow[name] + change
        chex.assert_trees_all_close(new, slow, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_disjoint_supports_and_own_rows_give_back_each_clients_logits():
    """Support mean and holders: on its own channels the global model is the client, whatever the others have."""
    params, mine = models(), np.arange(8) % 3
    for k in range(3):
        for layer, inputs in (("conv1", None), ("conv2", mine[:6])):
            out = mine[: SHAPES[f"{layer}_bias"][0]] == k
            there = out if inputs is None else (inputs == k)[:, None] & out
            params[f"{layer}_kernel"][k] *= there
        params["fc_kernel"][k] *= np.tile(mine == k, 4)[:, None]
        params["conv1_bias"][:], params["conv2_bias"][:] = (params[f"conv{i}_bias"][0] for i in (1, 2))
    new, _ = step(of("support-and-holders"), first(params), params, counts=np.eye(3, dtype=int))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    for k in range(3):
        gates = {layer: jnp.asarray(mine[:n] == k, float) for layer, n in (("conv1", 6), ("conv2", 8))}
        local = {name: jnp.asarray(leaf[k]) for name, leaf in params.items()}
        np.testing.assert_allclose(
            model.apply(new, x, gates)[:, k], model.apply(local, x, gates)[:, k], rtol=1e-12, atol=1e-12
        )


WEIGHTED = [name for name in config.METHODS if name not in (*UNWEIGHTED, "owner-channels")]
"""One client writes each channel of owner-channels, by its number; its rows have a test of their own."""


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", WEIGHTED)
def test_weighing_by_samples_is_as_if_a_client_were_there_several_times(kind):
    """Clients of 1, 3 and 2 samples against 6 clients of one sample each."""
    times, params = np.array([1, 3, 2]), models(zeros=0.4)
    again = np.repeat(np.arange(3), times)
    counts = np.array([[1, 0, 0], [2, 1, 0], [0, 2, 0]])
    circuits, start = masks(), first(models(1, seed=5))

    def served(weighting, places, samples, held):
        method = chosen(Aggregation(kind=kind, weighting=weighting), Local())
        state = base.initial(method, start, len(again))
        some = {name: leaf[places] for name, leaf in params.items()}
        own = {layer: mask[places] for layer, mask in circuits.items()}
        got = report(some, samples, np.arange(len(places)), held, own)
        return base.applied(method, state, start, got)[0]

    one = served("samples", np.arange(3), times, counts)
    other = served("uniform", again, np.ones(len(again), int), counts[again])
    for name, leaf in one.items():
        np.testing.assert_allclose(leaf, other[name], rtol=1e-5 if kind == "calibration" else 1e-12, atol=1e-14)

"""Federated methods: what must hold of every row of the table.

What each method computes is tested in `test_server_methods` and `test_client_methods`, its name and its settings in
`test_method_settings`. Axes: S seeds, K clients of the round, K_total clients in all, Y classes.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec
from method_table import (
    CLASSES,
    COMPILED,
    METHODS,
    NUMBERS,
    SAMPLES,
    SHAPES,
    TOTAL,
    UNSEEN,
    close,
    first,
    masks,
    models,
    programs_state,
    report,
    same_bits,
    step,
)

from fedmi_jax.aggregation import State, base
from fedmi_jax.config import Checkpoint
from fedmi_jax.devices import lift
from fedmi_jax.devices.layout import AXIS
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import programs
from fedmi_jax.keeping.checkpoint import OnDisk
from fedmi_jax.network.readout import RIDGE


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_clients_are_a_fixed_point_and_the_precision_is_the_models(method, dtype):
    """1/3: on a GPU a product of reduced precision would change it."""
    with jax.enable_x64(dtype == np.float64):
        start = {name: jnp.full_like(leaf[0], 1 / 3) for name, leaf in models(dtype=dtype).items()}
        if method is METHODS["owner channels, hard"]:  # whose networks of different owners must not be connected
            start, _ = step(method, start, {name: jnp.stack([leaf] * 3) for name, leaf in start.items()})
        same = {name: jnp.stack([leaf] * 3) for name, leaf in start.items()}
        new, _ = step(method, start, same, labels=UNSEEN)
        chex.assert_trees_all_close(new, start, rtol=4 * np.finfo(dtype).eps)
        assert {leaf.dtype for leaf in new.values()} == {np.dtype(dtype)}


@pytest.mark.usefixtures("x64")
def test_a_client_alone_that_has_not_moved_is_a_fixed_point(method):
    params = models(1)
    only = {"samples": SAMPLES[:1], "numbers": NUMBERS[:1], "labels": UNSEEN}
    if method is METHODS["owner channels, hard"]:
        params = {name: np.asarray(leaf)[None] for name, leaf in step(method, first(params), params, **only)[0].items()}
    new, _ = step(method, first(params), params, **only)
    chex.assert_trees_all_close(new, first(params), rtol=1e-14)


KERNELS = tuple(name for name in SHAPES if name.endswith("kernel"))
FILLS = {
    # channels are renumbered, and their zeros move with them
    **dict.fromkeys(("matching", "matching without biases", "matching of activations"), KERNELS),
    # all weights of live channels are refitted
    "calibration of the linear layer": ("fc_kernel",),
}
"""In which tensors a weight may get a value that is 0 in the global model and in every client. Of all others: none."""
KEEPS = FILLS | {
    # momentum carries a weight past 0
    **dict.fromkeys(("fedavgm unmasked", "fedadam unmasked", "fedyogi unmasked", "toy"), KERNELS),
    # a trimmed vote is no vote, and the weight stays as it was
    "ties of updates": KERNELS,
    # channels whose owner is absent stay as they were; so do the frozen form's rows that nobody holds, and in the hard
    # form the rows' weights of those channels
    **dict.fromkeys(("owner-channels", "owner channels, some common", "owner channels, hard"), KERNELS),
    # a row that nobody holds stays as it was
    **dict.fromkeys(
        ("head-by-holders", "support-and-holders", "circuit-mean", "circuit mean in blocks"), ("fc_kernel",)
    ),
    # the linear layer is nobody's
    "fedbabu": ("fc_kernel",),
}
"""In which tensors a weight may have a value that every client of the round has pruned. Of all others: none."""


def two_rounds(name, params, again):
    """The global models after clients `params`, from the first of them on, and then after clients `again`."""
    one, state = step(METHODS[name], first(params), params)
    two, _ = step(METHODS[name], one, again, state)
    return jax.tree.map(np.asarray, (one, two))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", METHODS)
def test_what_is_zero_everywhere_stays_exactly_zero_but_where_the_table_says(name):
    params, again, rng = models(zeros=0.4), models(seed=1, zeros=0.4), np.random.default_rng(1)
    zero = {kernel: rng.random(SHAPES[kernel]) < 0.5 for kernel in KERNELS}
    for some in (params, again):
        some.update({kernel: some[kernel] * ~zero[kernel] for kernel in KERNELS})
    for new in two_rounds(name, params, again):
        assert {kernel for kernel in KERNELS if new[kernel][zero[kernel]].any()} == {*FILLS.get(name, ())}
        if METHODS[name].name not in ("median", "owner-channels"):
            assert all((new[kernel][~zero[kernel]] != 0).mean() > 0.5 for kernel in KERNELS)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in METHODS if METHODS[name].name == "matching"])
def test_where_matching_moves_no_channel_it_moves_no_zero(name):
    """Clients that are nearly one model: what is zero in that stays exactly zero."""
    one, rng = models(1, zeros=0.4), np.random.default_rng(0)
    near, again = (
        {k: v * (1 + rng.uniform(0, 0.01, (3, *[1] * (v.ndim - 1)))) for k, v in one.items()} for _ in range(2)
    )
    for new in two_rounds(name, near, again):
        for kernel in KERNELS:
            np.testing.assert_array_equal(new[kernel] == 0, one[kernel][0] == 0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", METHODS)
def test_the_global_model_is_no_denser_than_its_clients_together_but_where_the_table_says(name):
    params, again = models(zeros=0.8), models(seed=1, zeros=0.8)
    _, new = two_rounds(name, params, again)
    pruned = {kernel: ~np.any(again[kernel], 0) for kernel in KERNELS}
    assert {kernel for kernel in KERNELS if new[kernel][pruned[kernel]].any()} == {*KEEPS.get(name, ())}


@pytest.mark.usefixtures("x64")
def test_the_order_of_the_clients_changes_nothing(method):
    params, order = models(zeros=0.3), np.array([2, 0, 1])
    counts, circuits = np.array([[5, 0, 0], [1, 2, 0], [0, 7, 0]]), masks()
    shuffled = {name: leaf[order] for name, leaf in params.items()}
    moved = {layer: mask[order] for layer, mask in circuits.items()}
    here = step(method, first(params), params, counts=counts, circuits=circuits)
    there = step(
        method, first(params), shuffled,
        samples=SAMPLES[order], numbers=NUMBERS[order], counts=counts[order], circuits=moved,
    )  # fmt: skip
    chex.assert_trees_all_close(here, there, **close(method))
    same_bits(here, step(method, first(params), params, counts=counts, circuits=circuits))


@pytest.mark.usefixtures("x64")
def test_ten_times_the_samples_are_the_same_shares_and_none_are_no_say(method):
    params = models(zeros=0.3)
    few = np.array([100, 0, 300])
    here, _ = step(method, first(params), params, samples=few)
    there, _ = step(method, first(params), params, samples=10 * few)
    chex.assert_trees_all_close(here, there, **close(method))
    other = {
        name: np.where(np.arange(3).reshape(-1, *[1] * (leaf.ndim - 1)) == 1, 7.5, leaf)
        for name, leaf in params.items()
    }
    found, _ = step(method, first(params), other, samples=few)
    chex.assert_trees_all_close(here, found, **close(method))


def test_nothing_to_average_is_refused_in_one_line(method):
    """No samples, no clients, whole numbers."""
    params = models(dtype=np.float32)
    state = base.initial(method, first(params), TOTAL)
    with pytest.raises(FedmiError, match=f"^method {method.name}: no client of the round has a training image$"):
        base.applied(method, state, first(params), report(params, samples=0 * SAMPLES))
    none = {name: leaf[:0] for name, leaf in params.items()}
    with pytest.raises(FedmiError, match=f"^method {method.name}: no client takes part in the round$"):
        base.applied(method, state, first(params), report(none, samples=SAMPLES[:0], numbers=NUMBERS[:0]))
    whole = params | {"steps": np.ones((3, 2), int)}
    with pytest.raises(
        FedmiError, match=rf"^method {method.name}: params\['steps'\] is int32; it averages floating [^\n]*$"
    ):
        base.applied(method, state, first(whole), report(whole))


@pytest.mark.usefixtures("x64")
def test_who_is_absent_keeps_its_state_and_who_is_there_gets_another(method):
    params = models()
    start = {name: leaf[0] + 1 for name, leaf in params.items()}
    before = programs_state(method, start)
    _, after = step(method, start, params, before)
    absent = np.setdiff1d(np.arange(TOTAL), NUMBERS)
    same_bits(*(jax.tree.map(lambda leaf: leaf[absent], state.clients) for state in (after, before)))
    moved = [np.any(a != b) for a, b in zip(*map(jax.tree.leaves, (before.clients, after.clients)), strict=True)]
    assert not moved or any(moved) or method.name == "owner-channels"  # who remembers who is who, and no more


@pytest.mark.usefixtures("x64")
def test_what_is_given_is_left_as_it_was(method):
    params = models()
    start, clients = first(params), report(params)
    state = programs_state(method, start)
    before = jax.tree.map(np.array, (state, start, clients))
    COMPILED(method, state, start, clients)
    same_bits((state, start, clients), before)


@pytest.mark.usefixtures("x64")
def test_without_jit_a_step_is_the_same_to_the_last_bit(method):
    """Of eighths, and of two clients that have a say: their sums and means are exact, in whatever order a compiler adds
    and multiplies, so that rounding excuses no difference.

    A refit goes on until its gradient is small, which rounding decides. Its sum is as convex as its ridge at least: two
    points with such gradients are no further apart than both together over the ridge.
    """
    params, start = ({k: np.round(8 * v) / 8 for k, v in models(seed=seed, zeros=0.3).items()} for seed in range(2))
    clients = report(params, samples=np.array([128, 128, 0]))
    clients = clients._replace(images=jnp.round(8 * clients.images) / 8)
    given = (programs_state(method, first(start)), first(start), clients)
    found, compiled = base.applied(method, *given), COMPILED(method, *given)
    if method.name == "calibration":
        apart = 2 * np.finfo(float).eps ** 0.75 / RIDGE
        chex.assert_trees_all_close(found, compiled, rtol=apart, atol=apart)
        found, compiled = ({k: v for k, v in new.items() if k[:2] != "fc"} for new, _ in (found, compiled))
    same_bits(found, compiled)


@pytest.mark.usefixtures("x64")
def test_seeds_beside_each_other_on_two_devices_are_seeds_one_by_one_and_two_rounds_are_compiled_once(method):
    """As the run does it: `programs.aggregate` over (S, ...), of models that are dealt out over the devices."""
    traced = []

    def counted(*arguments):
        traced.append(1)
        return method.apply(*arguments)

    layout, counting = tiny.layout(1), method._replace(apply=counted)
    assert layout.devices == 2
    per_seed = [models(zeros=0.3), {name: 2 * leaf[::-1] for name, leaf in models(zeros=0.3).items()}]
    starts = [{name: leaf[0] + s for name, leaf in one.items()} for s, one in enumerate(per_seed)]
    global_models, clients = (
        lift.replicate(tiny.stacked(starts), layout),
        tiny.stacked([report(one) for one in per_seed]),
    )
    flat = {name: leaf.reshape(-1, *leaf.shape[2:]) for name, leaf in clients.params.items()}
    flat = jax.device_put(flat, NamedSharding(layout.mesh, PartitionSpec(AXIS)))
    state = programs.initial_state(global_models, clients=TOTAL, layout=layout, method=method)
    for _ in range(2):
        global_models, state = programs.aggregate(
            state, global_models, clients._replace(params=flat), layout=layout, method=counting
        )
    assert len(traced) == 1
    for s, (start, params) in enumerate(zip(starts, per_seed, strict=True)):
        alone, own = step(method, start, params)
        alone, own = step(method, alone, params, own)
        found = jax.tree.map(lambda leaf, s=s: leaf[s], (global_models, state))
        chex.assert_trees_all_close(found, (alone, own), **close(method))


@pytest.mark.usefixtures("x64")
def test_the_state_survives_flattening_and_a_checkpoint(method, tmp_path):
    params = models()
    state = step(method, first(params), params)
    leaves, structure = jax.tree.flatten(state)
    same_bits(jax.tree.unflatten(structure, leaves), state)
    keeper = OnDisk(tmp_path, "run", 2, Checkpoint())
    keeper.add(1, {"loss": np.zeros(1)}, state)
    done, found = keeper.start(jax.tree.map(jnp.zeros_like, state))
    assert done == 1
    same_bits(found, state)


@pytest.mark.usefixtures("x64")
def test_a_client_is_served_a_model_of_the_same_shapes_and_its_hooks_keep_them(method):
    start = {name: jnp.asarray(leaf[0]) for name, leaf in models().items()}
    state = base.initial(method, start, TOTAL)
    own = State(state.server, jax.tree.map(lambda leaf: leaf[1], state.clients))
    chex.assert_trees_all_equal_shapes_and_dtypes(base.served(method, start, own), start)
    chex.assert_trees_all_equal_shapes_and_dtypes(method.correct(start, start, start, own), start)
    if method.trainable is not None:
        for name, changes in method.trainable(start, own).items():
            assert changes.dtype == bool
            assert jnp.broadcast_shapes(changes.shape, SHAPES[name]) == SHAPES[name]
    logits = jnp.ones((4, CLASSES))
    chex.assert_trees_all_equal_shapes_and_dtypes(method.logits(logits, jnp.array([3.0, 1.0, 0.0])), logits)


def test_no_product_of_the_server_has_reduced_precision(method):
    """A GPU's default for float32 keeps 10 bits of every factor; a CPU would not show it."""
    params = models(dtype=np.float32)
    start = {name: leaf[0] for name, leaf in params.items()}
    state = base.initial(method, start, TOTAL)
    program = jax.make_jaxpr(method.apply)(state, start, report(params))
    if method.sees is not None:
        return  # the network's own products are among them, and they are as precise as in training
    products = [e for e in program.eqns if e.primitive in (lax.dot_general_p, lax.conv_general_dilated_p)]
    assert all(e.params["precision"] == (lax.Precision.HIGHEST,) * 2 for e in products)

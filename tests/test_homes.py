"""Models stay where they were trained: every row of work comes to its model, and is drawn there."""

from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmi_jax.config import Execution
from fedmi_jax.devices import lift
from fedmi_jax.devices.layout import resolve
from fedmi_jax.federation import homes, programs, simulation
from fedmi_jax.federation.homes import Stack

HOW = resolve(Execution(shard="clients", client_chunk=1))
"""Two devices, each with its own clients."""


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60))
def test_every_row_has_a_place_on_its_models_device(owner):
    owner = np.array(owner)
    row, place = homes.places(owner, 4)
    np.testing.assert_array_equal(row[place], np.arange(len(owner)))
    assert len(np.unique(place)) == len(owner)
    room, rest = divmod(len(row), 4)
    assert rest == 0
    device = place // room
    assert ((owner < 0) | (device == owner)).all()
    share, most = -(-len(owner) // 4), np.bincount(owner[owner >= 0], minlength=4).max()
    assert max(share, most) <= room <= max(share, most + max(1, share // 8) - 1)


def models(count, first):
    """Model i is first + i in every number."""
    value = first + np.arange(count, dtype=np.float32)
    widths = {"conv1_kernel": 9, "conv1_bias": 3, "fc_bias": 2}
    return {name: np.tile(value[:, None], (1, width)) for name, width in widths.items()}


@pytest.mark.parametrize("served", [False, True])
@pytest.mark.parametrize("count", [4, 5])
def test_a_stack_counts_its_models_as_if_they_stood_in_one_array(served, count):
    """Local ones, two global ones, and those that clients are served; 5 on two devices are 6, of which one is done
    twice. Every program gets the model that its row names."""
    counts = (count, 2, count)[: 2 + served]
    one_array = np.concatenate([100 * i + np.arange(n) for i, n in enumerate(counts)])
    parts = [models(n, 100 * i) for i, n in enumerate(counts)]
    dealt = [lift.replicate(p, HOW) if i == homes.SERVER else lift.deal_out(p, HOW) for i, p in enumerate(parts)]
    stack = Stack(tuple(dealt), counts)
    assert homes.size(stack) == len(one_array)
    assert homes.all_open(stack)["conv1"].shape == (len(one_array), 3)
    which = np.random.default_rng(0).permutation(np.tile(np.arange(len(one_array)), 3))

    @jax.jit
    def program(stack, which, extra):
        own = lambda params, extra: params["fc_bias"][0] + extra  # noqa: E731
        return programs.over_rows(own, HOW, stack, which, (extra,), ())

    found = homes.at_home(partial(program, stack), stack, which, which / 1000, HOW)
    np.testing.assert_allclose(found, one_array[which] + which / 1000, rtol=1e-6)


@pytest.mark.parametrize("shard", ["batch", "clients"])
def test_a_stack_is_sparse_where_all_models_that_are_asked_for_are(shard):
    """Local models 0 and 1 of three are, 2 is not; the server's is. Others in their place are not known to be."""
    layout, few = resolve(Execution(shard=shard, client_chunk=1)), np.zeros((4, 3, 3, 8, 16), np.float32)
    few[2] = 1
    parts = [{"conv1_kernel": np.ones((n, 3, 3, 1, 8)), "conv2_kernel": k} for n, k in ((3, few[:3]), (1, few[3:]))]
    stack = Stack((lift.deal_out(parts[0], layout), lift.replicate(parts[1], layout)), (3, 1))
    setup = SimpleNamespace(layout=layout, facts=SimpleNamespace(stays_sparse=True))
    for which, sparse in (([0, 1], True), ([0, 3, 3], True), ([1, 2], False), ([2], False), (slice(None), False)):
        told = simulation.lean(setup, stack, np.array(which) if isinstance(which, list) else which)
        assert told.sparse == sparse
        assert told.narrowing(layout) == ("sparse" if sparse else True)
        assert not told.with_parts(*stack.parts).sparse
    setup.facts.stays_sparse = False
    assert not simulation.lean(setup, stack, np.array([0])).sparse


@given(st.integers(1, 3), st.integers(1, 20), st.integers(0, 9))
def test_blocks_hold_every_row_once_where_it_belongs(devices, room, block):
    row = np.random.default_rng(room).permutation(devices * room)
    calls, where = homes.in_blocks(row, devices, block)
    np.testing.assert_array_equal(calls.ravel()[where], row)
    each = max(1, block // devices) if block else room
    assert calls.shape == (-(-room // each), devices * each)
    device = {int(one): i // room for i, one in enumerate(row)}
    expected = np.broadcast_to(np.repeat(np.arange(devices), each), calls.shape)
    np.testing.assert_array_equal(np.vectorize(device.get)(calls), expected)


@pytest.mark.parametrize("block", [0, 3, 4])
@pytest.mark.parametrize("shard", ["batch", "clients"])
def test_rows_come_back_in_their_order_from_blocks(shard, block):
    """Of five models on two devices, or on each."""
    layout = resolve(Execution(shard=shard, client_chunk=1))
    stack = Stack((lift.deal_out(models(5, 0), layout), lift.replicate(models(2, 100), layout)), (5, 2))
    which, sizes = np.random.default_rng(0).integers(0, 7, 17), []

    @jax.jit
    def program(which, extra):
        return programs.over_rows(lambda params, e: params["fc_bias"][0] + e, layout, stack, which, (extra,), ())

    def run(which, extra):
        sizes.append(len(which))
        return program(which, extra)

    found = homes.at_home(run, stack, which, np.arange(17) / 100, layout, block)
    value = np.array([0, 1, 2, 3, 4, 100, 101])
    np.testing.assert_allclose(found, value[which] + np.arange(17) / 100, rtol=1e-6)
    assert len(set(sizes)) == 1  # one program, however many rows


@pytest.mark.parametrize("shard", ["batch", "clients"])
def test_local_models_are_rewritten_where_they_are(shard):
    layout = resolve(Execution(shard=shard, client_chunk=1))
    stack = Stack((lift.deal_out(models(5, 0), layout), lift.replicate(models(2, 100), layout)), (5, 2))

    def negated(which, params):
        assert set(params) == set(stack.parts[0])
        assert params["fc_bias"].tolist() == [which, which]
        params["fc_bias"][...] *= -1 if which % 2 else 1

    changed = homes.rewritten(stack, negated, layout)
    assert changed.parts[0]["fc_bias"][:5, 0].tolist() == [0, -1, 2, -3, 4]
    assert stack.parts[0]["fc_bias"][:5, 0].tolist() == [0, 1, 2, 3, 4]
    for name, leaf in changed.parts[0].items():
        assert leaf.sharding.is_equivalent_to(stack.parts[0][name].sharding, leaf.ndim)
    assert changed.parts[1] is stack.parts[1]


def test_no_local_model_leaves_its_device_for_a_search():
    parts = [models(4, 0), models(1, 100)]
    stack = Stack((lift.deal_out(parts[0], HOW), lift.replicate(parts[1], HOW)), (4, 1))

    def gathers(models):
        def program(models, which):
            return programs.over_rows(lambda params: params["fc_bias"][0] * 2, HOW, models, which, (), ())

        text = jax.jit(program).lower(models, np.arange(4)).compile().as_text()
        return [line for line in text.splitlines() if "all-gather" in line and "f32[4,2]" in line]

    assert not gathers(stack)
    assert gathers(stack.parts[0])  # in one array they do
    local = stack.parts[0]["fc_bias"]
    assert [shard.data.shape for shard in local.addressable_shards] == [(2, 2), (2, 2)]


def test_rows_are_drawn_by_device_and_of_other_processes_not_at_all(monkeypatch):
    asked = []

    def draw(rows):
        asked.append(rows.tolist())
        return {"a": 10 * rows}

    whole = lift.drawn(draw, np.arange(6), HOW)["a"]
    np.testing.assert_array_equal(whole, 10 * np.arange(6))
    assert asked == [[0, 1, 2], [3, 4, 5]]
    assert [shard.data.shape for shard in whole.addressable_shards] == [(3,), (3,)]
    asked.clear()
    devices = np.array([SimpleNamespace(process_index=i) for i in range(2)])
    elsewhere = SimpleNamespace(homes=2, mesh=SimpleNamespace(devices=devices))
    monkeypatch.setattr(jax, "device_put", lambda tree, device: tree)
    monkeypatch.setattr(lift, "NamedSharding", lambda mesh, spec: None)
    monkeypatch.setattr(jax, "make_array_from_single_device_arrays", lambda shape, dealt, shares: shares[0])
    lift.drawn(draw, np.arange(6), elsewhere)
    assert asked == [[0, 1, 2]]

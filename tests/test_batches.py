"""Index plans, and the random draws behind them."""

from functools import partial

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from fedmi_jax import keys
from fedmi_jax.config import Execution
from fedmi_jax.data import batches as b
from fedmi_jax.devices.layout import AXIS, Layout, resolve
from fedmi_jax.network.images import weights

quick = settings(max_examples=60, deadline=None)


def padded_plan(clients, batch_size, epochs, seed=0, round_=1, extra=(0, 0)):
    """The plan of these clients, with `extra` steps and entries of padding beyond what is needed."""
    steps = max(b.local_steps(len(own), batch_size, epochs) for own in clients)
    return b.training_plan(
        dict(enumerate(clients)), batch_size, epochs, seed, round_, (steps + extra[0], batch_size + extra[1])
    )


@quick
@given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 12), st.integers(1, 3))
def test_every_epoch_has_every_image_once(sizes, batch_size, epochs):
    clients = [np.arange(100 * k, 100 * k + n) for k, n in enumerate(sizes)]
    plan = padded_plan(clients, batch_size, epochs, extra=(2, 3))
    assert plan.indices.dtype == np.int32
    assert plan.steps.tolist() == [epochs * -(-n // batch_size) for n in sizes]
    for k, own in enumerate(clients):
        used = plan.weight[k] > 0
        assert np.isin(plan.indices[k], own).all()  # padding is a valid index too
        assert not used[plan.steps[k] :].any()
        per_epoch = plan.steps[k] // epochs
        for epoch in range(epochs):
            rows = slice(epoch * per_epoch, (epoch + 1) * per_epoch)
            seen = plan.indices[k, rows][used[rows]]
            np.testing.assert_array_equal(np.sort(seen), own)
            counts = used[rows].sum(1)
            assert counts.tolist() == [batch_size] * (per_epoch - 1) + [len(own) - batch_size * (per_epoch - 1)]
            np.testing.assert_array_equal(plan.weight[k, rows], np.where(used[rows], 1 / counts[:, None], 0))


def test_draws_differ_by_seed_round_client_and_epoch_and_by_nothing_else():
    own = np.arange(500)
    first = padded_plan([own, own], 500, 2).indices
    orders = [
        first[0, 0], first[0, 1], first[1, 0],
        padded_plan([own], 500, 2, seed=1).indices[0, 0], padded_plan([own], 500, 2, round_=2).indices[0, 0],
    ]  # fmt: skip
    for i, order in enumerate(orders):
        assert not any(np.array_equal(order, other) for other in orders[:i])
    alone = padded_plan([own], 500, 2, extra=(4, 5))  # neither other clients nor padding change a draw
    np.testing.assert_array_equal(alone.indices[0, :2, :500], first[0])


def test_keys_are_told_apart_by_their_number_too():
    keyed = [(1, 0), (1, 0, 0), (1, 0, 0, 0), (0, 1), (1,), (2, 0), (1, 1), (1, 0, 1), (1, 1, 0)]
    draws = [tuple(keys.generator(7, *key).integers(0, 2**63, 4)) for key in keyed]
    assert len(set(draws)) == len(keyed)
    assert tuple(keys.generator(8, 1, 0).integers(0, 2**63, 4)) not in draws
    assert tuple(keys.generator(7, 1, 0).integers(0, 2**63, 4)) == draws[0]


def test_purposes_differ():
    names = ("INIT", "PARTITION", "LIMIT", "TRAIN", "DISCOVER_LOCAL", "DISCOVER_GLOBAL")
    assert len({getattr(keys, name) for name in names}) == len(names)


# --- discovery ---


@pytest.mark.parametrize(
    ("of_class", "samples", "batch_size", "expected"),
    [
        (1200, 12_000, 256, 26),  # a tenth of the data: a tenth of the batch
        (6000, 6000, 256, 256),  # its only class
        (5923, 12_665, 256, 120),
        (1, 10_000, 256, 1),  # never none, if there is one
        (3, 10, 256, 3),  # a client smaller than the batch: all of them, every step
        (0, 100, 256, 0),
    ],
)
def test_images_per_step_are_the_share_of_a_shuffled_batch(of_class, samples, batch_size, expected):
    assert b.discovery_batch(of_class, samples, batch_size) == expected


@quick
@given(st.integers(1, 30), st.data())
def test_discovery_draws_without_replacement(size, data):
    images, batch = np.arange(size) * 3, data.draw(st.integers(1, size))
    plan = b.discovery_plan(images, batch, 6, (0, 1, 2), batch + 2)
    assert plan.indices.shape == plan.weight.shape == (6, batch + 2)
    assert plan.steps == 6
    assert np.isin(plan.indices, images).all()
    for row, weight in zip(plan.indices, plan.weight, strict=True):
        assert len(np.unique(row[:batch])) == batch
        assert weight.tolist() == [1 / batch] * batch + [0, 0]


def test_discovery_steps_and_keys_draw_anew_and_evenly():
    plan = b.discovery_plan(np.arange(40), 10, 400, (0, 4, 1, 0, 0), 10)
    assert len(np.unique(np.sort(plan.indices, 1), axis=0)) > 390
    seen = np.bincount(plan.indices.ravel(), minlength=40)
    assert 60 < seen.min() <= seen.max() < 145  # 100 expected, standard deviation 8.7
    other = b.discovery_plan(np.arange(40), 10, 400, (0, 5, 1, 0, 0), 10)
    assert not np.array_equal(plan.indices, other.indices)


def test_no_image_of_the_class_gives_no_step():
    plan = b.discovery_plan(np.arange(0), 0, 5, (0, 1), 7)
    assert plan.steps == 0
    assert plan.indices.shape == (5, 7)
    assert not plan.weight.any()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("devices", [1, 2])
def test_programs_make_the_weights_of_the_counts(precision, devices):
    """To the bit those that the host makes in double precision, on one device and split over two."""
    width, counts = 300, np.arange(301, dtype=np.int32)
    plan = b.Plan(np.zeros((301, width), np.int32), counts, np.int32(301))
    layout = resolve(Execution(devices=devices))
    with jax.enable_x64(precision == "float64"):
        own = partial(weights, width=width // devices, dtype=precision, axis=AXIS if devices > 1 else None)
        made = jax.shard_map(own, mesh=layout.mesh, in_specs=P(), out_specs=P(None, AXIS), check_vma=False)(counts)
        np.testing.assert_array_equal(made, plan.weight.astype(precision))
    assert (plan.weight[1:].sum(1) - 1 < 1e-12).all()


# --- widths that split over devices and into pieces ---


class Mesh:
    size = 2


@quick
@given(st.integers(1, 600), st.integers(1, 8), st.integers(0, 64))
def test_padded_widths_split_evenly_and_waste_little(batch, devices, micro_batch):
    layout = Layout(Mesh(), shard="batch", chunk=1, micro_batch=micro_batch, forward_batch=1)
    width = layout.padded(batch, devices)
    assert width >= batch
    assert width % devices == 0
    share = width // devices
    piece = layout.piece(share)
    assert share % piece == 0
    if micro_batch:
        assert piece <= micro_batch
        pieces = share // piece
        assert pieces == -(-share // micro_batch)  # no more pieces than needed
        assert width - batch < devices * pieces + devices  # hence no more padding than this
    else:
        assert piece == share
        assert width - batch < devices

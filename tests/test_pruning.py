"""Which weights a pruning step keeps: literal tables, and what must hold for any weights."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedmi_jax.config import Sparsity
from fedmi_jax.training import pruning as s

quick = settings(max_examples=60, deadline=None)
kth_largest = jax.jit(s.kth_largest)
PRUNE = jax.jit(s.prune, static_argnums=2)

# --- amount and schedule ---


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (1, [0.8]),
        (2, [0.0, 0.8]),
        (3, [0.0, 0.8, 0.8]),
        (4, [0.0, 0.4, 0.8, 0.8]),
        (8, [0.0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8]),
        (9, [0.0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.8, 0.8]),
    ],
)
def test_ramp_over_the_first_half_of_the_steps(steps, expected):
    np.testing.assert_allclose(s.schedule(Sparsity(target=0.8), steps), expected, rtol=1e-15)
    assert s.schedule(Sparsity(target=0.8, ramp=False), steps).tolist() == [0.8] * steps


SIZES = {"conv1_kernel": 288, "conv2_kernel": 18_432, "conv3_kernel": 73_728, "fc_kernel": 11_520}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (0.99, [2, 184, 737, 115]),
        (0.995, [1, 92, 368, 57]),
        (0.97, [8, 552, 2211, 345]),
        (0.9, [28, 1843, 7372, 1151]),  # (1 - 0.9) * 11520 is just under 1152 in double precision
        (0.9999, [1, 1, 7, 1]),
        (0.0, [288, 18_432, 73_728, 11_520]),
    ],
)
def test_keep_counts_are_pythons_int_of_the_product(target, expected):
    counts = s.keep_counts(Sparsity(target=target, ramp=False), 3, SIZES)
    assert counts.dtype == np.int32
    assert counts.tolist() == [[max(1, int((1 - target) * n)) for n in SIZES.values()]] * 3
    assert counts[0].tolist() == expected


def test_keep_counts_follow_the_ramp_and_the_scope():
    steps, sparse = 7, Sparsity(target=0.97)
    expected = [[max(1, int((1 - plain.ramp(0.97, t, steps)) * n)) for n in SIZES.values()] for t in range(steps)]
    assert s.keep_counts(sparse, steps, SIZES).tolist() == expected
    whole = s.keep_counts(Sparsity(target=0.97, scope="global"), steps, SIZES)
    total = sum(SIZES.values())
    assert whole.tolist() == [[int((1 - plain.ramp(0.97, t, steps)) * total)] for t in range(steps)]


# --- selection ---

TABLE = [  # weights, how many to keep, what stays
    ([3, -1, 2, -4], 2, [3, 0, 0, -4]),
    ([3, -1, 2, -4], 1, [0, 0, 0, -4]),
    ([3, -1, 2, -4], 4, [3, -1, 2, -4]),
    ([2, -2, 1, 2], 1, [2, -2, 0, 2]),  # ties stay
    ([2, -2, 1, 2], 3, [2, -2, 0, 2]),
    ([1, 1, 1, 1], 1, [1, 1, 1, 1]),  # all equal
    ([0, 0, 0, 5], 2, [0, 0, 0, 5]),  # zeros stay zeros
    ([0, 0, 0, 0], 1, [0, 0, 0, 0]),
    ([1e-30, -1e-36, 1e-37, 0], 2, [1e-30, -1e-36, 0, 0]),
]


@pytest.mark.parametrize(("weights", "keep", "expected"), TABLE)
def test_prune_one_layer(weights, keep, expected):
    params = {"fc_kernel": jnp.asarray(weights, jnp.float32).reshape(2, 2), "fc_bias": jnp.asarray([1e-9, 0.0])}
    pruned = PRUNE(params, jnp.array([keep]), Sparsity(target=0.5))
    assert pruned["fc_kernel"].ravel().tolist() == np.float32(expected).tolist()
    assert pruned["fc_bias"].tolist() == params["fc_bias"].tolist()  # biases are left alone


def magnitudes(dtype):
    """With many ties, and everything from 0 over subnormal numbers to infinity."""
    width = np.dtype(dtype).itemsize * 8
    few = st.sampled_from([0.0, 0.25, 1.0, 3.0])
    return hnp.arrays(dtype, 24, elements=few | st.floats(0, width=width))


@quick
@given(st.sampled_from([np.float32, np.float64]).flatmap(magnitudes), st.integers(1, 24))
def test_kth_largest_is_that_of_a_sort(values, k):
    with jax.enable_x64(True):
        found = kth_largest(jnp.asarray(values), jnp.int32(k))
    assert found.dtype == values.dtype
    assert np.asarray(found) == np.sort(values)[-k]


@pytest.mark.parametrize(("target", "linear"), [(0.8, 0), (0.8, 0.5), (0, 0.9), (0.5, 0.8)])
def test_the_linear_layer_may_have_a_sparsity_of_its_own(target, linear):
    """Each layer is then pruned as in a network whose every layer has its sparsity, at every step of the ramp."""
    rng, steps = np.random.default_rng(0), 7
    shapes = {"conv1_kernel": (3, 3, 1, 6), "conv2_kernel": (3, 3, 6, 8), "fc_kernel": (32, 3), "fc_bias": (3,)}
    params = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    ways = [Sparsity(target=target, linear=linear), Sparsity(target=target), Sparsity(target=linear)]
    for step in range(steps):
        own, convolutions, alone = (
            PRUNE(params, s.keep_counts(way, steps, s.weight_sizes(params))[step], way) for way in ways
        )
        for name in params:
            np.testing.assert_array_equal(own[name], (alone if name == "fc_kernel" else convolutions)[name])
    assert (own["fc_kernel"] == 0).sum() == 96 - int((1 - linear) * 96)


def test_dense_training_touches_nothing():
    params = {"conv1_kernel": jnp.full((3, 3, 1, 2), 1e-20), "conv1_bias": jnp.zeros(2)}
    kept = s.prune(params, jnp.array([1]), Sparsity(target=0))
    assert kept == params
    assert kept is not params


# --- floor ---


def filters(*columns):
    """A 3x3 kernel with one input channel: each filter's first weights, 0 the rest."""
    kernel = np.zeros((3, 3, 1, len(columns)), np.float32)
    for o, column in enumerate(columns):
        kernel[..., o].flat[: len(column)] = column
    return kernel


@pytest.mark.parametrize(
    ("keep", "floor", "expected"),
    [
        # The layer's largest stand in the first filter; the second would be left with none, the third with one.
        (5, 4, [[9, 8, 7, 6], [-0.6, 0.5, 0.4, 0.3], [7, 1, 1, 1]]),
        (5, 0, [[9, 8, 7, 6], [], [7]]),
        (5, 1, [[9, 8, 7, 6], [-0.6], [7]]),
        (5, 2, [[9, 8, 7, 6], [-0.6, 0.5], [7, 1, 1, 1, 1]]),  # ties for a place on the floor all stay
        (9, 4, [[9, 8, 7, 6, 5], [-0.6, 0.5, 0.4, 0.3], [7, 1, 1, 1, 1]]),  # a filter above the floor is not touched
    ],
)
def test_floor(keep, floor, expected):
    kernel = filters([9, 8, 7, 6, 5], [-0.6, 0.5, 0.4, 0.3, 0.2], [7, 1, 1, 1, 1])
    if expected[2] == [7, 1, 1, 1]:
        kernel[..., 2].flat[4] = 0.5
    pruned = s.prune({"conv1_kernel": jnp.asarray(kernel)}, jnp.array([keep]), Sparsity(target=0.5, floor=floor))
    np.testing.assert_array_equal(pruned["conv1_kernel"], filters(*expected))


def test_floor_of_filters_with_few_other_values():
    kernel = filters([9] * 9, [], [0.1, 0.1], [0.1] * 9)
    pruned = s.prune({"conv1_kernel": jnp.asarray(kernel)}, jnp.array([9]), Sparsity(target=0.5))
    np.testing.assert_array_equal(pruned["conv1_kernel"], kernel)  # zeros, and what there is


def test_floor_above_the_number_of_weights_keeps_them_all():
    kernel = filters([9, 8, 7, 6, 5, 4, 3, 2, 1], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    pruned = s.prune({"conv1_kernel": jnp.asarray(kernel)}, jnp.array([1]), Sparsity(target=0.5, floor=12))
    np.testing.assert_array_equal(pruned["conv1_kernel"], kernel)


def test_the_linear_layer_has_no_floor():
    kernel = jnp.arange(1.0, 13).reshape(6, 2)
    pruned = s.prune({"fc_kernel": kernel}, jnp.array([1]), Sparsity(target=0.5))
    assert (pruned["fc_kernel"] != 0).sum() == 1


def test_global_scope_has_one_budget():
    params = {"conv1_kernel": jnp.asarray(filters([9, 8, 1])), "fc_kernel": jnp.array([[7.0, 2], [3, 4]])}
    sparse = Sparsity(target=0.5, scope="global", floor=0)
    pruned = s.prune(params, jnp.array([3]), sparse)
    np.testing.assert_array_equal(pruned["conv1_kernel"], filters([9, 8]))
    assert pruned["fc_kernel"].tolist() == [[7, 0], [0, 0]]


# --- any weights ---

KERNELS = {"conv1_kernel": (3, 3, 1, 3), "conv2_kernel": (3, 3, 3, 2), "fc_kernel": (4, 3)}
values = st.sampled_from([0.0, 0.5, 1.0, -1.0]) | st.floats(-4, 4, width=32, allow_subnormal=False)
models = st.fixed_dictionaries({k: hnp.arrays(np.float32, shape, elements=values) for k, shape in KERNELS.items()})


@quick
@given(models, st.floats(0.01, 0.99), st.sampled_from([0, 1, 4]))
def test_prune_is_the_plain_one_and_idempotent(params, target, floor):
    sparse = Sparsity(target=target, floor=floor, ramp=False)
    keep = s.keep_counts(sparse, 1, s.weight_sizes(params))[0]
    pruned = PRUNE(params, keep, sparse_of(floor))
    chex.assert_trees_all_equal(pruned, plain.prune(params, target, floor))
    chex.assert_trees_all_equal(PRUNE(pruned, keep, sparse_of(floor)), pruned)


def sparse_of(floor):
    """Of the settings a pruning step knows only that it is not dense, the scope and the floor: compile it once."""
    return Sparsity(target=0.5, floor=floor)


def test_stacked_is_one_by_one():
    rng = np.random.default_rng(0)
    params = {k: jnp.asarray(rng.normal(size=(3, *shape)), jnp.float32) for k, shape in KERNELS.items()}
    keep = jnp.array([[9, 30, 2], [1, 1, 1], [27, 54, 12]])
    together = jax.jit(jax.vmap(lambda p, k: s.prune(p, k, sparse_of(4))))(params, keep)
    for i in range(3):
        alone = PRUNE({k: v[i] for k, v in params.items()}, keep[i], sparse_of(4))
        chex.assert_trees_all_equal({k: v[i] for k, v in together.items()}, alone)

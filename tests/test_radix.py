"""The GPU's search for thresholds gives the bits of the CPU's: of any values, ties and floors included."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedmi_jax.config import Sparsity
from fedmi_jax.training import pruning, radix

quick = settings(max_examples=60, deadline=None)
SHAPES = {"conv1_kernel": (3, 3, 1, 3), "conv2_kernel": (3, 3, 3, 2), "fc_kernel": (4, 3)}


@st.composite
def magnitudes(draw, dtype, shape):
    """Some values, from 0 over subnormal numbers to infinity, each of them often: with many ties."""
    values = st.sampled_from([0.0, 0.25, 1.0]) | st.floats(0, width=np.dtype(dtype).itemsize * 8)
    pool = np.array(draw(st.lists(values, min_size=1, max_size=12)), dtype)
    return np.random.default_rng(draw(st.integers(0, 99))).choice(pool, shape)


@st.composite
def models(draw, dtypes=(np.float32, np.float64)):
    """Magnitudes of all tensors, and how many of each to keep."""
    dtype = draw(st.sampled_from(dtypes))
    size = {name: draw(magnitudes(dtype, shape)) for name, shape in SHAPES.items()}
    return size, np.array([draw(st.integers(1, own.size)) for own in size.values()], np.int32)


@jax.jit
def both_searches(size, keep):
    one_by_one = jnp.stack([pruning.kth_largest(own.ravel(), keep[i]) for i, own in enumerate(size.values())])
    return radix.kth_largest_of_all(list(size.values()), keep), one_by_one


@quick
@given(models())
def test_all_at_once_is_one_by_one_and_a_sort(model):
    size, keep = model
    with jax.enable_x64(True):
        found, expected = both_searches(size, keep)
    chex.assert_trees_all_equal(found, expected)
    by_sort = [np.sort(own, None)[-k] for own, k in zip(size.values(), keep, strict=True)]
    np.testing.assert_array_equal(found, by_sort)


def test_tensors_longer_than_a_row():
    rng = np.random.default_rng(0)
    tensors = [np.abs(rng.normal(size=n)).astype(np.float32) for n in (5, radix.ROW, 3 * radix.ROW + 7)]
    keep = jnp.array([5, 1, 2 * radix.ROW])
    found = jax.jit(radix.kth_largest_of_all)(tensors, keep)
    assert found.tolist() == [np.sort(own)[-k] for own, k in zip(tensors, keep.tolist(), strict=True)]


@pytest.mark.parametrize(("bits", "widest"), [(31, 6), (63, 6), (5, 5)])
def test_digits_are_all_bits(bits, widest):
    found = radix.digits(bits)
    assert sum(found) == bits
    assert max(found) == widest


@quick
@example(np.full((3, 3, 2, 3), 4.7e-40, np.float32), 4)  # subnormal: compared as floats a CPU says 0
@given(magnitudes(np.float32, (3, 3, 2, 3)), st.sampled_from([1, 3, 4, 18]))
def test_the_kth_largest_of_every_filter(values, k):
    found = jax.jit(radix.kth_largest_of_filters, static_argnums=1)(values, k)
    np.testing.assert_array_equal(found, np.sort(values.reshape(-1, 3), 0)[-k])


@quick
@given(models([np.float32]), st.sampled_from([(4, "layer"), (12, "layer"), (1, "global")]))
def test_what_stays_is_what_stays_on_a_cpu(model, rule):
    (size, keep), (floor, scope) = model, rule
    keep = keep if scope == "layer" else keep[:1]
    sparse = Sparsity(target=0.5, floor=floor, scope=scope)
    chex.assert_trees_all_equal(kept_on_gpu(size, keep, sparse), kept(size, keep, sparse))


kept_on_gpu, kept = (jax.jit(body, static_argnums=2) for body in (pruning._kept_on_gpu, pruning._kept))


def test_a_stack_of_models_is_one_by_one():
    rng = np.random.default_rng(0)
    size = {k: np.abs(rng.normal(size=(3, *shape))).astype(np.float32) for k, shape in SHAPES.items()}
    keep = jnp.array([[9, 30, 2], [1, 1, 1], [27, 54, 12]])
    of_gpu = partial(pruning._kept_on_gpu, sparsity=Sparsity(target=0.5))
    together = jax.jit(jax.vmap(of_gpu))(size, keep)
    for i in range(3):
        alone = jax.jit(of_gpu)({name: own[i] for name, own in size.items()}, keep[i])
        chex.assert_trees_all_equal({name: own[i] for name, own in together.items()}, alone)

"""The server's step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedmi_jax.aggregation import aggregator
from fedmi_jax.config import Aggregation

SAMPLES = np.array([100, 300, 2])


@pytest.fixture
def clients():
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=(3, *shape)) for name, shape in (("fc_kernel", (4, 2)), ("fc_bias", (2,)))}


def average(weighting, clients):
    server = aggregator(Aggregation(weighting=weighting))
    start = {name: jnp.asarray(leaf[0]) for name, leaf in clients.items()}
    stacked = {name: jnp.asarray(leaf) for name, leaf in clients.items()}
    new, state = jax.jit(server.apply)(server.init(start), start, stacked, jnp.asarray(SAMPLES))
    assert state is None
    return new


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("weighting", "weights"), [("uniform", np.ones(3)), ("samples", SAMPLES)])
def test_mean_of_the_clients(clients, weighting, weights):
    expected = {name: np.average(leaf, axis=0, weights=weights) for name, leaf in clients.items()}
    chex.assert_trees_all_close(average(weighting, clients), expected, rtol=1e-13)


def test_precision_is_the_models(clients):
    single = {name: leaf.astype(np.float32) for name, leaf in clients.items()}
    for weighting in ("uniform", "samples"):
        new = average(weighting, single)
        assert {leaf.dtype for leaf in new.values()} == {np.dtype(np.float32)}


def test_equal_models_stay_as_they_are():
    """A pruned weight of every client is a pruned weight of the mean."""
    same = {"fc_kernel": np.tile(np.array([[0.0, 1.5]], np.float32), (3, 1, 1))}
    assert average("uniform", same)["fc_kernel"].tolist() == [[0, 1.5]]

"""The search for a circuit against a plain loop; smaller models and other layouts give the same scores."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import tiny

from fedmi_jax.circuits import discovery
from fedmi_jax.circuits.objective import class_task, objective_of
from fedmi_jax.config import Discovery
from fedmi_jax.data import batches
from fedmi_jax.federation import programs
from fedmi_jax.network.ablation import ZERO, Mean

SETTINGS = Discovery(steps=50, l0=0.03, initial_score=1)  # two segments and a rest; some close in the first
WHICH = np.array([0, 1, 1])
"""Three circuits, so that one of two devices has one more."""
LABELS = [1, 3, 0]


def circuit_plans(images):
    """The third client has no image of its class."""
    labels = np.asarray(images.labels)
    own = [np.flatnonzero(labels == LABELS[0]), np.flatnonzero(labels == LABELS[1])[:3], np.arange(0)]
    plans = [batches.discovery_plan(o, min(5, len(o)), SETTINGS.steps, (i, 4), 6) for i, o in enumerate(own)]
    return batches.stack(plans)


def models():
    return tiny.stacked([tiny.params(0, sparsity=0.6), tiny.params(1, sparsity=0.6)])


def means():
    """The channels' means over some images, per circuit."""
    rng = np.random.default_rng(0)
    widths = zip(plain.CONVOLUTIONS, tiny.CHANNELS, strict=True)
    return Mean({layer: jnp.asarray(rng.normal(size=(3, width))) for layer, width in widths})


def searched(models, ablation):
    """The three circuits: one by one, and side by side, on the smaller models of either."""
    images = tiny.noise()
    return [
        programs.discover_circuits(
            models, images, WHICH, circuit_plans(images), ablation, layout=tiny.layout(*layout), settings=SETTINGS
        )
        for layout in ((1,), (100, 2))
    ]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("ablation", ["zero", "mean"])
def test_is_the_plain_loop_in_every_layout(ablation):
    images, replaced = tiny.noise(), means() if ablation == "mean" else ZERO
    plan, circuits = circuit_plans(images), searched(models(), replaced)
    for layer, score in circuits[0].score.items():
        np.testing.assert_array_equal(circuits[0].mask[layer], np.asarray(score) > 0)
    found = [circuit.score for circuit in circuits]
    chex.assert_trees_all_close(*found, rtol=1e-10, atol=1e-11)
    for i in range(2):
        params = {name: leaf[WHICH[i]] for name, leaf in models().items()}
        own = [index[weight > 0] for index, weight in zip(plan.indices[i], plan.weight[i], strict=True)]
        filled = None if replaced == ZERO else {layer: mean[i] for layer, mean in replaced.outputs.items()}
        expected = plain.discover(params, images, own, LABELS[i], SETTINGS, filled)
        scores = {layer: score[i] for layer, score in found[0].items()}
        chex.assert_trees_all_close(scores, expected, rtol=1e-10, atol=1e-11)
        kept = np.concatenate([np.asarray(score) > 0 for score in scores.values()])
        assert 0 < kept.sum() < len(kept)
    for score in found[0].values():  # no image of the class: no channel
        assert np.all(np.isneginf(np.asarray(score[2])))


@pytest.mark.usefixtures("x64")
def test_smaller_models_are_used_and_change_nothing():
    """Of a model with few channels to start with, from the first step on. Closed ones whose mean is positive count;
    zero ablation, where none does, is what the golden replay runs."""
    mixed = Mean({layer: jnp.abs(mean).at[:, 1::2].mul(-1) for layer, mean in means().outputs.items()})
    stacked, images = tiny.stacked([few_channels(2), few_channels(3)]), tiny.noise()
    whole = partial(
        discovery.discover, objective=objective_of(SETTINGS, class_task(images)), micro_batch=6, narrowing=False
    )
    own = {name: leaf[WHICH] for name, leaf in stacked.items()}
    full = jax.jit(jax.vmap(whole, (0, None, 0, 0)))(own, images, circuit_plans(images), mixed)
    for small in searched(stacked, mixed):
        chex.assert_trees_all_close(small, full, rtol=1e-10, atol=1e-11)


def few_channels(seed):
    params = tiny.params(seed, sparsity=0.5)
    params["conv2_kernel"] = params["conv2_kernel"].at[:, :, 2:].set(0)
    params["conv3_kernel"] = params["conv3_kernel"].at[:, :, 3:].set(0)
    params["fc_kernel"] = params["fc_kernel"].at[2:].set(0)
    return params


@pytest.mark.usefixtures("x64")
def test_a_closed_channel_never_reopens():
    """Under zero ablation only the L0 term speaks to it."""
    images = tiny.noise()
    plan = batches.Plan(*(part[0] for part in circuit_plans(images)))
    settings = Discovery(steps=30, initial_score=-0.2)
    objective = objective_of(settings, class_task(images))
    search = partial(discovery.discover, tiny.params(), images, plan, ZERO, objective=objective, micro_batch=6)
    scores = jax.jit(partial(search, narrowing=False))().score
    everything = np.concatenate([np.asarray(score) for score in scores.values()])
    assert np.ptp(everything) == 0
    assert everything[0] < -0.2


@pytest.mark.usefixtures("x64")
def test_l0_penalty_is_the_sum_of_sigmoids():
    scores = {"conv1": jnp.array([0.0, 0.0]), "conv2": jnp.array([50.0]), "conv3": jnp.array([-50.0])}
    value, gradient = jax.value_and_grad(
        partial(objective_of(Discovery(l0=0.01), class_task(tiny.noise())).penalty, _=0)
    )(scores)
    assert value == pytest.approx(0.02)
    assert gradient["conv1"].tolist() == pytest.approx([0.0025, 0.0025])

"""A client's round against a plain loop, and what must not change it: padding, pieces, company.

Axes: M clients, T steps, B images of a batch.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import plain
import pytest
import tiny

from fedmi_jax.aggregation import chosen
from fedmi_jax.config import Aggregation, Local, Sparsity
from fedmi_jax.data import batches
from fedmi_jax.federation import programs
from fedmi_jax.training import pruning

CLIENTS = [np.arange(37), np.arange(20, 40), np.arange(50, 55)]
"""Image indices: three, two and one batch an epoch; the last ones hold 5, 4 and 5 images."""
LOCAL = Local(epochs=2, batch_size=16, learning_rate=0.01)
SPARSE = Sparsity(target=0.7, floor=2)
COUNTS = np.array([[10, 5, 0, 22], [1, 1, 17, 1], [0, 0, 5, 0]])


def train(clients, *, layout, local=LOCAL, sparse=SPARSE, extra=(0, 0), method=None, starts=None, start=None):
    """These of CLIENTS, in plans with `extra` steps and entries of padding; by default each from a model of its own.

    starts: these models, in the precision to compute in; None: double precision. start: the models, which of them each
    client starts from, and what else the method needs (`programs.train_models`).
    """
    mine = [tiny.params(k) for k in clients] if starts is None else starts
    models, which, *seen = start or (tiny.stacked(mine), np.arange(len(clients)))
    dtype = models["fc_bias"].dtype
    own = [CLIENTS[k] for k in clients]
    steps = [batches.local_steps(len(images), local.batch_size, local.epochs) for images in own]
    longest = max(steps) + extra[0]
    width = layout.padded(min(local.batch_size, max(map(len, own))) + extra[1], layout.batch_devices)
    shape = (longest, width)
    plans = [batches.training_plan({0: CLIENTS[k]}, local.batch_size, local.epochs, k, 1, shape) for k in clients]
    plan = batches.Plan(*(np.concatenate(parts) for parts in zip(*plans, strict=True)))
    sizes = pruning.weight_sizes(one(models, 0))
    keep = [np.pad(pruning.keep_counts(sparse, t, sizes), ((0, longest - t), (0, 0))) for t in steps]
    trained, losses = programs.train_models(
        models, tiny.noise(dtype=dtype), which, plan, np.stack(keep), COUNTS[clients], *seen,
        layout=layout, local=local, sparse=sparse, method=method or chosen(Aggregation(), local),
    )  # fmt: skip
    return trained, np.asarray(losses), plan


def slow(k, plan, local=LOCAL, sparse=SPARSE, start=None, watch=None):
    """The k-th of CLIENTS, batch by batch. watch(t, before, after): called with the weights at each pruning."""
    start, own, steps = start or tiny.params(k), real(plan), int(plan.steps)
    restrict = local.fedrs + (1 - local.fedrs) * COUNTS[k] / COUNTS[k].max()

    def prune(params, t):
        pruned = plain.prune(params, plain.ramp(sparse.target, t, steps), sparse.floor) if sparse.target else params
        if watch:
            watch(t, params, pruned)
        return pruned

    given = (tiny.noise(), start, restrict, local.fedprox)
    return plain.adam(loss, start, own, local.learning_rate, prune, given)


def loss(params, batch, images, start, restrict, mu):
    logits = plain.logits(params, plain.normalised(images, batch)) * restrict
    away = sum(jnp.sum((params[name] - start[name]) ** 2) for name in params)
    return plain.cross_entropy(logits, images.labels[batch]) + mu / 2 * away


def real(plan):
    """One client's batches, without padding."""
    steps = int(plan.steps)
    return [index[weight > 0] for index, weight in zip(plan.indices[:steps], plan.weight[:steps], strict=True)]


def one(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


VARIANTS = {
    "sparse": (LOCAL, SPARSE),
    "dense": (LOCAL, Sparsity(target=0)),
    "so sparse that weights are visited": (LOCAL, Sparsity(target=0.97, floor=1)),
    "FedProx": (Local(epochs=2, batch_size=16, learning_rate=0.01, fedprox=0.7), SPARSE),
    "FedRS": (Local(epochs=2, batch_size=16, learning_rate=0.01, fedrs=0.4), SPARSE),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", VARIANTS)
def test_is_the_plain_loop(variant):
    """Own number of steps, hence own ramp; the last small batch; fresh Adam; prune after every step."""
    local, sparse = VARIANTS[variant]
    trained, losses, plan = train([0, 1, 2], layout=tiny.layout(1), local=local, sparse=sparse)
    for k in range(3) if variant == "sparse" else [1]:
        expected, expected_losses = slow(k, one(plan, k), local, sparse)
        chex.assert_trees_all_close(one(trained, k), expected, rtol=1e-9, atol=1e-11)
        if not local.fedprox:  # the reported loss is the task's
            np.testing.assert_allclose(losses[k, : plan.steps[k]], expected_losses, rtol=1e-10)
    assert plan.steps.tolist() == [6, 4, 2]
    assert not losses[1, 4:].any()


@pytest.fixture(scope="module")
def one_by_one():
    """All three clients, one after the other, without padding: what every other layout is held against."""
    with jax.enable_x64(True):
        return train([0, 1, 2], layout=tiny.layout(1))[:2]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("chunk", "shard", "k", "shape"),
    [(1, "batch", 1, (1, 4, 16)), (2, "batch", 2, (1, 2, 6)), (1, "clients", 2, (1, 2, 5))],
)
def test_neither_company_nor_padding_nor_pieces_nor_devices_change_a_client(one_by_one, chunk, shard, k, shape):
    """All clients side by side: below, and in `test_simulation`."""
    together, losses, _ = train([0, 1, 2], layout=tiny.layout(chunk, 3, shard), extra=(2, 3))
    again, again_losses = one_by_one
    chex.assert_trees_all_close(together, again, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(losses[:, :6], again_losses, rtol=1e-10)
    assert not losses[:, 6:].any()
    alone, own_losses, plan = train([k], layout=tiny.layout(chunk, 0, shard))  # without the others' padding
    assert plan.indices.shape == shape
    chex.assert_trees_all_close(one(together, k), one(alone, 0), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(losses[k, : plan.steps[0]], own_losses[0], rtol=1e-10)


@pytest.mark.usefixtures("x64")
def test_with_fedprox_too_neither_pieces_nor_devices_change_a_client():
    local, sparse = VARIANTS["FedProx"]
    whole, in_pieces = (
        train([0, 1, 2], layout=layout, local=local, sparse=sparse)[0]
        for layout in (tiny.layout(1), tiny.layout(1, 3, "batch"))
    )
    chex.assert_trees_all_close(in_pieces, whole, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_adam_multiplies_rounding_by_the_learning_rate_over_its_eps_at_most():
    """What docs/scaling.md says of gradients that are nearly zero, and that nearly as much happens."""
    optimiser, noise = optax.adam(LOCAL.learning_rate), 1e-17
    gradients = np.array([0.0, 1e-16, 1e-10, 1e-3, 1.0])
    moved, moved_otherwise = (optimiser.update(g, optimiser.init(g))[0] for g in (gradients, gradients + noise))
    amplified = np.abs(np.asarray(moved_otherwise) - np.asarray(moved)) / noise
    assert amplified.max() <= 1.001 * LOCAL.learning_rate / 1e-8
    assert amplified[0] > 0.999 * LOCAL.learning_rate / 1e-8


# --- single precision ---

FAR = 38
"""Models whose training stays far from every point where rounding decides; few do. `margins` measures how far."""


def margins(k, plan, start):
    """The k-th client's trained model, and how near its training comes to keeping another weight and to another winner
    in a pool: the smallest gaps of all steps, as `plain.prune_margin` and `plain.pool_margin` measure them."""
    inputs = [plain.normalised(tiny.noise(), batch) for batch in real(plan)]
    pruned, pooled = [], [plain.pool_margin(start, inputs[0])]

    def watch(t, before, after):
        pruned.append(plain.prune_margin(before, plain.ramp(SPARSE.target, t, len(inputs)), SPARSE.floor))
        pooled.extend(plain.pool_margin(after, x) for x in inputs[t + 1 : t + 2])

    trained, _ = slow(k, plan, start=start, watch=watch)
    return jax.tree.map(np.asarray, trained), min(pruned), min(pooled)


@pytest.mark.parametrize("layout", [(1, 3), (100,)], ids=["one by one, in pieces", "side by side"])
def test_single_precision_is_double_precision_to_rounding(layout):
    """What is pruned is exactly the same, on every processor, because rounding is far from deciding it.

    The models are the same numbers in both. A weight that is kept in one and pruned in the other would differ by all of
    its size; weights that agree to the tolerance, a thirtieth of the margin, cannot fall on two sides of a threshold.
    """
    single = [tiny.params(FAR + k, dtype=jnp.float32) for k in range(3)]
    trained, _, plan = train([0, 1, 2], layout=tiny.layout(*layout), starts=single)
    trained = jax.tree.map(np.asarray, trained)
    assert trained["fc_kernel"].dtype == np.float32
    with jax.enable_x64(True):
        double = [{name: jnp.asarray(leaf, jnp.float64) for name, leaf in start.items()} for start in single]
        expected = [margins(k, one(plan, k), double[k]) for k in range(3)]
    assert min(pruning for _, pruning, _ in expected) > 6e-4
    assert min(pool for _, _, pool in expected) > 1e-5
    for k, (params, _, _) in enumerate(expected):
        chex.assert_trees_all_close(one(trained, k), params, atol=2e-5, rtol=0)
        for name in (name for name in params if name.endswith("kernel")):
            np.testing.assert_array_equal(trained[name][k] == 0, params[name] == 0)


@pytest.mark.usefixtures("x64")
def test_adam_is_fresh_every_round():
    """The first step of a fresh Adam moves a weight by the learning rate, however small its gradient."""
    local, sparse = VARIANTS["dense"]
    start = tiny.stacked([tiny.params(k) for k in range(3)])
    plans = [batches.training_plan({0: CLIENTS[1][:16]}, 16, 1, k, 1, (6, 16)) for k in range(3)]
    plan = batches.Plan(*(np.concatenate(parts) for parts in zip(*plans, strict=True)))
    assert plan.steps.tolist() == [1, 1, 1]
    for _ in range(2):  # the program of "dense", so that there is nothing to compile
        moved, _ = programs.train_models(
            start, tiny.noise(), np.arange(3), plan, np.ones((3, 6, 4), np.int32), COUNTS,
            layout=tiny.layout(1), local=local, sparse=sparse, method=chosen(Aggregation(), local),
        )  # fmt: skip
        step = np.abs(moved["fc_bias"] - start["fc_bias"])
        np.testing.assert_allclose(step, 0.01, rtol=1e-4)
        start = moved

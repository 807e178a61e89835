"""A client's round against a plain loop, and what must not change it: padding, pieces, company.

Axes: M clients, T steps, B images of a batch.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import tiny

from fedmi_jax.aggregation import chosen, fedavg
from fedmi_jax.config import Aggregation, Local, Sparsity
from fedmi_jax.data import batches
from fedmi_jax.federation import programs
from fedmi_jax.training import pruning

CLIENTS = [np.arange(37), np.arange(20, 40), np.arange(50, 55)]
"""Image indices: three, two and one batch an epoch; the last ones hold 5, 4 and 5 images."""
LOCAL = Local(epochs=2, batch_size=16, learning_rate=0.01)
SPARSE = Sparsity(target=0.7, floor=2)
COUNTS = np.array([[10, 5, 0, 22], [1, 1, 17, 1], [0, 0, 5, 0]])


def train(
    clients, *, how, local=LOCAL, sparse=SPARSE, dtype=jnp.float64, extra=(0, 0), method=None, start=None,
):  # fmt: skip
    """These of CLIENTS, in plans with `extra` steps and entries of padding; by default each from a model of its own.

    start: the models, which of them each client starts from, and what else the method needs (`programs.train_models`).
    """
    own = [CLIENTS[k] for k in clients]
    steps = [batches.local_steps(len(images), local.batch_size, local.epochs) for images in own]
    longest = max(steps) + extra[0]
    width = how.padded(min(local.batch_size, max(map(len, own))) + extra[1], how.batch_devices)
    shape = (longest, width)
    plans = [batches.training_plan({0: CLIENTS[k]}, local.batch_size, local.epochs, k, 1, shape) for k in clients]
    plan = batches.Plan(*(np.concatenate(parts) for parts in zip(*plans, strict=True)))
    models, which, *seen = start or (
        tiny.stacked([tiny.params(k, dtype=dtype) for k in clients]), np.arange(len(clients)),
    )  # fmt: skip
    sizes = pruning.weight_sizes(tiny.params(dtype=dtype))
    keep = [np.pad(pruning.keep_counts(sparse, t, sizes), ((0, longest - t), (0, 0))) for t in steps]
    trained, losses = programs.train_models(
        models, tiny.noise(dtype=dtype), which, plan, np.stack(keep), COUNTS[clients], *seen,
        how=how, local=local, sparse=sparse, method=method or chosen(Aggregation(), local),
    )  # fmt: skip
    return trained, np.asarray(losses), plan


def slow(k, plan, local=LOCAL, sparse=SPARSE):
    """The k-th of CLIENTS, batch by batch."""
    images, start = tiny.noise(), tiny.params(k)
    steps = int(plan.steps)
    own = [index[weight > 0] for index, weight in zip(plan.indices[:steps], plan.weight[:steps], strict=True)]
    restrict = local.fedrs + (1 - local.fedrs) * COUNTS[k] / COUNTS[k].max()

    def loss(params, batch):
        logits = plain.logits(params, plain.normalised(images, batch)) * restrict
        away = sum(jnp.sum((params[name] - start[name]) ** 2) for name in params)
        return plain.cross_entropy(logits, images.labels[batch]) + local.fedprox / 2 * away

    def prune(params, t):
        return plain.prune(params, plain.ramp(sparse.target, t, steps), sparse.floor) if sparse.target else params

    return plain.adam(loss, start, own, local.learning_rate, prune)


def one(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


VARIANTS = {
    "sparse": (LOCAL, SPARSE),
    "dense": (LOCAL, Sparsity(target=0)),
    "FedProx": (Local(epochs=2, batch_size=16, learning_rate=0.01, fedprox=0.7), SPARSE),
    "FedRS": (Local(epochs=2, batch_size=16, learning_rate=0.01, fedrs=0.4), SPARSE),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", VARIANTS)
def test_is_the_plain_loop(variant):
    """Own number of steps, hence own ramp; the last small batch; fresh Adam; prune after every step."""
    local, sparse = VARIANTS[variant]
    trained, losses, plan = train([0, 1, 2], how=tiny.layout(1), local=local, sparse=sparse)
    for k in range(3) if variant == "sparse" else [1]:
        expected, expected_losses = slow(k, one(plan, k), local, sparse)
        chex.assert_trees_all_close(one(trained, k), expected, rtol=1e-9, atol=1e-11)
        if not local.fedprox:  # the reported loss is the task's
            np.testing.assert_allclose(losses[k, : plan.steps[k]], expected_losses, rtol=1e-10)
    assert plan.steps.tolist() == [6, 4, 2]
    assert not losses[1, 4:].any()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("chunk", "shard", "k", "shape"),
    [
        (1, "batch", 1, (1, 4, 16)),
        (100, "batch", 2, (1, 2, 6)),
        (2, "batch", 0, (1, 6, 16)),
        (1, "clients", 2, (1, 2, 5)),
    ],
)
def test_neither_company_nor_padding_nor_pieces_nor_devices_change_a_client(chunk, shard, k, shape):
    together, losses, _ = train([0, 1, 2], how=tiny.layout(chunk, 3, shard), extra=(2, 3))
    again, again_losses, _ = train([0, 1, 2], how=tiny.layout(1))
    chex.assert_trees_all_close(together, again, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(losses[:, :6], again_losses, rtol=1e-10)
    assert not losses[:, 6:].any()
    alone, own_losses, plan = train([k], how=tiny.layout(chunk, 0, shard))  # without the others' padding
    assert plan.indices.shape == shape
    chex.assert_trees_all_close(one(together, k), one(alone, 0), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(losses[k, : plan.steps[0]], own_losses[0], rtol=1e-10)


def test_layouts_agree_to_rounding_in_single_precision():
    by_map, by_vmap = (train([0, 1, 2], how=tiny.layout(*how), dtype=jnp.float32)[0] for how in ((1, 3), (100,)))
    assert by_map["fc_kernel"].dtype == jnp.float32
    chex.assert_trees_all_close(by_map, by_vmap, atol=2e-5)


@pytest.mark.usefixtures("x64")
def test_adam_is_fresh_every_round():
    """The first step of a fresh Adam moves a weight by the learning rate, however small its gradient."""
    local, sparse = Local(epochs=1, batch_size=16, learning_rate=0.01), Sparsity(target=0)
    how = tiny.layout(1)
    start = tiny.stacked([tiny.params()])
    plan = batches.training_plan({0: CLIENTS[1][:16]}, 16, 1, 0, 1, (1, 16))
    for _ in range(2):
        moved, _ = programs.train_models(
            start, tiny.noise(), np.zeros(1, int), plan, np.ones((1, 1, 4), np.int32), COUNTS[:1].astype(np.float64),
            how=how, local=local, sparse=sparse, method=fedavg(),
        )  # fmt: skip
        step = np.abs(moved["fc_bias"] - start["fc_bias"])
        np.testing.assert_allclose(step, 0.01, rtol=1e-4)
        start = moved

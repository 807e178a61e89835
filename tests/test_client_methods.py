"""What each method changes for its clients: their loss, their gradient, what they train, what they are served.

Axes: K clients of the round, K_total clients in all, Y classes, N images.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import plain
import pytest
import test_local
import tiny
from method_table import METHODS, NUMBERS, SHAPES, TOTAL, TOY, first, masks, mean, models, of, same_bits, step

from fedmi_jax.aggregation import NO_STATE, State, base, chosen, fedavg, with_hooks
from fedmi_jax.aggregation.owner_channels import owners
from fedmi_jax.config import Aggregation, FedProx, FedRS, Local, Sparsity
from fedmi_jax.federation import programs
from fedmi_jax.methods import OwnerChannels
from fedmi_jax.network import model


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "method",
    [chosen(Aggregation(kind="fedprox", fedprox=FedProx(mu=0.7)), Local()), chosen(Aggregation(), Local(fedprox=0.7))],
    ids=["kind", "local option"],
)
def test_fedprox_adds_the_gradient_of_its_penalty(method):
    gradient, params, start = ({name: jnp.asarray(leaf[i]) for name, leaf in models().items()} for i in range(3))

    def penalty(params):
        return 0.7 / 2 * sum(jnp.sum((params[name] - start[name]) ** 2) for name in params)

    expected = jax.tree.map(jnp.add, gradient, jax.grad(penalty)(params))
    chex.assert_trees_all_close(method.correct(gradient, params, start, NO_STATE), expected, rtol=1e-12)
    chex.assert_trees_all_equal(method.correct(gradient, start, start, NO_STATE), gradient)


@pytest.mark.parametrize(
    "method",
    [chosen(Aggregation(kind="fedrs", fedrs=FedRS(alpha=0.4)), Local()), chosen(Aggregation(), Local(fedrs=0.4))],
    ids=["kind", "local option"],
)
def test_fedrs_scales_the_logits_by_the_clients_classes(method):
    """By hand: of 10, 5 and 0 images the logits keep 1, 0.4 + 0.6 / 2 and 0.4."""
    logits, counts = jnp.array([[2.0, -3.0, 5.0]]), jnp.array([10.0, 5.0, 0.0])
    np.testing.assert_allclose(method.logits(logits, counts), [[2, -2.1, 2]], rtol=1e-6)


def test_the_binary_form_of_fedrs_counts_no_images():
    method = chosen(Aggregation(kind="fedrs", fedrs=FedRS(alpha=0.4, form="binary")), Local())
    found = method.logits(jnp.array([[2.0, -3.0, 5.0]]), jnp.array([10.0, 5.0, 0.0]))
    np.testing.assert_allclose(found, [[2, -3, 2]], rtol=1e-6)


def test_hooks_come_after_those_of_the_method():
    doubled = fedavg()._replace(logits=lambda logits, counts: 2 * logits, correct=lambda g, p, s, state: 2 * g)
    both = with_hooks(doubled, lambda logits, counts: logits + 1, lambda g, p, s, state: g + 1)
    assert both.logits(3, None) == both.correct(3, None, None, None) == 7


def test_without_hooks_nothing_is_added():
    assert fedavg().logits("logits", "counts") == "logits"
    assert fedavg().correct("gradient", "params", "start", "state") == "gradient"
    assert chosen(Aggregation(), Local(fedprox=0, fedrs=1)) is chosen(Aggregation(), Local())
    assert chosen(Aggregation(), Local()).serve is None


PULLED = fedavg()._replace(correct=lambda g, p, start, state: g | {"fc_bias": g["fc_bias"] + start["fc_bias"]})
"""What the toy method does to a gradient, written without a state."""


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("layout", [(1, 3, "batch"), (100, 0, "clients")])
def test_clients_start_from_what_they_are_served_with_their_own_state(layout):
    """As if each had been given its model, and its state, by itself; of the hooks two have an effect."""
    seeds, numbers = np.array([1, 0, 0]), np.array([3, 0, 2])
    global_models = tiny.stacked([tiny.params(8), tiny.params(9)])
    state = programs.initial_state(global_models, clients=TOTAL, layout=tiny.layout(1), method=TOY)
    rng = np.random.default_rng(0)
    heads = rng.normal(size=state.clients["head"].shape)
    state = State(state.server, state.clients | {"head": jnp.asarray(heads)})
    own = heads[seeds, numbers]
    mine = {name: leaf[seeds] for name, leaf in global_models.items()} | {"fc_bias": jnp.asarray(own)}
    served = programs.serve_models(global_models, state, seeds, numbers, layout=tiny.layout(1), method=TOY)
    chex.assert_trees_all_equal(served, mine)
    found, _, _ = test_local.train(
        [0, 1, 2], layout=tiny.layout(*layout), method=TOY, start=(global_models, seeds, state, numbers)
    )
    # In the same layout: another order of sums is no matter of the method, and Adam can amplify it.
    expected, _, _ = test_local.train([0, 1, 2], layout=tiny.layout(*layout), method=PULLED, start=(mine, np.arange(3)))
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-13)


FROZEN = {
    "fedbabu": of("fedbabu"),
    "fedbabu, pruned": of("fedbabu", pruned=True),
    "owner channels": of("owner-channels"),
    "owner channels, hard": of("owner-channels", form="hard"),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FROZEN)
def test_what_a_client_may_not_change_stays_bit_for_bit_and_the_rest_is_trained_and_pruned_alone(name):
    """Against the plain loop of `plain`, whose loss does not see changes of what is frozen."""
    method, numbers, sparse = FROZEN[name], np.array([0, 1, 2]), Sparsity(target=0.7, floor=0)
    global_models = tiny.stacked([tiny.params(8)])
    state = programs.initial_state(global_models, clients=3, layout=tiny.layout(1), method=method)
    found, _, plan = test_local.train(
        [0, 1, 2],
        layout=tiny.layout(1),
        method=method,
        sparse=sparse,
        start=(global_models, 0 * numbers, state, numbers),
    )
    own = State(jax.tree.map(lambda leaf: leaf[0], state.server), jax.tree.map(lambda leaf: leaf[0, 2], state.clients))
    start = base.served(method, test_local.one(global_models, 0), own)
    mine = {k: np.broadcast_to(v, start[k].shape) for k, v in method.trainable(start, own).items()}
    trained = test_local.one(found, 2)
    pruned = {k: np.ones_like(v) if method.prunes_all else v for k, v in mine.items()}
    frozen = {k: ~mine[k] & ((np.asarray(trained[k]) != 0) | ~pruned[k]) for k in mine}
    same_bits(*({k: np.asarray(v)[frozen[k]] for k, v in one.items()} for one in (trained, start)))
    images, steps = tiny.noise(), int(plan.steps[2])

    def loss(params, batch):
        seen = {k: jnp.where(mine[k], v, start[k]) for k, v in params.items()}
        return plain.cross_entropy(plain.logits(seen, plain.normalised(images, batch)), images.labels[batch])

    def prune(params, t):
        return {k: pruned_alone(k, v, pruned[k], plain.ramp(0.7, t, steps)) for k, v in params.items()}

    expected, _ = plain.adam(loss, start, test_local.real(test_local.one(plan, 2)), 0.01, prune)
    chex.assert_trees_all_close(trained, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.usefixtures("x64")
def test_a_pruned_linear_layer_that_nobody_trains_is_the_same_on_every_client():
    """The largest of the initial weights, as they were, on the clients and on the server."""
    method, global_models = of("fedbabu", pruned=True), tiny.stacked([tiny.params(8)])
    state = programs.initial_state(global_models, clients=3, layout=tiny.layout(1), method=method)
    start = (global_models, np.zeros(3, int), state, np.arange(3))
    sparse = Sparsity(target=0.7, floor=0)
    found, _, _ = test_local.train([0, 1, 2], layout=tiny.layout(1), method=method, sparse=sparse, start=start)
    kernel = np.asarray(global_models["fc_kernel"][0])
    largest = np.sort(np.abs(kernel), axis=None)[-int((1 - 0.7) * kernel.size)]
    expected = np.where(np.abs(kernel) >= largest, kernel, 0)
    for one in found["fc_kernel"]:
        np.testing.assert_array_equal(one, expected)
    clients = base.Clients(found, np.ones(3), np.ones((3, 10)), np.ones(3), np.arange(3))
    new, _ = method.apply(base.NO_STATE, test_local.one(global_models, 0), clients)
    np.testing.assert_array_equal(new["fc_kernel"], expected)
    np.testing.assert_array_equal(new["fc_bias"], global_models["fc_bias"][0])
    assert (np.asarray(new["conv1_kernel"]) != np.asarray(global_models["conv1_kernel"][0])).any()


def pruned_alone(name, values, mine, sparsity):
    """Of the entries that are mine the largest, as many as their share of int((1 - s) * n) says."""
    values = np.array(values)
    if name.endswith("bias") or not mine.any():
        return values
    keep = max(1, int(max(1, int((1 - sparsity) * values.size)) * mine.sum() / values.size))
    threshold = np.sort(np.abs(values[mine]))[::-1][keep - 1]
    values[mine & (np.abs(values) < threshold)] = 0
    return values


def test_every_channel_has_one_writer_and_the_first_ones_may_be_common():
    """By hand, of five clients and six channels."""
    assert owners(6, 5, 0.0).tolist() == [0, 1, 2, 3, 4, 0]
    assert owners(6, 4, 0.5).tolist() == [-1, -1, -1, 0, 1, 2]
    start = first(models())
    for name, writers in (("owner-channels", 1), ("owner channels, hard", 1), ("owner channels, some common", TOTAL)):
        method = METHODS[name]
        state = base.initial(method, start, TOTAL)
        writes = [method.trainable(start, State(state.server, k)) for k in range(TOTAL)]
        by_channel = sum(np.asarray(one["conv2_bias"], int) for one in writes)
        assert set(by_channel.tolist()) == {1, writers}


@pytest.mark.parametrize("weighting", ["uniform", "samples"])
@pytest.mark.parametrize("form", ["frozen", "hard"])
def test_an_owners_channels_come_from_it_and_an_absent_owners_stay(form, weighting):
    """Clients 0, 2 and 4 of 5 are there: channels 0, 5; 2, 7; 4 are theirs, bit for bit, however many samples they
    have."""
    params = models(dtype=np.float32)
    start = {name: leaf[0] + 1 for name, leaf in params.items()}
    settings = Aggregation(kind="owner-channels", owner_channels=OwnerChannels(form=form), weighting=weighting)
    new, _ = step(chosen(settings, Local()), start, params)
    source = {0: 0, 5: 0, 2: 1, 7: 1, 4: 2}
    for o in range(8):
        kept = start if o not in source else {name: leaf[source[o]] for name, leaf in params.items()}
        inputs = np.arange(6) % 5 == o % 5 if form == "hard" else np.ones(6, bool)
        np.testing.assert_array_equal(new["conv2_kernel"][:, :, inputs, o], kept["conv2_kernel"][:, :, inputs, o])
        assert (np.asarray(new["conv2_kernel"])[:, :, ~inputs, o] == 0).all()
        assert new["conv2_bias"][o] == kept["conv2_bias"][o]
        if form == "hard":
            np.testing.assert_array_equal(new["fc_kernel"][o::8], kept["fc_kernel"][o::8])
    assert (form == "frozen") == bool(np.any(new["fc_bias"] != start["fc_bias"]))


@pytest.mark.usefixtures("x64")
def test_a_thin_network_is_in_the_global_model_what_its_owner_trained():
    """Hard owner channels: what each client is served after averaging is bit for bit what it trained, and the channels
    of others, closed, leave its logits in the global model."""
    method, everyone = of("owner-channels", form="hard"), np.arange(TOTAL)
    fresh = first(models())
    state = base.initial(method, fresh, TOTAL)
    own = [State(state.server, k) for k in everyone]
    trained = []
    for k, start in enumerate(base.served(method, fresh, one) for one in own):
        other = first(models(seed=k + 1))
        writes = method.trainable(start, own[k])
        trained.append({name: jnp.where(writes[name], other[name], leaf) for name, leaf in start.items()})
    samples = np.full(TOTAL, 10)
    new, _ = step(method, fresh, tiny.stacked(trained), samples=samples, numbers=everyone)
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    for k in everyone:
        mine = base.served(method, new, own[k])
        bodies = [{name: leaf for name, leaf in one.items() if name[:2] != "fc"} for one in (mine, trained[k])]
        same_bits(*bodies)
        gates = {layer: jnp.asarray(np.arange(n) % 5 == k, float) for layer, n in (("conv1", 6), ("conv2", 8))}
        for one in (model.apply(new, x, gates), model.apply(mine, x)):
            np.testing.assert_allclose(one, model.apply(trained[k], x), rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_orthogonality_penalty_has_the_gradient_of_its_loss():
    """Of the channels that others used when they were last seen; absent clients are remembered."""
    method, params, circuits = of("orthogonality", weight=0.3), models(), masks(share=0.4)
    start = first(params)
    _, state = step(method, start, params, circuits=circuits)
    later = masks(share=0.4, seed=1)
    _, state = step(method, start, params, state, circuits=later, numbers=np.array([0, 1, 3]))
    last = {0: (later, 0), 1: (later, 1), 2: (circuits, 1), 3: (later, 2), 4: (circuits, 2)}
    use = {layer: np.stack([m[layer][row].any(0) for _, (m, row) in sorted(last.items())]) for layer in circuits}

    def penalty(params, k):
        shares = {layer: np.delete(every, k, 0).mean(0) for layer, every in use.items()}
        return 0.3 * sum(jnp.sum(share * params[f"{layer}_kernel"] ** 2) for layer, share in shares.items())

    for k in range(TOTAL):
        own = State(state.server, {layer: leaf[k] for layer, leaf in state.clients.items()})
        expected = jax.tree.map(jnp.add, start, jax.grad(penalty)(start, k))
        chex.assert_trees_all_close(method.correct(start, start, start, own), expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_fedlc_goes_over_held_classes_with_a_margin_by_their_images():
    """By hand; a label that the client does not hold, which padding may have, gives a loss that is finite."""
    logits, counts = jnp.array([[2.0, -3.0, 5.0]]), jnp.array([16.0, 81.0, 0.0])
    found = of("fedlc", tau=0.5).logits(logits, counts)
    np.testing.assert_allclose(found[:, :2], [[2 - 0.5 / 2, -3 - 0.5 / 3]], rtol=1e-12)
    for label, share in ((0, None), (2, 0.0)):
        loss, gradient = jax.value_and_grad(
            lambda z, label=label: optax.softmax_cross_entropy_with_integer_labels(
                of("fedlc", tau=0.5).logits(z, counts), jnp.array([label])
            ).sum()
        )(logits)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
        assert gradient[0, 2] == (0 if share is None else gradient[0, 2])
    np.testing.assert_allclose(jax.nn.softmax(found)[0, 2], 0, atol=0)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("kind", "own"),
    [
        ("fedper", {"fc_kernel", "fc_bias"}),
        ("lg-fedavg", {"conv1_kernel", "conv1_bias", "conv2_kernel", "conv2_bias"}),
        ("alone", set(SHAPES)),
    ],
)
def test_a_client_is_served_its_own_layers_and_the_mean_of_the_others(kind, own):
    """Absent clients get their first ones; the global model is the mean of everything."""
    params = models()
    start = {name: leaf[0] + 1 for name, leaf in params.items()}
    new, state = step(of(kind), start, params)
    chex.assert_trees_all_close(new, mean(params), rtol=1e-12)
    for k in range(TOTAL):
        seen = base.served(of(kind), new, State(None, jax.tree.map(lambda leaf, k=k: leaf[k], state.clients)))
        kept = {name: leaf[k // 2] for name, leaf in params.items()} if k in NUMBERS else start
        chex.assert_trees_all_equal(seen, {name: kept[name] if name in own else new[name] for name in SHAPES})

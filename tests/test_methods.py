"""Federated methods: one table of them, and what must hold of every row.

A new method is one more row of METHODS; what it computes is tested beside it. Axes: S seeds, K clients of the round,
K_total clients in all, Y classes.
"""

import re
import typing
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import made_up
import numpy as np
import optax
import plain
import pytest
import test_local
import tiny
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

import fedmi_jax
from fedmi_jax import aggregation, config
from fedmi_jax.aggregation import NO_STATE, Clients, Method, State, base, chosen, fedavg, tree_mean, with_hooks
from fedmi_jax.aggregation.owner_channels import owners
from fedmi_jax.aggregation.ties import trimmed
from fedmi_jax.analysis import runs
from fedmi_jax.cli import main
from fedmi_jax.config import Aggregation, Checkpoint, Experiment, FedProx, FedRS, Local, Sparsity
from fedmi_jax.devices import lift
from fedmi_jax.devices.layout import AXIS
from fedmi_jax.errors import ConfigError, FedmiError
from fedmi_jax.federation import programs, resumable, simulation
from fedmi_jax.federation.setup import prepare
from fedmi_jax.keeping.checkpoint import OnDisk
from fedmi_jax.keeping.stored import Stored
from fedmi_jax.methods import LgFedAvg, section_of
from fedmi_jax.network import model

TOTAL, CLASSES, IMAGES = 5, 3, 6
NUMBERS, SAMPLES = np.array([0, 2, 4]), np.array([100, 300, 2])
SHAPES = {
    "conv1_kernel": (3, 3, 1, 6), "conv1_bias": (6,), "conv2_kernel": (3, 3, 6, 8), "conv2_bias": (8,),
    "fc_kernel": (32, CLASSES), "fc_bias": (CLASSES,),
}  # fmt: skip
"""Of a network for images of 8 x 8 pixels."""


def toy_init(params, clients_total):
    heads = jnp.tile(params["fc_bias"], (clients_total, 1))
    velocity = {name: jnp.zeros_like(leaf) for name, leaf in params.items()}
    return State({"velocity": velocity, "path": 0.0}, {"head": heads, "turns": jnp.zeros(clients_total, int)})


def toy_apply(state, params, clients):
    mean = tree_mean(clients.params, clients.samples)
    old, own = state.server["velocity"], state.clients
    velocity = {name: 0.9 * old[name] + params[name] - mean[name] for name in params}
    heads = own["head"].at[clients.numbers].set(clients.params["fc_bias"])
    turns = own["turns"].at[clients.numbers].add(1)
    server = {"velocity": velocity, "path": state.server["path"] + jnp.sum(velocity["fc_bias"] ** 2)}
    return {name: params[name] - velocity[name] for name in params}, State(server, {"head": heads, "turns": turns})


TOY = Method(
    "toy", toy_apply, toy_init,
    correct=lambda gradient, params, start, state: gradient | {"fc_bias": gradient["fc_bias"] + state.clients["head"]},
    serve=lambda params, state: dict(params) | {"fc_bias": state.clients["head"]},
    summary="server momentum, and a head bias of every client's own", source="this file",
)  # fmt: skip
"""Uses everything that a method may use, circuits excepted."""


def of(kind, **settings):
    """The named method, with these settings of its own."""
    section = section_of(kind)
    own = {section: type(getattr(Aggregation(), section))(**settings)} if settings else {}
    return chosen(Aggregation(kind=kind, **own), Local())


METHODS = {
    **{name: chosen(Aggregation(kind=name), Local()) for name in config.METHODS},
    "fedavg by samples": fedavg("samples"),
    "fedavg and both local options": chosen(Aggregation(), Local(fedprox=0.1, fedrs=0.4)),
    "support mean by samples": chosen(Aggregation(kind="support-mean", weighting="samples"), Local()),
    "ties of updates": of("ties", of="updates", density=0.2),
    "circuit mean in blocks": of("circuit-mean", blocks=True),
    "fedavgm unmasked": of("fedavgm", masked=False),
    "fedyogi unmasked": of("fedyogi", masked=False),
    "lg-fedavg of two layers": of("lg-fedavg", shared_layers=2),
    "owner channels, hard": of("owner-channels", form="hard"),
    "owner channels, some common": of("owner-channels", common=0.3),
    "toy": TOY,
}
"""Every method there is, in every form that computes something else."""


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


def models(clients=3, dtype=np.float64, seed=0, zeros=0.0):
    """One small model per client, (K, ...); the share `zeros` of its weights is pruned."""
    rng = np.random.default_rng(seed)
    found = {name: rng.normal(size=(clients, *shape)).astype(dtype) for name, shape in SHAPES.items()}
    return {k: v * (rng.random(v.shape) >= zeros) if k.endswith("kernel") else v for k, v in found.items()}


def first(params):
    """Of the first client."""
    return {name: jnp.asarray(leaf[0]) for name, leaf in params.items()}


def masks(clients=3, seed=0, share=0.5):
    rng = np.random.default_rng(seed)
    return {layer: rng.random((clients, CLASSES, n)) < share for layer, n in (("conv1", 6), ("conv2", 8))}


def report(params, samples=SAMPLES, numbers=NUMBERS, counts=None, circuits=None):
    """What the server gets, from params (K, ...)."""
    if counts is None:  # the first class is everybody's, the last one nobody's
        counts = np.stack([samples // 2, samples - samples // 2, 0 * samples], -1)
    circuits = masks(len(samples)) if circuits is None else circuits
    fields = Clients(params, samples, counts, samples // 10 + 1, numbers, circuits)
    return jax.tree.map(jnp.asarray, fields)


COMPILED = jax.jit(base.applied, static_argnums=0)  # once for every method, whatever the test


def step(method, start, params, state=None, **fields):
    """The server's step: new global params and state."""
    start = {name: jnp.asarray(leaf) for name, leaf in start.items()}
    state = programs_state(method, start) if state is None else state
    return COMPILED(method, state, start, report(params, **fields))


def programs_state(method, start):
    """As `programs.initial_state` does it: arrays, not Python's numbers."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(leaf)), base.initial(method, start, TOTAL))


def same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# --- what must hold of every method ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_clients_are_a_fixed_point_and_the_precision_is_the_models(method, dtype):
    """1/3: on a GPU a product of reduced precision would change it."""
    with jax.enable_x64(dtype == np.float64):
        start = {name: jnp.full_like(leaf[0], 1 / 3) for name, leaf in models(dtype=dtype).items()}
        if method is METHODS["owner channels, hard"]:  # whose networks of different owners must not be connected
            start, _ = step(method, start, {name: jnp.stack([leaf] * 3) for name, leaf in start.items()})
        same = {name: jnp.stack([leaf] * 3) for name, leaf in start.items()}
        new, _ = step(method, start, same)
        chex.assert_trees_all_close(new, start, rtol=4 * np.finfo(dtype).eps)
        assert {leaf.dtype for leaf in new.values()} == {np.dtype(dtype)}


@pytest.mark.usefixtures("x64")
def test_a_client_alone_that_has_not_moved_is_a_fixed_point(method):
    params = models(1)
    only = {"samples": SAMPLES[:1], "numbers": NUMBERS[:1]}
    if method is METHODS["owner channels, hard"]:
        params = {name: np.asarray(leaf)[None] for name, leaf in step(method, first(params), params, **only)[0].items()}
    new, _ = step(method, first(params), params, **only)
    chex.assert_trees_all_close(new, first(params), rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_what_is_zero_everywhere_stays_exactly_zero(method):
    """A weight that all clients have pruned is pruned in the global model; every other one has some value."""
    params, again = models(zeros=0.4), models(seed=1, zeros=0.4)
    zero = np.random.default_rng(1).random(SHAPES["conv2_kernel"]) < 0.5
    for some in (params, again):
        some["conv2_kernel"] *= ~zero
    new, state = step(method, first(params), params)
    assert (np.asarray(new["conv2_kernel"])[zero] == 0).all()
    new, _ = step(method, new, again, state)
    assert (np.asarray(new["conv2_kernel"])[zero] == 0).all()
    if method.name not in ("median", "owner-channels"):
        assert (np.asarray(new["conv2_kernel"])[~zero] != 0).mean() > 0.5


OWN_ZEROS = (
    "ties of updates", "fedavgm unmasked", "fedyogi unmasked", "toy",
    "owner-channels", "owner channels, hard", "owner channels, some common",
)  # fmt: skip
"""These may keep a weight that every client of the round has pruned: by momentum, because votes were trimmed, or
because the owner of the channel is absent."""


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", METHODS)
def test_the_global_model_is_no_denser_than_its_clients_together(name):
    """But for rows that nobody holds, which stay as they were; and for those that say so."""
    params, again = models(zeros=0.8), models(seed=1, zeros=0.8)
    new, state = step(METHODS[name], first(params), params)
    new, _ = step(METHODS[name], new, again, state)
    there = np.any(again["conv2_kernel"] != 0, 0)
    assert (np.asarray(new["conv2_kernel"])[~there] != 0).any() == (name in OWN_ZEROS)


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
    chex.assert_trees_all_close(here, there, rtol=1e-12, atol=1e-14)
    same_bits(here, step(method, first(params), params, counts=counts, circuits=circuits))


@pytest.mark.usefixtures("x64")
def test_ten_times_the_samples_are_the_same_shares_and_none_are_no_say(method):
    params = models(zeros=0.3)
    few = np.array([100, 0, 300])
    here, _ = step(method, first(params), params, samples=few)
    there, _ = step(method, first(params), params, samples=10 * few)
    chex.assert_trees_all_close(here, there, rtol=1e-12)
    other = {
        name: np.where(np.arange(3).reshape(-1, *[1] * (leaf.ndim - 1)) == 1, 7.5, leaf)
        for name, leaf in params.items()
    }
    found, _ = step(method, first(params), other, samples=few)
    chex.assert_trees_all_close(here, found, rtol=1e-12)


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
def test_seeds_beside_each_other_on_two_devices_are_seeds_one_by_one_and_two_rounds_are_compiled_once(method):
    """As the run does it: `programs.aggregate` over (S, ...), of models that are dealt out over the devices."""
    traced = []

    def counted(*arguments):
        traced.append(1)
        return method.apply(*arguments)

    how, counting = tiny.layout(1), method._replace(apply=counted)
    assert how.devices == 2
    per_seed = [models(zeros=0.3), {name: 2 * leaf[::-1] for name, leaf in models(zeros=0.3).items()}]
    starts = [{name: leaf[0] + s for name, leaf in one.items()} for s, one in enumerate(per_seed)]
    globals_, clients = lift.replicate(tiny.stacked(starts), how), tiny.stacked([report(one) for one in per_seed])
    flat = {name: leaf.reshape(-1, *leaf.shape[2:]) for name, leaf in clients.params.items()}
    flat = jax.device_put(flat, NamedSharding(how.mesh, PartitionSpec(AXIS)))
    state = programs.initial_state(globals_, clients=TOTAL, how=how, method=method)
    for _ in range(2):
        globals_, state = programs.aggregate(state, globals_, clients._replace(params=flat), how=how, method=counting)
    assert len(traced) == 1
    for s, (start, params) in enumerate(zip(starts, per_seed, strict=True)):
        alone, own = step(method, start, params)
        alone, own = step(method, alone, params, own)
        found = jax.tree.map(lambda leaf, s=s: leaf[s], (globals_, state))
        chex.assert_trees_all_close(found, (alone, own), rtol=1e-11, atol=1e-14)


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
    products = [e for e in program.eqns if e.primitive in (lax.dot_general_p, lax.conv_general_dilated_p)]
    assert all(e.params["precision"] == (lax.Precision.HIGHEST,) * 2 for e in products)


# --- the registry ---


def test_registry_settings_and_list_name_the_same_methods(capsys):
    (kind,) = (f for f in config.Aggregation.__dataclass_fields__.values() if f.name == "kind")
    assert typing.get_args(typing.get_type_hints(Aggregation)[kind.name]) == tuple(aggregation.METHODS)
    assert list(config.METHODS) == list(aggregation.METHODS)
    assert main.main(["list"]) == 0
    printed = capsys.readouterr().out
    for name, line in config.METHODS.items():
        one = chosen(Aggregation(kind=name), Local())
        assert (one.name, one.summary) == (name, line)
        assert one.source
        assert name in printed


def test_equal_settings_give_the_very_same_method():
    """Else every run would compile its programs anew."""
    for settings, local in ((Aggregation(), Local(fedrs=0.5)), (Aggregation(kind="fedprox"), Local())):
        assert chosen(settings, local) is chosen(Aggregation(kind=settings.kind), Local(fedrs=local.fedrs))
    assert chosen(Aggregation(), Local(), TOY) is TOY


@pytest.mark.parametrize(
    ("aggregation_", "local", "message"),
    [
        ({"fedprox": FedProx(mu=0.5)}, {}, r'aggregation\.fedprox: only for aggregation\.kind "fedprox"; .* "fedavg"'),
        ({"kind": "fedprox", "fedrs": FedRS(alpha=0.5)}, {}, r'aggregation\.fedrs: only for .* "fedrs"; .* "fedprox"'),
        ({"kind": "fedprox"}, {"fedprox": 0.1}, r'local\.fedprox: aggregation\.kind "fedprox" does this already'),
        ({"kind": "fedrs"}, {"fedrs": 0.4}, r'local\.fedrs: aggregation\.kind "fedrs" does this already'),
    ],
)
def test_settings_without_effect_and_the_same_method_twice_are_refused(aggregation_, local, message):
    with pytest.raises(ConfigError, match=f"^{message}[^\n]*$"):
        Experiment(aggregation=Aggregation(**aggregation_), local=Local(**local))


def test_settings_of_methods_are_kept_in_json_and_older_files_are_read():
    asked = Aggregation(kind="fedrs", fedrs=FedRS(alpha=0.3))
    experiment = Experiment(aggregation=asked, local=Local(fedprox=0.1))
    assert config.from_json(config.to_json(experiment)) == experiment
    older = {"aggregation": {"kind": "fedavg", "weighting": "samples"}, "local": {"fedprox": 0.1, "fedrs": 0.4}}
    read = config.from_dict(older)
    assert read.aggregation == Aggregation(weighting="samples")
    assert (read.local.fedprox, read.local.fedrs) == (0.1, 0.4)


# --- what each computes ---


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("weighting", "weights"), [("uniform", np.ones(3)), ("samples", SAMPLES)])
def test_fedavg_is_the_mean_of_the_clients(weighting, weights):
    params = models()
    new, state = step(fedavg(weighting), {name: leaf[0] for name, leaf in params.items()}, params)
    assert state == NO_STATE
    expected = {name: np.average(leaf, axis=0, weights=weights) for name, leaf in params.items()}
    chex.assert_trees_all_close(new, expected, rtol=1e-13)


def mean(params, weights=None):
    return {name: np.average(leaf, axis=0, weights=weights) for name, leaf in params.items()}


ALL_HOLD_ALL = np.full((3, CLASSES), 5)
REDUCTIONS = {
    "fedavgm without momentum": (of("fedavgm", momentum=0), {}),
    "support mean of dense models": (of("support-mean"), {}),
    "holders who hold everything": (of("head-by-holders"), {"counts": ALL_HOLD_ALL}),
    "circuits of every channel": (of("circuit-mean"), {"counts": ALL_HOLD_ALL, "circuits": masks(share=2)}),
    "blocks of every channel": (of("circuit-mean", blocks=True), {"counts": ALL_HOLD_ALL, "circuits": masks(share=2)}),
    "circuits of no channel": (of("circuit-mean"), {"counts": ALL_HOLD_ALL, "circuits": masks(share=0)}),
    "nothing trimmed": (of("trimmed-mean", beta=0), {}),
    "median of two": (of("median"), {"samples": np.array([3, 0, 2])}),
    "fedprox": (of("fedprox"), {}),
    "fedrs": (of("fedrs"), {}),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", REDUCTIONS)
def test_is_fedavg_where_it_must_be(name):
    method, fields = REDUCTIONS[name]
    params = models()
    new, _ = step(method, {k: leaf[0] + 1 for k, leaf in params.items()}, params, **fields)
    chex.assert_trees_all_close(new, mean(params, fields.get("samples", SAMPLES) > 0), rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("x64")
def test_ties_of_weights_of_one_sign_is_the_support_mean():
    params = {name: np.abs(leaf) for name, leaf in models(zeros=0.5).items()}
    here, _ = step(of("ties"), first(params), params)
    there, _ = step(of("support-mean"), first(params), params)
    chex.assert_trees_all_close(here, there, rtol=1e-12)


def one_entry(values, before=0.0, counts=None):
    """Params of which one weight of the linear layer, in the row of class 1, is `values` (K,) and `before` (): all
    else is 1."""
    params = {name: np.ones((len(values), *shape)) for name, shape in SHAPES.items()}
    params["fc_kernel"][:, 0, 1] = values
    start = first(params)
    return start | {"fc_kernel": start["fc_kernel"].at[0, 1].set(before)}, params


BY_HAND = {
    "support-mean": (of("support-mean"), [2, 0, 4], 3),
    "support-mean, one": (of("support-mean"), [0, 0, 4], 4),
    "support-mean, nobody": (of("support-mean"), [0, 0, 0], 0),
    "support-mean by samples": (METHODS["support mean by samples"], [2, 8, 0], (2 * 100 + 8 * 300) / 400),
    "holders": (of("head-by-holders"), [2, 0, 5], (2 + 0) / 2),
    "support and holders": (of("support-and-holders"), [2, 0, 5], (2 + 0) / 2),
    "ties, two against one": (of("ties"), [1, 2, -4], -4),
    "ties, one pruned": (of("ties"), [1, 0, -0.5], 1),
    "ties, a tie goes to the most": (of("ties"), [1, 0, -1], 1),
    "ties of updates": (of("ties", of="updates"), [1, 2, -5], 0.5 + -5.5),
    "ties, scaled": (of("ties", of="updates", scale=0.4), [1, 2, 0], 0.5 + 0.4 * 1),
    "median": (of("median"), [9, 1, 2], 2),
    "median, two pruned": (of("median"), [9, 0, 0], 0),
    "trimmed": (of("trimmed-mean", beta=0.34), [9, 1, 2], 2),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", BY_HAND)
def test_one_weight_by_hand(name):
    """Clients 0 and 1 hold class 1, client 2 does not; the weight was 0.5 before."""
    method, values, expected = BY_HAND[name]
    start, params = one_entry(values, 0.5)
    new, _ = step(method, start, params, counts=np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0]]))
    np.testing.assert_allclose(new["fc_kernel"][0, 1], expected, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_of_each_clients_votes_the_largest_are_counted():
    """As in the published code one more than density * d, of all parameters together."""
    params = first(models())
    kept = trimmed(params, 0.2)
    sizes = np.concatenate([np.abs(leaf).ravel() for leaf in params.values()])
    threshold = np.sort(sizes)[::-1][int(0.2 * sizes.size)]
    chex.assert_trees_all_equal(kept, {k: np.where(np.abs(v) >= threshold, v, 0) for k, v in params.items()})
    assert sum(int(np.count_nonzero(leaf)) for leaf in kept.values()) == int(0.2 * sizes.size) + 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["head-by-holders", "support-and-holders", "circuit-mean", "owner-channels"])
def test_a_class_that_nobody_holds_keeps_its_row(kind):
    params = models()
    start = {name: leaf[0] + 1 for name, leaf in params.items()}
    new, _ = step(of(kind), start, params)
    for name in ("fc_kernel", "fc_bias"):
        np.testing.assert_array_equal(new[name][..., 2], start[name][..., 2])
        assert (np.asarray(new[name][..., :2]) != start[name][..., :2]).all()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("blocks", [False, True])
def test_circuit_mean_is_a_loop_over_channels(blocks):
    params, circuits = models(), masks(share=0.3)
    counts = np.array([[5, 0, 1], [0, 2, 0], [3, 7, 0]])
    new, _ = step(of("circuit-mean", blocks=blocks), first(params), params, counts=counts, circuits=circuits)
    for layer, mask in circuits.items():
        for o in range(mask.shape[-1]):
            who = np.flatnonzero(mask[:, :, o].any(1))
            who = who if len(who) else np.arange(3)
            for name in (f"{layer}_kernel", f"{layer}_bias"):
                np.testing.assert_allclose(new[name][..., o], params[name][who][..., o].mean(0), rtol=1e-12)
    for c in range(CLASSES):
        holders = np.flatnonzero(counts[:, c])
        np.testing.assert_allclose(new["fc_bias"][c], params["fc_bias"][holders, c].mean(), rtol=1e-12)
        for feature in range(32):
            own = [k for k in holders if circuits["conv2"][k, c, feature % 8]] if blocks else holders
            who = own if len(own) else holders
            np.testing.assert_allclose(new["fc_kernel"][feature, c], params["fc_kernel"][who, feature, c].mean())


def plain_server(kind, d, state):
    """One step of one array in plain numpy: the change, and what is remembered. Algorithm 2 of Reddi et al.; Hsu et al.
    section 4.1."""
    if kind == "fedavgm":
        v = 0.9 * state - d
        return -v, v
    m, v = state
    m = 0.9 * m + 0.1 * d
    v = 0.99 * v + 0.01 * d**2 if kind == "fedadam" else v - 0.01 * d**2 * np.sign(v - d**2)
    return 1e-2 * m / (np.sqrt(v) + 1e-3), (m, v)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("kind", ["fedavgm", "fedadam", "fedyogi"])
def test_server_optimisers_are_plain_loops_over_three_rounds(kind):
    """Two more than one: the delta is not the moment, and nothing is corrected for a bias."""
    params = models()
    new, state = {name: leaf[0] + 1 for name, leaf in params.items()}, None
    slow = dict(new)
    remembered = dict.fromkeys(slow, 0 if kind == "fedavgm" else (0, 1e-06))
    for seed in range(3):
        params = models(seed=seed)
        new, state = step(of(kind), new, params, state)
        for name, average in mean(params).items():
            change, remembered[name] = plain_server(kind, average - slow[name], remembered[name])
            slow[name] = slow[name] + change
        chex.assert_trees_all_close(new, slow, rtol=1e-10, atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_disjoint_supports_and_own_rows_give_back_each_clients_logits():
    """Support mean and holders: on its own channels the global model is the client, whatever the others have."""
    params, mine = models(), np.arange(8) % 3
    for k in range(3):
        for layer, inputs in (("conv1", None), ("conv2", mine[:6])):
            out = mine[: SHAPES[f"{layer}_bias"][0]] == k
            there = out if inputs is None else (inputs == k)[:, None] & out
            params[f"{layer}_kernel"][k] *= there
        params["fc_kernel"][k] *= np.tile(mine == k, 4)[:, None]
        params["conv1_bias"][:], params["conv2_bias"][:] = (params[f"conv{i}_bias"][0] for i in (1, 2))
    new, _ = step(of("support-and-holders"), first(params), params, counts=np.eye(3, dtype=int))
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 1))
    for k in range(3):
        gates = {layer: jnp.asarray(mine[:n] == k, float) for layer, n in (("conv1", 6), ("conv2", 8))}
        local = {name: jnp.asarray(leaf[k]) for name, leaf in params.items()}
        np.testing.assert_allclose(
            model.apply(new, x, gates)[:, k], model.apply(local, x, gates)[:, k], rtol=1e-12, atol=1e-12
        )


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


# --- local training ---


PULLED = fedavg()._replace(correct=lambda g, p, start, state: g | {"fc_bias": g["fc_bias"] + start["fc_bias"]})
"""What the toy method does to a gradient, written without a state."""


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("how", [(1, 3, "batch"), (100, 0, "clients")])
def test_clients_start_from_what_they_are_served_with_their_own_state(how):
    """As if each had been given its model, and its state, by itself; of the hooks two have an effect."""
    seeds, numbers = np.array([1, 0, 0]), np.array([3, 0, 2])
    globals_ = tiny.stacked([tiny.params(8), tiny.params(9)])
    state = programs.initial_state(globals_, clients=TOTAL, how=tiny.layout(1), method=TOY)
    rng = np.random.default_rng(0)
    heads = rng.normal(size=state.clients["head"].shape)
    state = State(state.server, state.clients | {"head": jnp.asarray(heads)})
    own = heads[seeds, numbers]
    mine = {name: leaf[seeds] for name, leaf in globals_.items()} | {"fc_bias": jnp.asarray(own)}
    served = programs.serve_models(globals_, state, seeds, numbers, how=tiny.layout(1), method=TOY)
    chex.assert_trees_all_equal(served, mine)
    found, _, _ = test_local.train(
        [0, 1, 2], how=tiny.layout(*how), method=TOY, start=(globals_, seeds, state, numbers)
    )
    # In the same layout: another order of sums is no matter of the method, and Adam can amplify it.
    expected, _, _ = test_local.train([0, 1, 2], how=tiny.layout(*how), method=PULLED, start=(mine, np.arange(3)))
    chex.assert_trees_all_close(found, expected, rtol=1e-12, atol=1e-13)


FROZEN = {
    "fedbabu": of("fedbabu"),
    "owner channels": of("owner-channels"),
    "owner channels, hard": of("owner-channels", form="hard"),
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", FROZEN)
def test_what_a_client_may_not_change_stays_bit_for_bit_and_the_rest_is_trained_and_pruned_alone(name):
    """Against the plain loop of `plain`, whose loss does not see changes of what is frozen."""
    method, numbers, sparse = FROZEN[name], np.array([0, 1, 2]), Sparsity(target=0.7, floor=0)
    globals_ = tiny.stacked([tiny.params(8)])
    state = programs.initial_state(globals_, clients=3, how=tiny.layout(1), method=method)
    found, _, plan = test_local.train(
        [0, 1, 2], how=tiny.layout(1), method=method, sparse=sparse, start=(globals_, 0 * numbers, state, numbers)
    )
    own = State(jax.tree.map(lambda leaf: leaf[0], state.server), jax.tree.map(lambda leaf: leaf[0, 2], state.clients))
    start = base.served(method, test_local.one(globals_, 0), own)
    mine = {k: np.broadcast_to(v, start[k].shape) for k, v in method.trainable(start, own).items()}
    trained = test_local.one(found, 2)
    same_bits(*({k: np.asarray(v)[~mine[k]] for k, v in one.items()} for one in (trained, start)))
    images, steps = tiny.noise(), int(plan.steps[2])

    def loss(params, batch):
        seen = {k: jnp.where(mine[k], v, start[k]) for k, v in params.items()}
        return plain.cross_entropy(plain.logits(seen, plain.normalised(images, batch)), images.labels[batch])

    def prune(params, t):
        return {k: pruned_alone(k, v, mine[k], plain.ramp(0.7, t, steps)) for k, v in params.items()}

    expected, _ = plain.adam(loss, start, test_local.real(test_local.one(plan, 2)), 0.01, prune)
    chex.assert_trees_all_close(trained, expected, rtol=1e-9, atol=1e-11)


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


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("form", ["frozen", "hard"])
def test_an_owners_channels_come_from_it_and_an_absent_owners_stay(form):
    """Clients 0, 2 and 4 of 5 are there: channels 0, 5; 2, 7; 4 are theirs."""
    params = models()
    start = {name: leaf[0] + 1 for name, leaf in params.items()}
    new, _ = step(of("owner-channels", form=form), start, params)
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


REFUSED = [
    ({"kind": "fedlc"}, {"split": config.Split("class-map", 2, ((0,), (1, 2)))}, r"aggregation\.kind: fedlc teaches a"),
    ({"kind": "trimmed-mean"}, {}, r"aggregation\.trimmed_mean\.beta: 0\.2 of 2 clients is none[^\n]* at least 0\.5,"),
    ({"kind": "median", "weighting": "samples"}, {}, r'aggregation\.weighting: aggregation\.kind "median" weighs'),
    (
        {"kind": "owner-channels"},
        {"split": config.Split(clients=7), "model": config.Model((8, 6))},
        r"model\.channels: owner-channels needs a channel for each of the 7 clients; 6 are fewer$",
    ),
    (
        {"kind": "lg-fedavg", "lg_fedavg": LgFedAvg(shared_layers=5)}, {},
        r"aggregation\.lg_fedavg\.shared_layers: the network has 4 layers",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "changes", "message"), REFUSED)
def test_what_a_method_cannot_do_is_refused_before_the_run(squares, settings, changes, message):
    with pytest.raises(ConfigError, match=f"^{message}[^\n]*$"):
        prepare(tiny.experiment(aggregation=Aggregation(**settings), **changes), squares)


# --- what a method of one's own may not do ---


def grown(state, params, clients):
    return {name: jnp.stack([leaf, leaf]) for name, leaf in params.items()}, state


def rounded(state, params, clients):
    return {name: leaf.astype(jnp.float16) for name, leaf in params.items()}, state


def lost(state, params, clients):
    return {name: leaf for name, leaf in params.items() if name != "fc_bias"}, state


KEEP = r"must keep every array of the {}, its shape and its dtype; "


@pytest.mark.parametrize(
    ("apply", "message"),
    [
        (
            grown,
            KEEP.format("params") + r"params\['conv1_bias'\] was float32\(6,\) and is .*\(2, 6\)",
        ),
        (rounded, KEEP.format("params") + r"params\['conv1_bias'\] was float32.* and is float16"),
        (lost, KEEP.format("params") + r"params\['fc_bias'\] was float32\(3,\) and is not there"),
        (
            lambda s, p, c: (p, State(jnp.zeros(1))),
            KEEP.format("state") + r"state\.server was not there and is float32",
        ),
        (lambda s, p, c: p, "must return two things, the new params and the new state"),
    ],
)
def test_an_apply_that_gives_back_other_shapes_is_refused_in_one_line(apply, message):
    params = models(dtype=np.float32)
    flat = {name: jnp.asarray(leaf) for name, leaf in params.items()}
    start = {name: leaf[:1] for name, leaf in flat.items()}
    clients = jax.tree.map(lambda leaf: leaf[None], report(params))._replace(params=flat)
    with pytest.raises(FedmiError) as caught:
        programs.aggregate(NO_STATE, start, clients, how=tiny.layout(1), method=Method("mine", apply))
    assert re.fullmatch(f"method mine: apply {message}.*", str(caught.value))


def test_other_refusals_are_one_line_too():
    start = {name: leaf[0] for name, leaf in models().items()}
    mine, plain = Method("mine", fedavg().apply), fedavg()
    for init, message in (
        (lambda p, k: None, "init must return a State; it returns a NoneType"),
        (
            lambda p, k: State(clients={"c": np.zeros((2, 3))}),
            r"every client a state, \(5, ...\); state.clients\['c'\]",
        ),
    ):
        with pytest.raises(FedmiError, match=f"^method mine: [^\n]*{message}[^\n]*$"):
            base.initial(mine._replace(init=init), start, TOTAL)
    with pytest.raises(FedmiError, match=r"^method mine: serve must keep every array of the params"):
        base.served(mine._replace(serve=lambda params, state: {}), start, NO_STATE)
    with pytest.raises(FedmiError, match=r"^method mine: it needs the circuits of the clients"):
        base.applied(mine._replace(needs_circuits=True), NO_STATE, start, report(models())._replace(masks=None))
    with pytest.raises(
        ConfigError, match=r"^aggregation: these settings have no effect on a method of your own \(mine"
    ):
        chosen(Aggregation(weighting="samples"), Local(), mine)
    assert chosen(Aggregation(), Local(fedprox=1), plain).name == "fedavg"


def test_masks_come_to_the_server_seed_by_seed():
    """A method that counts, layer by layer, who uses a channel for any class."""

    def users(state, params, clients):
        return params, State(clients.masks["conv1"].any(1).sum(0))

    counting = Method("users", users, lambda params, clients: State(jnp.zeros(6, int)), needs_circuits=True)
    mask = np.random.default_rng(0).random((2, 3, CLASSES, 6)) < 0.3  # (S, K, Y, O)
    params = {name: jnp.asarray(np.concatenate([leaf, leaf])) for name, leaf in models().items()}
    clients = tiny.stacked([report({})] * 2)._replace(params=params, masks={"conv1": mask})
    start = {name: leaf[:2] for name, leaf in params.items()}
    state = programs.initial_state(start, clients=TOTAL, how=tiny.layout(1), method=counting)
    _, state = programs.aggregate(state, start, clients, how=tiny.layout(1), method=counting)
    np.testing.assert_array_equal(state.server, mask.any(2).sum(1))


# --- a whole run with a method of one's own ---


class StopError(Exception):
    """Stands for any end."""


def test_a_run_with_a_method_of_ones_own_is_resumed_exactly_and_with_it_only(squares, tmp_path, monkeypatch):
    experiment = tiny.experiment(execution=config.replace(tiny.experiment().execution, save_weights=True))
    whole = fedmi_jax.run(experiment, squares, method=TOY)
    assert whole.attrs["method"] == "toy"
    assert_follows_the_momentum(whole, global_model(whole, 1), global_model(whole, 2))

    original = OnDisk.add

    def stopping(self, number, record, state):
        original(self, number, record, state)
        raise StopError

    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(OnDisk, "add", stopping)
        with pytest.raises(StopError):
            fedmi_jax.run(experiment, squares, folder=folder, method=TOY)
    kept = Stored(folder / "unfinished" / "state-00001.npz")
    np.testing.assert_array_equal(kept["['method'].clients['turns']"], np.ones((2, 2)))
    for other, message in ((None, "'toy'; give it"), (TOY._replace(name="another"), "'toy', not 'another'; give it")):
        with pytest.raises(ConfigError, match=f"^[^\n]*unfinished run with the method {message}[^\n]*$"):
            fedmi_jax.resume(folder, squares, method=other)
    fedmi_jax.resume(folder, squares, method=TOY)
    expected = fedmi_jax.save(whole, tmp_path / "whole")
    assert (folder / "result.nc").read_bytes() == expected.read_bytes()


def global_model(run, number):
    return {name: run[name].sel(round=number).values for name in run if name.startswith("weights_global_")}


def assert_follows_the_momentum(run, first, second):
    """x1 = x0 - v1 = mean1, since v1 = x0 - mean1; then v2 = 0.9 v1 + x1 - mean2 and x2 = x1 - v2. By samples."""
    weights = run["samples"].sum("true_class")
    for name in first:
        local = run[name.replace("global", "local")]
        mean = local.weighted(weights).mean("client").transpose("seed", "round", ...)
        np.testing.assert_allclose(first[name], mean.sel(round=1), rtol=1e-9, atol=1e-12)
    facts = prepare(tiny.experiment(), tiny.squares())
    with jax.enable_x64(True):
        fresh = [simulation.initial_params(facts, seed) for seed in (3, 5)]
    for name in ("fc_bias", "conv2_bias"):  # whose axes stand in the same order in both
        key = f"weights_global_{name}"
        mean = run[f"weights_local_{name}"].weighted(weights).mean("client").transpose("seed", "round", ...)
        start = np.stack([np.asarray(one[name]) for one in fresh])
        velocity = 0.9 * (start - first[key]) + first[key] - mean.sel(round=2)
        np.testing.assert_allclose(second[key], first[key] - velocity, rtol=1e-9, atol=1e-12)


def test_a_method_that_was_given_is_refused_where_the_settings_name_it(squares, tmp_path):
    resumable.begin(tmp_path, tiny.experiment(), squares, Checkpoint())
    with pytest.raises(
        ConfigError, match=r"^[^\n]*with the method that its settings name; leave the method 'toy' out$"
    ):
        fedmi_jax.run(tiny.experiment(), squares, folder=tmp_path, method=TOY)


def test_runs_of_different_methods_are_not_put_in_one_table():
    """A file that was written before methods had names is of the method that its settings name."""
    first, own = made_up.result("iid"), made_up.result("iid")
    named, own = first.assign_attrs(method="fedavg"), own.assign_attrs(method="toy")
    with pytest.raises(FedmiError, match=r"^b: method differs from a \(toy against fedavg\)"):
        runs.joined([(Path("a"), first), (Path("b"), own)])
    assert runs.settings(first) == runs.settings(named)
    assert not [line for line in runs.differences("iid", named) if line.startswith("method")]
    assert "method toy (fedavg)" in runs.differences("iid", own)

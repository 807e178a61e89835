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
import pytest
import test_local
import tiny
from jax import lax

import fedmi_jax
from fedmi_jax import aggregation, config
from fedmi_jax.aggregation import NO_STATE, Clients, Method, State, base, chosen, fedavg, tree_mean, with_hooks
from fedmi_jax.analysis import runs
from fedmi_jax.cli import main
from fedmi_jax.config import Aggregation, Checkpoint, Experiment, FedProx, FedRS, Local
from fedmi_jax.devices import lift
from fedmi_jax.errors import ConfigError, FedmiError
from fedmi_jax.federation import programs, resumable, simulation
from fedmi_jax.federation.setup import prepare
from fedmi_jax.keeping.checkpoint import OnDisk
from fedmi_jax.keeping.stored import Stored

TOTAL, NUMBERS = 5, np.array([0, 2, 4])
SAMPLES = np.array([100, 300, 2])


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

METHODS = {
    **{name: chosen(Aggregation(kind=name), Local()) for name in config.METHODS},
    "fedavg by samples": fedavg("samples"),
    "fedavg and both local options": chosen(Aggregation(), Local(fedprox=0.1, fedrs=0.4)),
    "toy": TOY,
}


@pytest.fixture(params=METHODS)
def method(request):
    return METHODS[request.param]


def models(clients=3, dtype=np.float64):
    """One small "model" per client, (K, ...)."""
    rng = np.random.default_rng(0)
    shapes = {"conv1_kernel": (3, 3, 1, 4), "fc_kernel": (8, 2), "fc_bias": (2,)}
    return {name: rng.normal(size=(clients, *shape)).astype(dtype) for name, shape in shapes.items()}


def report(params, samples=SAMPLES, numbers=NUMBERS):
    """What the server gets, from params (K, ...)."""
    counts = np.stack([samples // 2, samples - samples // 2], -1)
    fields = (params, samples, counts, samples // 10 + 1, numbers)
    return Clients(*jax.tree.map(jnp.asarray, fields))


def step(method, start, params, state=None, **fields):
    """The server's step: new global params and state."""
    state = base.initial(method, start, TOTAL) if state is None else state
    return base.applied(method, state, start, report(params, **fields))


def same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found, expected)


# --- what must hold of every method ---


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_clients_are_a_fixed_point_and_the_precision_is_the_models(method, dtype):
    """1/3: on a GPU a product of reduced precision would change it."""
    with jax.enable_x64(dtype == np.float64):
        start = {name: jnp.full_like(leaf[0], 1 / 3) for name, leaf in models(dtype=dtype).items()}
        same = {name: jnp.stack([leaf] * 3) for name, leaf in start.items()}
        new, _ = step(method, start, same)
        chex.assert_trees_all_close(new, start, rtol=4 * np.finfo(dtype).eps)
        assert {leaf.dtype for leaf in new.values()} == {np.dtype(dtype)}


@pytest.mark.usefixtures("x64")
def test_what_is_zero_everywhere_stays_exactly_zero(method):
    """A weight that all clients have pruned is pruned in the global model."""
    params = models()
    zero = np.random.default_rng(1).random((8, 2)) < 0.5
    params["fc_kernel"] *= ~zero
    new, _ = step(method, {name: leaf[0] for name, leaf in params.items()}, params)
    assert (np.asarray(new["fc_kernel"])[zero] == 0).all()
    assert (np.asarray(new["fc_kernel"])[~zero] != 0).all()


@pytest.mark.usefixtures("x64")
def test_the_order_of_the_clients_changes_nothing(method):
    params, order = models(), np.array([2, 0, 1])
    start = {name: leaf[0] for name, leaf in params.items()}
    shuffled = {name: leaf[order] for name, leaf in params.items()}
    here = step(method, start, params)
    there = step(method, start, shuffled, samples=SAMPLES[order], numbers=NUMBERS[order])
    chex.assert_trees_all_close(here, there, rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_who_is_absent_keeps_its_state(method):
    params = models()
    start = {name: leaf[0] + 1 for name, leaf in params.items()}
    before = base.initial(method, start, TOTAL)
    _, after = step(method, start, params, before)
    absent = np.setdiff1d(np.arange(TOTAL), NUMBERS)
    same_bits(*(jax.tree.map(lambda leaf: leaf[absent], state.clients) for state in (after, before)))


@pytest.mark.usefixtures("x64")
def test_seeds_beside_each_other_are_seeds_one_by_one_and_two_rounds_are_compiled_once(method):
    """As the run does it: `programs.aggregate` over (S, ...)."""
    traced = []

    def counted(*arguments):
        traced.append(1)
        return method.apply(*arguments)

    how, counting = tiny.layout(1), method._replace(apply=counted)
    per_seed = [models(), {name: 2 * leaf[::-1] for name, leaf in models().items()}]
    starts = [{name: leaf[0] + s for name, leaf in one.items()} for s, one in enumerate(per_seed)]
    globals_, clients = lift.replicate(tiny.stacked(starts), how), tiny.stacked([report(one) for one in per_seed])
    flat = {name: leaf.reshape(-1, *leaf.shape[2:]) for name, leaf in clients.params.items()}
    state = programs.initial_state(globals_, clients=TOTAL, how=how, method=method)
    for _ in range(2):
        globals_, state = programs.aggregate(state, globals_, clients._replace(params=flat), how=how, method=counting)
    assert len(traced) == 1
    for s, (start, params) in enumerate(zip(starts, per_seed, strict=True)):
        alone, own = step(method, start, params)
        alone, own = step(method, alone, params, own)
        found = jax.tree.map(lambda leaf, s=s: leaf[s], (globals_, state))
        chex.assert_trees_all_close(found, (alone, own), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_state_survives_flattening_and_a_checkpoint(method, tmp_path):
    params = models()
    start = {name: leaf[0] for name, leaf in params.items()}
    state = step(method, start, params)
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
    logits = jnp.ones((4, 2))
    chex.assert_trees_all_equal_shapes_and_dtypes(method.logits(logits, jnp.array([3.0, 1.0])), logits)


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
            KEEP.format("params") + r"params\['conv1_kernel'\] was float32\(3, 3, 1, 4\) and is .*\(2, 3, 3, 1, 4\)",
        ),
        (rounded, KEEP.format("params") + r"params\['conv1_kernel'\] was float32.* and is float16"),
        (lost, KEEP.format("params") + r"params\['fc_bias'\] was float32\(2,\) and is not there"),
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
        base.applied(mine._replace(needs_circuits=True), NO_STATE, start, report(models()))
    with pytest.raises(
        ConfigError, match=r"^aggregation: these settings have no effect on a method of your own \(mine"
    ):
        chosen(Aggregation(weighting="samples"), Local(), mine)
    assert chosen(Aggregation(), Local(fedprox=1), plain).name == "fedavg"


def test_masks_come_to_the_server_seed_by_seed():
    """A method that counts, layer by layer, who uses a channel for any class."""

    def users(state, params, clients):
        return params, State(clients.masks["conv1"].any(1).sum(0))

    counting = Method("users", users, lambda params, clients: State(jnp.zeros(4, int)), needs_circuits=True)
    mask = np.random.default_rng(0).random((2, 3, 2, 4)) < 0.3  # (S, K, Y, O)
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
    side_by_side = config.Execution(client_chunk=2, precision="float64", save_weights=True)  # the smallest programs
    experiment = tiny.experiment(execution=side_by_side)
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

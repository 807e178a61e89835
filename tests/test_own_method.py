"""A federated method of one's own: what it may not do, and a whole run with it.

Axes: S seeds, K clients of the round, Y classes, O channels.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest
import tiny
from method_table import (
    CLASSES,
    TOTAL,
    TOY,
    models,
    report,
)

import fedmi_jax
from fedmi_jax import config
from fedmi_jax.aggregation import NO_STATE, Method, State, base, chosen, fedavg
from fedmi_jax.analysis import runs
from fedmi_jax.config import Aggregation, Checkpoint, Local
from fedmi_jax.errors import ConfigError, FedmiError
from fedmi_jax.federation import programs, resumable, simulation
from fedmi_jax.federation.setup import prepare
from fedmi_jax.keeping.checkpoint import OnDisk
from fedmi_jax.keeping.stored import Stored


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
        programs.aggregate(NO_STATE, start, clients, layout=tiny.layout(1), method=Method("mine", apply))
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
    with pytest.raises(ConfigError, match=r"^method mine: tells 'speed', and a result has no such variable$"):
        prepare(tiny.experiment(), tiny.squares(), mine._replace(tells=("speed",)))


def test_masks_come_to_the_server_seed_by_seed():
    """A method that counts, layer by layer, who uses a channel for any class."""

    def users(state, params, clients):
        return params, State(clients.masks["conv1"].any(1).sum(0))

    counting = Method("users", users, lambda params, clients: State(jnp.zeros(6, int)), needs_circuits=True)
    mask = np.random.default_rng(0).random((2, 3, CLASSES, 6)) < 0.3  # (S, K, Y, O)
    params = {name: jnp.asarray(np.concatenate([leaf, leaf])) for name, leaf in models().items()}
    clients = tiny.stacked([report(models())] * 2)._replace(params=params, masks={"conv1": mask})
    start = {name: leaf[:2] for name, leaf in params.items()}
    state = programs.initial_state(start, clients=TOTAL, layout=tiny.layout(1), method=counting)
    _, state = programs.aggregate(state, start, clients, layout=tiny.layout(1), method=counting)
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
        fedmi_jax.resume(tmp_path, squares, method=TOY)


def test_runs_of_different_methods_are_not_put_in_one_table():
    """A file that was written before methods had names is of the method that its settings name."""
    first, own = made_up.result("iid"), made_up.result("iid")
    named, own = first.assign_attrs(method="fedavg"), own.assign_attrs(method="toy")
    with pytest.raises(FedmiError, match=r"^b: method differs from a \(toy against fedavg\)"):
        runs.joined([(Path("a"), first), (Path("b"), own)])
    assert runs.settings(first) == runs.settings(named)
    assert not [line for line in runs.differences("iid", named) if line.startswith("method")]
    assert "method toy (fedavg)" in runs.differences("iid", own)

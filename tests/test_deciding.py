"""Circuits that decide in a federated run: layouts, going on, searching again, and where there is nothing to find."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xarray as xr

import fedmi_jax
from fedmi_jax import config, keys
from fedmi_jax.analysis import instruments, predictions
from fedmi_jax.circuits import deciding, discovery, single
from fedmi_jax.circuits.objective import decision_task, objective_of
from fedmi_jax.circuits.question import ask, balanced
from fedmi_jax.cli import discover as command
from fedmi_jax.cli import main
from fedmi_jax.config import Discovery, Evaluation, Execution, Local, Sparsity, replace
from fedmi_jax.data import datasets, probe
from fedmi_jax.data.batches import Plan
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import again, programs, simulation, thorough
from fedmi_jax.network import model
from fedmi_jax.network.ablation import ZERO, MeanMap
from fedmi_jax.results import store
from fedmi_jax.results.schema import STATUS

FOUND, UNDEFINED = STATUS.index("found"), STATUS.index("undefined")
BARE = Evaluation(batch_size=20)
"""Without random masks, null models and read-outs."""


@pytest.fixture(scope="module")
def decided(deciding_run):
    return deciding_run


def of_rounds(result, number):
    """The result of one round alone, that it can be searched again."""
    return result.isel(round=[number - 1])


def test_where_it_finds_circuits_they_decide(decided):
    found = decided["status"] == FOUND
    assert found.sum() >= 8
    assert (decided["explained"].where(found, 1) > 0.75).all()  # on test images; 0.9 was asked for on others
    assert (decided["untrimmed_size"] >= decided["size"].sum("layer")).where(found, True).all()
    sizes = decided["size"].sum("layer")
    assert (sizes >= 1).where(found, True).all()
    assert (sizes <= decided["live"].sum("layer")).where(found, True).all()
    for layer in ("conv1", "conv2", "conv3"):
        np.testing.assert_array_equal(decided[f"score_{layer}"].values > 0, decided[f"mask_{layer}"].values)
        assert not (decided[f"mask_{layer}"] & ~decided[f"live_{layer}"]).any()


def test_a_client_with_one_class_has_nothing_to_tell_it_from(decided):
    """Undefined by rule, in words and in numbers, and no empty circuit that failed."""
    alone = decided.sel({"client": 0, "class": 0})
    assert (alone["status"] == UNDEFINED).all()
    assert (alone["spread"] == 0).all()
    assert (alone["competence"] == 0).all()
    for name in ("explained", "auc", "decision_accuracy", "curve", "removed_explained", "cross_evaluation_auc"):
        assert np.isnan(alone[name]).all(), name
    assert (alone["size"] == 0).all()
    assert np.isneginf(alone["score_conv2"]).all()
    assert (decided["status"].sel({"client": 0, "class": 1}) == 0).all()  # no such circuit


KEPT = {
    "explained": "explained", "auc": "auc", "balanced_accuracy": "decision_accuracy", "bias_accuracy": "bias_accuracy"
}  # fmt: skip
"""Of `fedmi_jax.evaluate`, and of a result."""


class Alone:
    """One circuit of a stored run, judged by `fedmi_jax.evaluate` on the models that the run stored."""

    def __init__(self, run, squares, client, label, origin, number):
        self.run, self.squares, self.client, self.number = run, squares, client, number
        self.at = run.isel(seed=0).sel({"round": number, "client": client, "class": label, "origin": origin})
        self.label, self.origin, self.layers = label, origin, ("conv1", "conv2", "conv3")
        held = run["samples"].isel(seed=0).sel(client=client).values > 0
        self.others = held & (np.arange(tiny.CLASSES) != label)
        self.mask = np.concatenate([self.at[f"mask_{layer}"].values for layer in self.layers])
        probe_ = tiny.DECIDING.probe
        drawn = probe.draw(squares.train_labels, tiny.CLASSES, probe_, int(run["seed"][0]))
        self.searched = squares.train_images[drawn[: tiny.CLASSES * probe_[0]]]

    def model(self, origin):
        start, where = f"weights_{origin}_", {"round": self.number}
        where |= {"client": self.client} if origin == "local" else {}
        now = self.run.isel(seed=0).sel(where)
        return {str(name).removeprefix(start): now[name].values for name in now if str(name).startswith(start)}

    def judged(self, kept, origin=None):
        """Of the model of this origin with these channels kept, bool (C,)."""
        params, moments = self.model(origin or self.origin), {"mean": self.squares.mean, "std": self.squares.std}
        ends = np.cumsum([self.at[f"mask_{layer}"].size for layer in self.layers])[:-1]
        mask = dict(zip(self.layers, np.split(np.asarray(kept, bool), ends), strict=True))
        circuit = single.Circuit(
            self.label, self.others, mask, mask, mask, "found", 1.0, 1.0, 1.0, np.ones(1), np.ones(1), 0, 0,
            fedmi_jax.means(params, self.searched, **moments),
        )  # fmt: skip
        return fedmi_jax.evaluate(params, circuit, self.squares.test_images, self.squares.test_labels, **moments)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("number", [1, 2])
def test_a_runs_measures_are_those_of_the_circuit_alone(decided, squares, number):
    """Model by model and set by set, with what a user has for models of their own."""
    near, seen = partial(pytest.approx, abs=1e-7), 0
    for label in (1, 2, 3):
        alone = Alone(decided, squares, 1, label, "local", number)
        if alone.at["status"] == UNDEFINED:
            continue
        seen += 1
        own, across = alone.judged(alone.mask), alone.judged(alone.mask, "global")
        for theirs, ours in KEPT.items():
            assert float(alone.at[ours]) == near(getattr(own, theirs))
            if ours != "explained":
                assert float(alone.at[f"cross_evaluation_{ours}"]) == near(getattr(across, theirs))
        assert float(alone.at["competence"]) == near(own.model_balanced_accuracy)
        assert float(alone.at["removed_explained"]) == near(alone.judged(~alone.mask).explained)
        if number == decided["round"][-1]:
            look_closer(alone, own.explained, near)
    assert seen >= 2


def look_closer(alone, explained, near):
    """Completeness, robustness and minimality, set by set."""
    origin, seed = keys.HALF[alone.origin == "global"], int(alone.run["seed"][0])
    rng = keys.generator(seed, origin, alone.number, alone.client, alone.label)
    gaps, beside = [], []
    for _ in range(thorough.HALVES):
        half = alone.mask & (rng.random(len(alone.mask)) < 0.5)
        gaps.append(abs(alone.judged(alone.mask & ~half).explained - alone.judged(~half).explained))
        beside.append(alone.judged(alone.mask | (rng.random(len(alone.mask)) < 0.5)).explained)
    assert float(alone.at["completeness_gap"]) == near(np.mean(gaps))
    assert float(alone.at["robust_explained"]) == near(np.mean(beside))
    assert float(alone.at["robust_explained_worst"]) == near(np.min(beside))
    needed = []
    for channel in np.flatnonzero(alone.mask):
        without = alone.mask.copy()
        without[channel] = False
        needed.append(explained - alone.judged(without).explained > thorough.LEAST)
    assert float(alone.at["minimal"]) == near(np.mean(needed))


def test_predictions_read_what_a_run_writes(decided):
    """By its names: what a made-up result has, a run may lack."""
    results = {instruments.Key(name, "decision", "own"): decided for name in ("two-class", "three-class")}
    parts = [part for one in predictions.PREDICTIONS for part in one.judge(results, "decision")]
    assert len(parts) > 20
    assert not [part.lacks for part in parts if " has no " in part.lacks]


def require_same(result, expected, places=1e-8):
    """The same circuits to the bit, the same numbers to rounding."""
    for name in expected.data_vars:
        if name.startswith("weights_"):
            continue
        exact = expected[name].dtype.kind in "biu"
        compare = np.testing.assert_array_equal if exact else np.testing.assert_allclose
        compare(result[name].values, expected[name].values, **({} if exact else {"rtol": places, "atol": places}))


def test_going_on_gives_the_same(decided, squares, tmp_path):
    class EndedError(Exception):
        pass

    def ending(number, metrics):
        raise EndedError

    with pytest.raises(EndedError):
        fedmi_jax.run(tiny.deciding(), squares, folder=tmp_path / "run", on_round=ending)
    xr.testing.assert_identical(fedmi_jax.resume(tmp_path / "run", squares), decided)


def test_another_layout_gives_the_same_circuits(decided, squares, monkeypatch):
    """All at once: a few side by side, in pieces that do not divide the batch, on one device in place of two."""
    laid_out = Execution(precision="float64", client_chunk=3, micro_batch=6, devices=1)
    changed = again.changed
    monkeypatch.setattr(again, "changed", lambda *given: replace(changed(*given), execution=laid_out))
    first = of_rounds(decided, 1)
    again_ = fedmi_jax.search_again(first, evaluation=BARE, discovery=tiny.DECIDING, dataset=squares)
    assert {"mask_conv1", "explained", "cross_evaluation_auc", "removed_explained"} <= set(again_)
    require_same(again_, first[list(again_.data_vars)])


def test_where_models_have_homes_all_that_is_measured_is_the_same(decided, squares, monkeypatch):
    """Of the last round, which has every control: each of two devices has two of the four local models."""
    laid_out, changed = Execution(precision="float64", client_chunk=1, shard="clients"), again.changed
    monkeypatch.setattr(again, "changed", lambda *given: replace(changed(*given), execution=laid_out))
    last = of_rounds(decided, 2)
    found = fedmi_jax.search_again(last, dataset=squares)
    assert {"null_explained", "area_excess", "fidelity_conv1", "readout_accuracy_local"} <= set(found)
    alone = [name for name in found if "stability" not in name]  # the round before was not searched
    require_same(found[alone], last[alone])


def test_searching_again_finds_what_the_run_found(decided, squares, tmp_path, monkeypatch, capsys):
    """In Python, and as a command, which leaves a result of its own."""
    told, nothing = [], r"discovery\.negatives: own leaves clients 0 nothing to tell their one class from"
    follow = {"progress": lambda *at: told.append(at), "on_round": lambda n, m: told.append((n, "done"))}
    with pytest.warns(fedmi_jax.FedmiWarning, match=nothing):
        result = fedmi_jax.search_again(decided, dataset=squares, **follow)
    assert told == [(1, "discover"), (1, "evaluate"), (1, "done"), (2, "discover"), (2, "evaluate"), (2, "done"),
                    (3, "done")]  # fmt: skip
    require_same(result, decided, places=0)
    assert "weights_local_fc_bias" not in result
    assert result.attrs["method"] == decided.attrs["method"]

    monkeypatch.setattr(datasets, "load", lambda data: squares)
    store.save(decided, tmp_path / "run")
    assert main.main(["discover", str(tmp_path / "run"), "--out", str(tmp_path / "new")]) == 0
    printed, followed = capsys.readouterr()
    assert "tiny: 2 rounds of stored models; the search: objective decision, bernoulli gates, mean-map" in printed
    assert "round 2 of 2" in followed
    assert len(re.findall(f"^fedmi: {nothing}", followed, re.M)) == 1
    require_same(store.load(tmp_path / "new"), decided, places=1e-7)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.nc"]
    assert main.main(["discover", str(tmp_path / "run"), "--out", str(tmp_path / "run")]) == 2
    assert "already holds a result" in capsys.readouterr().err


def test_the_command_brings_the_defaults_of_the_objective(counted_run, tmp_path, monkeypatch):
    """Of a run of the paper's search, whose own settings stay where they are none of its defaults and go with the new
    objective: batches of 8 images do not."""
    store.save(counted_run[0], tmp_path / "run")
    searched = []
    monkeypatch.setattr(command, "_search", lambda option, out, stored: searched.append((option, out)) or 0)
    words = ["--discovery.objective", "contrast", "--discovery.masks", "4"]
    assert main.main(["discover", str(tmp_path / "run"), *words, "--evaluation.null-samples=0"]) == 0
    monkeypatch.chdir(tmp_path / "run")
    assert main.main(["discover", ".", *words, "--out", str(tmp_path / "new")]) == 0
    (option, out), (_, named) = searched
    assert (out, named) == (tmp_path / "run-contrast", tmp_path / "new")
    stored = config.from_json(counted_run[0].attrs["config"])
    assert option.discovery == Discovery(
        objective="contrast", classes=(0, 2), steps=25, masks=4, l0=0.001, repeat="last"
    )
    assert option.evaluation == replace(stored.evaluation, null_samples=0)


BAD = [
    ("already holds a result", ["--out", "RUN"]),
    ("discovery.target: ", ["--discovery.target", "1.5"]),
    (
        "discovery.batch_size: a multiple of twice discovery.masks, 16",
        ["--discovery.masks", "8", "--discovery.batch-size", "8"],
    ),
    ("Unrecognized options: --rounds, 3", ["--rounds", "3"]),
    ("discovery.negatives: does nothing", ["--discovery.objective", "class", "--out", "OUT"]),
]


@pytest.mark.parametrize(("message", "words"), BAD, ids=[message for message, _ in BAD])
def test_the_command_refuses_in_one_line(message, words, decided, squares, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "load", lambda data: squares)
    store.save(decided, tmp_path / "run")
    out = [{"OUT": str(tmp_path / "new"), "RUN": str(tmp_path / "run")}.get(word, word) for word in words]
    assert main.main(["discover", str(tmp_path / "run"), *out]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("fedmi: ")
    assert printed.err.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_searched_again(decided, squares):
    def refused(result, message, dataset=squares, **options):
        with pytest.raises(FedmiError, match=message) as caught:
            fedmi_jax.search_again(result, dataset=dataset, **options)
        assert "\n" not in str(caught.value)

    bare = decided.drop_vars([name for name in decided if name.startswith("weights_")])
    refused(bare, r"^result: has no weights, .*--execution\.save-weights")
    nameless = decided.copy()
    del nameless.attrs["config"]
    refused(nameless, "^result: does not say how it was made")
    refused(decided.assign(served_accuracy=decided["local_accuracy"]), "^result: of fedavg, whose clients' own models")
    refused(decided, "^dataset: the result is of squares", dataset=tiny.squares(train=164))
    large = replace(tiny.DECIDING, probe=(30, 20))
    refused(decided, r"^discovery\.probe: 30 \+ 20 .* class 0 has 40 ", discovery=large)
    unused = Discovery(masks=4)
    refused(decided, r"^discovery\.masks: does nothing with step gates", discovery=unused)


def test_scores_that_are_no_number_end_the_run(decided, squares, monkeypatch):
    decide = programs.decide_circuits

    def broken(*args, **options):
        found = decide(*args, **options)
        score = found.choice.score | {"conv2": found.choice.score["conv2"].at[2, 1].set(jnp.nan)}
        return found._replace(choice=found.choice._replace(score=score))

    monkeypatch.setattr(programs, "decide_circuits", broken)
    with pytest.raises(
        FedmiError, match=r"^the scores of discovery are not finite: seed 3, round 1, client 1, class 2, "
    ):
        fedmi_jax.search_again(of_rounds(decided, 1), evaluation=BARE, dataset=squares)


def test_dense_models_trained_with_other_logits_are_searched_too(squares):
    """FedRS's logits in training, and no weight pruned."""
    local = Local(epochs=4, batch_size=16, learning_rate=0.03, fedrs=0.4)
    plain = {"rounds": 1, "discovery": tiny.DECIDING, "evaluation": BARE}
    dense = simulation.run(tiny.deciding(**plain, local=local, sparsity=Sparsity(target=0)), squares)
    found = dense["status"].sel(origin="local", client=1) == FOUND
    assert found.sum() >= 3
    assert (dense["live"].sel(origin="local", client=1).where(found, 0) > 0).any()


# --- the search alone ---


def asked_of(params, images, label=1):
    logits = model.apply(params, images.normalised(np.arange(len(images.labels))))
    weights = balanced(images.labels, label, np.arange(tiny.CLASSES) != label, logits.dtype)
    return ask(logits, label, jnp.ones((), logits.dtype), weights), weights


@pytest.mark.usefixtures("x64")
def test_a_decision_has_no_gradient_while_all_channels_are_open():
    """So that step gates never feel anything but the penalty."""
    params, images = tiny.params(), tiny.noise()
    question, weights = asked_of(params, images)
    means = MeanMap(jax.tree.map(lambda y: y.mean(0), model.activations(params, images.normalised(np.arange(60)))[0]))

    @jax.jit
    def gradient(gates):
        def loss(gates):
            logits = model.apply(params, images.normalised(np.arange(60)), gates, means)
            return decision_task(question)(logits, np.arange(60), weights)

        return jax.grad(loss)(gates)

    opened = {layer: jnp.ones(n) for layer, n in zip(("conv1", "conv2", "conv3"), tiny.CHANNELS, strict=True)}
    flat = np.concatenate(list(gradient(opened).values()))
    np.testing.assert_allclose(flat, 0, atol=1e-13)
    one_closed = opened | {"conv3": opened["conv3"].at[0].set(0)}
    assert np.abs(np.concatenate(list(gradient(one_closed).values()))).max() > 1e-4


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("gates", ["step", "bernoulli"])
def test_so_step_gates_close_all_at_once_and_bernoulli_gates_do_not(gates):
    params, images = tiny.params(), tiny.noise()
    settings = Discovery(objective="decision", gates=gates, steps=30, batch_size=60, masks=2, probe=(30, 5), l0=0.005)
    question, _ = asked_of(params, images)
    plan = Plan(np.tile(np.arange(60), (30, 1)), np.full(30, 60), np.int32(30))
    draws = jnp.asarray(np.random.default_rng(0).integers(0, 256, (30, 1, 18)), jnp.uint8)
    objective = objective_of(settings, decision_task(question))
    search = jax.jit(lambda: discovery.search(
        params, images, plan, ZERO if gates == "step" else MeanMap(zeros(params)),
        None if gates == "step" else draws, objective=objective, micro_batch=60, narrowing=False,
    ))  # fmt: skip
    scores = np.concatenate(list(search().score.values()))
    if gates == "step":
        assert np.ptp(scores) < 1e-6
        assert scores.max() < 0
    else:
        assert np.ptp(scores) > 1
        assert (scores > 0).any()


def zeros(params):
    outputs, _ = model.activations(params, jnp.zeros((1, 8, 8, 1)))
    return {layer: jnp.zeros(y.shape[1:]) for layer, y in outputs.items()}


def test_zeros_leave_closed_gates_a_gradient_where_gates_are_drawn():
    """Step gates close for good, whether a layout leaves closed channels out or not."""
    means = MeanMap({"conv1": jnp.ones((2, 2, 3))})

    def replaced(**changes):
        return deciding._replaced(means, Discovery(objective="decision", **changes))

    assert replaced() is means
    assert replaced(gates="step") is means
    assert replaced(gates="step", ablation="zero") == ZERO
    zero = replaced(ablation="zero")
    assert isinstance(zero, MeanMap)
    assert (zero.outputs["conv1"] == 0).all()


def test_pieces_of_a_batch_are_of_one_size():
    assert [discovery._piece({}, 16, n, ZERO) for n in (1, 2, 3, 5, 6, 8, 15, 16, 20)] == [1, 2, 2, 4, 4, 8, 8, 16, 16]


def test_a_score_so_large_that_its_gate_has_no_slope_is_no_nan():
    score = jnp.array([0.0, 20.0, 1000.0, -1000.0], jnp.float32)
    saved = discovery._saved(jnp.array([-0.25, 0.0, 0.0, 0.0], jnp.float32), score)
    assert saved.tolist() == [1, 0, 0, 0]


def test_status_in_words():
    assert deciding.status(0.019, 1, True) == deciding.status(0.7, 0.74, True) == "undefined"
    assert [deciding.status(0.02, 0.75, compact) for compact in (True, False)] == ["found", "not compact"]

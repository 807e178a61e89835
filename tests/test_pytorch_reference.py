"""The PyTorch reference: the authors' numbers, and this package's."""

import json
from pathlib import Path

import jax
import numpy as np
import plain
import pytest
import tiny

torch = pytest.importorskip("torch", reason="PyTorch comes with the extra [reference]")

from benchmarks import golden  # noqa: E402
from benchmarks.pytorch_reference import circuits, federation, model, training  # noqa: E402
from fedmi_jax.config import Discovery, Execution, Local, Sparsity  # noqa: E402
from fedmi_jax.data import batches  # noqa: E402
from fedmi_jax.federation import simulation  # noqa: E402
from fedmi_jax.federation.setup import place, prepare  # noqa: E402

pytestmark = pytest.mark.slow
FILE = Path(__file__).parent / "data" / "golden_iid.npz"
HERE = model.place("float64", "cpu")


def test_golden_replay(capsys):
    status = golden.main([str(FILE), "--backend", "torch", "--json"])
    report = json.loads(capsys.readouterr().out)
    assert report["within_limits"] == dict.fromkeys(golden.LIMITS, True)
    assert status == 0


def test_a_round_is_the_packages(counted_run, squares, x64):
    """The first round of a run that has unlike clients, a class without images, and padding everywhere."""
    result, _ = counted_run
    settings = Execution(client_chunk=1, precision="float64", save_weights=True)
    setup = place(prepare(tiny.experiment(execution=settings, seeds=(3,)), squares))
    reference = federation.prepare(setup, HERE)
    start = model.from_package(simulation.initial_params(setup.facts, 3), HERE)
    local, losses = federation.train(reference, start, 1)
    average = training.average(local)
    record = federation.analyse(reference, local, average, 1)
    expected = result.sel(seed=3, round=1)
    for k, params in enumerate(local):
        same_weights(params, expected, "local", client=k)
        assert losses[k].mean().item() == pytest.approx(expected["train_loss"].sel(client=k).item(), rel=1e-6)
    same_weights(average, expected, "global")
    assert {"score_conv3", "sufficiency", "necessity", "cross_evaluation_softmax", "failure_softmax"} <= set(record)
    for name, values in record.items():
        same_record(values, expected[name], setup, name)


def same_weights(params, expected, where, **at):
    for name, value in model.to_package(params).items():
        stored = expected[f"weights_{where}_{name}"].sel(at)
        np.testing.assert_allclose(value, stored, rtol=1e-9, atol=1e-12, err_msg=name)


def same_record(values, stored, setup, name):
    """values (2, C, ...) or per model; stored labelled, in single precision."""
    if name.startswith(("local_", "global_")):
        np.testing.assert_allclose(values[0], stored, rtol=1e-6, err_msg=name)
        return
    slot = np.searchsorted(setup.facts.circuits.classes, setup.facts.circuits.label)
    labelled = stored.transpose("origin", "client", "class", ...).values[:, setup.facts.circuits.client, slot]
    np.testing.assert_allclose(values, labelled, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("target", [0.5, 0.9, 0.995])
@pytest.mark.parametrize("channels_last", [True, False])
def test_prune_is_the_plain_rule(target, channels_last, x64):
    where = model.Place(torch.device("cpu"), torch.float64, channels_last)
    params = tiny.params(channels=(32, 64, 128))
    coarse = {name: np.round(np.asarray(leaf), 1) for name, leaf in params.items()}  # many ties
    own = model.from_package(coarse, where)
    for layer in (*plain.CONVOLUTIONS, "fc"):
        weight = own[f"{layer}.weight"]
        training.prune(weight, training.keep_count(target, weight.numel()), 4)
    expected = plain.prune(coarse, target, 4)
    for name, value in model.to_package(own).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_ramp_is_the_plain_one(steps):
    found = [training.sparsity_at(t, steps, Sparsity(target=0.9)) for t in range(steps)]
    assert found == [plain.ramp(0.9, t, steps) for t in range(steps)]


def test_layouts_come_back(x64):
    params = tiny.params()
    back = model.to_package(model.from_package(params, HERE))
    assert all(np.array_equal(back[name], leaf) for name, leaf in params.items())
    assert back.keys() == params.keys()


def test_closed_gates_pass_nothing_on(x64):
    """Pool, gate, ReLU against gate, ReLU, pool: the same logits, and the same gradient of every gate."""
    noise, params = tiny.noise(), tiny.params()
    gates = {layer: (np.arange(n) % 3 > 0) * 1.0 for layer, n in zip(plain.CONVOLUTIONS, tiny.CHANNELS, strict=True)}
    index = np.arange(20)
    moments = [0.4], [0.3]
    x = model.images(np.asarray(noise.pixels), np.asarray(noise.labels), moments, HERE)[torch.arange(20)]
    own = {layer: HERE.tensor(gate).requires_grad_() for layer, gate in gates.items()}
    logits = model.forward(model.from_package(params, HERE), x, own)
    logits.sum().backward()
    expected = jax.grad(lambda g: plain.logits(params, plain.normalised(noise, index), g).sum())(gates)
    np.testing.assert_allclose(
        logits.numpy(force=True), plain.logits(params, plain.normalised(noise, index), gates), rtol=1e-9, atol=1e-12
    )
    for layer, gate in own.items():
        np.testing.assert_allclose(gate.grad, expected[layer], rtol=1e-9, atol=1e-12, err_msg=layer)
    masked = model.forward(model.masked(model.from_package(params, HERE), own), x)
    np.testing.assert_allclose(masked.numpy(force=True), logits.numpy(force=True), rtol=1e-9, atol=1e-12)


def test_memory_format_changes_no_score(x64):
    noise, params = tiny.noise(), tiny.params()
    plan = batches.from_batches([np.arange(t, t + 7) for t in range(30)])
    found = []
    for channels_last in (True, False):
        where = model.Place(torch.device("cpu"), torch.float64, channels_last)
        images = model.images(np.asarray(noise.pixels), np.asarray(noise.labels), ([0.4], [0.3]), where)
        found.append(circuits.discover(model.from_package(params, where), images, plan, Discovery()))
    for layer in plain.CONVOLUTIONS:
        np.testing.assert_allclose(found[0][layer], found[1][layer], rtol=1e-9)


@pytest.mark.parametrize(
    ("local", "sparse"),
    [(Local(fedrs=0.4), Sparsity()), (Local(fedprox=1), Sparsity()), (Local(), Sparsity(scope="global"))],
)
def test_what_it_does_not_cover_is_refused(local, sparse, x64):
    plan = batches.from_batches([np.arange(3)])
    with pytest.raises(ValueError, match="the PyTorch reference prunes layer by layer"):
        training.train({}, None, plan, local, sparse)

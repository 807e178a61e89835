"""Whole runs of networks that have not three convolutions: trained, searched and measured as the plain method does."""

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import tiny
import xarray as xr
from test_simulation import inputs, weights

from fedmi_jax import from_arrays
from fedmi_jax.config import Discovery, Evaluation, Execution, Model
from fedmi_jax.data import batches
from fedmi_jax.federation import simulation
from fedmi_jax.federation.setup import place, prepare
from fedmi_jax.results import store, summary
from fedmi_jax.results.authors import export_authors, import_authors

SEED, CLIENT, LABEL = 3, 1, 2


def enlarged(squares, times):
    """Every pixel so many times, in both directions."""
    grown = (np.kron(a[..., 0], np.ones((times, times), np.uint8)) for a in (squares.train_images, squares.test_images))
    return from_arrays(next(grown), squares.train_labels, next(grown), squares.test_labels, name="squares")


@pytest.fixture(scope="module", params=[((4, 6), 1, 1), ((3, 4, 5, 6), 2, 2)], ids=["two layers", "four layers"])
def made(request, squares):
    """Its experiment, set up, and its result; one by one on smaller models, and side by side."""
    channels, times, chunk = request.param
    experiment = tiny.experiment(
        seeds=(SEED,), rounds=1, model=Model(channels=channels), evaluation=Evaluation(batch_size=20),
        discovery=Discovery(classes=(0, LABEL), steps=22, batch_size=8, l0=0.001),
        execution=Execution(client_chunk=chunk, precision="float64", save_weights=True),
    )  # fmt: skip
    with jax.enable_x64(True):
        setup = place(prepare(experiment, enlarged(squares, times)))
    return setup, simulation.run(experiment, setup.facts.dataset)


@pytest.mark.usefixtures("x64")
def test_is_the_plain_method(made):
    setup, run = made
    experiment, images, test = setup.facts.experiment, inputs(setup, "train"), inputs(setup, "test")
    at = {"seed": SEED, "round": 1}
    local, global_ = weights(run, "local", **at, client=CLIENT), weights(run, "global", **at)
    for name, expected in trained(setup, images).items():
        np.testing.assert_allclose(local[name], expected, rtol=1e-7, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(run[f"weights_local_{name}"].mean("client").values[0, 0], global_[name], rtol=1e-12)
    cases = setup.facts.cases(setup.facts.round(1)).of("local")
    plan = simulation.discovery_plans(setup, cases, 1)
    row = np.flatnonzero((cases.client == CLIENT) & (cases.label == LABEL)).item()
    drawn = [i[w > 0] for i, w in zip(plan.indices[row], plan.weight[row], strict=True)]
    scores = plain.discover(local, images, drawn, LABEL, experiment.discovery)
    circuit = run.sel({**at, "origin": "local", "client": CLIENT, "class": LABEL})
    assert len(scores) == len(experiment.model.channels)
    for layer, score in scores.items():
        np.testing.assert_allclose(circuit[f"score_{layer}"], score, rtol=1e-5, atol=1e-6)
    kept = {layer: (score > 0) * 1.0 for layer, score in scores.items()}
    assert 0 < sum(gate.sum() for gate in kept.values()) < sum(experiment.model.channels)
    x, labels = plain.normalised(test, np.arange(len(test.labels))), np.asarray(test.labels)
    for name, model in (("sufficiency", local), ("cross_evaluation", global_)):
        called = np.asarray(plain.logits(model, x, kept)).argmax(1)[labels == LABEL]
        assert circuit[name] == pytest.approx((called == LABEL).mean(), abs=1e-6), name


def trained(setup, images):
    """The client's weights, plainly."""
    experiment, everyone = setup.facts.experiment, dict(enumerate(setup.facts.clients[0]))
    local, sparse = experiment.local, experiment.sparsity
    plan = batches.training_plan(everyone, local.batch_size, local.epochs, SEED, 1, setup.plan_shape)
    own = [i[w > 0] for i, w in zip(plan.indices[CLIENT], plan.weight[CLIENT], strict=True)]

    def prune(params, t):
        return plain.prune(params, plain.ramp(sparse.target, t, len(own)), sparse.floor)

    start = {name: jnp.asarray(value) for name, value in simulation.initial_params(setup.facts, SEED).items()}
    return plain.adam(plain.task_loss, start, own, local.learning_rate, prune, (images,))[0]


def test_the_result_has_its_layers_and_goes_through_files(made, tmp_path):
    setup, run = made
    channels = setup.facts.experiment.model.channels
    layers = [f"conv{i}" for i in range(1, len(channels) + 1)]
    assert run["layer"].values.tolist() == layers
    assert run["parameter_layer"].values.tolist() == [*layers, "fc"]
    assert [run.sizes[f"channel_{layer}"] for layer in layers] == list(channels)
    store.save(run, tmp_path)
    back = store.load(tmp_path)
    xr.testing.assert_identical(back, run)
    assert list(summary.summary(back)["circuit_size"]["local"]) == layers
    imported = import_authors(export_authors(run, tmp_path / "x.json"), channels=channels)
    for name in ("edges", "size", "inter_class_iou", *(f"mask_{layer}" for layer in layers)):
        np.testing.assert_array_equal(imported[name], run[name], err_msg=name)

"""A whole run in small: what is recorded is what the definitions say; equal seeds, layouts and company, equal numbers.

The run is in double precision and keeps its weights, so that every figure can be computed again, plainly.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import plain
import pytest
import tiny
import xarray as xr

from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.config import Data, Discovery, Evaluation, Execution, Model, Split, replace
from fedmi_jax.data import batches, datasets
from fedmi_jax.devices.layout import resolve
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import checks, simulation
from fedmi_jax.federation.setup import Setup, activations, memory, place, prepare
from fedmi_jax.network.ablation import ZERO
from fedmi_jax.network.images import Images
from fedmi_jax.results import store, summary

SAVING = tiny.experiment(execution=Execution(client_chunk=1, precision="float64", save_weights=True))


@pytest.fixture(scope="module")
def run(counted_run):
    return counted_run[0]


def test_second_round_compiles_nothing(counted_run):
    compiled = counted_run[1]
    assert any("train_models" in line for line in compiled[1, "train"])
    assert {stage: names for stage, names in compiled.items() if stage[0] > 1} == {}


def test_same_seeds_same_file(run, squares, tmp_path):
    again = simulation.run(SAVING, squares)
    xr.testing.assert_identical(again, run)
    first, second = (store.save(ds, tmp_path / name).read_bytes() for ds, name in ((run, "a"), (again, "b")))
    assert first == second


def test_weights_and_controls_are_there_on_request_only(run, squares):
    """And change nothing else."""
    without = simulation.run(tiny.experiment(discovery=replace(SAVING.discovery, repeat="never")), squares)
    weights = [name for name in run if name.startswith("weights_")]
    assert len(weights) == 16
    xr.testing.assert_equal(without, run[list(without)])
    assert set(run) - set(without) == {*weights, "rediscovery_iou", "empty_pairs_rediscovery"}


def test_a_seed_is_the_same_in_other_company_and_in_another_place(run, squares):
    other = simulation.run(replace(SAVING, seeds=(5, 8)), squares).sel(seed=[5])
    xr.testing.assert_allclose(other, run.sel(seed=[5]), rtol=1e-9, atol=1e-11)
    xr.testing.assert_equal(other[MASKS], run.sel(seed=[5])[MASKS])


def test_side_by_side_is_one_by_one(run, squares):
    experiment = replace(SAVING, execution=replace(SAVING.execution, client_chunk=100))
    beside = simulation.run(experiment, squares)
    xr.testing.assert_allclose(beside, run, rtol=1e-7, atol=1e-9)
    xr.testing.assert_equal(beside[MASKS], run[MASKS])
    scores = np.concatenate([np.abs(run[f"score_{layer}"].values.ravel()) for layer in plain.CONVOLUTIONS])
    assert scores.min() > 1e-4  # so far from rounding in double precision that it opens or closes no channel


MASKS = [f"mask_{layer}" for layer in plain.CONVOLUTIONS]


def test_seeds_and_rounds_differ(run):
    kernel = run["weights_global_conv3_kernel"]
    assert (kernel.sel(seed=3) != kernel.sel(seed=5)).any()
    assert (kernel.sel(round=1) != kernel.sel(round=2)).any()


# --- each step of a run, again and plainly ---


def weights(run, where, **at):
    """A model's parameters out of the result."""
    names = [name for name in run if name.startswith(f"weights_{where}_")]
    return {name.removeprefix(f"weights_{where}_"): run[name].sel(at).values for name in names}


@pytest.fixture(scope="module")
def setup(squares):
    with jax.enable_x64(True):
        return place(prepare(SAVING, squares))


def inputs(setup, split):
    dataset = setup.facts.dataset
    pixels, labels = (jnp.asarray(getattr(dataset, f"{split}_{kind}")) for kind in ("images", "labels"))
    return Images(pixels, labels, jnp.array(dataset.mean), jnp.array(dataset.std))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("round_", [1, 2])
def test_local_training_starts_from_the_global_model(run, setup, round_):
    seed, client, local, sparse = 5, 1, SAVING.local, SAVING.sparsity
    images, own = inputs(setup, "train"), setup.facts.clients[1][client]
    assert len(own) == 70
    start = (
        simulation.initial_params(setup.facts, seed)
        if round_ == 1
        else weights(run, "global", seed=seed, round=round_ - 1)
    )
    start = {name: jnp.asarray(value) for name, value in start.items()}
    everyone = dict(enumerate(setup.facts.clients[1]))
    plan = batches.training_plan(everyone, local.batch_size, local.epochs, seed, round_, setup.plan_shape)
    own_batches = [i[w > 0] for i, w in zip(plan.indices[client], plan.weight[client], strict=True)]
    steps = len(own_batches)

    def prune(params, t):
        return plain.prune(params, plain.ramp(sparse.target, t, steps), sparse.floor)

    expected, losses = plain.adam(plain.task_loss, start, own_batches, local.learning_rate, prune, (images,))
    found = weights(run, "local", seed=seed, round=round_, client=client)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-7, atol=1e-9, err_msg=name)
    assert run["train_loss"].sel(seed=seed, round=round_, client=client) == pytest.approx(np.mean(losses), rel=1e-8)


def test_the_global_model_is_the_mean(run):
    for name in (name for name in run if name.startswith("weights_local_")):
        mean = run[name].mean("client")
        expected = run[name.replace("local", "global")]
        np.testing.assert_allclose(mean.transpose(*expected.dims), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("origin", ["local", "global"])
def test_circuits_are_found_on_their_model_with_their_clients_data(run, setup, origin):
    seed, round_, client, label = 5, 2, 1, 2
    at = {"seed": seed, "round": round_}
    images = inputs(setup, "train")
    params = weights(run, origin, **at, **({"client": client} if origin == "local" else {}))
    own = setup.facts.clients[1][client]
    own = own[setup.facts.dataset.train_labels[own] == label]
    cases = setup.facts.cases(setup.facts.round(round_)).of(origin)
    plan = simulation.discovery_plans(setup, cases, round_)
    row = np.flatnonzero((cases.seed == 1) & (cases.client == client) & (cases.label == label)).item()
    drawn = [i[w > 0] for i, w in zip(plan.indices[row], plan.weight[row], strict=True)]
    assert {len(batch) for batch in drawn} == {round(SAVING.discovery.batch_size * len(own) / 70)}
    assert np.isin(np.concatenate(drawn), own).all()
    expected = plain.discover(params, images, drawn, label, SAVING.discovery)
    found = run.sel({**at, "origin": origin, "client": client, "class": label})
    for layer, score in expected.items():
        np.testing.assert_allclose(found[f"score_{layer}"], score, rtol=1e-5, atol=1e-6)  # kept in single precision
        np.testing.assert_array_equal(found[f"mask_{layer}"], score > 0)


@pytest.mark.usefixtures("x64")
def test_local_and_global_circuits_are_drawn_apart(setup):
    cases = setup.facts.cases(setup.facts.round(1))
    plan = simulation.discovery_plans(setup, cases, 1)
    local, global_ = np.split(plan.indices, 2)
    assert not np.array_equal(local, global_)
    assert not np.array_equal(plan.indices, simulation.discovery_plans(setup, cases, 2).indices)


def test_the_server_sees_every_circuit_at_its_clients_and_class(squares):
    """With some clients and classes only, and a padded table; other entries are closed."""
    unlike = Split(kind="class-map", clients=4, class_map=((0,), (1,), (2, 3), (0, 1, 2)))
    facts = prepare(tiny.experiment(split=unlike, participation=0.5, discovery=Discovery()), squares)
    setup = Setup(facts, None, None, None)
    rounds = [facts.round(number) for number in (1, 2)]
    assert any(not facts.cases(one).real.all() for one in rounds)
    for round_ in rounds:
        cases = facts.cases(round_).of("local")
        masks = {"conv1": np.random.default_rng(0).random((len(cases.circuit), 5)) < 0.5}
        seen = simulation.circuits_of(setup, round_, cases, simulation.Found(Circuit({}, masks), [], ZERO))["conv1"]
        assert seen.shape == (2, 2, 4, 5)
        expected = np.zeros_like(seen)
        for row in np.flatnonzero(cases.real):
            place = round_.clients[cases.seed[row]].tolist().index(cases.client[row])
            expected[cases.seed[row], place, cases.label[row]] = masks["conv1"][row]
        np.testing.assert_array_equal(seen, expected)


def test_without_an_image_of_the_class_the_circuit_is_empty(run):
    absent = run.sel(client=0).sel({"class": 2})
    assert run["analysed"].all()
    assert (run["samples"].sel(client=0, true_class=2) == 0).all()
    for layer in plain.CONVOLUTIONS:
        assert not absent[f"mask_{layer}"].any()
        assert np.isneginf(absent[f"score_{layer}"]).all()
    assert absent["degenerate"].all()
    xr.testing.assert_equal(
        absent["sufficiency"].drop_vars("origin"), absent["empty_mask_accuracy"].drop_vars("origin")
    )
    assert run.sel(client=1)["mask_conv3"].any(("seed", "round", "class")).all(("origin",)).any()


@pytest.mark.usefixtures("x64")
def test_measures_are_their_definitions(run, setup):
    """Of all circuits, from the kept weights and masks."""
    test = inputs(setup, "test")
    x, labels = plain.normalised(test, np.arange(len(test.labels))), np.asarray(test.labels)
    answer = jax.jit(lambda params, gates: jax.nn.softmax(plain.logits(params, x, gates)))

    for circuit in circuits_of(run):
        at = {dim: circuit[dim].item() for dim in ("seed", "round")}
        client, label = circuit["client"].item(), circuit["class"].item()
        origin = circuit["origin"].item()
        both = {"local": weights(run, "local", **at, client=client), "global": weights(run, "global", **at)}
        own, other = both[origin], both["global" if origin == "local" else "local"]
        mask = {layer: circuit[f"mask_{layer}"].values * 1.0 for layer in plain.CONVOLUTIONS}
        kept, crossed = np.asarray(answer(own, mask)), np.asarray(answer(other, mask))
        removed = np.asarray(answer(own, {layer: 1 - gate for layer, gate in mask.items()}))
        empty = np.asarray(answer(own, {layer: 0 * gate for layer, gate in mask.items()}))
        is_it, called, crossed_called = labels == label, kept.argmax(1) == label, crossed.argmax(1) == label
        failed = is_it & ~crossed_called
        expected = {
            "sufficiency": called[is_it].mean(),
            "necessity": (removed.argmax(1) == label)[is_it].mean(),
            "false_positive_rate": called[~is_it].mean(),
            "balanced_accuracy": (called[is_it].mean() + (~called)[~is_it].mean()) / 2,
            "call_rate": [called[labels == c].mean() for c in range(4)],
            "target_softmax": kept[is_it, label].mean(),
            "cross_evaluation": crossed_called[is_it].mean(),
            "cross_evaluation_softmax": crossed[is_it, label].mean(),
            "cross_evaluation_false_positive_rate": crossed_called[~is_it].mean(),
            "cross_evaluation_balanced_accuracy": (crossed_called[is_it].mean() + (~crossed_called)[~is_it].mean()) / 2,
            "cross_evaluation_call_rate": [crossed_called[labels == c].mean() for c in range(4)],
            "failure_softmax": crossed[failed].mean(0) if failed.any() else [np.nan] * 4,
            "empty_mask_accuracy": (empty.argmax(1) == label)[is_it].mean(),
            "empty_mask_softmax": empty[is_it, label].mean(),
        }
        for name, value in expected.items():
            np.testing.assert_allclose(circuit[name], value, rtol=1e-5, atol=1e-6, err_msg=f"{name} {at} {origin}")


def circuits_of(run):
    stacked = run.stack(circuit=("seed", "round", "origin", "client", "class"))
    return [stacked.isel(circuit=i) for i in range(stacked.sizes["circuit"])]


def test_drift_gap_is_the_other_circuits_sufficiency_minus_cross_evaluation(run):
    sufficiency, cross, gap = run["sufficiency"], run["cross_evaluation"], run["drift_gap"]
    for origin, other in (("local", "global"), ("global", "local")):
        expected = sufficiency.sel(origin=other).values - cross.sel(origin=origin).values
        np.testing.assert_allclose(gap.sel(origin=origin), expected, atol=1e-6)
    assert np.abs(gap).max() > 0


@pytest.mark.usefixtures("x64")
def test_models_are_measured_whole(run, setup):
    test = inputs(setup, "test")
    x, labels = plain.normalised(test, np.arange(len(test.labels))), np.asarray(test.labels)
    for round_ in (1, 2):
        at = {"seed": 3, "round": round_}
        for where, more in (("local", {"client": 0}), ("local", {"client": 1}), ("global", {})):
            params, found = weights(run, where, **at, **more), run.sel(at | more)
            right = np.asarray(plain.logits(params, x)).argmax(1) == labels
            assert found[f"{where}_accuracy"] == pytest.approx(right.mean())
            per_class = [right[labels == c].mean() for c in range(4)]
            np.testing.assert_allclose(found[f"{where}_class_accuracy"], per_class, rtol=1e-12)
            for layer in ("conv1", "conv2", "conv3", "fc"):
                zeros = np.mean(params[f"{layer}_kernel"] == 0)
                sparsity = found[f"realised_sparsity_{where}"].sel(parameter_layer=layer)
                assert sparsity == pytest.approx(zeros)
                kernel = params[f"{layer}_kernel"]
                wired = (kernel != 0).reshape(-1, *kernel.shape[-2:]).any(0).T
                np.testing.assert_array_equal(found[f"connected_{where}_{layer}"], wired)
    assert run["realised_sparsity_local"].sel(parameter_layer="conv3").min() > 0.95 * SAVING.sparsity.target
    assert (run["local_accuracy"].max(("seed", "round")) > [0.45, 0.7]).all()  # of two and of three of four classes


# --- partial participation ---

SOME = replace(
    SAVING, participation=0.5, split=Split(kind="class-map", clients=4, class_map=2 * SAVING.split.class_map)
)
"""Half of four clients, of which the first two are the run's: each round is as large as the run's, and compiled."""


def test_who_takes_part_is_drawn_every_round_for_every_seed(squares):
    experiment = tiny.experiment(
        participation=0.3, split=Split(kind="shards", clients=10), rounds=20, data=Data(), discovery=Discovery(),
    )  # fmt: skip
    facts = prepare(experiment, squares)
    rounds = [facts.round(number) for number in range(1, 21)]
    for one in rounds:
        assert one.clients.shape == (2, 3)
        assert (np.diff(one.clients) > 0).all()
        cases = facts.cases(one).of("local")
        assert len(cases.circuit) == facts.most_circuits  # every round is as large, so nothing is compiled twice
        held = zip(cases.seed[cases.real], cases.client[cases.real], strict=True)
        assert set(held) == set(zip(*one.models, strict=True))
        assert cases.real.sum() == len(set(cases.circuit[cases.real]))
        assert [(int(s), int(k)) for s, k in zip(*(m[cases.model] for m in one.models), strict=True)] == [
            (int(s), int(k)) if real else (0, int(one.clients[0, 0]))
            for s, k, real in zip(cases.seed, cases.client, cases.real, strict=True)
        ]
    drawn = np.stack([one.clients for one in rounds])
    assert (drawn[:, 0] != drawn[:, 1]).any()
    assert len(np.unique(drawn)) == 10
    assert len(np.unique(drawn[:, 0], axis=0)) > 10
    np.testing.assert_array_equal(facts.round(7).clients, rounds[6].clients)


@pytest.fixture(scope="module")
def some(squares):
    return simulation.run(SOME, squares)


def test_only_who_takes_part_trains(run, some):
    there = some["participates"]
    assert (there.sum("client") == 2).all()
    compared = 0
    for seed in (3, 5):
        first, at = some.sel(seed=seed, round=1), {"seed": seed, "round": 1}
        trained = np.flatnonzero(first["participates"])
        for client in (client for client in trained if client in run["client"]):
            one, same = first.sel(client=client), run.sel(at).sel(client=client)
            for name in (name for name in run if name.startswith(("weights_local_", "mask_", "score_"))):
                by_local = {"origin": "local"} if "origin" in run[name].dims else {}
                np.testing.assert_allclose(one[name].sel(by_local), same[name].sel(by_local), rtol=1e-7, atol=1e-9)
            compared += 1
        for name in (name for name in run if name.startswith("weights_local_")):
            mean = first[name].sel(client=trained).mean("client")
            expected = first[name.replace("local", "global")]
            np.testing.assert_allclose(mean.transpose(*expected.dims), expected, rtol=1e-12, atol=1e-15)
    assert compared > 0


def test_who_sits_out_has_no_figures(some):
    absent = ~some["participates"]
    for name in ("train_loss", "local_accuracy", "sufficiency", "cross_evaluation", "score_conv2"):
        assert some[name].where(absent, 0).isnull().sum() == some[name].isnull().sum() > 0
    for name in ("mask_conv1", "degenerate", "size", "connected_local_conv2", "edges"):
        assert not some[name].where(absent, 0).any()
    for seed, round_ in itertools.product((3, 5), (1, 2)):  # of all pairs of clients there is the one that takes part
        at = some.sel(seed=seed, round=round_)
        a, b = (at["mask_conv2"].isel(client=k, drop=True) for k in np.flatnonzero(at["participates"]))
        either = (a | b).sum("channel_conv2")
        expected = ((a & b).sum("channel_conv2") / either).where(either > 0, 1)
        np.testing.assert_allclose(at["inter_client_iou"].sel(layer="conv2"), expected, rtol=1e-6)
    again = absent.sum("round") == 0  # took part in both rounds
    assert (some["stability_iou"].sel(round=2).notnull().any(("origin", "class", "layer")) == again).all()
    short = summary.summary(some)
    assert sum(map(len, short["cross_evaluation"]["per_client_and_class"].values())) >= 2
    assert short["degenerate_share"]["local"] is not None


# --- refusals ---


def test_a_loss_that_is_not_finite_stops_the_run_and_says_where(squares):
    """Here from the first step on, because the images are no numbers."""
    no_numbers = dataclasses.replace(squares, mean=(np.nan,))
    expected = r"^the training loss is not finite: seed 3, round 1, client 0, local step 0; lower local\.learning_rate"
    with pytest.raises(FedmiError, match=expected) as error:
        simulation.run(SAVING, no_numbers)
    assert "\n" not in str(error.value)


def test_the_first_loss_that_is_not_finite_is_named(setup):
    losses = np.ones((4, 10))
    losses[3, 7] = np.nan
    with pytest.raises(FedmiError, match=r"seed 5, round 2, client 1, local step 7"):
        checks.require_finite_losses(setup, setup.facts.round(2), losses)


def test_scores_that_are_no_numbers_are_named_and_closed_circuits_are_not(setup):
    """Minus infinity stands for a class without images."""
    cases = setup.facts.cases(setup.facts.round(2))
    n = len(cases.circuit)
    scores = {"conv1": np.full((n, 4), -np.inf), "conv2": np.zeros((n, 6))}
    checks.require_scores(SAVING, 2, cases, [scores])
    scores["conv2"][n // 2, 3] = np.nan  # the first circuit on the global model
    where = f"seed {SAVING.seeds[cases.seed[0]]}, round 2, client {cases.client[0]}, "
    with pytest.raises(FedmiError, match=f"{where}class {cases.label[0]}, global model; lower discovery.learning_rate"):
        checks.require_scores(SAVING, 2, cases, [scores])


def small_images(size):
    pixels = np.zeros((8, size, size), np.uint8)
    return datasets.from_arrays(pixels, np.arange(8) % 4, pixels, np.arange(8) % 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discovery": Discovery(classes=(0, 4))}, r"discovery\.classes: squares has classes 0 to 3; got 4"),
        ({"discovery": Discovery(classes=())}, r"discovery\.classes: give at least one class"),
        ({"split": Split(kind="class-map", clients=1, class_map=((4,),))}, r"split\.class_map: classes are 0 \.\. 3"),
        ({"split": Split(clients=161)}, r"split\.clients: at most one client per training image \(160\); got 161"),
    ],
)
def test_what_does_not_fit_the_data_is_refused(squares, changes, message):
    with pytest.raises(FedmiError, match=f"^{message}"):
        prepare(tiny.experiment(**changes), squares)


@pytest.mark.parametrize(("channels", "size", "enough"), [((4, 6, 8), 7, 2), ((4,) * 5, 31, 4), ((4,), 1, 0)])
def test_images_too_small_for_so_many_pools_are_refused(channels, size, enough):
    said = (
        rf"^model\.channels: .* at least {size + 1} x {size + 1} pixels; .* have {size} x {size}, enough for {enough}$"
    )
    with pytest.raises(FedmiError, match=said):
        prepare(tiny.experiment(model=Model(channels=channels)), small_images(size))
    prepare(tiny.experiment(model=Model(channels=channels)), small_images(size + 1))


# --- the plan of a run ---


@pytest.mark.usefixtures("x64")
def test_setup_of_clients_of_different_sizes(squares):
    experiment = tiny.experiment(
        data=Data(), split=Split(kind="class-map", clients=2, class_map=((0,), (1, 2, 3))), seeds=(0,),
        discovery=Discovery(steps=3, batch_size=16), evaluation=Evaluation(images_per_class=5),
    )  # fmt: skip
    setup = place(prepare(experiment, squares))
    assert setup.facts.counts.tolist() == [[[40, 0, 0, 0], [0, 40, 40, 40]]]
    assert setup.facts.steps.tolist() == [[12, 32]]
    assert setup.plan_shape == (32, 16)
    rise = setup.facts.keep[0, :, :, 2]  # conv3, every client by its own ramp
    size = 9 * tiny.CHANNELS[1] * tiny.CHANNELS[2]
    for client, steps in enumerate((12, 32)):
        expected = [int((1 - plain.ramp(0.6, t, steps)) * size) for t in range(steps)]
        assert rise[client, :steps].tolist() == expected
    assert setup.facts.circuits.label.tolist() == [0, 1, 2, 3]
    assert setup.facts.circuits.client.tolist() == [0, 1, 1, 1]
    assert setup.facts.discovery_batches == [16, 5, 5, 5]
    assert int(setup.test.valid.sum()) == 20


def test_clients_models_are_counted_once_where_they_have_homes(squares):
    """Another device has the images, the server's models and what it works on, all again; of the clients' models its
    own part only, where whole clients are shared out."""
    facts = prepare(tiny.experiment(execution=Execution(client_chunk=1)), squares)
    local = 2 * facts.params_bytes * facts.counts.shape[0] * facts.counts.shape[1]
    one, clients, batch = (
        memory(facts, resolve(Execution(devices=devices, shard=shard, client_chunk=1)))
        for devices, shard in ((1, "clients"), (2, "clients"), (2, "batch"))
    )
    assert batch - clients == local
    assert clients - one == facts.dataset.train_images.nbytes + facts.dataset.test_images.nbytes + (
        facts.model_bytes + 2 * facts.params_bytes * len(facts.counts)
    )


def test_numbers_that_a_pass_works_on():
    """Outputs; and 9 per pixel and channel of the image, then 16 per window and channel of every layer."""
    assert activations((10, 8, 3), (5,)) == 10 * 8 * (5 + 9 * 3)
    assert activations((10, 9, 3), (5, 6, 7)) == 90 * (5 + 27) + 5 * 4 * (6 + 4 * 5) + 2 * 2 * (7 + 4 * 6)

"""Studies of runs whose server gives every client a model of its own: each class is asked about in its expert's."""

import jax
import numpy as np
import pytest
import studied
import tiny
from studied import CHANNELS, EXPERTS, ROUNDS, SEEDS

# The same slow versions, on such a run: they are collected here with the fixtures of this file.
from test_studies import MOMENTS, found, images, test_ablation, test_dominator, test_injection, test_patching  # noqa: F401

from fedmi_jax.config import Execution
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import again, simulation
from fedmi_jax.methods import Aggregation, LgFedAvg, OwnerChannels
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.studies import study


@pytest.fixture(scope="module")
def run():
    return studied.served("fedper")


def test_the_runs_models_differ(run):
    """Else the slow versions would not see which of them a study takes."""
    x, labels = studied.inputs(studied.images())
    for label, client in EXPERTS.items():
        models = [(studied.given(run, *at, client), studied.model(run, *at)) for at in MOMENTS]
        both = [[studied.accuracy(model, x, labels, label) for model in pair] for pair in models]
        assert max(abs(given - averaged) for given, averaged in both) > 0.1


# --- the models that clients were served ---


def served(ds):
    """{round: models (S, K, ...)} as they are made again."""
    with jax.enable_x64(True):
        return {n: jax.tree.map(np.asarray, models) for n, models in again.served(ds, tiny.layout(1))}


def test_models_that_clients_were_served():
    for kind in studied.OWN_LAYERS:
        ds = studied.served(kind)
        again_ = served(ds)
        assert list(again_) == list(ROUNDS)
        for number, models in again_.items():
            for (s, seed), client in ((one, k) for one in enumerate(SEEDS) for k in range(3)):
                expected = studied.given(ds, seed, number, client)
                assert expected.keys() == models.keys()
                for name, value in expected.items():
                    np.testing.assert_array_equal(models[name][s, client], value, f"{kind} {name}")


def test_more_layers_may_be_shared():
    ds = studied.served("lg-fedavg", lg_fedavg=LgFedAvg(shared_layers=3))
    mine, averaged = studied.model(ds, SEEDS[1], 2, 0), studied.model(ds, SEEDS[1], 2)
    for name, value in served(ds)[2].items():
        np.testing.assert_array_equal(value[1, 0], (mine if name.startswith("conv1") else averaged)[name], name)


def test_hard_owner_channels_close_what_others_own():
    """The first channel of each layer is everybody's, the next ones are the clients' in turn."""
    ds = studied.served("owner-channels", owner_channels=OwnerChannels(form="hard", common=0.2))
    models, whole = served(ds)[1], studied.model(ds, SEEDS[0], 1)
    for client in range(3):
        inputs = np.ones(1, bool)
        for layer, width in zip(CONV_LAYERS, CHANNELS, strict=True):
            own = np.array([True, *(o % 3 == client for o in range(width - 1))])
            expected = whole[f"{layer}_kernel"] * inputs[:, None] * own
            np.testing.assert_array_equal(models[f"{layer}_kernel"][0, client], expected)
            np.testing.assert_array_equal(models[f"{layer}_bias"][0, client], whole[f"{layer}_bias"] * own)
            inputs = own
        np.testing.assert_array_equal(models["fc_kernel"][0, client], whole["fc_kernel"])


def test_a_client_that_took_part_has_what_it_trained_whoever_sat_out():
    ds = studied.served("alone")
    ds["participates"].loc[{"seed": 3, "round": 1, "client": 0}] = False
    ds["participates"].loc[{"seed": 8, "round": 1, "client": 2}] = False
    ds["participates"].loc[{"round": 2, "client": 1}] = False
    for number, models in served(ds).items():
        for (s, seed), client in ((one, k) for one in enumerate(SEEDS) for k in range(3)):
            if ds["participates"].sel(seed=seed, round=number, client=client):
                expected = studied.model(ds, seed, number, client)["conv2_kernel"]
                np.testing.assert_array_equal(models["conv2_kernel"][s, client], expected)


# --- a real run ---


def test_what_the_run_measured_is_of_the_same_models(squares):
    """Without weights a study says what it says with them, of what the client got and not of the average."""
    kept = Execution(client_chunk=1, precision="float64", save_weights=True)
    result = simulation.run(tiny.experiment(execution=kept, aggregation=Aggregation(kind="fedper")), squares)
    for name, measures in (("ablation", {"global_accuracy", "circuit_accuracy", "drop"}), ("dominator", {"top1"})):
        measured = numbers(study(name, without_weights(result), rounds="all", nulls=0))
        assert {measure for _, _, measure, _ in measured} >= measures
        ours = numbers(study(name, result, rounds="all", dataset=squares, nulls=0))
        assert {key: ours[key] for key in measured} == pytest.approx(measured, abs=1e-6)
        of = (3, 2, "global_accuracy" if name == "ablation" else "top1", (("class", 0),))
        assert measured[of] == result["served_class_accuracy"].sel(seed=3, round=2, client=0, true_class=0) == 1
        assert result["global_class_accuracy"].sel(seed=3, round=2, true_class=0) == 0


def numbers(findings):
    return {(row.seed, row.round, row.measure, row.key): row.value for row in findings.rows}


def without_weights(ds):
    return ds.drop_vars([name for name in ds if str(name).startswith("weights_")])


# --- refused ---


def test_one_model_of_all_clients_is_not_there(run, images):  # noqa: F811
    for name in ("cascade", "ensemble"):
        for ds in (run, without_weights(run)):
            with pytest.raises(
                FedmiError, match=f"^{name}: asks one model .* fedper gave every client a model"
            ) as error:
                study(name, ds, dataset=images)
            assert len(str(error.value).splitlines()) == 1


def test_models_that_do_not_follow_are_refused_where_they_are_asked(run, images):  # noqa: F811
    """A method of one's own, whose settings are not known; and rounds without those before."""
    unknown = run.assign_attrs(config=studied.served("fedavg").attrs["config"], method="mine")
    for ds in (unknown, run.sel(round=[2])):
        for name in ("ablation", "dominator", "injection", "patching"):
            with pytest.raises(FedmiError, match="gave every client a model of its own, which is not stored") as error:
                study(name, ds, dataset=images, nulls=1)
            assert len(str(error.value).splitlines()) == 1
        for name in ("pairwise", "centroids", "linear"):
            assert study(name, ds, dataset=images, nulls=1).rows

"""Who is searched, judged and crossed on which model, and with whose means; and a round's metrics. Nothing is computed:
what the compiled programs would be called with is looked at, and they answer zeros.

Axes: n rows of a table of cases, C circuits, Y classes.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.circuits.evaluation import Accuracy, Performance
from fedmi_jax.config import Discovery, Evaluation, Experiment, Split, participants
from fedmi_jax.federation import metrics, programs, recording, simulation
from fedmi_jax.federation.cases import Circuits, of_round
from fedmi_jax.federation.setup import Setup, prepare
from fedmi_jax.network.ablation import Mean

CIRCUITS = Circuits(np.array([0, 0, 0, 1, 1]), np.array([0, 1, 2, 0, 2]), np.array([0, 1, 0, 1, 2]))
CLIENTS = np.array([[0, 2], [1, 2]])
"""Seed 0 has the circuits 0 and 2, on the models 0 and 1; seed 1 has circuit 4, on the model 3."""


def test_a_round_of_three_circuits_by_hand():
    """And one row of padding. Models: four of clients, two global ones."""
    cases = of_round(CIRCUITS, CLIENTS, most=4)
    assert cases.circuit.tolist() == 2 * [0, 2, 4, 0]
    assert cases.seed.tolist() == 2 * [0, 0, 1, 0]
    assert cases.client.tolist() == 2 * [0, 2, 2, 0]
    assert cases.label.tolist() == 2 * [0, 0, 2, 0]
    assert cases.origin.tolist() == 4 * [0] + 4 * [1]
    assert cases.model.tolist() == [0, 1, 3, 0, 4, 4, 5, 4]
    assert cases.other.tolist() == [4, 4, 5, 4, 0, 1, 3, 0]
    assert cases.mirror.tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert cases.real.tolist() == 2 * [True, True, True, False]
    assert cases.keys((7, 8), (30, 40), 5)[2::4] == [(8, 30, 5, 2, 2), (8, 40, 5, 2, 2)]
    placed = cases.place(np.arange(8.0))
    np.testing.assert_array_equal(placed, [[0, np.nan, 1, np.nan, 2], [4, np.nan, 5, np.nan, 6]])


def test_every_client_may_have_a_model_from_the_server():
    """Which comes behind the global ones, in the order of the clients."""
    assert of_round(CIRCUITS, CLIENTS, most=3, served=True).model.tolist() == [0, 1, 3, 6, 7, 9]


@pytest.fixture(scope="module")
def setup(squares):
    """Mean ablation, three unlike clients of which two take part; no random masks."""
    split = Split(kind="class-map", clients=3, class_map=((0,), (1, 2, 3), (0, 1, 2)))
    discovery = Discovery(ablation="mean")
    experiment = tiny.experiment(
        split=split, participation=0.67, discovery=discovery, evaluation=Evaluation(batch_size=20)
    )
    layout = SimpleNamespace(forward_batch=20)
    return Setup(prepare(experiment, squares), layout, None, None)  # type: ignore[arg-type]


def test_circuits_are_crossed_with_the_other_models_means(setup, monkeypatch):
    """The means of model m are m itself."""
    round_ = setup.facts.round(1)
    cases, models = setup.facts.cases(round_), 4 + 2
    asked = []

    def judge_both(params, test, masked, by_class, layout):
        asked.extend((masked, by_class))
        rows, classes = len(masked.model), np.zeros((len(masked.model), 4))
        judged = Performance(classes, np.zeros(rows), np.zeros(rows), classes), Accuracy(np.zeros(rows), classes)
        return judged, np.zeros(len(by_class.model))

    monkeypatch.setattr(programs, "judge_both", judge_both)
    monkeypatch.setattr(programs, "empty_masks", lambda models, which, *_, layout: (np.zeros(len(which)),) * 2)
    params = {"conv1_kernel": np.zeros((models, 3, 3, 1, 5)), "conv1_bias": np.zeros((models, 5))}
    params["fc_bias"] = np.zeros((models, 4))
    mask = {"conv1": np.random.default_rng(0).random((len(cases.model), 5)) < 0.5}
    means = Mean({"conv1": np.tile(cases.model[:, None], (1, 5))})
    simulation.measure(setup, round_, params, cases, simulation.Found(Circuit({}, mask), [], means))
    rows, n = asked[0], len(cases.model)
    assert rows.model.tolist() == [*cases.model, *cases.other, *range(models)]
    assert rows.label[: 2 * n].tolist() == 2 * cases.label.tolist()
    np.testing.assert_array_equal(rows.gates["conv1"], np.concatenate([mask["conv1"]] * 2 + [np.ones((models, 5))]))
    np.testing.assert_array_equal(rows.ablation.outputs["conv1"][: 2 * n, 0], rows.model[: 2 * n])
    np.testing.assert_array_equal(asked[1].gates["conv1"], ~mask["conv1"])


def test_means_are_of_the_circuits_model_over_its_clients_images(setup, monkeypatch):
    def told(models, images, which, index, valid, layout):
        """Which model, how many images, and which."""
        return Mean({"conv1": np.stack([which, valid.sum((1, 2)), (index * valid).sum((1, 2))], -1)})

    monkeypatch.setattr(programs, "mean_outputs", told)
    for number in (1, 2):
        cases = setup.facts.cases(setup.facts.round(number))
        found = simulation._ablation(setup, {}, cases).outputs["conv1"]
        for row in np.flatnonzero(cases.real):
            own = setup.facts.clients[cases.seed[row]][cases.client[row]]
            assert found[row].tolist() == [cases.model[row], len(own), own.sum()]


def test_discovery_sees_the_clients_images_of_the_class_alone(setup):
    facts = setup.facts
    for i, images in enumerate(facts.discovery_images):
        own = facts.clients[facts.circuits.seed[i]][facts.circuits.client[i]]
        expected = [k for k in own if facts.dataset.train_labels[k] == facts.circuits.label[i]]
        assert images.tolist() == expected != []


# --- in numbers ---


def test_drift_gap_by_hand(setup):
    """What the client's circuit of the other origin reaches on that model, minus what this one reaches there."""
    facts, round_, rng = setup.facts, setup.facts.round(1), np.random.default_rng(0)
    cases = facts.cases(round_)
    n = len(cases.circuit)
    kept, crossed = (Performance(rng.random((n, 4)), rng.random(n), rng.random(n), rng.random((n, 4))) for _ in "kc")
    accuracy = Accuracy(np.zeros(6), np.zeros((6, 4)))
    record = recording.of_measures(facts, round_, cases, kept, crossed, np.zeros(n), np.zeros((2, n)), accuracy)
    for row in np.flatnonzero(cases.real):
        there, label = cases.mirror[row], cases.label[row]
        expected = kept.call_rate[there, label] - crossed.call_rate[row, label]
        assert record["drift_gap"][cases.origin[row], cases.circuit[row]] == expected


def test_metrics_of_a_round_by_hand():
    """One seed, two clients, of which the second sits out; three classes, of which nobody holds the last."""
    counts = np.array([[[5, 1, 0], [0, 4, 0]]])
    circuits = Circuits(np.array([0, 0, 0]), np.array([0, 0, 1]), np.array([0, 1, 1]))
    nan = np.nan
    record = {
        "train_loss": np.array([[0.5, nan]]),
        "local_accuracy": np.array([[0.6, nan]]),
        "global_accuracy": np.array([0.7]),
        "local_class_accuracy": np.array([[[1, 0.5, 0.3], [nan, nan, nan]]]),
        "global_class_accuracy": np.array([[0.8, 0.4, 0.9]]),
        "cross_evaluation": np.array([[0.25, 0.75, nan], [0, 0, nan]]),
    }
    found = metrics.of_round(SimpleNamespace(counts=counts, circuits=circuits), record, 2.5)  # type: ignore[arg-type]
    expected = {
        "seconds": 2.5, "train_loss": [[0.5, nan]], "local_accuracy": [[0.6, nan]], "global_accuracy": [0.7],
        "local_held_accuracy": [[0.75, nan]], "global_held_accuracy": [0.6], "cross_evaluation": [[0.5, nan]],
    }  # fmt: skip
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, err_msg=name)


@pytest.mark.parametrize(("share", "clients", "expected"), [(0.29, 100, 29), (0.26, 10, 3), (0.24, 10, 2), (1, 7, 7)])
def test_participants_are_the_nearest_number_of_clients(share, clients, expected):
    """0.29 * 100 is a little less than 29."""
    assert participants(Experiment(participation=share, split=Split(clients=clients))) == expected

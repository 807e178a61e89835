"""Whole runs with methods that need something of a round that others do not: as the run that all tests share, so that
its programs serve for them.

Axes: S seeds, K clients.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from test_matching import matched
from test_readout import COMPILED as REFIT
from test_schema import require_described

import fedmi_jax
from fedmi_jax import config
from fedmi_jax.config import Execution, Local
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import simulation
from fedmi_jax.federation.setup import prepare
from fedmi_jax.methods import Aggregation, Calibration, FedProx, FedRS, Matching, Orthogonality, OwnerChannels


def experiment(**aggregation):
    kept = Execution(client_chunk=1, precision="float64", save_weights=True)
    return tiny.experiment(execution=kept, aggregation=Aggregation(**aggregation))


def run(kind, **settings):
    """The run of a method."""
    return simulation.run(experiment(kind=kind, **settings), tiny.squares())


@pytest.fixture
def plain(counted_run):
    """The run with the method of the paper."""
    return counted_run[0]


def weights(ds, origin, number, client=None):
    """{name: array} of the model of a round, axes as in the network."""
    at = {"seed": 0, "round": number - 1} | ({} if client is None else {"client": client})
    names = [name for name in ds if name.startswith(f"weights_{origin}_")]
    return {name.removeprefix(f"weights_{origin}_"): ds[name].isel(at).values for name in names}


@pytest.mark.parametrize(("kind", "idle"), [("fedprox", FedProx(mu=0)), ("fedrs", FedRS(alpha=1))])
def test_clients_that_nothing_holds_back_train_as_in_fedavg(plain, kind, idle):
    """A term of weight 0 and a factor of 1 change no bit of a gradient, whatever is done in a round."""
    ds = run(kind, **{kind: idle})
    assert ds.attrs["method"] == kind
    for name in plain:
        np.testing.assert_array_equal(ds[name], plain[name], name)


def test_pooled_training_is_one_model_whose_batches_are_of_all_clients_images(plain):
    ds = run("pooled")
    for number in (1, 2):
        one, other = (weights(ds, "local", number, client) for client in (0, 1))
        server = weights(ds, "global", number)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            np.testing.assert_allclose(server[name], one[name], rtol=1e-12)
    facts = prepare(experiment(kind="pooled"), tiny.squares())
    everyone = np.unique(np.concatenate(facts.clients[0]))
    local = facts.experiment.local
    assert (facts.steps[0] == local.epochs * -(-len(everyone) // local.batch_size)).all()
    assert facts.training_counts[0, 0].sum() == len(everyone) < facts.counts[0].sum()  # class 1 is held twice
    assert not np.array_equal(ds["train_loss"].isel(round=0), plain["train_loss"].isel(round=0))


def test_calibration_refits_the_mean_on_the_images_that_it_may_see(plain):
    settings = Calibration(images_per_class=4)
    ds = run("calibration", calibration=settings)
    facts = prepare(experiment(kind="calibration", calibration=settings), tiny.squares())
    index, labels = (own[0] for own in facts.seen)
    assert np.bincount(labels).tolist() == [4, 4, 4, 4]
    same = (weights(one, "local", 1, 0) for one in (plain, ds))  # what was trained before the server's first step
    chex.assert_trees_all_equal(*same)
    dataset, before, found = facts.dataset, weights(plain, "global", 1), weights(ds, "global", 1)
    x = (dataset.train_images[index] / 255 - np.array(dataset.mean)) / np.array(dataset.std)
    with jax.enable_x64(True):
        expected = REFIT({k: jnp.asarray(v) for k, v in before.items()}, x, labels, "scale-and-biases")
    chex.assert_trees_all_close(found, jax.tree.map(np.asarray, expected), rtol=1e-5, atol=1e-7)
    assert np.abs(found["fc_bias"] - before["fc_bias"]).max() > 1e-3


@pytest.mark.parametrize("biases", [True, False])
def test_a_result_of_matching_says_how_many_channels_it_put_in_another_place(biases):
    """In the first round, by the plain matching of `test_matching`, of clients that learn fast and so go far."""
    fast = config.replace(
        experiment(kind="matching", matching=Matching(biases=biases)),
        local=Local(epochs=4, batch_size=16, learning_rate=0.2),
    )
    ds = simulation.run(fast, tiny.squares())
    require_described(ds.isel(seed=[0]))
    facts, found = prepare(fast, tiny.squares()), ds["reordered"].sel(round=1)
    assert (found.sel(layer="conv3") > 0).all()
    with jax.enable_x64(True):
        fresh = [jax.tree.map(np.asarray, dict(simulation.initial_params(facts, seed))) for seed in fast.seeds]
    for s, start in enumerate(fresh):
        orders = [matched(start, weights(ds.isel(seed=[s]), "local", 1, client), biases) for client in (0, 1)]
        shares = [[np.mean(order != np.arange(len(order))) for order in one.values()] for one in orders]
        np.testing.assert_allclose(found.isel(seed=s), np.mean(shares, 0), rtol=1e-12)
    again = fedmi_jax.search_again(ds, dataset=tiny.squares(), rounds=[1])
    np.testing.assert_array_equal(again["reordered"], ds["reordered"].sel(round=[1]))


def test_a_thin_network_crosses_as_it_suffices():
    """Hard owner channels: what a client is served is what it trained, so its circuits are as good there."""
    ds = run("owner-channels", owner_channels=OwnerChannels(form="hard"))
    local = ds.sel(origin="local")
    np.testing.assert_array_equal(local["cross_evaluation"], local["sufficiency"])
    assert (local["sufficiency"] > 0).any()
    np.testing.assert_array_equal(ds["served_accuracy"], ds["local_accuracy"])


def test_the_circuits_of_others_pull_weights_down_from_the_second_round_on(plain):
    ds = run("orthogonality", orthogonality=Orthogonality(weight=10.0))

    def sizes(ds):
        """Sum of the squared kernels of client 1 in each round."""
        models = (weights(ds, "local", number, 1) for number in (1, 2))
        return [sum(np.sum(leaf**2) for name, leaf in one.items() if name.startswith("conv")) for one in models]

    assert sizes(ds)[0] == pytest.approx(sizes(plain)[0], rel=1e-12)  # of two programs, which may round differently
    assert sizes(ds)[1] < sizes(plain)[1]


def test_models_that_clients_were_served_follow_from_the_stored_ones():
    """The server's steps are made again; the same search then finds what the run found."""
    for kind, settings in (("fedper", {}), ("owner-channels", {"owner_channels": OwnerChannels(form="hard")})):
        ds = run(kind, **settings)
        again = fedmi_jax.search_again(ds, dataset=tiny.squares(), rounds=[2])
        assert again["round"].values.tolist() == [2]
        for name in ("served_accuracy", "mask_conv2", "cross_evaluation", "global_accuracy", "train_loss"):
            np.testing.assert_array_equal(again[name], ds[name].sel(round=[2]), name)
    with pytest.raises(FedmiError, match=r"^rounds: give some that the result has; it has 1, 2, given are 3$"):
        fedmi_jax.search_again(ds, dataset=tiny.squares(), rounds=[3])
    with pytest.raises(FedmiError, match=r"^result: of owner-channels, whose clients' own models"):
        fedmi_jax.search_again(ds.sel(round=[2]), dataset=tiny.squares())


def test_a_round_is_not_compared_with_one_that_is_not_just_before(plain):
    apart = fedmi_jax.search_again(plain.assign_coords(round=[1, 3]), dataset=tiny.squares())
    assert apart["round"].values.tolist() == [1, 3]
    assert plain["stability_iou"].sel(round=2).notnull().any()
    assert apart["stability_iou"].isnull().all()

"""Calibration of the read-out by the server, and the images that it may see for that.

Axes: K clients of the round, N images.
"""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from method_table import first, mean, models, of, report, step
from test_readout import COMPILED as REFIT

from fedmi_jax import aggregation, config
from fedmi_jax.data import seen
from fedmi_jax.errors import ConfigError
from fedmi_jax.federation.setup import prepare
from fedmi_jax.methods import Aggregation, Calibration


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("what", ["scale-and-biases", "linear"])
def test_calibration_is_the_refit_of_the_mean_for_the_classes_of_the_images(what):
    """The class of no image keeps its bias."""
    params = models()
    new, _ = step(of("calibration", what=what), first(params), params)
    clients = report(params)
    average = {k: jnp.asarray(v) for k, v in mean(params).items()}
    there = np.flatnonzero(clients.labels >= 0)
    held = jnp.array([True, True, False])
    expected = REFIT(average, clients.images[there], clients.labels[there], what, held)
    chex.assert_trees_all_close(new, expected, rtol=1e-6, atol=1e-7)
    assert new["fc_bias"][2] == pytest.approx(float(average["fc_bias"][2]))
    assert np.abs(new["fc_bias"] - average["fc_bias"])[:2].min() > 1e-3


@pytest.mark.usefixtures("x64")
def test_any_method_can_be_calibrated():
    params, sees = models(zeros=0.5), aggregation.Sees(5, "nobody")
    method = aggregation.calibrated(of("support-mean"), "scale-and-biases", sees)
    assert (method.name, method.sees) == ("calibrated support-mean", sees)
    new, _ = step(method, first(params), params)
    plain, _ = step(of("support-mean"), first(params), params)
    for name in (name for name in params if name[:2] != "fc"):
        np.testing.assert_array_equal(new[name], plain[name])
    ratio = np.asarray(new["fc_kernel"]) / np.where(plain["fc_kernel"] == 0, 1, plain["fc_kernel"])
    np.testing.assert_allclose(ratio[np.asarray(plain["fc_kernel"]) != 0], ratio.max(), rtol=1e-10)


# --- the images that the server may see ---

LABELS = np.array([0] * 5 + [1] * 5 + [2] * 5)


@pytest.mark.parametrize(("whose", "expected"), [("clients", [2, 3, 0]), ("nobody", [3, 1, 0])])
def test_the_server_sees_a_few_images_of_each_held_class(whose, expected):
    """Clients hold two of class 0 and four of class 1, of which one twice; class 2 is nobody's, so is not looked at."""
    held = [np.array([0, 1, 5, 6]), np.array([6, 7, 8])]
    index, labels = seen.draw(LABELS, 3, held, 3, whose, seed=4)
    there = labels >= 0
    assert np.bincount(labels[there], minlength=3).tolist() == expected
    assert (LABELS[index[there]] == labels[there]).all()
    assert len(set(index[there].tolist())) == there.sum()
    assert (np.isin(index[there], np.concatenate(held)) == (whose == "clients")).all()
    again, _ = seen.draw(LABELS, 3, held, 3, whose, seed=5)
    assert (again != index).any()


def test_images_of_nobody_are_refused_where_clients_hold_all(squares):
    taken = tiny.experiment(
        data=config.Data(), split=config.Split("iid", 2),
        aggregation=Aggregation(kind="calibration", calibration=Calibration(images="nobody")),
    )  # fmt: skip
    said = r"^aggregation: the server is to see images that no client holds [^\n]* every image of class 0 \(seed 3\)"
    with pytest.raises(ConfigError, match=said):
        prepare(taken, squares)


def test_a_class_of_which_all_images_are_held_is_refused_though_others_have_some():
    """It would drop out of what the server compares."""
    labels = np.array([0, 0, 0, 1, 1])
    with pytest.raises(ConfigError, match="hold every image of class 1 "):
        seen.draw(labels, 3, [np.array([0, 3]), np.array([4])], 2, "nobody", 0)
    index, found = seen.draw(labels, 3, [np.array([0, 3])], 2, "nobody", 0)
    assert (sorted(index[:2]), found.tolist()) == ([1, 2], [0, 0, 1, -1, -1, -1])


@pytest.mark.parametrize("kind", ["calibration", "matching"])
def test_a_method_sees_the_images_that_its_settings_say(kind):
    settings = {"images_per_class": 3, "images": "nobody"} | ({"of": "activations"} if kind == "matching" else {})
    assert of(kind, **settings).sees == aggregation.Sees(3, "nobody")

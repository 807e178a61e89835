"""Edges of a model and of its circuits, against loops and against the authors' own counts."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedmi_jax.results.connectivity import edge_counts, functional, physical, unflatten

GOLDEN = Path(__file__).parent / "data" / "golden_iid.npz"


def test_physical_needs_one_weight_that_is_not_zero():
    weight = np.zeros((2, 3, 3, 3))
    weight[0, 1, 2, 2] = -1e-30
    weight[1, 2] = 1
    assert physical(weight).tolist() == [[False, True, False], [False, False, True]]
    assert physical(np.stack([weight, weight])).shape == (2, 2, 3)


def test_linear_features_belong_to_their_channel():
    weight = np.zeros((10, 4 * 9))
    weight[7, 2 * 9 + 7] = 1  # eighth position of channel 2
    assert np.argwhere(physical(unflatten(weight, 4))).tolist() == [[7, 2]]
    with pytest.raises(ValueError, match="36 features are no multiple of 5"):
        unflatten(weight, 5)


def test_functional_keeps_edges_with_both_ends_in_the_circuit():
    connected = np.array([[True, True, False], [True, False, True]])
    out, source = np.array([True, False]), np.array([False, True, True])
    assert functional(connected, out, source).tolist() == [[False, True, False], [False, False, False]]
    assert functional(connected, out).tolist() == [[True, True, False], [False, False, False]]


def test_edge_counts_are_those_of_functional():
    rng = np.random.default_rng(0)
    connected, out, source = (rng.random(shape) < 0.5 for shape in [(2, 6, 5), (2, 4, 6), (2, 4, 5)])
    expected = functional(connected[:, None], out, source).sum(axis=(-2, -1))
    np.testing.assert_array_equal(edge_counts(connected, out, source), expected)
    whole = functional(connected[:, None], out).sum(axis=(-2, -1))
    np.testing.assert_array_equal(edge_counts(connected, out), whole)


def test_edges_of_the_authors_circuits():
    """A run of the authors' code: from its weights and masks, the edge counts it gave."""
    with np.load(GOLDEN) as golden:
        counts = json.loads(str(golden["edge_counts"]))
        masks = {layer: golden[f"masks/{layer}"] for layer in ("conv1", "conv2", "conv3")}
        classes = golden["discovery_classes"]
        rounds, _, clients, slots, _ = masks["conv1"].shape
        checked = 0
        for r, origin, k, slot in np.ndindex(rounds, 2, clients, slots):
            model = f"round{r + 1}/" + ("global" if origin else f"client{k}")
            kind = "global" if origin else "local"
            expected = counts[f"{r}/{kind}/{k}/{classes[k, slot]}"]
            before = None
            for layer in masks:
                mask = masks[layer][r, origin, k, slot].astype(bool)
                assert edge_counts(physical(golden[f"{model}/{layer}.weight"]), mask[None], before) == expected[layer]
                before, checked = mask[None], checked + 1
    assert checked == 3 * rounds * 2 * clients * slots

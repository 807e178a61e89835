"""A network whose channels were shuffled is matched back exactly, and its circuits with it."""

import numpy as np
import pytest
import xarray as xr

from fedmi_jax.analysis import alignment
from fedmi_jax.errors import FedmiError
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.results.schema import CIRCUIT_DIMS
from fedmi_jax.results.similarity import iou

WIDTHS = {"conv1": 4, "conv2": 6, "conv3": 8}


def weights(rng, sparsity=0.5):
    model, inputs = {}, 1
    for layer, width in WIDTHS.items():
        kernel = rng.normal(size=(3, 3, inputs, width))
        model[f"{layer}_kernel"] = kernel * (rng.random(kernel.shape) >= sparsity)
        model[f"{layer}_bias"], inputs = rng.normal(size=width), width
    return model


def shuffled(model, orders):
    """Channel j of the new layer is channel orders[layer][j] of the old one."""
    moved, inputs = {}, np.arange(1)
    for layer in CONV_LAYERS:
        moved[f"{layer}_kernel"] = model[f"{layer}_kernel"][:, :, inputs][..., orders[layer]]
        moved[f"{layer}_bias"] = model[f"{layer}_bias"][orders[layer]]
        inputs = orders[layer]
    return moved


def test_a_shuffled_network_is_matched_back():
    rng = np.random.default_rng(0)
    model, orders = weights(rng), {layer: rng.permutation(n) for layer, n in WIDTHS.items()}
    found = alignment.match(model, shuffled(model, orders))
    for layer, order in orders.items():
        np.testing.assert_array_equal(order[found[layer]], np.arange(WIDTHS[layer]))
    for layer, order in alignment.match(model, model).items():
        np.testing.assert_array_equal(order, np.arange(WIDTHS[layer]))


def test_the_matching_is_the_best_of_all():
    """Of the first layer, over every permutation."""
    from itertools import permutations

    rng = np.random.default_rng(1)
    a, b = weights(rng), weights(rng)
    found = alignment.match(a, b)["conv1"]

    def cost(order):
        pairs = ((a[f"conv1_{k}"], b[f"conv1_{k}"][..., list(order)]) for k in ("kernel", "bias"))
        return sum(((x - y) ** 2).sum() for x, y in pairs)

    assert cost(found) == pytest.approx(min(map(cost, permutations(range(4)))))


@pytest.fixture
def result():
    """Two clients; the second's network is the first's, shuffled, and so are its circuits; global: the first's."""
    rng = np.random.default_rng(2)
    model, orders = weights(rng), {layer: rng.permutation(n) for layer, n in WIDTHS.items()}
    models = [model, shuffled(model, orders)]
    data: dict = {"analysed": (("seed", "client", "class"), np.ones((1, 2, 2), bool))}
    for layer, n in WIDTHS.items():
        first = rng.random((2, n)) < 0.5
        local = np.stack([first, first[:, orders[layer]]])
        mask = np.stack([local, np.stack([first, first])])[None, None]
        data[f"mask_{layer}"] = ((*CIRCUIT_DIMS, f"channel_{layer}"), mask)
        for part, dims in (("kernel", ("h", "w", f"in_{layer}", f"out_{layer}")), ("bias", (f"out_{layer}",))):
            name = f"{layer}_{part}"
            both = np.stack([m[name] for m in models])[None, None]
            data[f"weights_local_{name}"] = (("seed", "round", "client", *dims), both)
            data[f"weights_global_{name}"] = (("seed", "round", *dims), both[:, :, 0])
    coords = {"seed": [0], "round": [1], "origin": ["local", "global"], "client": [0, 1], "class": [3, 4]}
    return xr.Dataset(data, coords={**coords, "layer": list(CONV_LAYERS)}), orders


def test_circuits_that_only_moved_are_the_same(result):
    ds, orders = result
    found = alignment.aligned(ds)
    assert (found["aligned_local_global_iou"] == 1).all()
    assert (found["aligned_specialist_distinctness"] == 1).all()
    moved = found["moved"].isel(seed=0, round=0)
    assert (moved.sel(client=0) == 0).all()
    for layer in CONV_LAYERS:
        assert moved.sel(client=1, layer=layer) == np.mean(orders[layer] != np.arange(WIDTHS[layer]))
    masks = ds["mask_conv3"].isel(seed=0, round=0, client=1)
    assert (iou(masks.sel(origin="local").values, masks.sel(origin="global").values) < 1).any()


def test_without_weights_it_says_how_to_get_them(result):
    ds, _ = result
    with pytest.raises(FedmiError, match=r"--execution\.save-weights"):
        alignment.aligned(ds.drop_vars([name for name in ds if str(name).startswith("weights")]))

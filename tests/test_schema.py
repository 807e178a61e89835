"""The table of variables: what runs and imported files hold is what it says, for any number of convolutions."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from fedmi_jax.analysis import measures, nulls
from fedmi_jax.analysis.alignment import aligned
from fedmi_jax.analysis.compact import compact
from fedmi_jax.results import connectivity, schema, similarity
from fedmi_jax.results.authors import import_authors

TESTS = Path(__file__).parent
LAYERS = ("conv1", "conv2", "conv3")


@pytest.fixture(scope="module")
def imported():
    return import_authors(TESTS / "data" / "reference" / "1_class_per_client.json.gz")


def require_described(ds, exactly=True):
    """Every variable and coordinate has a row, and is what the row says."""
    rows = schema.coordinates(LAYERS) | schema.variables(LAYERS)
    for name, found in ds.variables.items():
        row = rows[name]
        assert found.dims == row.dims, name
        kind = {"text": "U", "float": "f"}.get(row.dtype) or np.dtype(row.dtype).kind
        assert found.dtype.kind == kind, name
        if exactly and row.dtype not in ("text", "float"):
            assert found.dtype == row.dtype, name
        assert found.attrs == {"long_name": row.long_name, "units": row.units}, name


def test_a_run_is_what_the_table_says(counted_run):
    """Compact too; every row is in one of them, or in one of those below, so that the table has nothing that nobody
    writes."""
    run = counted_run[0].isel(seed=[0])
    small = compact(run)
    for one in (run, small):
        require_described(one)
    asked = (*SECOND_INSTRUMENT, "with a method that serves every client a model of its own", "with aggregation.kind")
    others = {name for name, row in schema.variables(LAYERS).items() if not row.when.startswith(asked)}
    assert others <= set(run) | set(small)
    coordinates = {name for name, row in schema.coordinates(LAYERS).items() if not row.when}
    assert coordinates <= set(run.coords)
    dims = {dim for row in schema.variables(LAYERS).values() for dim in row.dims}
    assert dims <= {dim for row in schema.coordinates(LAYERS).values() for dim in row.dims}


def test_a_run_of_the_second_instrument_is_what_the_table_says(deciding_run):
    require_described(deciding_run.isel(seed=[0]))
    rows = {name for name, row in schema.variables(LAYERS).items() if row.when.startswith(SECOND_INSTRUMENT)}
    assert len(rows) == 53
    assert rows <= set(deciding_run)


SECOND_INSTRUMENT = ("with an objective other than class", "with evaluation.readout_images")
"""How the table says when these variables are there."""


def test_what_is_not_there_is_filled(counted_run):
    """A client's circuits of a class that it is not looked for in; the table says with what."""
    run = counted_run[0]
    absent = ~run["analysed"].isel(seed=0)
    rows = schema.variables(LAYERS)
    assert [rows[name].fill for name in ("mask_conv1", "size")] == [False, 0]
    assert np.isnan(rows["score_conv1"].fill)
    for name in ("mask_conv1", "size", "degenerate"):
        assert not run[name].isel(seed=0).where(absent, 0).any(), name
    assert run["score_conv1"].isel(seed=0).where(absent, np.nan).isnull().all()


def test_an_imported_file_is_what_the_table_says(imported):
    require_described(imported, exactly=False)  # the authors' figures are in double precision


def test_the_documentation_is_the_table():
    assert schema.table() in (TESTS.parent / "docs" / "results.md").read_text("utf-8")


def test_rows_of_a_deep_network():
    """By hand: the tenth convolution comes after the ninth, and the linear layer reads the last."""
    names = [f"mask_conv{i}" for i in (10, 2, 1, 3, 4, 9, 8, 7, 6, 5)] + ["mask_conv0x", "my_mask_conv11"]
    layers = schema.conv_layers(names)
    assert layers == tuple(f"conv{i}" for i in range(1, 11))
    rows = schema.variables(layers)
    assert rows["connected_local_conv1"].dims == ("seed", "round", "client", "channel_conv1", "image_channel")
    assert rows["connected_global_conv10"].dims == ("seed", "round", "channel_conv10", "channel_conv9")
    assert rows["connected_global_fc"].dims == ("seed", "round", "true_class", "channel_conv10")
    kernel = ("seed", "round", "kernel_row", "kernel_column", "channel_conv9", "channel_conv10")
    assert rows["weights_global_conv10_kernel"].dims == kernel
    assert rows["mask_conv10"].long_name == "whether the circuit keeps the channel of conv10"
    assert not [name for name, row in rows.items() if "{" in name + row.long_name + "".join(row.dims)]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_results_of_any_depth_are_read(depth):
    ds = made(depth)
    layers = [f"conv{i + 1}" for i in range(depth)]
    assert ds["layer"].values.tolist() == layers
    assert schema.lacking(ds) == ""
    masks = [ds[f"mask_{layer}"].values for layer in layers]
    np.testing.assert_array_equal(ds["size"].values, np.stack([mask.sum(-1) for mask in masks], -1))
    for i, mask in enumerate(masks):
        local, global_ = ({*np.flatnonzero(mask[0, 1, origin, 1, 0])} for origin in (0, 1))
        union = len(local | global_)
        expected = len(local & global_) / union if union else 1.0
        assert ds["local_global_iou"].values[0, 1, 1, 0, i] == pytest.approx(expected)
        before = [True] * ds.sizes["image_channel"] if i == 0 else masks[i - 1][0, 1, 0, 1, 0]
        wires = ds[f"connected_local_{layers[i]}"].values[0, 1, 1]
        links = sum(wires[o, s] and before[s] for o in local for s in range(len(before)))
        assert ds["edges"].values[0, 1, 0, 1, 0, i] == links
    whole = aligned(ds)
    assert whole["moved"].sizes["layer"] == depth
    assert not whole["moved"].any()  # every model is the same
    xr.testing.assert_allclose(
        whole["aligned_local_global_iou"].drop_vars("layer"), ds["local_global_iou"].drop_vars("layer")
    )
    assert measures.contained(ds)[0]["layer"].values.tolist() == layers
    assert nulls.expected(ds)["stability_iou"].sizes["layer"] == depth
    strengths = {f"strength_{o}_{layer}" for o in schema.ORIGINS for layer in layers}
    assert strengths <= set(compact(ds))


def made(depth):
    """Two rounds, two clients, two classes; circuits and wires at random; one model for all; layers of 4, 5, ..."""
    rng = np.random.default_rng(depth)
    sizes = {"seed": 1, "round": 2, "origin": 2, "client": 2, "class": 2, "image_channel": 1}
    sizes |= {f"channel_conv{i + 1}": 4 + i for i in range(depth)} | {"kernel_row": 3, "kernel_column": 3}
    layers = tuple(f"conv{i + 1}" for i in range(depth))
    rows = schema.variables(layers)
    data = {}
    for layer in layers:
        for name in (f"mask_{layer}", f"connected_local_{layer}", f"connected_global_{layer}"):
            data[name] = (rows[name].dims, rng.random([sizes[dim] for dim in rows[name].dims]) < 0.6)
        for part in ("kernel", "bias"):
            own = [dim for dim in rows[f"weights_global_{layer}_{part}"].dims if dim not in schema.GLOBAL]
            weights = rng.normal(size=[sizes[dim] for dim in own])
            for origin in schema.ORIGINS:
                dims = rows[f"weights_{origin}_{layer}_{part}"].dims
                shape = [sizes[dim] for dim in dims]
                data[f"weights_{origin}_{layer}_{part}"] = (dims, np.broadcast_to(weights, shape).copy())
    data["analysed"] = (("seed", "client", "class"), np.ones((1, 2, 2), bool))
    coords = {"seed": [0], "round": [1, 2], "origin": list(schema.ORIGINS), "client": [0, 1], "class": [0, 1]}
    return connectivity.edges(similarity.measures(similarity.sizes(xr.Dataset(data, coords))))


def test_what_a_result_lacks():
    ds = made(3)
    for name in ("analysed", "mask_conv1", "mask_conv2", "mask_conv3"):
        assert schema.lacking(ds.drop_vars(name)) == name
    assert schema.lacking(xr.Dataset()) == "analysed"
    assert schema.lacking(xr.Dataset({"analysed": 1, "mask_conv2": 1})) == "mask_conv1"

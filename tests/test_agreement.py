"""Whether clients agree on weights and signs: by hand, and against a count in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from fedmi_jax.circuits.evaluation import divided
from fedmi_jax.federation import agreement


@pytest.mark.parametrize(
    ("kernels", "ratio", "conflict", "cancellation"),
    [
        ([[1, 0, 2, 0], [3, 0, 4, 0]], 1, 0, 1),  # the same weights, the same signs
        ([[1, 0, 0, 0], [0, 3, 0, 0]], 2, None, 1),  # none in common
        ([[1, 2, 0, 0], [-3, 2, 0, 0]], 1, 1 / 2, (2 + 4) / 8),
        ([[1, 1, 0, 0], [-1, 0, 1, 0], [1, 0, 0, 0]], (3 / 4) / (5 / 12), 1, (1 + 1 + 1) / 5),
        ([[0, 0, 0, 0], [0, 0, 0, 0]], None, None, None),
    ],
)
def test_by_hand(kernels, ratio, conflict, cancellation):
    with jax.debug_nans(True):
        values = jnp.array(kernels, float)
        found = divided(jax.jit(agreement.of_layer)(values, (values > 0).sum(0), (values < 0).sum(0)))
    expected = {"support_ratio": ratio, "sign_conflict": conflict, "cancellation": cancellation}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], np.nan if value is None else value, rtol=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("shard", "at_once"), [("batch", 1000), ("batch", 0), ("clients", 1000), ("clients", 0)])
def test_seeds_and_layers_are_counted_apart(shard, at_once, monkeypatch):
    """Two seeds of three clients, seed by seed, in the order of the layers; each device with its own clients or with
    all, summed in one go or client after client."""
    monkeypatch.setattr(agreement, "ALL_AT_ONCE", at_once)
    agreement._measures.clear_cache()
    models = tiny.stacked([tiny.params(seed, sparsity=0.6) for seed in range(6)])
    found = agreement.measures(models, shape=(2, 3), layout=tiny.layout(1, shard=shard))
    agreement._measures.clear_cache()
    for seed in range(2):
        for i, layer in enumerate(("conv1", "conv2", "conv3", "fc")):
            kernels = np.asarray(models[f"{layer}_kernel"])[3 * seed : 3 * seed + 3]
            kept = kernels != 0
            shared = kept.sum(0) > 1
            both = ((kernels > 0).any(0) & (kernels < 0).any(0))[shared].mean()
            assert found["support_ratio"][seed, i] == pytest.approx(kept.any(0).mean() / kept.mean())
            assert found["sign_conflict"][seed, i] == pytest.approx(both)
            cancelled = np.abs(kernels.sum(0)).sum() / np.abs(kernels).sum()
            assert found["cancellation"][seed, i] == pytest.approx(cancelled)


def test_a_run_has_them(counted_run):
    """The union that the mean of the clients keeps is the global model's density."""
    run, _ = counted_run
    kept = {where: 1 - run[f"realised_sparsity_{where}"] for where in ("local", "global")}
    np.testing.assert_allclose(run["support_ratio"], kept["global"] / kept["local"].mean("client"), rtol=1e-6)
    assert (run["sign_conflict"].dropna("parameter_layer") >= 0).all()
    assert (run["cancellation"] < 1).any()

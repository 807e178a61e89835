"""Random masks and second searches, in the run that the tests of `federation` share: they show that no layout changes
it, that its second round compiles nothing, and that nothing else changes."""

import dataclasses

import jax
import numpy as np
import plain
import pytest
import xarray as xr
from test_simulation import SAVING, inputs, weights

from fedmi_jax import keys
from fedmi_jax.analysis import alignment, compact
from fedmi_jax.config import replace
from fedmi_jax.federation import controls, simulation
from fedmi_jax.federation.programs import Masked
from fedmi_jax.federation.setup import place, prepare
from fedmi_jax.network.ablation import Mean
from fedmi_jax.network.layers import CONV_LAYERS

WIDTHS = {"conv1": 32, "conv2": 64, "conv3": 128}
"""Wide enough that no two random masks of a layer are equal by chance."""
SAMPLES = 2
"""As in `tiny.experiment`."""


@pytest.fixture(scope="module")
def run(counted_run):
    return counted_run[0]


@pytest.fixture(scope="module")
def setup(squares):
    with jax.enable_x64(True):
        return place(prepare(SAVING, squares))


def masks_of(run, setup, round_):
    """(2C, O_l) as a round has them, out of the result."""
    c = setup.facts.circuits
    rows = list(zip(c.seed, c.client, np.searchsorted(run["class"].values, c.label), strict=True))
    where = [(s, round_ - 1, o, k, y) for o in (0, 1) for s, k, y in rows]
    return where, {layer: np.stack([run[f"mask_{layer}"].values[w] for w in where]) for layer in CONV_LAYERS}


@pytest.mark.usefixtures("x64")
def test_random_masks_have_the_circuits_sizes_and_are_measured_as_circuits_are(run, setup):
    cases = setup.facts.cases(setup.facts.round(2))
    where, found = masks_of(run, setup, 2)
    masks = controls.draw(setup.facts, cases, found, 2)
    assert len(masks) == SAMPLES
    for one in masks:
        for layer in CONV_LAYERS:
            np.testing.assert_array_equal(one[layer].sum(-1), found[layer].sum(-1))
    test = inputs(setup, "test")
    x, labels = plain.normalised(test, np.arange(len(test.labels))), np.asarray(test.labels)
    answer = jax.jit(lambda params, gates: plain.logits(params, x, gates).argmax(1))
    for i in range(0, len(where), 3):
        s, _, o, k, y = where[i]
        at = {"seed": run["seed"].values[s].item(), "round": 2}
        models = [weights(run, "local", **at, client=int(k)), weights(run, "global", **at)]
        label = run["class"].values[y]
        for n in range(SAMPLES):
            mask = {layer: m[i] * 1.0 for layer, m in masks[n].items()}
            removed = {layer: 1 - m for layer, m in mask.items()}
            judged = ((models[o], mask), (models[o], removed), (models[1 - o], mask))
            for name, pair in zip(controls.JUDGED, judged, strict=True):
                expected = (np.asarray(answer(*pair)) == label)[labels == label].mean()
                assert run[name].values[(*where[i], n)] == pytest.approx(expected, abs=1e-6), name


def test_draws_are_keyed_by_what_they_are_for(setup):
    """Not by how many others there are; samples, origins, rounds and clients differ."""
    cases = setup.facts.cases(setup.facts.round(2))
    half = {k: np.tile(np.arange(n) < n // 2, (len(cases.circuit), 1)) for k, n in WIDTHS.items()}

    def drawn_masks(samples, number):
        experiment = replace(SAVING, evaluation=replace(SAVING.evaluation, null_samples=samples))
        facts = dataclasses.replace(setup.facts, experiment=experiment)
        return np.concatenate([one["conv3"] for one in controls.draw(facts, cases, half, number)])

    two, three = (drawn_masks(n, 2) for n in (2, 3))
    np.testing.assert_array_equal(two, three[: len(two)])
    assert len(np.unique(three, axis=0)) == len(three)
    assert not np.array_equal(three, drawn_masks(3, 1))
    drawn = keys.generator(3, keys.RANDOM_MASK_LOCAL, 2, 0, 0, 0)
    first = [np.isin(np.arange(n), drawn.permutation(n)[: n // 2]) for n in WIDTHS.values()]
    np.testing.assert_array_equal(three[0], first[2])


def test_found_again_in_the_last_round_only(run):
    assert run["rediscovery_iou"].sel(round=1).isnull().all()
    last = run["rediscovery_iou"].sel(round=2)
    assert last.notnull().all()
    assert 0.5 < float(last.mean()) < 1
    empty = (run["size"].sel(round=2) == 0) & (run["empty_pairs_rediscovery"].sel(round=2) == 1)
    assert (last.where(empty, 1) == 1).all()
    absent = last.sel({"client": 0, "class": 2})  # no image of the class: empty, twice
    assert (absent == 1).all()
    assert (run["empty_pairs_rediscovery"].sel({"round": 2, "client": 0, "class": 2}) == 1).all()


@pytest.mark.usefixtures("x64")
def test_the_second_search_sees_other_batches(setup):
    cases = setup.facts.cases(setup.facts.round(2))
    assert controls.searches(SAVING, 1) == [keys.DISCOVER]
    first, second = (simulation.discovery_plans(setup, cases, 2, p) for p in controls.searches(SAVING, 2))
    assert not np.array_equal(first.indices, second.indices)
    np.testing.assert_array_equal(first.weight, second.weight)


@pytest.mark.usefixtures("x64")
def test_every_judgement_has_its_model_and_its_ablation(setup):
    """Local circuits' random masks are cross-evaluated on the global model, with the global model's means."""
    cases, rng = setup.facts.cases(setup.facts.round(1)), np.random.default_rng(0)
    masks = {k: rng.random((len(cases.circuit), n)) < 0.5 for k, n in WIDTHS.items()}
    means = Mean({k: np.tile(cases.model[:, None], (1, n)) for k, n in WIDTHS.items()})
    other = means.outputs["conv2"][cases.mirror]
    np.testing.assert_array_equal(other[:, 0], cases.other)  # the mirrored circuit's own model
    own = Masked(cases.model, controls.gates(masks, float), means, cases.label)
    crossed = own._replace(model=cases.other, ablation=Mean({k: v[cases.mirror] for k, v in means.outputs.items()}))
    removed, *random = controls.by_class(setup.facts, cases, own, crossed, masks, 1)
    kept, without, across = random[:SAMPLES], random[SAMPLES : 2 * SAMPLES], random[2 * SAMPLES :]
    assert len(across) == SAMPLES
    for part in (removed, *kept, *without):
        np.testing.assert_array_equal(part.model, cases.model)
        assert part.ablation is means
    for part in across:
        np.testing.assert_array_equal(part.model, cases.other)
        np.testing.assert_array_equal(part.ablation.outputs["conv2"][:, 0], cases.other)
    np.testing.assert_array_equal(removed.gates["conv1"], ~masks["conv1"])
    for one, gone, there in zip(kept, without, across, strict=True):
        np.testing.assert_array_equal(gone.gates["conv1"], 1 - one.gates["conv1"])
        np.testing.assert_array_equal(there.gates["conv1"], one.gates["conv1"])
        np.testing.assert_array_equal(one.gates["conv1"].sum(-1), masks["conv1"].sum(-1))


def test_kept_weights_align_with_themselves(run):
    found = alignment.aligned(run)
    assert ((found["aligned_local_global_iou"] >= 0) & (found["aligned_local_global_iou"] <= 1)).all()
    same = run.copy()
    for name in (str(name) for name in run if str(name).startswith("weights_global_")):
        local = run[name.replace("global", "local")].isel(client=0, drop=True)
        same[name] = local.transpose(*run[name].dims)
    again = alignment.aligned(same)
    assert (again["moved"].sel(client=0) == 0).all()
    np.testing.assert_array_equal(
        again["aligned_local_global_iou"].sel(client=0), run["local_global_iou"].sel(client=0)
    )


def test_compact_keeps_what_is_measured_from_the_weights(run):
    small = compact.compact(run)
    assert not [name for name in small if str(name).startswith("weights_")]
    xr.testing.assert_equal(alignment.aligned(small), alignment.aligned(run))
    for layer in CONV_LAYERS:
        for origin in ("local", "global"):
            strong, wired = small[f"strength_{origin}_{layer}"], small[f"connected_{origin}_{layer}"]
            np.testing.assert_array_equal(strong.transpose(*wired.dims) > 0, wired)
            assert int(strong.max()) == 255

"""Verdicts on results whose verdict is known, and on the authors' published runs."""

import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_up import MAPS, result
from rich.console import Console

from fedmi_jax.analysis import claims, findings, measures, runs, verdicts
from fedmi_jax.analysis.interference import Trend
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, OPEN, Criterion, judged, overall
from fedmi_jax.cli import main
from fedmi_jax.config import Data, Evaluation
from fedmi_jax.errors import FedmiError
from fedmi_jax.network import layers
from fedmi_jax.report import claims_table
from fedmi_jax.results import similarity, store
from fedmi_jax.results.authors import import_authors
from fedmi_jax.results.labels import held
from fedmi_jax.results.statistics import Estimate

REFERENCE = Path(__file__).parent / "data" / "reference"


# --- the rules ---


@pytest.mark.parametrize(
    ("low", "high", "seeds", "expected"),
    [
        (0.91, 0.99, 3, HOLDS),
        (0.90, 0.99, 3, HOLDS),
        (0.89, 0.99, 3, OPEN),
        (0.10, 0.89, 3, FAILS),
        (0.91, 0.99, 2, OPEN),
        (None, None, 1, OPEN),
    ],
)
def test_one_definition(low, high, seeds, expected):
    assert judged("x", Estimate(0.95, low, high, seeds), Criterion(low=0.9)).verdict == expected


def test_nothing_measured_is_undecided():
    assert judged("x", Estimate(np.nan, None, None, 0), Criterion(low=0.9)).verdict == OPEN


def test_a_criterion_is_written_with_all_its_digits():
    said = [str(c) for c in (Criterion(low=0.9), Criterion(high=0.001), Criterion(0.1, 0.25), Criterion(low=-0.02))]
    assert said == ["at least 0.90", "at most 0.001", "0.10 to 0.25", "at least -0.02"]


@pytest.mark.parametrize(
    ("verdicts_", "expected"),
    [
        ("", OPEN), ("H", HOLDS), ("HH", HOLDS), ("F", FAILS), ("FF", FAILS), ("HF", "holds only for 0"),
        ("FHH", "holds only for 1; 2"), ("HO", OPEN), ("FO", OPEN), ("O", OPEN),
        ("HFO", f"holds only for 0; {OPEN} for 2"), ("HN", HOLDS), ("FN", FAILS), ("N", OPEN),
        ("HFN", "holds only for 0"),
    ],
)  # fmt: skip
def test_several_definitions(verdicts_, expected):
    """N: nothing to measure."""
    limits = {"H": (0.95, 0.99), "F": (0.1, 0.2), "O": (0.5, 0.99)}
    estimates = [Estimate(np.nan, None, None, 0) if v == "N" else Estimate(0.5, *limits[v], 5) for v in verdicts_]
    assert overall([judged(str(i), one, Criterion(low=0.9)) for i, one in enumerate(estimates)]) == expected


@pytest.mark.parametrize(
    ("trend", "at_every_level", "fall", "expected"),
    [
        ((0.01, 0.99), True, (0.3, 0.1, 0.4, 3), HOLDS),
        ((0.01, 0.99), False, (0.3, 0.1, 0.4, 3), OPEN),
        ((0.20, 0.80), False, (0.1, -0.1, 0.2, 3), OPEN),  # not significant is not: there is none
        ((0.20, 0.80), False, (-0.1, -0.2, 0.0, 3), FAILS),
        ((0.99, 0.01), False, (-0.1, -0.3, 0.1, 3), FAILS),
        ((0.01, 0.99), True, (0.3, 0.1, 0.4, 2), OPEN),
        (None, True, (0.3, None, None, 1), OPEN),
    ],
)
def test_trend(trend, at_every_level, fall, expected):
    assert findings.trend_verdict(trend and Trend(*trend), at_every_level, Estimate(*fall)) == expected


def test_a_ceiling_that_decides_is_marked():
    """What search noise alone misses, or meets from below, is no statement about the circuits."""
    for criterion, ceiling, expected in (
        (Criterion(low=0.9), 0.8, True), (Criterion(low=0.9), 0.95, False), (Criterion(high=0.5), 0.4, True),
        (Criterion(high=0.5), 0.8, False), (Criterion(low=0.9), None, False),
    ):  # fmt: skip
        assert judged("x", Estimate(0.5, 0.5, 0.5, 3), criterion, ceiling=ceiling).ceiling_decides is expected


def test_a_null_that_meets_the_rule_is_marked():
    estimate = Estimate(0.2, 0.1, 0.25, 5)
    assert judged("x", estimate, Criterion(high=0.3), 0.2).null_meets_it
    assert not judged("x", estimate, Criterion(high=0.3), 0.4).null_meets_it
    assert not judged("x", estimate, Criterion(high=0.3), np.nan).null_meets_it


# --- made-up runs ---


def by_client(s, r, k, c):
    return 10 * k


def by_class(s, r, k, c):
    return c % 3


def drifting(s, r, k, c):
    return r


def sometimes_out(s, r, k, c):
    """Every circuit, in every fifth round of its own."""
    return 0.0 if (r + c) % 5 == 0 else 1.0


def mostly_out(s, r, k, c):
    return 0.0 if r % 2 and c % 3 else 1.0


def never_worked(s, r, k, c):
    return 0.0


def one_place(s, r, k, c):
    """One client, in one layer of one class and round, is elsewhere."""
    return (0, 20, 0) if (r, k, c) == (4, 2, 1) else 0


def settled(s, r, k, c):
    """Until round 7 elsewhere in every round."""
    return 12 * (r % 2) if r < 7 else 0


def larger(s, r, k, c):
    """In the second half of the rounds circuits are three times as large, and three times as far apart."""
    return 10 if r <= 5 else 30


def farther(s, r, k, c):
    return 2 if r <= 5 else 6


def own_out(s, r, k, c):
    return 1.0 if c == 0 else sometimes_out(s, r, k, c)


def ablation(share, last=None):
    """Four levels; at each a share of the rounds is out, in a different one per seed; or in the last round of so many
    circuits."""
    kind, made = "sparsity-ablation", {}
    for i, level in enumerate((0.95, 0.97, 0.99, 0.995)):
        out = [c for c in range(6) if c < (last or [0] * 4)[i]]

        def cross(s, r, k, c, i=i, out=out):
            return 0.0 if (3 * r + c + s) % 10 < share[i] or (r == 10 and c in out) else 1.0

        made[f"{kind}-{level:g}"] = result(kind, cross=cross, sparsity=level, seeds=4)
    return made


def only(kind, **how):
    return {kind: result(kind, **how)}


def both(**how):
    return only("one-class", **how) | only("two-class", **how)


CASES = [
    ("C1", lambda: only("iid"), HOLDS),
    ("C1", lambda: only("iid", local=by_client, global_=by_client), FAILS),
    (
        "C1", lambda: only("iid", local=by_client),
        "holds only for on average, global circuits; everywhere, global circuits",
    ),
    (
        "C1", lambda: only("iid", local=one_place, global_=one_place),
        "holds only for on average, global circuits; on average, local circuits",
    ),
    ("C2", lambda: only("iid"), HOLDS),
    ("C2", lambda: only("iid", local=settled, global_=settled), HOLDS),
    ("C2", lambda: only("iid", local=lambda s, r, k, c: 12 * (r % 2), global_=lambda s, r, k, c: 12 * (r % 2)), FAILS),
    ("C3", lambda: only("iid"), HOLDS),
    ("C3", lambda: only("iid", global_=5), FAILS),
    ("C3", lambda: only("iid", global_=settled), HOLDS),
    (
        "C3", lambda: only("iid", global_=lambda s, r, k, c: (0, 1, 0), size=12),
        "holds only for on average; on average, share of its channels kept; "
        "in the worst layer, share of its channels kept",
    ),
    ("C4", lambda: both(local=by_client, global_=by_client), HOLDS),
    ("C4", lambda: both(), FAILS),
    ("C4", lambda: both(**dict.fromkeys(("local", "global_"), lambda s, r, k, c: (15 * k, 3 * k, 15 * k))), FAILS),
    ("C4", lambda: both(**dict.fromkeys(("local", "global_"), lambda s, r, k, c: 10 * k * (r == 10))), HOLDS),
    ("C4", lambda: only("one-class", local=by_client, global_=by_client), "holds, without two-class"),
    ("C4", lambda: both(local=by_client), "holds only for one-class, local circuits; two-class, local circuits"),
    ("C5", lambda: both(), HOLDS),
    ("C5", lambda: both(cross=0.5, balanced=0.5), FAILS),
    ("C5", lambda: both(**dict.fromkeys(("cross", "balanced"), lambda s, r, k, c: float(r == 10))), HOLDS),
    (
        "C5", lambda: both(balanced=0.5),
        "holds only for one-class, accuracy on the class; two-class, accuracy on the class",
    ),
    ("C6", lambda: both(global_=drifting), HOLDS),
    ("C6", lambda: both(global_=lambda s, r, k, c: 11 - r), FAILS),
    (
        "C6", lambda: both(global_=farther, size=larger),
        "holds only for one-class, corrected for chance; two-class, corrected for chance",
    ),
    ("C7", lambda: only("three-class", local=lambda s, r, k, c: k, global_=lambda s, r, k, c: k), HOLDS),
    ("C7", lambda: only("three-class"), FAILS),  # alike, which is more than the claim says
    ("C8", lambda: only("three-class", cross=mostly_out), HOLDS),
    ("C8", lambda: only("three-class"), FAILS),
    (
        "C8", lambda: only("three-class", cross=sometimes_out),
        "holds only for share of circuits that collapse and recover",
    ),
    ("C8", lambda: only("three-class", cross=never_worked), "holds only for share of rounds with most circuits out"),
    ("C9", lambda: only("three-class", global_=9), HOLDS),
    ("C9", lambda: only("three-class"), FAILS),
    (
        "C9", lambda: only("three-class", global_=lambda s, r, k, c: 9 * (r != 20)),
        "holds only for on average; on average, share of its channels kept",
    ),
    ("C10", lambda: only("shared-class"), HOLDS),
    ("C10", lambda: only("shared-class", cross=0.0, balanced=0.5), FAILS),
    (
        "C10", lambda: only("shared-class", balanced=0.5),
        "holds only for accuracy on the class, lowest of any client and round",
    ),
    ("C11", lambda: only("shared-class", cross=own_out), HOLDS),
    ("C11", lambda: only("shared-class"), FAILS),
    ("C11", lambda: only("shared-class", cross=never_worked), "holds only for share of circuits and rounds out"),
    ("C12", lambda: ablation((3, 2, 1, 0), (6, 4, 2, 1)), HOLDS),
    ("C12", lambda: ablation((0, 1, 2, 3), (1, 2, 4, 6)), FAILS),
]  # fmt: skip


@pytest.mark.parametrize(("name", "made", "expected"), CASES, ids=[f"{n}-{e[:12]}" for n, _, e in CASES])
def test_known_verdicts(name, made, expected):
    row = row_of(name, made())
    assert row.verdict == expected, [(f.definition, str(f.estimate), f.verdict, f.detail) for f in row.findings]


def row_of(name, made):
    """Of `claims.judge`, which judges all claims; here one alone."""
    (claim,) = (claim for claim in claims.CLAIMS if claim.id == name)
    return claims._row(claim, made)


def test_circuits_that_are_not_degenerate_are_judged_alone():
    """Only circuits without channels are out, fewer at every level: a trend that says nothing."""

    def cross(level):
        return lambda s, r, k, c: 0.0 if c < 3 - level and r > 1 else 1.0

    made = {
        f"sparsity-ablation-{x:g}": result(
            "sparsity-ablation", sparsity=x, cross=cross(i), local=lambda s, r, k, c: -1 if c < 3 else 0
        )
        for i, x in enumerate((0.95, 0.97, 0.99, 0.995))
    }
    found = {f.definition: f for f in row_of("C12", made).findings}
    assert [f.verdict for f in found.values()] == [HOLDS, HOLDS, HOLDS, FAILS, FAILS, FAILS]
    assert "95.0%: 0.45 (50% degenerate)" in found["share of circuits and rounds out, falling at every level"].detail
    sound = found["share of circuits and rounds out, not degenerate, falling at every level"]
    assert "95.0%: 0.00 (90 of 180 circuits and rounds)" in sound.detail
    for name, kind in (("C8", "three-class"), ("C11", "shared-class")):
        empty = only(kind, cross=sometimes_out, local=lambda s, r, k, c: -1 if c % 3 else 0)
        assert any("not degenerate" in f.definition for f in row_of(name, empty).findings)


def test_circuits_that_failed_before_averaging_are_left_out():
    """Half of them are wrong about every image on their own model already, and only those are out after averaging."""
    for name, kind in (("C5", "two-class"), ("C8", "three-class"), ("C11", "shared-class")):
        ds = result(kind, cross=lambda s, r, k, c: float(c % 2))
        ds["sufficiency"] = ds["cross_evaluation"] * 0.6
        found = {f.definition: f for f in row_of(name, {kind: ds}).findings}
        home = [f for said, f in found.items() if said.endswith("works on its own model")]
        assert len(home) == (1 if name == "C5" else 2)
        assert all(f.estimate.mean == (1 if name == "C5" else 0) for f in home)
        assert "of 18 circuits" in home[0].detail or kind != "two-class"
    levels = ablation((3, 2, 1, 0))
    for ds in levels.values():
        ds["sufficiency"] = ds["cross_evaluation"]
    (home, *_) = [f for f in row_of("C12", levels).findings if "works on its own model" in f.definition]
    assert (home.estimate.mean, home.verdict) == (0, FAILS)


def test_a_circuit_that_only_grew_has_not_moved():
    """C6 under IoU, but not under the share of its channels that averaging left in place."""
    made = only("two-class", size=4)
    ds, late = made["two-class"], made["two-class"]["round"] > 5
    for layer in layers.CONV_LAYERS:  # global circuits of the second half of the rounds: all channels
        mask = ds[f"mask_{layer}"]
        ds[f"mask_{layer}"] = mask | (late & (mask["origin"] == "global") & held(ds))
    made["two-class"] = similarity.measures(ds)
    found = {f.definition: f for f in row_of("C6", made).findings}
    assert found["two-class, as measured"].verdict == HOLDS
    kept = found["two-class, share of its channels kept"]
    assert (kept.estimate.mean, kept.verdict) == (0, FAILS)
    assert kept.null == pytest.approx(1 - 4 / 40)


def test_contained_is_the_share_of_the_inner_set():
    rng, ds = np.random.default_rng(0), result("two-class", seeds=1, rounds=1)
    for layer in layers.CONV_LAYERS:
        mask = ds[f"mask_{layer}"]
        share = np.array([0.02, 0.4])[:, None, None, None]  # of local and of global circuits
        ds[f"mask_{layer}"] = mask.copy(data=rng.random(mask.shape) < share)
    share, null = (part.isel(seed=0, round=0) for part in measures.contained(ds))
    empty = 0
    for client, classes in enumerate(MAPS["two-class"]):
        for label, layer in itertools.product(classes, layers.CONV_LAYERS):
            masks = ds[f"mask_{layer}"].isel(seed=0, round=0, client=client).sel({"class": label})
            one, other = (set(np.flatnonzero(masks.sel(origin=origin))) for origin in ("local", "global"))
            empty += not one
            expected = (len(one & other) / len(one), len(other) / 40) if one else (np.nan, np.nan)
            found = [float(part.isel(client=client).sel({"class": label, "layer": layer})) for part in (share, null)]
            np.testing.assert_allclose(found, expected)
    assert 0 < empty < 18
    assert share.isel(client=0).sel({"class": 7}).isnull().all()  # of a class that the client does not analyse


def test_collapses_do_not_grow_with_the_rounds():
    cross = lambda s, r, k, c: float(r % 2)  # noqa: E731 - out in every second round
    made = {f"sparsity-ablation-{x:g}": result("sparsity-ablation", sparsity=x, cross=cross, rounds=n, seeds=1)
            for x, n in ((0.95, 11), (0.97, 21), (0.99, 31))}  # fmt: skip
    assert "95.0%: 0.50 (0% degenerate), 97.0%: 0.50 " in row_of("C12", made).findings[1].detail


def test_a_short_run_decides_what_more_rounds_cannot_undo():
    short = {"three-class": result("three-class", cross=mostly_out, rounds=10)}
    assert [f.verdict for f in row_of("C8", short).findings] == [HOLDS, OPEN]
    assert all("10 of 50 rounds" in f.detail for f in row_of("C8", short).findings)
    fine = {"three-class": result("three-class", rounds=10)}
    assert {f.verdict for f in row_of("C8", fine).findings} == {OPEN}
    assert [f.verdict for f in row_of("C9", fine).findings] == [OPEN, FAILS] * 2  # its best round is too good already
    assert row_of("C4", only("two-class", rounds=2)).verdict == OPEN


def test_what_a_run_lacks_is_named_and_the_rest_is_judged():
    ds = result("three-class", seeds=1, rounds=3).drop_vars(["cross_evaluation", "degenerate"])
    made = {"three-class": ds} | both(seeds=1)
    rows = {row.claim.id: row for row in claims.judge(made)}
    assert claims_table.verdict_text(rows["C8"]) == (
        "cannot tell yet (without three-class (no cross_evaluation, degenerate))"
    )
    assert rows["C9"].findings
    assert "three-class: seeds 0; 3 rounds" in claims_table.markdown(list(rows.values()), made)
    lacking = both()
    lacking["two-class"] = lacking["two-class"].drop_vars("degenerate")
    assert row_of("C5", lacking).verdict == "holds, without two-class (no degenerate)"


def test_settings_that_are_not_the_papers_are_said():
    quick = result("two-class", rounds=2, seeds=1, sparsity=0.0, data=Data(images_per_client=9))
    assert claims_table.describe({"two-class": quick}, "two-class")["not_the_papers"] == [
        "rounds 2 (10)", "data.images_per_client 9 (None)", "sparsity.target 0.0 (0.995)",
    ]  # fmt: skip
    assert runs.differences("two-class", result("two-class", seeds=1)) == []
    imported = import_authors(REFERENCE / "2_distinct_1_shared.json.gz")
    assert runs.differences("shared-class", imported.isel(round=slice(2))) == ["rounds 2 (10)"]


def test_circuits_found_again_bound_the_overlap():
    made = only("iid", global_=5)
    again = made["iid"]["local_global_iou"].expand_dims(origin=["local", "global"])
    made["iid"]["rediscovery_iou"] = (again * 0 + 0.8).where(again["round"] == 10)
    made["iid"]["empty_pairs_rediscovery"] = made["iid"]["rediscovery_iou"] * 0
    for name in ("C1", "C2", "C3"):
        found = [f for f in row_of(name, made).findings if "kept" not in f.definition]
        assert [f.ceiling for f in found] == [pytest.approx(0.8)] * len(found)
        assert all(f.ceiling_decides for f in found)
    rows = claims.judge(made)
    assert "found again 0.80†" in claims_table.markdown(rows, made)


def test_one_seed_decides_nothing_but_says_what_the_means_say():
    made = only("iid", seeds=1) | only("shared-class", seeds=1, balanced=0.5)
    rows = {row.claim.id: row for row in claims.judge(made)}
    assert {row.verdict for row in rows.values()} == {OPEN}
    assert rows["C1"].leaning == HOLDS
    assert all(finding.estimate.low is None for finding in rows["C1"].findings)
    assert claims_table.verdict_text(rows["C1"]) == "cannot tell yet (1 seed: holds)"
    assert claims_table.verdict_text(rows["C7"]) == "cannot tell yet (needs three-class)"
    assert claims_table.verdict_text(row_of("C4", only("one-class", seeds=1))) == (
        "cannot tell yet (1 seed: does not hold; without two-class)"
    )


def test_empty_circuits_are_judged_under_both_conventions():
    made = only("one-class", local=-1, global_=by_client)
    row = row_of("C4", made)
    local = {f.definition: f for f in row.findings if "local" in f.definition}
    counted, left_out = (
        local[f"one-class, local circuits, {said}"] for said in ("two empty sets count as 1", "empty pairs left out")
    )
    assert (counted.estimate.mean, counted.null) == (1.0, 1.0)
    assert np.isnan(left_out.estimate.mean)
    assert counted.detail == "100% of pairs empty"
    five = row_of("C5", made)
    sound = next(f for f in five.findings if "not degenerate" in f.definition)
    assert np.isnan(sound.estimate.mean)
    assert "0 of 9 circuits" in sound.detail
    assert five.seeds == 3  # of what was measured


def test_accuracy_of_nothing_but_degenerate_circuits_has_no_say():
    """Three seeds at 100 %, each by a circuit whose answer cannot depend on the image."""
    ds = result("one-class", local=-1, cross=1.0).drop_vars("cross_evaluation_balanced_accuracy")
    row = row_of("C5", {"one-class": ds})
    assert (row.verdict, row.leaning) == (OPEN, "nothing to judge")
    assert [f.caution for f in row.findings] == ["100% degenerate", ""]
    some = result("one-class", local=lambda s, r, k, c: -1 if k else 0, cross=1.0)
    found = row_of("C5", {"one-class": some}).findings
    assert [(f.verdict, f.caution) for f in found[:2]] == [(HOLDS, "67% degenerate"), (HOLDS, "")]


def test_too_few_levels_are_said():
    two = {name: ds for name, ds in ablation((3, 2, 1, 0)).items() if name.endswith(("0.95", "0.995"))}
    said = claims_table.verdict_text(row_of("C12", two))
    assert said == f"{OPEN} (without a third level besides sparsity-ablation-0.95 and sparsity-ablation-0.995)"


def test_how_many_layers_the_share_of_channels_is_of():
    made = only("one-class", local=lambda s, r, k, c: -1 if r > 8 and k else 0)
    (kept,) = [f for f in row_of("C6", made).findings if f.definition.endswith("channels kept")]
    assert kept.detail == "layers with channels: 100% in the first round, 33% in the last"


def test_overlap_is_given_corrected_for_chance_too():
    found = row_of("C7", only("three-class", global_=by_client)).findings[0]
    by_hand = (found.estimate.mean - found.null) / (1 - found.null)
    assert found.detail == f"corrected for chance {by_hand:.2f}"


# --- which runs belong together ---


def test_kinds_are_recognised_by_who_holds_what():
    for name in MAPS:
        found = runs.kind(result(name, seeds=1, rounds=1).assign_attrs(name="renamed"))
        assert found == (name if name != "sparsity-ablation" else "sparsity-ablation-0.995")
    assert runs.kind(import_authors(REFERENCE / "2_distinct_1_shared.json.gz")) == "shared-class"


def saved(ds, folder, seeds=None):
    store.save(ds if seeds is None else ds.sel(seed=seeds), folder)
    return folder


@pytest.mark.usefixtures("pickled_files")
def test_seeds_are_joined(tmp_path):
    whole = result("iid", local=lambda s, r, k, c: s, rounds=3)
    for seed in (2, 0, 1):
        saved(whole, tmp_path / "iid" / f"seed-{seed}", [seed])
    (found,) = runs.gather([tmp_path]).values()
    assert found["seed"].values.tolist() == [0, 1, 2]
    assert found["mask_conv1"].dtype == bool
    np.testing.assert_array_equal(found["local_global_iou"], whole["local_global_iou"])


@pytest.mark.usefixtures("pickled_files")
def test_seeds_with_other_numbers_of_random_masks_keep_what_both_have(tmp_path):
    for seed, masks in ((0, 3), (1, 2)):
        ds = result("iid", rounds=2, seeds=2).sel(seed=[seed])
        ds["random_cross_evaluation"] = ds["cross_evaluation"].expand_dims(sample=np.arange(masks))
        saved(ds, tmp_path / str(seed))
    (found,) = runs.gather([tmp_path]).values()
    assert (found.sizes["seed"], found.sizes["sample"]) == (2, 2)


@pytest.mark.usefixtures("pickled_files")
def test_levels_of_an_ablation_must_be_comparable(tmp_path):
    saved(result("sparsity-ablation", seeds=1, rounds=2, sparsity=0.95), tmp_path / "a")
    saved(result("sparsity-ablation", seeds=1, rounds=3, sparsity=0.99), tmp_path / "b")
    with pytest.raises(FedmiError, match=r"b/result.nc: 3 rounds, but 2 in .*a/result.nc"):
        runs.gather([tmp_path], paper_only=True)
    few = Evaluation(images_per_class=5)
    saved(result("sparsity-ablation", seeds=1, rounds=2, sparsity=0.99, evaluation=few), tmp_path / "b")
    with pytest.raises(FedmiError, match="images_per_class differs"):
        runs.gather([tmp_path], paper_only=True)


def test_levels_without_a_common_seed_are_undecided():
    made = ablation((3, 2, 1, 0))
    made = {name: ds.isel(seed=[i]) for i, (name, ds) in enumerate(made.items())}
    assert row_of("C12", made).verdict == OPEN


@pytest.mark.usefixtures("pickled_files")
@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: result("iid", rounds=2), "rounds differs from .* (2 against 3)"),
        (lambda: result("iid", rounds=3, seeds=1), "seed 0 of this experiment is in .* too"),
        (lambda: result("two-class", rounds=3, data=Data(images_per_client=9)), "data.images_per_client differs"),
        (lambda: import_authors(REFERENCE / "1_class_per_client.json.gz"), "one is a run, the other an imported file"),
    ],
    ids=["rounds", "seed", "data", "imported"],
)
def test_runs_that_do_not_belong_together_are_refused(other, message, tmp_path, capsys):
    saved(result("iid", rounds=3, seeds=1), tmp_path / "a")
    saved(other(), tmp_path / "b")
    assert main.main(["claims", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path) in said
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), said), said


@pytest.mark.usefixtures("pickled_files")
def test_what_is_none_of_the_papers_experiments_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(MAPS, "odd", ((0, 1), (1, 2), (2, 3)))
    odd = saved(result("odd", rounds=2, seeds=1), tmp_path / "odd")
    with pytest.raises(FedmiError, match="none of the paper's experiments"):
        runs.gather([odd], paper_only=True)
    assert list(runs.gather([odd])) == ["odd"]


@pytest.mark.usefixtures("pickled_files")
@pytest.mark.parametrize(
    ("name", "expected"),
    [("iid", "other-iid"), ("sparsity-ablation-x", "other-sparsity-ablation-x"), ("x/../../evil $", "x-..-..-evil-")],
)
def test_an_unknown_run_takes_no_name_of_the_papers_and_none_that_is_a_path(name, expected, tmp_path, monkeypatch):
    monkeypatch.setitem(MAPS, "odd", ((0, 1), (1, 2), (2, 3)))
    saved(result("odd", rounds=1, seeds=1).assign_attrs(name=name), tmp_path)
    assert list(runs.gather([tmp_path])) == [expected]


def test_the_level_of_an_imported_file_is_in_its_name():
    ds = result("sparsity-ablation", rounds=1, seeds=1)
    del ds.attrs["config"]
    for name, expected in (
        ("sparsity-ablation-0.95-seed1", "sparsity-ablation-0.95"), ("sparsity-ablation-x", "two-class"),
        ("log", "two-class"),
    ):  # fmt: skip
        assert runs.kind(ds.assign_attrs(name=name)) == expected


@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_corrupt_or_missing_file_is_one_line(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / store.FILE).write_bytes(content)
    for command in ("claims", "figures"):
        assert main.main([command, str(tmp_path)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"fedmi: {tmp_path}")
        assert printed.err.count("\n") == 1


# --- the command, on the authors' runs ---


@pytest.fixture(scope="module")
def imported():
    return {file.name.split(".")[0]: import_authors(file) for file in REFERENCE.glob("*.gz")}


@pytest.fixture
def authors(imported, tmp_path, pickled_files):
    for name, ds in imported.items():
        store.save(ds, tmp_path / name)
    return tmp_path


def test_the_authors_published_numbers_now_with_nulls(authors, capsys):
    assert main.main(["claims", str(authors), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["id"]: row for row in found["claims"]}
    assert list(rows) == [f"C{i}" for i in range(1, 13)]
    overlap = {f["definition"]: f for f in rows["C4"]["findings"]}
    one = overlap["one-class, global circuits"]
    assert (round(one["mean"], 2), one["low"], one["seeds"], one["null_meets_it"]) == (0.27, None, 1, True)
    assert overlap["one-class, local circuits, two empty sets count as 1"]["mean"] == 1.0
    plain, sound = rows["C5"]["findings"][:2]
    assert (plain["mean"], plain["caution"]) == (1.0, "100% degenerate")
    assert sound["mean"] is None  # of the one-class run no local circuit is left
    assert rows["C1"]["findings"] == []
    assert {row["verdict"] for row in rows.values()} == {OPEN}


def test_every_degenerate_local_circuit_is_flagged(authors, capsys):
    main.main(["claims", str(authors), "--json"])
    described = json.loads(capsys.readouterr().out)["runs"]
    circuits = {name: one["degenerate_circuits"] for name, one in described.items()}
    last = [f for f in circuits["one-class"] if 10 in f["rounds"]]
    assert [(f["origin"], f["client"], f["class"]) for f in last] == [("local", k, 3 * k) for k in range(3)]
    assert sum(len(f["rounds"]) for f in circuits["one-class"] if f["origin"] == "local") == 18
    assert all(10 not in f["rounds"] for f in circuits["two-class"])
    assert {"origin": "global", "seed": 0, "client": 2, "class": 0, "rounds": [2, 3, 4, 10]} in circuits["shared-class"]


def test_table_and_markdown(authors, tmp_path, capsys):
    assert main.main(["claims", str(authors), "--out", str(tmp_path / "new" / "claims.md")]) == 0
    assert "C12" in capsys.readouterr().out
    text = (tmp_path / "new" / "claims.md").read_text()
    assert text.count("\n| **C") == 12
    assert "nan" not in text
    overview, every = (part.count("\n|") for part in text.split("Every definition:"))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert [line.replace(r"\|", "").count("|") for line in rows] == [7] * overview + [6] * (every - 1)
    console = Console(width=150, file=io.StringIO(), record=True)
    found = runs.gather([authors])
    console.print(claims_table.render(claims.judge(found), found))
    printed = console.export_text()
    said = " ".join(printed.split())
    assert "degenerate in the last round: client 0 class 0 (local), client 1 class 3 (local), client 2" in said
    assert "one-class, accuracy on the class: 1.00 (100% degenerate)<br>two-class, accuracy on the class" in text
    for row in claims.CLAIMS:
        assert row.id in printed


def test_every_rule_is_printed_and_names_its_figures():
    for claim in claims.CLAIMS:
        assert claim.rule
        assert "fig" in claim.section
        assert claim.needs
        assert set(claim.kinds) <= set(runs.KINDS)
    assert verdicts.MIN_SEEDS == 3

"""Verdicts on results whose verdict is known, and on the authors' published runs."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from made_up import MAPS, result
from rich.console import Console

from fedmi_jax import cli, results
from fedmi_jax.analysis import claims, runs, verdicts
from fedmi_jax.analysis.statistics import Estimate
from fedmi_jax.analysis.verdicts import FAILS, HOLDS, OPEN, Criterion, judged, overall
from fedmi_jax.config import Data, FedmiError
from fedmi_jax.interop import import_authors
from fedmi_jax.report import claims_table

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


@pytest.mark.parametrize(
    ("verdicts_", "expected"),
    [
        ("", OPEN), ("H", HOLDS), ("HH", HOLDS), ("F", FAILS), ("FF", FAILS), ("HF", "holds only for 0"),
        ("FHH", "holds only for 1; 2"), ("HO", OPEN), ("FO", OPEN), ("O", OPEN), ("HFO", "holds only for 0"),
    ],
)  # fmt: skip
def test_several_definitions(verdicts_, expected):
    limits = {"H": (0.95, 0.99), "F": (0.1, 0.2), "O": (0.5, 0.99)}
    findings = [judged(str(i), Estimate(0.5, *limits[v], 5), Criterion(low=0.9)) for i, v in enumerate(verdicts_)]
    assert overall(findings) == expected


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
    ("C1", only("iid"), HOLDS),
    ("C1", only("iid", local=by_client, global_=by_client), FAILS),
    ("C1", only("iid", local=by_client), "holds only for on average, global circuits; everywhere, global circuits"),
    ("C2", only("iid"), HOLDS),
    ("C2", only("iid", local=lambda s, r, k, c: 12 * (r % 2), global_=lambda s, r, k, c: 12 * (r % 2)), FAILS),
    ("C3", only("iid"), HOLDS),
    ("C3", only("iid", global_=5), FAILS),
    ("C4", both(local=by_client, global_=by_client), HOLDS),
    ("C4", both(), FAILS),
    ("C4", both(local=by_client), "holds only for one-class, local circuits; two-class, local circuits"),
    ("C5", both(), HOLDS),
    ("C5", both(cross=0.5, balanced=0.5), FAILS),
    ("C5", both(balanced=0.5), "holds only for one-class, accuracy on the class; two-class, accuracy on the class"),
    ("C6", both(global_=drifting), HOLDS),
    ("C6", both(global_=lambda s, r, k, c: 11 - r), FAILS),
    ("C7", only("three-class", local=lambda s, r, k, c: k, global_=lambda s, r, k, c: k), HOLDS),
    ("C7", only("three-class"), FAILS),  # alike, which is more than the claim says
    ("C8", only("three-class", cross=mostly_out), HOLDS),
    ("C8", only("three-class"), FAILS),
    ("C8", only("three-class", cross=sometimes_out), "holds only for share of circuits out at least once"),
    ("C9", only("three-class", global_=9), HOLDS),
    ("C9", only("three-class"), FAILS),
    ("C10", only("shared-class"), HOLDS),
    ("C10", only("shared-class", cross=0.0, balanced=0.5), FAILS),
    ("C10", only("shared-class", balanced=0.5), "holds only for accuracy on the class, lowest of any client and round"),
    ("C11", only("shared-class", cross=own_out), HOLDS),
    ("C11", only("shared-class"), FAILS),
    ("C12", ablation((3, 2, 1, 0), (6, 4, 2, 1)), HOLDS),
    ("C12", ablation((0, 1, 2, 3), (1, 2, 4, 6)), FAILS),
]


@pytest.mark.parametrize(("name", "made", "expected"), CASES, ids=[f"{n}-{e[:12]}" for n, _, e in CASES])
def test_known_verdicts(name, made, expected):
    (row,) = [row for row in claims.judge(made) if row.claim.id == name]
    assert row.verdict == expected, [(f.definition, str(f.estimate), f.verdict, f.detail) for f in row.findings]


def test_one_seed_decides_nothing_but_says_what_the_means_say():
    made = only("iid", seeds=1) | only("shared-class", seeds=1, balanced=0.5)
    rows = {row.claim.id: row for row in claims.judge(made)}
    assert {row.verdict for row in rows.values()} == {OPEN}
    assert rows["C1"].leaning == HOLDS
    assert all(finding.estimate.low is None for finding in rows["C1"].findings)
    assert claims_table.verdict_text(rows["C1"]) == "cannot tell yet (1 seed: holds)"
    assert claims_table.verdict_text(rows["C7"]) == "cannot tell yet (needs three-class)"


def test_empty_circuits_are_judged_under_both_conventions():
    made = only("one-class", local=-1, global_=by_client)
    (row,) = [row for row in claims.judge(made) if row.claim.id == "C4"]
    local = {f.definition: f for f in row.findings if "local" in f.definition}
    counted, left_out = (
        local[f"one-class, local circuits, {said}"] for said in ("two empty sets count as 1", "empty pairs left out")
    )
    assert (counted.estimate.mean, counted.null) == (1.0, 1.0)
    assert np.isnan(left_out.estimate.mean)
    (five,) = [row for row in claims.judge(made) if row.claim.id == "C5"]
    sound = next(f for f in five.findings if "not degenerate" in f.definition)
    assert np.isnan(sound.estimate.mean)


# --- which runs belong together ---


def test_kinds_are_recognised_by_who_holds_what():
    for name in MAPS:
        found = runs.kind(result(name, seeds=1, rounds=1).assign_attrs(name="renamed"))
        assert found == (name if name != "sparsity-ablation" else "sparsity-ablation-0.995")
    assert runs.kind(import_authors(REFERENCE / "2_distinct_1_shared.json.gz")) == "shared-class"


def saved(ds, folder, seeds=None):
    results.save(ds if seeds is None else ds.sel(seed=seeds), folder)
    return folder


def test_seeds_are_joined(tmp_path):
    whole = result("iid", local=lambda s, r, k, c: s, rounds=3)
    for seed in (2, 0, 1):
        saved(whole, tmp_path / "iid" / f"seed-{seed}", [seed])
    (found,) = runs.gather([tmp_path]).values()
    assert found["seed"].values.tolist() == [0, 1, 2]
    assert found["mask_conv1"].dtype == bool
    np.testing.assert_array_equal(found["local_global_iou"], whole["local_global_iou"])


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
    assert cli.main(["claims", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tmp_path) in said
    assert re.search(message.replace("(", r"\(").replace(")", r"\)"), said), said


def test_what_is_none_of_the_papers_experiments_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(MAPS, "odd", ((0, 1), (1, 2), (2, 3)))
    odd = saved(result("odd", rounds=2, seeds=1), tmp_path / "odd")
    with pytest.raises(FedmiError, match="none of the paper's experiments"):
        runs.gather([odd], paper_only=True)
    assert list(runs.gather([odd])) == ["odd"]


@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_corrupt_or_missing_file_is_one_line(content, tmp_path, capsys):
    if content is not None:
        (tmp_path / results.FILE).write_bytes(content)
    for command in ("claims", "figures"):
        assert cli.main([command, str(tmp_path)]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith(f"fedmi: {tmp_path}")
        assert printed.err.count("\n") == 1


# --- the command, on the authors' runs ---


@pytest.fixture(scope="module")
def authors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authors")
    for file in REFERENCE.glob("*.gz"):
        results.save(import_authors(file), folder / file.name.split(".")[0])
    return folder


def test_the_authors_published_numbers_now_with_nulls(authors, capsys):
    assert cli.main(["claims", str(authors), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["id"]: row for row in found["claims"]}
    assert list(rows) == [f"C{i}" for i in range(1, 13)]
    overlap = {f["definition"]: f for f in rows["C4"]["findings"]}
    one = overlap["one-class, global circuits"]
    assert (round(one["mean"], 2), one["low"], one["seeds"], one["null_meets_it"]) == (0.27, None, 1, True)
    assert overlap["one-class, local circuits, two empty sets count as 1"]["mean"] == 1.0
    assert [f["mean"] for f in rows["C5"]["findings"][:1]] == [1.0]
    assert rows["C5"]["findings"][1]["mean"] is None  # of the one-class run no local circuit is left
    assert rows["C1"]["findings"] == []
    assert {row["verdict"] for row in rows.values()} == {OPEN}


def test_every_degenerate_local_circuit_is_flagged(authors, capsys):
    cli.main(["claims", str(authors), "--json"])
    described = json.loads(capsys.readouterr().out)["runs"]
    flagged = described["one-class"]["degenerate_local_circuits_last_round"]
    assert flagged == [{"seed": 0, "client": k, "class": 3 * k} for k in range(3)]
    assert described["two-class"]["degenerate_local_circuits_last_round"] == []


def test_table_and_markdown(authors, tmp_path, capsys):
    assert cli.main(["claims", str(authors), "--out", str(tmp_path / "new" / "claims.md")]) == 0
    assert "C12" in capsys.readouterr().out
    text = (tmp_path / "new" / "claims.md").read_text()
    assert text.count("\n| **C") == 12
    assert "nan" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace(r"\|", "").count("|") for line in rows} == {7}
    console = Console(width=150, file=io.StringIO(), record=True)
    found = runs.gather([authors])
    console.print(claims_table.render(claims.judge(found), found))
    printed = console.export_text()
    said = " ".join(printed.split())
    assert "degenerate in the last round: client 0 class 0, client 1 class 3, client 2 class 6" in said
    for row in claims.CLAIMS:
        assert row.id in printed


def test_every_rule_is_printed_and_names_its_figures():
    for claim in claims.CLAIMS:
        assert claim.rule
        assert "fig" in claim.section
        assert set(claim.kinds) <= set(runs.KINDS)
    assert verdicts.MIN_SEEDS == 3

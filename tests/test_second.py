"""The claims' numbers with circuits that decide, on results whose numbers are known."""

import numpy as np
import pytest
import xarray as xr
from made_up import MAPS, decided, result

from fedmi_jax.analysis import claims, runs, second, units
from fedmi_jax.analysis.instruments import Key, sort_out
from fedmi_jax.analysis.sizes import Drawn, expected_iou
from fedmi_jax.report import claims_table


def told(kind, negatives="own", **how):
    return second.told({Key(kind, "decision", negatives): decided(kind, negatives=negatives, **how)})


def number(parts, start):
    (found,) = [one for one in parts if one.label == start] or [one for one in parts if one.label.startswith(start)]
    return found


def test_a_claim_has_what_can_be_measured():
    """C8, say, is about another experiment."""
    found = told("two-class")
    assert list(found) == [claim.id for claim in claims.CLAIMS]
    assert {name for name, parts in found.items() if parts} == {"C4", "C5", "C6"}
    assert second.told({}) == {}
    assert second.told({Key("two-class", "class", "own"): decided("two-class")}) == {}


def test_what_works_stands_beside_its_own_model_and_chance():
    """One circuit in three is of a model that decides nothing, and does not count."""
    held = {(client, c) for client, own in enumerate(MAPS["two-class"]) for c in own}
    lost = min(held)
    found = told(
        "two-class",
        status=lambda s, r, o, k, c: 3 if (k, c) == lost else 1,
        cross_evaluation_decision_accuracy=lambda s, r, o, k, c: 1.0 if (k, c) == lost else 0.6 + 0.01 * s,
        competence=lambda s, r, o, k, c: 0.7 if o == "global" else 0.98,
    )["C5"]
    works = number(found, "two-class, balanced accuracy")
    assert works.estimate.mean == pytest.approx(0.61)
    assert works.null == 0.5
    assert works.undefined == pytest.approx(1 / len(held))
    assert works.detail == "on its own model 0.98, of the whole global model 0.70"
    assert number(found, "two-class, AUC").estimate.mean == pytest.approx(0.95)
    assert number(found, "two-class, explained").null == 0.0


def test_overlap_and_its_chance_by_hand():
    """Ten channels in each layer, from 0 on in one and from 5 on in the other: 5 of 15; drawn from the same thirty."""
    found = told("iid", "probe", local=0, global_=5, explained=lambda s, r, o, k, c: 0.8 if o == "global" else 0.9,
                 cross_evaluation_explained=0.4)  # fmt: skip
    iou = number(found["C3"], "iid, IoU")
    assert iou.estimate.mean == pytest.approx(5 / 15)
    assert iou.null == pytest.approx(expected_iou((Drawn(10, 10, 30, 30, 30),) * 3))
    assert number(found["C3"], "iid, explained").estimate.mean == pytest.approx(0.5)
    same = number(found["C1"], "iid, IoU")
    assert same.estimate.mean == 1
    assert same.detail == "found again 1.00"


def test_union_of_a_clients_circuits():
    """Classes of a client start 0 and 4 channels from its own start: 14 channels; two clients, 10 apart, share 4."""
    place = {(k, c): 10 * k + 4 * own.index(c) for k, own in enumerate(map(sorted, MAPS["two-class"])) for c in own}
    ds = decided("two-class", local=lambda s, r, k, c: place.get((k, c), 0))
    found = number(second.told({Key("two-class", "decision", "own"): ds})["C4"], "two-class, IoU")
    assert found.estimate.mean == pytest.approx(np.mean([4 / 24, 0, 4 / 24]))


def test_damage_is_to_the_class_and_to_no_other():
    """Without the circuit of its class the model has 0.2 of it left, and all it had of the others but 0.1."""
    ds = decided("two-class", calls=0.9)
    shape = [ds.sizes[dim] for dim in ("seed", "round", "origin", "client", "class", "true_class")]
    left = np.full(shape, 0.8)
    for at, c in enumerate(ds["class"].values):
        left[..., at, int(c)] = 0.2
    dims = ("seed", "round", "origin", "client", "class", "true_class")
    ds["removed_class_accuracy"] = xr.DataArray(left, dims=dims)
    found = number(second.told({Key("two-class", "decision", "own"): ds})["C4"], "two-class, accuracy lost")
    assert found.estimate.mean == pytest.approx(0.6)
    assert found.detail == "to the class itself 0.70, to the others 0.10"


def test_out_and_back_and_only_where_the_model_could():
    """Client 0's circuits are out in round 2 of 4, when the global model is able; client 1's always, and never."""

    def works(s, r, o, k, c):
        return 0.5 if (k == 0 and r == 2) or k == 1 else 0.9

    found = told("three-class", cross_evaluation_decision_accuracy=works,
                 competence=lambda s, r, o, k, c: 0.6 if o == "global" and k == 1 else 0.98)["C8"]  # fmt: skip
    assert number(found, "three-class, share of circuits that").estimate.mean == pytest.approx(1 / 3)
    assert number(found, "three-class, share of circuits and").estimate.mean == pytest.approx((1 + 4 + 0) / 12)
    able = number(found, "three-class, the same")
    assert able.estimate.mean == pytest.approx((1 + 0) / 8)
    assert able.detail == f"of {3 * 2 * 3 * 4}"


def test_the_shared_class_and_the_others_are_told_apart():
    def works(s, r, o, k, c):
        return 0.9 if c == 0 else 0.5

    found = told("shared-class", cross_evaluation_decision_accuracy=works)
    assert number(found["C10"], "shared-class, balanced").estimate.mean == pytest.approx(0.9)
    assert number(found["C11"], "shared-class, share of circuits and").estimate.mean == 1


def test_both_instruments_in_one_table(tmp_path):
    """The paper's runs are judged as ever, whatever else lies beside them."""
    paper, other = result("two-class"), decided("two-class")
    loaded = [(tmp_path / "a", paper), (tmp_path / "b", other)]
    assert list(runs.sort_out(loaded, paper_only=True)) == ["two-class"]
    assert list(runs.sort_out(loaded)) == ["two-class", "two-class-decision"]
    alone, beside = (claims.judge({"two-class": paper}, second.of(part)) for part in (loaded[:1], loaded))
    assert [row.verdict for row in alone] == [row.verdict for row in beside]
    assert claims_table.DECIDING not in claims_table.markdown(alone, {"two-class": paper})
    page = claims_table.markdown(beside, {"two-class": paper})
    assert "verdict, all definitions | circuits that decide |" in page
    assert "| C5 | two-class, AUC on the global model (0% undefined; on its own model 0.99) | 0.95" in page
    shown = {row["id"]: row for row in claims_table.as_values(beside, {"two-class": paper})["claims"]}
    assert len(shown["C5"]["circuits_that_decide"]) == 3
    assert not shown["C1"]["circuits_that_decide"]
    assert units.undefined(sort_out(loaded[1:]).results[Key("two-class", "decision", "own")], "local").mean() == 0

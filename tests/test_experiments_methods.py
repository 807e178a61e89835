"""The table of methods: numbers, verdicts and predictions from made-up results and points; nothing is trained."""

import functools
import pickle
from pathlib import Path

import numpy as np
import pytest
import studied
import xarray as xr
from made_up import decided

import fedmi_jax
from experiments.methods import __main__ as script
from experiments.methods import drawn, making, measured, one_shot, predicted, rows, told
from experiments.methods.making import Pair
from fedmi_jax import config
from fedmi_jax.analysis import parts
from fedmi_jax.config import replace
from fedmi_jax.errors import ConfigError, FedmiError
from fedmi_jax.results import store

ROUNDS = 10
LAYERS = ("conv1", "conv2", "conv3", "fc")


def with_agreement(ds):
    """With what a run says of its clients' weights: round r has r times 0.1, fc ten times as much."""
    shape = [ds.sizes[dim] for dim in ("seed", "round", "parameter_layer")]
    values = np.broadcast_to(0.1 * ds["round"].values[:, None] * np.array([1, 1, 1, 10]), shape)
    dims = ("seed", "round", "parameter_layer")
    wanted = ("false_positive_rate", "balanced_accuracy", "cross_evaluation_false_positive_rate")
    more = {name: (ds["sufficiency"].dims, ds["sufficiency"].values) for name in wanted if name not in ds}
    return ds.assign(dict.fromkeys(measured.WHY.values(), (dims, values)) | more)


@functools.cache
def pair(seed=0, **how):
    """Of one seed; to be left as it is."""
    paper = with_agreement(decided("two-class", "class", seeds=1, numbers=[seed], cross=0.75, **how))
    second = decided("two-class", seeds=1, numbers=[seed], rounds=1, decision_accuracy=0.97)
    return Pair(paper, second.assign_coords(round=paper["round"].values[-1:]))


def test_numbers_are_counted_by_hand():
    both = pair(calls=lambda s, r, c: 0.1 * c + 0.01 * r, local=0, global_=5)
    found = measured.numbers(both)
    held = [c for c in range(10) if (both.paper["samples"].sel(true_class=c) > 0).any()]
    assert found["held accuracy"].values.ravel() == pytest.approx([np.mean(held) / 10 + 0.01 * r for r in range(1, 5)])
    own = []
    for client in range(3):
        samples = both.paper["samples"].isel(seed=0, client=client)
        own.append(np.mean([0.1 * c + 0.04 for c in range(10) if samples[c] > 0]))
    assert found["own accuracy"].sel(round=4).item() == pytest.approx(np.mean(own))
    assert set(found["cross-evaluation"].values.ravel()) == {0.75}
    assert found["kept"].values.ravel() == pytest.approx([0.5] * 4)  # channels 0 to 9, of which 5 to 9 are left
    assert found["channels, local"].values.ravel() == pytest.approx([30] * 4)
    assert found["support ratio"].values.ravel() == pytest.approx([0.325 * r for r in (1, 2, 3, 4)])
    assert found["sign conflict, fc"].sel(round=2).item() == pytest.approx(2)
    assert found["decision, own model"].values.ravel() == pytest.approx([0.97])
    assert found["decision"].values.ravel() == pytest.approx([0.6])
    assert found["decision"]["round"].values.tolist() == [4]
    assert found["collapses"].values.tolist() == [[0]]


def test_circuits_of_classes_without_images_do_not_count():
    both = pair()
    counts = both.paper["samples"].copy()
    counts[0, 0, 0] = 0  # client 0 has no image of class 0, which is one of its two
    far = both.paper["cross_evaluation"].copy()
    far[{"client": 0, "class": 0}] = 0.0
    paper = both.paper.assign(samples=counts.clip(0), cross_evaluation=far)
    found = measured.numbers(Pair(paper, both.second.assign(samples=counts)))
    assert set(found["cross-evaluation"].values.ravel()) == {0.75}


def test_a_served_model_is_judged_by_its_own_accuracy():
    both = pair()
    served = both.paper["local_class_accuracy"] * 0 + 0.625
    found = measured.numbers(Pair(both.paper.assign(served_class_accuracy=served), both.second))
    assert found["own accuracy"].values.ravel() == pytest.approx([0.625] * 4)
    assert not np.allclose(found["held accuracy"].values, 0.625)


def test_tables_and_predictions_say_which_runs_had_not_all_images():
    both, common = pair(), rows.base("two-class")
    short = replace(common, data=replace(common.data, images_per_client=4000))
    cut = measured.numbers(both._replace(paper=stamped(both.paper, short)))
    assert cut[measured.TRAINED].values.tolist() == [[4000] * 4]
    assert measured.TESTED not in cut
    made = points(methods=("fedavg", "ties"), seeds=1)
    assert told.cut(made) == ""
    some = made.sel(measure=["AUC"]).assign_coords(measure=[measured.TRAINED]) * 0 + 4000
    made = xr.concat([made, some], "measure")
    sentence = "**Not all images**: two-class, at most 4000 training images of each client."
    assert told.cut(made) == sentence
    assert sentence in told.markdown(made, [])
    assert predicted.markdown(predicted.judge(made), told.cut(made)).startswith(sentence)
    made.loc[{"method": "ties", "measure": measured.TRAINED}] = np.nan  # of another series of runs
    assert told.cut(made) == sentence.replace("4000", "4000 or all")


def points(changes=None, methods=tuple(rows.TABLE), scenarios=("two-class",), seeds=3, rounds=ROUNDS):
    """A table of points in which every measure is 0.5, plus 0.001 for each seed; changes: {(scenario, method, measure):
    number, or function of (seed, round)}, a None for either of the first two standing for all."""
    columns = [column.measure for columns in told.TABLES.values() for column in columns]
    nulls = [column.null for columns in told.TABLES.values() for column in columns if column.null]
    more = [f"{measure}, {layer}" for measure in drawn.OVER_ROUNDS for layer in LAYERS]
    names = list(dict.fromkeys([*columns, *nulls, *more, "away from sufficiency"]))
    axes = {"scenario": list(scenarios), "method": list(methods), "seed": list(range(seeds))}
    axes |= {"round": list(range(1, rounds + 1)), "measure": names}
    made = xr.DataArray(np.full([len(values) for values in axes.values()], 0.5), axes, list(axes))
    made = made + 0.001 * made["seed"]
    for (scenario, method, measure), of in (changes or {}).items():
        at = {k: v for k, v in (("scenario", scenario), ("method", method), ("measure", measure)) if v is not None}
        found = [[of(s, r + 1) if callable(of) else of + 0.001 * s for r in range(rounds)] for s in range(seeds)]
        made.loc[at] = xr.DataArray(found, dims=("seed", "round"))
    return made.transpose(*measured.AXES)


def test_points_are_there_and_back(tmp_path):
    made = points(rounds=2).where(lambda values: values["round"] > 1)
    measured.save(made, tmp_path / "points.csv")
    assert (tmp_path / "points.csv").read_text().startswith("scenario,method,seed,round,measure,value\n")
    back = measured.load(tmp_path / "points.csv")
    xr.testing.assert_allclose(back.sortby(list(measured.AXES)), made.sel(round=[2]).sortby(list(measured.AXES)))
    (tmp_path / "points.csv").write_text("a,b\n1,2\n")
    with pytest.raises(FedmiError, match=r"points\.csv: not a table of points \(.*\); move it away"):
        measured.load(tmp_path / "points.csv")


def test_results_that_are_there_replace_points_of_the_same_run_only():
    old = points({(None, "ties", "kept"): 0.9}, seeds=2, methods=("fedavg", "ties"))
    new = points(seeds=1, methods=("ties",)).drop_sel(measure="AUC")
    both = measured.together(new, old)
    kept = both.sel({"scenario": "two-class", "method": "ties", "round": 1})
    assert kept.sel(measure="kept").values == pytest.approx([0.5, 0.901])
    assert np.isnan(kept.sel(measure="AUC", seed=0))  # of a run that is measured anew nothing old is left
    assert float(both.sel({"method": "fedavg", "seed": 1, "round": 1, "measure": "kept"}).item()) == pytest.approx(
        0.501
    )


def test_a_cell_is_the_mean_and_the_difference_of_the_same_seeds():
    kept = {(None, "ties", "kept"): lambda s, r: 0.5 + 0.001 * s + 0.2, (None, "ties", "kept, by chance"): 0.37}
    made = points(kept, ("fedavg", "ties", "fedper"))
    made.loc[{"method": "fedavg", "seed": 2}] = np.nan
    (line,) = [row for row in told.markdown(made, []).splitlines() if row.startswith("| ties |") and "0.70" in row]
    assert "| 0.70 [0.70, 0.70] (0.37)<br>0.20 [0.20, 0.20] |" in line  # with its own chance, not FedAvg's
    found = told.against(made, "two-class", "ties", "kept")
    assert (found.seeds, found.mean) == (2, pytest.approx(0.2))


def test_a_number_that_is_not_there_in_the_last_round_is_not_taken_from_another():
    made = points()
    made.loc[{"method": "ties", "measure": "kept", "round": ROUNDS}] = np.nan
    assert told.per_seed(made, "two-class", "ties", "kept").size == 0
    assert told.per_seed(made, "two-class", "ties", "AUC").size == 3


def test_what_is_preserved():
    up = {(None, "ties", measure): 0.6 for measure in told.PRESERVES}
    made = points(up | {(None, "fedrs", "cross-evaluation"): 0.6, (None, "ties", "decision"): 0.6,
                        (None, "fedadam", "held accuracy"): 0.45, (None, "fedper", "own accuracy"): 0.4,
                        (None, "fedavgm", "kept"): lambda s, r: 0.4 + 0.1 * s})  # fmt: skip
    said = {
        name: [of(made, "two-class", name) for of in (told.keeps_circuits, told.keeps_decisions, told.keeps_accuracy)]
        for name in ("ties", "fedrs", "fedadam", "fedper", "matching")
    }
    assert said == {
        "ties": ["yes", "yes", "yes"], "fedrs": ["no", "no", "yes"], "fedadam": ["no", "no", "no"],
        "fedper": ["no", "no", "no"], "matching": ["no", "no", "yes"],
    }  # fmt: skip
    few = points(up, seeds=2)
    assert told.keeps_circuits(few, "two-class", "ties") == "cannot tell"


def test_the_best_are_of_one_model_and_by_ranks_in_both():
    changes = {
        ("two-class", "ties", "held accuracy"): 0.9, ("dirichlet-0.1", "ties", "held accuracy"): 0.8,
        ("two-class", "fedrs", "held accuracy"): 0.8, ("dirichlet-0.1", "fedrs", "held accuracy"): 0.7,
        ("two-class", "pooled", "held accuracy"): 1.0, ("dirichlet-0.1", "pooled", "held accuracy"): 1.0,
        ("two-class", "fedper", "held accuracy"): 1.0, ("two-class", "fedlc", "held accuracy"): 0.99,
        ("dirichlet-0.1", "fedlc", "held accuracy"): 0.1,
    }  # fmt: skip
    made = points(changes, scenarios=rows.MAIN)
    assert told.best(made)[:2] == ["ties", "fedrs"]
    assert len(told.best(made)) == 6
    assert not {"pooled", "fedper", "fedlc", "fedavg"} & set(told.best(made))


# --- predictions ---

_AS_PREDICTED = {
    ("fedavg", "moved"): 0.0,
    ("owner-channels-hard", "away from sufficiency"): lambda s, r: 0.0,
    ("median", "held accuracy"): 0.17,
    ("fedadam-unmasked", "global density"): 0.9,
    ("fedadam", "held accuracy"): 0.3,
    ("ties", "held accuracy"): 0.56,
    ("calibration", "held accuracy"): 0.7,
    ("owner-channels", "kept"): 0.6,
    ("owner-channels", "decision"): 0.6,
    ("head-by-holders", "held accuracy"): lambda s, r: 0.56 + 0.001 * s + 0.1 * (r < 4),
    ("support-mean", "held accuracy"): lambda s, r: 0.5 + 0.001 * s + 0.1 * (r < 4),
    ("support-and-holders", "held accuracy"): lambda s, r: 0.5 + 0.001 * s + 0.1 * (r < 4),
    ("fedbabu-pruned", "held accuracy"): 0.61,
    ("fedavg-unpruned-linear", "held accuracy"): 0.39,
    ("fedavg-pruned-linear", "held accuracy"): 0.65,
    ("pooled", "held accuracy"): 0.95,
    ("cascade", "held accuracy"): 0.4,
    ("ensemble", "among held"): 0.4,
    ("fedavg", "decision, a bias refitted"): 0.48,
}
AS_PREDICTED = {(scenario, *what): of for scenario in rows.MAIN for what, of in _AS_PREDICTED.items()}
EVERYWHERE = ("two-class", "dirichlet-0.1", "iid")


def verdicts(changes, **how):
    made = points(AS_PREDICTED | changes, scenarios=EVERYWHERE, **how)
    return {row.prediction.id: row.after for row in predicted.judge(made)}


def test_every_prediction_can_hold():
    assert set(verdicts({}).values()) == {"holds"}


AGAINST = {
    "M1": {("two-class", "matching", "kept"): 0.6},
    "M2": {("two-class", "support-mean", "held accuracy"): 0.56},
    "M3": {("two-class", "owner-channels-hard", "away from sufficiency"): lambda s, r: 0.1 * (r == 3)},
    "M4": {("two-class", "median", "held accuracy"): 0.3},
    "M5": {("two-class", "fedadam-unmasked", "global density"): 0.6},
    "M6": {("two-class", "fedadam", "held accuracy"): 0.47},
    "M7": {("two-class", "ties", "held accuracy"): 0.5},
    "M8": {("two-class", "calibration", "held accuracy"): 0.55},
    "M9": {("two-class", "owner-channels", "decision"): 0.5},
    "M10": {("iid", "fedbabu", "held accuracy"): 0.45},
    "M11": {("dirichlet-0.1", "head-by-holders", "held accuracy"): 0.5},
    "M12": {("two-class", "fedbabu-pruned", "held accuracy"): 0.55},
    "M13": {("two-class", "fedavg-unpruned-linear", "held accuracy"): 0.45},
    "M14": {("two-class", "fedavg-pruned-linear", "held accuracy"): 0.75},
    "M15": {("two-class", "pooled", "held accuracy"): 0.85},
    "M16": {("two-class", "cascade", "held accuracy"): 0.46},
    "M17": {("two-class", "ensemble", "among held"): 0.5},
    "M18": {("two-class", "fedavg", "decision, a bias refitted"): 0.4},
    "M19": {("two-class", "fedavg-other-rounding", "held accuracy"): 0.3},
}


def test_what_is_registered_later_changes_no_earlier_verdict():
    """The p of the first eleven is as if there were no others."""
    made = points(AS_PREDICTED | AGAINST["M12"], scenarios=EVERYWHERE)
    first = [one for one in predicted.PREDICTIONS if one.family == 0]
    alone = parts.corrected_p([one.judge(made) for one in first])
    assert len(first) == 11
    for row, p in zip(predicted.judge(made), alone, strict=False):
        assert row.p == (p[0] if row.before == "holds" else p[1])
    assert [one.id for one in predicted.PREDICTIONS] == [f"M{i}" for i in range(1, 20)]


@pytest.mark.parametrize("one", AGAINST)
def test_every_prediction_can_fail_and_the_others_do_not(one):
    found = verdicts(AGAINST[one])
    assert found.pop(one) == "does not hold"
    assert {name for name, said in found.items() if said != "holds"} <= ({"M7"} if one == "M2" else set())


def test_short_runs_and_few_seeds_decide_nothing():
    assert set(verdicts({}, rounds=9).values()) == {"cannot tell yet"}
    assert set(verdicts({}, seeds=2).values()) == {"cannot tell yet"}
    made = points({("two-class", "fedavg", "moved"): 0.0}, methods=("fedavg",))
    about_others = [row for row in predicted.judge(made) if row.prediction.id != "M18"]
    assert {row.after for row in about_others} == {"cannot tell yet"}
    assert "parts lack results" in predicted.markdown(predicted.judge(made))


def test_the_rules_stand_in_the_readme_as_they_are():
    page = (Path(script.__file__).parent / "README.md").read_text()
    assert predicted.registered() in page
    for name in rows.TABLE:
        assert f"`{name}`" in page


def test_the_readme_shows_the_stored_points_as_they_are():
    folder = Path(script.__file__).parent
    stored = measured.load(folder / "results" / measured.FILE)
    shown = (folder / "README.md").read_text("utf-8").split("<!-- two-class -->\n")[1].split("\n<!-- end -->")[0]
    assert shown == told.verdicts(stored, "two-class")
    assert len(shown.splitlines()) == 2 + 21


def test_controls_are_what_the_studies_say_of_the_last_round():
    run, images = studied.result(), studied.images()
    found = one_shot.of(run, images)["one_shot"]
    asked = {name: fedmi_jax.study(name, run, rounds="last", nulls=one_shot.NULLS, dataset=images).rows
             for name in one_shot.STUDIES}  # fmt: skip
    for seed in studied.SEEDS:
        each = [row for row in asked["cascade"] if (row.seed, row.measure) == (seed, "class_accuracy")]
        own = found.sel(seed=seed, control="cascade").squeeze("round")
        assert own.sel(number="held accuracy").item() == pytest.approx(np.mean([row.value for row in each]))
        assert own.sel(number="held accuracy, random circuits").item() == pytest.approx(
            np.mean([row.null for row in each])
        )
        (row,) = [row for row in asked["ensemble"] if (row.seed, row.measure) == (seed, "accuracy")]
        own = found.sel(seed=seed, control="ensemble").squeeze("round")
        assert own.sel(number="among held").item() == row.value
        assert own.sel(number="among held, random circuits").item() == pytest.approx(row.null.mean())
        assert own.sel(number="held accuracy").isnull()
    everyone = xr.ones_like(run["samples"])  # somebody holds class 2, which has no circuit
    nothing = one_shot.of(run.assign(samples=everyone), images)
    assert nothing["one_shot"].isnull().all()
    assert not [name for name in nothing if str(name).startswith("weights_")]
    assert measured.one_shot(Pair(run, run, nothing)) == {}


# --- runs ---


@pytest.fixture
def fake(monkeypatch):
    """Results stand where netCDF files would; what was run, and searched again."""
    asked = []

    def save(ds, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / store.FILE).write_bytes(pickle.dumps(ds))

    def run(experiment, progress, folder, on_round):
        asked.append((experiment.name, experiment.seeds))
        if experiment.name == "fedlc":
            raise FedmiError("method fedlc: made up")
        save(stamped(pair(experiment.seeds[0]).paper.isel(round=slice(0, 2)), experiment), folder)

    def again(result, discovery, evaluation, rounds):
        asked.append(("again", discovery.objective, discovery.negatives, evaluation.null_samples, tuple(rounds)))
        experiment = config.from_json(result.attrs["config"])
        found = pair(experiment.seeds[0]).second.assign_coords(round=list(rounds))
        return stamped(found, replace(experiment, discovery=discovery))

    def load(path):
        path = path / store.FILE if path.is_dir() else path
        return pickle.loads(path.read_bytes())

    monkeypatch.setattr(store, "save", save)
    monkeypatch.setattr(store, "load", load)
    monkeypatch.setattr("experiments.pieces.compact", lambda ds: ds)
    monkeypatch.setattr(drawn, "draw", lambda points, folder: [])
    monkeypatch.setattr(fedmi_jax, "run", run)
    monkeypatch.setattr(fedmi_jax, "search_again", again)
    monkeypatch.setattr(one_shot, "of", lambda ds: put_together(ds.isel(round=[-1]), 0.25))
    return asked


def put_together(ds, number):
    """As if this number had been found for both controls."""
    axes = {"control": list(one_shot.STUDIES), "number": ["held accuracy", "among held"]}
    values = xr.DataArray(number, ds[["seed", "round"]].coords | axes, ("seed", "round", *axes))
    return ds.assign(one_shot=values.where((values["control"] == "cascade") | (values["number"] == "among held")))


def stamped(ds, experiment):
    return store.stamp(ds, experiment)


def asked_for(tmp_path, **how):
    return script.Methods(tmp_path, **{"seeds": 1, "rounds": 2, "only": ("ties",), "scenarios": ("two-class",)} | how)


def test_both_instruments_judge_the_same_models_and_nothing_is_made_twice(fake, tmp_path, capsys):
    option = asked_for(tmp_path)
    script.main(option)
    searched = ("again", "decision", "own", 0, (2,))
    assert fake == [("fedavg", (0,)), searched, ("ties", (0,)), searched]
    assert (tmp_path / "two-class" / "ties" / "decision" / "seed-0" / store.FILE).exists()
    text = (tmp_path / "methods.md").read_text()
    assert "| ties | 1 |" in text
    for name in rows.ONE_SHOT:
        asked = "0.25, among held classes" if name == "ensemble" else "0.25"
        assert f"| {name} | 1 | after FedAvg: circuits, once | {asked} | - | - | - | - | - | - | cannot tell |" in text
    assert "M1" in capsys.readouterr().out
    fake.clear()
    script.main(option)
    assert not fake
    (tmp_path / "two-class").rename(tmp_path / "away")  # only the numbers are kept
    script.main(replace(option, seeds=0))
    assert (tmp_path / "methods.md").read_text() == text


def test_a_run_cut_off_before_the_second_search_is_not_made_again(fake, tmp_path, monkeypatch):
    option = asked_for(tmp_path)

    def cut(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(fedmi_jax, "search_again", cut)
        with pytest.raises(KeyboardInterrupt):
            script.main(option)
    assert not (tmp_path / "two-class" / "fedavg" / "seed-0").exists()  # does not count as there without the other
    fake.clear()
    script.main(option)
    assert [one[0] for one in fake] == ["again", "ties", "again"]


def test_one_methods_trouble_is_told_and_is_not_the_others(fake, tmp_path, capsys):
    with pytest.raises(FedmiError, match=r"^1 could not be run; see .*methods\.md$"):
        script.main(asked_for(tmp_path, only=("fedlc", "matching")))
    assert "two-class, fedlc: method fedlc: made up" in capsys.readouterr().err
    text = (tmp_path / "methods.md").read_text()
    assert "- two-class, fedlc: method fedlc: made up" in text
    assert "| matching | 1 |" in text


BAD = [
    ({"only": ("tie",)}, r"^only: unknown name 'tie'; .* did you mean ties\?$"),
    ({"scenarios": ("two-clas",)}, r"^scenarios: unknown name 'two-clas'; .* did you mean two-class\?$"),
    ({"only": ("cascade",)}, r"^only: cascade has no run of its own, it is made of fedavg's; give --only fedavg$"),
    ({"seeds": 0}, r": no results yet; give --seeds$"),
    ({"only": (), "scenarios": ("iid",)}, r": no results of two-class and dirichlet-0\.1 to choose the best from"),
]


@pytest.mark.parametrize(("how", "message"), BAD, ids=[message for _, message in BAD])
def test_what_is_refused(how, message, fake, tmp_path):
    with pytest.raises(FedmiError, match=message):
        script.main(asked_for(tmp_path, **how))
    assert not fake


def test_every_row_is_an_experiment_that_can_be():
    """In every scenario in which it is run; the settings of all are one table, and nothing else differs."""
    for scenario in rows.SCENARIOS:
        common = rows.base(scenario)
        names = rows.wanted((), common)
        assert ("trimmed-mean" in names) == (common.split.clients >= 5)
        for name in names:
            one = rows.experiment(common, name)
            config.refuse_unused(one)
            differ = config.differences(common, one)
            pruning = ("sparsity.linear", "sparsity.target") if rows.METHODS[name].pruned != "all" else ()
            rounding = ("execution.micro_batch",) if rows.METHODS[name].micro_batch else ()
            assert all(field.startswith(("name", "aggregation", *pruning, *rounding)) for field in differ)
    assert {row.aggregation.kind for row in rows.METHODS.values()} == set(config.METHODS)
    different = (replace(rows.experiment(rows.base("iid"), name), name="") for name in rows.METHODS)
    assert len({config.to_json(one) for one in different}) == len(rows.METHODS)
    config.refuse_unused(replace(rows.base("two-class"), discovery=making.deciding(rows.base("iid").discovery)))
    with pytest.raises(ConfigError):
        rows.base("two_class")


def test_figures_show_every_method_and_seed(tmp_path):
    made = points(seeds=2)
    figure = drawn.accuracy_and_circuits(made)
    panels = [axes for axes in figure.axes if axes.axison]
    assert len(panels) == len(drawn.ACROSS)
    lines = {line.get_label(): line for line in panels[0].get_lines() if not str(line.get_label()).startswith("_")}
    assert set(lines) == set(rows.METHODS)  # what has circuits
    assert len(lines["ties"].get_xdata()) == 2
    assert lines["fedper"].get_markerfacecolor() == "none" != lines["ties"].get_markerfacecolor()
    assert len({(line.get_color(), line.get_marker()) for line in lines.values()}) == len(rows.METHODS)
    paths = drawn.draw(points(seeds=2, methods=("fedavg", "ties", "pooled")), tmp_path)
    assert [path.name for path in paths] == ["accuracy-and-circuits.svg", "agreement.svg"]
    over = [axes for axes in drawn.agreement(points(seeds=2, methods=("fedavg",))).axes if axes.axison]
    assert [axes.get_title() for axes in over[:4]] == [f"two-class, {layer}" for layer in LAYERS]
    assert len(over) == 2 * 4
    assert [axes.get_ylim()[0] for axes in over[4:]] == [-0.005] * 4  # a share is never negative

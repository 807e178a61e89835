"""The scripts: what is there is not run again, seeds are joined, sweeps are tabled."""

import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from made_up import decided, result

import fedmi_jax
from experiments import carry_over, choices, deciding, dirichlet, in_time, ingredients, paper, pieces, table
from fedmi_jax.analysis import claims, instruments, nulls, runs, skew
from fedmi_jax.analysis.instruments import Found, Key
from fedmi_jax.config import Discovery, Evaluation, Execution, from_json, replace, to_json
from fedmi_jax.errors import FedmiError
from fedmi_jax.presets import preset
from fedmi_jax.report import claims_table
from fedmi_jax.results import store
from fedmi_jax.results.schema import CIRCUIT_DIMS


@dataclass
class Runner:
    """Stands for `fedmi_jax.run`: a made-up result of the experiment's seeds."""

    asked: list = field(default_factory=list)

    def __call__(self, experiment, progress, folder, on_round=None):
        self.asked.append((experiment.name, experiment.seeds))
        kind = "iid" if experiment.name.startswith("dirichlet") else experiment.name
        kind = "sparsity-ablation" if kind.startswith("sparsity") else kind
        kind = "two-class" if experiment.name in [e.name for e in choices.variants(choices.Choices(Path()))] else kind
        made = result(kind, seeds=1, rounds=2)
        made = xr.concat(
            [made.assign_coords(seed=[s]) for s in experiment.seeds], "seed", data_vars="all", join="exact"
        )
        made["global_accuracy"] = (("seed", "round"), np.full((made.sizes["seed"], 2), 0.5))
        rng = np.random.default_rng(experiment.seeds[0])
        made["samples"] = (("seed", "client", "true_class"), rng.integers(0, 9, (made.sizes["seed"], 3, 10)))
        made["cross_evaluation_balanced_accuracy"] = (CIRCUIT_DIMS, made["cross_evaluation"].values / 2)
        made["realised_sparsity_local"] = made["realised_sparsity_global"] = made["global_accuracy"]
        made["rediscovery_iou"] = ((*CIRCUIT_DIMS, "layer"), np.full(made["size"].shape, 0.75))
        made = store.stamp(made, experiment)
        store.save(made, folder)
        return made


@pytest.fixture
def runner(monkeypatch, pickled_files):
    made = Runner()
    monkeypatch.setattr(fedmi_jax, "run", made)
    return made


def test_pieces_are_picked_up_where_they_were_left(runner, tmp_path):
    two = preset("two-class").experiments
    pieces.run_missing(tmp_path, two, range(1))
    pieces.run_missing(tmp_path, two, range(4), at_once=2)
    assert runner.asked == [("two-class", (0,)), ("two-class", (1,)), ("two-class", (2, 3))]
    for seed in range(4):
        found = store.load(tmp_path / "two-class" / f"seed-{seed}")
        assert found["seed"].values.tolist() == [seed]
        assert from_json(found.attrs["config"]).seeds == (seed,)


def test_pieces_shared_out_in_part_are_shared_out_again(runner, tmp_path, monkeypatch):
    two, real = preset("two-class").experiments, store.save

    def cut(ds, folder):
        if folder.name == "seed-1":
            raise KeyboardInterrupt
        return real(ds, folder)

    with monkeypatch.context() as patched:
        patched.setattr(store, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            pieces.run_missing(tmp_path, two, range(2), at_once=2)
    assert pieces.missing(tmp_path, two[0], range(2)) == [1]
    pieces.run_missing(tmp_path, two, range(2), at_once=2)
    assert runner.asked == [("two-class", (0, 1))]
    assert sorted(path.name for path in (tmp_path / "two-class").iterdir()) == ["seed-0", "seed-1"]


def test_what_another_process_shares_out_is_left_to_it(runner, tmp_path):
    """Two processes in one folder, one for each seed: neither searches what the other does, nor takes it away."""
    two, made = preset("two-class").experiments, []
    whole = tmp_path / "two-class" / f"{pieces.TOGETHER}0"

    def beside(experiment):
        def search(result):
            made.append(result["seed"].values.tolist())
            if made == [[0]]:  # meanwhile, in the other process
                pieces.run_missing(tmp_path, two, [1], beside=beside)
                assert (whole / store.FILE).exists()
            return result

        return [pieces.Beside("two-class-again", search)]

    pieces.run_missing(tmp_path, two, [0], beside=beside)
    assert runner.asked == [("two-class", (0,)), ("two-class", (1,))]
    assert made == [[0], [1]]
    for name in ("two-class", "two-class-again"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["seed-0", "seed-1"]


def test_results_of_another_experiment_are_not_taken_for_this_one(runner, tmp_path):
    """More controls, and the layout, change no number."""
    (two,) = preset("two-class").experiments
    pieces.run_missing(tmp_path, [paper.controlled(two, paper.Paper(tmp_path, weights=False))], range(1))
    pieces.run_missing(tmp_path, [replace(two, execution=Execution(client_chunk=2))], range(1))
    for place in ("/here", "/there"):
        fashion = replace(two, data=replace(two.data, name="fashion-mnist", file=place))
        pieces.run_missing(tmp_path / "fashion", [fashion], range(1))
    assert runner.asked.pop() == ("two-class", (0,))
    for other, message in (
        (replace(two, rounds=4), r"seed-0: of another experiment, rounds \(10, now 4\); give another folder"),
        (replace(two, execution=Execution(precision="float64")), r"execution\.precision \(float32, now float64\)"),
        (replace(two, data=replace(two.data, file="/own.npz")), r"data\.file \(None, now /own\.npz\)"),
        (replace(two, execution=Execution(save_weights=True)), r"save_weights \(False, now True\)"),
        (replace(two, discovery=replace(two.discovery, repeat="always")), r"discovery\.repeat \(last, now always\)"),
        (replace(two, evaluation=Evaluation(null_samples=6)), r"null_samples \(5, now 6\)"),
    ):
        with pytest.raises(FedmiError, match=message):
            pieces.run_missing(tmp_path, [other], range(2))
    assert len(runner.asked) == 1
    (tmp_path / "two-class" / "seed-0").rename(tmp_path / "two-class" / "seed-3")
    with pytest.raises(FedmiError, match="seed-3: not a run of seed 3 alone"):
        pieces.load(tmp_path, [two])


def test_paper_runs_what_is_missing_and_writes_the_claims(runner, tmp_path):
    option = paper.Paper(tmp_path, seeds=2, presets=("iid", "two-class"), rounds=2, weights=False, draw=False)
    paper.main(option)
    assert runner.asked == [("iid", (0,)), ("two-class", (0,)), ("iid", (1,)), ("two-class", (1,))]
    assert "| **C1** " in (tmp_path / "claims.md").read_text()
    paper.main(option)
    assert len(runner.asked) == 4
    assert "cannot tell yet (needs three-class)" in (tmp_path / "claims.md").read_text()


def test_a_series_stops_in_time_between_rounds_and_packs_what_is_there(runner, tmp_path, monkeypatch, capsys):
    """A clock that counts the minutes by itself: a run takes two, a round one."""
    now, real = [0.0], fedmi_jax.run

    def run(experiment, progress, folder, on_round):
        now[0] += 60
        on_round(1, {"seconds": 60})
        now[0] += 60
        return real(experiment, progress, folder)

    monkeypatch.setattr(fedmi_jax, "run", run)
    monkeypatch.setattr(in_time.time, "monotonic", lambda: now[0])
    option = paper.Paper(tmp_path, seeds=2, presets=("iid",), rounds=2, weights=False, draw=False, minutes=3.5)
    paper.main(option)
    assert runner.asked == [("iid", (0,))]  # the second seed's second round would have ended after four
    said = capsys.readouterr()
    assert "the minutes are over" in said.err
    assert "1 archives of results: results-1.zip" in said.out
    with zipfile.ZipFile(tmp_path / "results-1.zip") as archive:
        assert archive.namelist() == ["iid/seed-0/result.nc", "claims.md"]
    paper.main(option)
    assert runner.asked == [("iid", (0,)), ("iid", (1,))]
    with zipfile.ZipFile(tmp_path / "results-1.zip") as archive:
        assert "iid/seed-1/result.nc" in archive.namelist()
        assert archive.read("iid/seed-1/result.nc") == (tmp_path / "iid" / "seed-1" / "result.nc").read_bytes()


def test_archives_stay_under_the_limit_and_lack_nothing(tmp_path):
    rng = np.random.default_rng(0)
    for seed, size in enumerate(rng.integers(1, 900, 30)):
        (tmp_path / "iid" / f"seed-{seed}").mkdir(parents=True)
        (tmp_path / "iid" / f"seed-{seed}" / "result.nc").write_bytes(rng.bytes(size))
    packed = in_time.pack(tmp_path, limit=1500)
    assert max(path.stat().st_size for path in packed) < 1500
    names = [name for path in packed for name in zipfile.ZipFile(path).namelist()]
    assert sorted(names) == sorted(f"iid/seed-{seed}/result.nc" for seed in range(30))
    assert in_time.pack(tmp_path, limit=1500) == packed
    with pytest.raises(FedmiError, match=r"result\.nc: has \d+ bytes, too many for an archive of 800"):
        in_time.pack(tmp_path, limit=800)


def test_figures_and_claims_again_of_whatever_is_there(runner, tmp_path):
    """Of results that were made without controls, too."""
    pieces.run_missing(tmp_path, preset("two-class").experiments, range(1))
    paper.main(paper.Paper(tmp_path, seeds=0, draw=False))
    assert "| C6 | two-class" in (tmp_path / "claims.md").read_text()


def test_the_table_says_how_many_pairs_were_empty():
    ds = result("one-class", seeds=2, rounds=2, local=lambda s, r, k, c: -1 if k and s else 0)
    (row,) = table.table({"one-class": ds}, {}).splitlines()[2:]
    assert "| 0.67 / 0.67 / 0.67 (17 / 17 / 17 % empty) |" in row


def test_controls_are_on_unless_they_are_refused(tmp_path):
    (iid,) = preset("iid").experiments
    found = paper.controlled(iid, paper.Paper(tmp_path))
    assert (found.evaluation.null_samples, found.discovery.repeat, found.execution.save_weights) == (5, "last", True)
    plain = paper.controlled(iid, paper.Paper(tmp_path, null_samples=0, repeat=False, weights=False))
    assert plain == iid


def test_dirichlet_sweep(runner, tmp_path, capsys):
    dirichlet.main(dirichlet.Dirichlet(tmp_path, seeds=1, alphas=(0.1, 10.0), rounds=2))
    assert runner.asked[0] == ("dirichlet-0.1", (0,))
    assert (tmp_path / "dirichlet.svg").stat().st_size > 2000
    text = (tmp_path / "dirichlet.md").read_text()
    assert text.startswith("| alpha | 0.1 | 10 | rank correlation with EMD |\n")
    assert "\n| found again, local | 0.75 | 0.75 | - |\n" in text
    assert text == capsys.readouterr().out.removesuffix("\n")


def test_rank_correlation_is_of_each_seed():
    """All runs together would say that overlap rises; within each seed it falls."""
    points = [{"seed": s, "emd": e + 10 * s, "x": 100 * s - e} for s in (0, 1, 2) for e in (0.1, 0.5, 0.9)]
    found = dirichlet.correlation(points, "x")
    assert (found.mean, found.low, found.seeds) == (pytest.approx(-1), pytest.approx(-1), 3)
    assert dirichlet.correlation(points[:2], "x").seeds == 0


def test_what_falls_first_is_read_between_levels():
    """Evidence loses a tenth of its 0.4 above chance half-way between the second level and the third; the answer never
    does; in the second seed both fall at once, a fifth of the way to the second level."""
    evidence, answer = list(dirichlet.DECIDING)[:2]

    def level(seed, emd, *values):
        return {"seed": seed, "emd": emd} | dict(zip((evidence, answer), values, strict=True))

    points = [level(0, 1.0, 0.82, 0.70), level(0, 0.5, 0.90, 0.68), level(0, 0.1, 0.90, 0.70)]
    points += [level(1, 0.6, 0.70, 0.60), level(1, 0.1, 0.90, 0.70)]
    assert dirichlet.falls(points, evidence) == pytest.approx([0.75, 0.2])
    assert dirichlet.falls(points, answer) == pytest.approx([np.nan, 0.2], nan_ok=True)
    assert dirichlet.later(points, answer, evidence) == pytest.approx([0.75 - 1.0, 0.0])  # never: at the largest EMD


def test_overlap_by_chance_is_corrected_to_nothing():
    ds = result("iid", seeds=1, rounds=1, local=lambda s, r, k, c: 10 * k)
    ds["samples"] = (("seed", "client", "true_class"), np.full((1, 3, 2), 5))
    ds["global_accuracy"] = (("seed", "round"), [[0.5]])
    ds["rediscovery_iou"] = ((*CIRCUIT_DIMS, "layer"), np.ones(ds["size"].shape))
    (at_1,) = dirichlet.sweep(dirichlet.Dirichlet(Path(), alphas=(1.0,)))
    row = dirichlet.point(at_1, ds.assign_coords(true_class=[0, 1]))
    assert row["inter-client IoU, global"] == row["inter-client IoU, global, corrected"] == 1
    assert row["inter-client IoU, local"] == 0
    chance = nulls.expected_iou(10, 10, 40)
    assert row["inter-client IoU, local, by chance"] == pytest.approx(chance)
    assert row["inter-client IoU, local, corrected"] == pytest.approx(-chance / (1 - chance))


def test_circuits_of_classes_without_images_do_not_count():
    """Client 2 has no image of class 0: its circuit there is empty, found again as such, and never right."""

    def at_home(s, r, k, c):
        return -1 if (k, c) == (2, 0) else 0

    def right(s, r, k, c):
        return 0.0 if (k, c) == (2, 0) else 0.8

    ds = result("iid", seeds=1, rounds=1, local=at_home, global_=at_home, cross=right, balanced=right)
    ds["samples"] = (("seed", "client", "true_class"), np.array([[[5, 5], [90, 5], [0, 7]]]))
    ds["global_accuracy"] = (("seed", "round"), [[0.5]])
    ds["rediscovery_iou"] = (ds["size"] == 0) * 0.5 + 0.5
    (at_1,) = dirichlet.sweep(dirichlet.Dirichlet(Path(), alphas=(1.0,)))
    found = dirichlet.point(at_1, ds.assign_coords(true_class=[0, 1]))
    expected = {
        "cross-evaluation": 0.8, "its balanced accuracy": 0.8, "found again, local": 0.5, "found again, global": 0.5,
        "inter-client IoU, local": 1, "local-to-global IoU": 1, "channels kept": 1, "channels kept, by chance": 10 / 40,
        "empty pairs, local-to-global": 0, "images per circuit, median": 5, "held by fewer than 20 images": 0.8,
    }  # fmt: skip
    assert {label: found[label] for label in expected} == pytest.approx(expected)
    assert not skew.where_held(ds.assign_coords(true_class=[0, 1]))["degenerate"].any()


def test_choices(runner, tmp_path):
    choices.main(choices.Choices(tmp_path, seeds=1, rounds=2))
    rows = (tmp_path / "choices.md").read_text().splitlines()
    assert rows[0] == "| last round | two-class | global-scope | no-floor | dense | mean-ablation | equation-1 |"
    accuracy = next(row for row in rows if row.startswith("| its balanced accuracy"))
    assert accuracy == "| its balanced accuracy | 0.50" + " | 0.50<br>0.00" * 5 + " |"  # below: paired differences
    names = [e.name for e in choices.variants(choices.Choices(tmp_path))]
    assert len(set(names)) == 6


def test_the_base_of_the_choices_can_be_there_already(runner, tmp_path):
    base, out = tmp_path / "paper", tmp_path / "choices"
    with pytest.raises(FedmiError, match=r"paper: no results of two-class yet; run experiments\.paper there"):
        choices.main(choices.Choices(out, seeds=1, rounds=2, base=base))
    (two,) = preset("two-class").experiments
    controlled = paper.controlled(two, paper.Paper(base, rounds=2, weights=False))
    pieces.run_missing(base, [controlled], range(2))
    runner.asked.clear()
    choices.main(choices.Choices(out, seeds=1, rounds=2, base=base))
    assert [name for name, _ in runner.asked] == ["global-scope", "no-floor", "dense", "mean-ablation", "equation-1"]
    assert "\n| seeds | 2 | 1 | 1 | 1 | 1 | 1 |\n" in (out / "choices.md").read_text()
    shutil.rmtree(out / "dense")
    choices.main(choices.Choices(out, seeds=0, rounds=2, base=base))  # what is there
    head = "| last round | two-class | global-scope | no-floor | mean-ablation | equation-1 |\n"
    assert head in (out / "choices.md").read_text()


def test_both_instruments_search_the_same_models(runner, tmp_path, monkeypatch):
    """Trained once; searched again for what is not there; nothing is made twice, and weights do not stay."""
    searched = []

    def search_again(trained, discovery, evaluation):
        searched.append((discovery.objective, discovery.gates, discovery.negatives, evaluation.decisions))
        now = replace(from_json(trained.attrs["config"]), discovery=discovery, evaluation=evaluation)
        return trained.assign_attrs(config=to_json(now))

    monkeypatch.setattr(deciding, "search_again", search_again)
    monkeypatch.setattr(deciding, "changed", lambda stored, d, e: replace(from_json(stored.attrs["config"]),
                                                                          discovery=d, evaluation=e))  # fmt: skip
    monkeypatch.setattr(pieces, "compact", lambda ds: ds.assign_attrs(compact=1))
    option = deciding.Deciding(tmp_path, seeds=2, rounds=2, presets=("two-class", "iid"), draw=False)
    deciding.main(option)
    assert runner.asked == [(name, (seed,)) for seed in (0, 1) for name in ("two-class", "iid")]
    assert searched == [("decision", "bernoulli", negatives, False) for negatives in ("own", "probe") * 2]
    there = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob(store.FILE))
    names = ("iid", "iid-decision", "two-class", "two-class-decision")
    assert there == sorted(f"{name}/seed-{seed}" for name in names for seed in (0, 1))
    assert store.load(tmp_path / "iid" / "seed-1").attrs["compact"] == 1
    assert store.load(tmp_path / "iid-decision" / "seed-1").attrs["config"].count('"decision"') == 1
    assert "| **P9** " in (tmp_path / "predictions.md").read_text()
    assert "| **C1** " in (tmp_path / "claims.md").read_text()
    deciding.main(option)
    assert len(runner.asked) == 4
    deciding.main(replace(option, seeds=1, presets=("dense",)))  # two-class, but for its sparsity
    assert runner.asked.pop() == ("dense", (0,))
    assert searched.pop()[0] == "decision"
    told = (tmp_path / "claims.md").read_text()  # the paper has no such experiment
    assert "two-class" in told
    assert "sparsity.target" not in told
    deciding.main(replace(option, seeds=1, presets=("iid",), objectives=("decision", "contrast")))
    assert runner.asked[4:] == [("iid", (0,))]
    assert [objective for objective, *_ in searched[4:]] == ["contrast"]


def test_ingredients_are_searched_in_the_same_models(runner, tmp_path, monkeypatch):
    """Trained once a pilot seed; a line for every search; what is there is not made again."""
    searched = []

    def search_again(trained, discovery, evaluation, rounds):
        searched.append((discovery.objective, evaluation.decisions, tuple(rounds)))
        now = replace(from_json(trained.attrs["config"]), discovery=discovery, evaluation=evaluation)
        made = decided("two-class", discovery.objective, seeds=1, rounds=1, numbers=trained["seed"].values.tolist())
        return made.assign_attrs(config=to_json(now))

    monkeypatch.setattr(ingredients, "search_again", search_again)
    monkeypatch.setattr(pieces, "compact", lambda ds: ds)
    option = ingredients.Ingredients(tmp_path, rounds=2)
    ingredients.main(option)
    assert runner.asked == [("two-class", (seed,)) for seed in (100, 101)]
    assert searched == [(one.objective, one.objective == "class", (2,)) for one in ingredients.SEARCHES.values()] * 2
    table = (tmp_path / "ingredients.md").read_text().splitlines()
    assert len(table) == 2 + len(ingredients.SEARCHES)
    assert table[2].startswith("| `class` | step | zero | 0.01 | 100, 101 | 0.00, 0.00 | 0.00, 0.00 | ")
    assert any(line.startswith("| `decision` | bernoulli | mean-map | 0.0025 | 100, 101 | ") for line in table)
    ingredients.main(replace(option, seeds=0))
    assert len(searched) == 2 * len(ingredients.SEARCHES)
    for path in tmp_path.rglob("two-class-class-step-zero/*/result.nc"):
        store.save(store.load(path.parent).drop_vars(ingredients.RANDOM_ACROSS), path.parent)
    with pytest.raises(
        FedmiError, match=r"two-class-class-step-zero: was made without random sets; give another folder"
    ):
        ingredients.main(replace(option, null_samples=2))
    with pytest.raises(FedmiError, match=r"nothing: no results yet; give --seeds"):
        ingredients.main(ingredients.Ingredients(tmp_path / "nothing", seeds=0))


def test_ingredients_are_judged_by_seeds_that_had_not_been_seen():
    means = {
        "class-step-zero": 0.5, "class-step-mean-map": 0.65, "class-bernoulli-mean-map": 0.8,
        "class-bernoulli-zero": 0.7, "decision-bernoulli-zero": 0.82, "decision-bernoulli-mean-map": 0.7,
    }  # fmt: skip

    def one(how, mean, seed):
        name = "cross_evaluation_decision_accuracy" if how.startswith("decision") else "decision_accuracy"
        return decided("two-class", "class", seeds=1, rounds=1, numbers=[seed], **{name: mean})

    def found(first):
        return {how: [one(how, mean + 0.01 * i, first + i) for i in range(3)] for how, mean in means.items()}

    told = ingredients.markdown(found(0))
    assert "| I1 | class, step, own model: mean-map minus zero | 0.15 [0.15, 0.15] | at least 0.10 | holds |" in told
    assert "| I2 | class, bernoulli, mean-map, own model | 0.81 [0.80, 0.82] | at least 0.85 | does not hold |" in told
    assert "| I3 | class, bernoulli, zero, own model | 0.71 [0.70, 0.72] | at most 0.75 | holds |" in told
    assert "| I4 | decision, zero, averaged model | 0.83 [0.82, 0.84] | at least 0.80 | holds |" in told
    assert "| I5 | decision, averaged model: zero minus mean-map | 0.12 [0.12, 0.12] | at least 0.15 | does not" in told
    assert "I1" not in ingredients.markdown(found(ingredients.PILOT))
    fewer = {how: each[:2] for how, each in found(0).items()}
    assert ingredients.markdown(fewer).count("cannot tell yet") == len(ingredients.PREDICTED)


def test_random_sets_stand_beside_ingredients_where_they_were_asked_for():
    def one(seed):
        random = {"decision_accuracy": 0.6, ingredients.ACROSS: 0.7 + 0.01 * seed}
        accuracy = {ingredients.ACROSS: 0.9}
        return decided("two-class", seeds=1, rounds=1, numbers=[seed], random=random, **accuracy)

    made = [one(seed) for seed in range(3)]
    told = ingredients.markdown({"decision-bernoulli-zero": made})
    assert "| random sets: balanced accuracy | random sets, averaged model |" in told
    assert "| 0.60, 0.60, 0.60 | 0.70, 0.71, 0.72 |" in told
    assert "| I7 | decision, zero, averaged model: circuits minus random live sets | 0.19 [0.18, 0.20] |" in told
    without = [ds.drop_vars(ingredients.RANDOM_ACROSS) for ds in made]
    told = ingredients.markdown({"decision-bernoulli-zero": without})
    assert "I4" in told
    assert not any(word in told for word in ("random", "I7"))


def test_the_page_shows_the_stored_ingredients_as_they_are():
    root = Path(ingredients.__file__).parent
    page = (root.parent / "docs" / "decisions.md").read_text("utf-8")
    stored = sorted((root / "beyond" / "ingredients").glob("*.md"))
    assert stored
    for path in stored:
        assert path.read_text("utf-8") in page, path


def test_the_second_registration_waits_for_its_own_seeds():
    """The first takes two-class's seeds 0 to 4 alone; of other experiments both take all."""
    results = {
        Key("two-class", "decision", "own"): decided("two-class", seeds=9, numbers=range(9)),
        Key("one-class", "decision", "probe"): decided("one-class", negatives="probe", seeds=2, numbers=[0, 7]),
    }

    def seeds(more, found):
        of = deciding.REGISTRATIONS[more].of(Found(found, {}))
        return {key.experiment: ds["seed"].values.tolist() for key, ds in of.results.items()}

    assert seeds("", results) == {"two-class": [0, 1, 2, 3, 4], "one-class": [0, 7]}
    assert seeds("-by-origin", results) == {"one-class": [0, 7]}  # seed 9 is not there
    results[Key("two-class", "decision", "own")] = decided("two-class", seeds=11, numbers=range(11))
    assert seeds("-by-origin", results)["two-class"] == [5, 6, 7, 8, 9]


def test_seeds_side_by_side_are_searched_together_and_in_time(runner, tmp_path, monkeypatch, capsys):
    """Time is up before the search: what was trained stays, and the next call searches it without training again."""
    searched, now = [], [0.0]

    def search(objective, trained):
        searched.append((objective, trained["seed"].values.tolist()))
        e = from_json(trained.attrs["config"])
        return store.stamp(trained, replace(e, discovery=Discovery(objective=objective)))

    monkeypatch.setattr(deciding, "search", search)
    monkeypatch.setattr(pieces, "compact", lambda ds: ds)
    monkeypatch.setattr(in_time.time, "monotonic", lambda: now[0])
    real = fedmi_jax.run

    def run(experiment, progress, folder, on_round):
        now[0] += 300
        return real(experiment, progress, folder)

    monkeypatch.setattr(fedmi_jax, "run", run)
    option = deciding.Deciding(tmp_path, 3, at_once=2, rounds=2, presets=("two-class",), draw=False, minutes=4)
    deciding.main(option)
    assert (runner.asked, searched) == ([("two-class", (0, 1))], [])
    assert "the minutes are over" in capsys.readouterr().err
    deciding.main(replace(option, minutes=None))
    assert runner.asked == [("two-class", (0, 1)), ("two-class", (2,))]
    assert searched == [("decision", [0, 1]), ("decision", [2])]
    for name in ("two-class", "two-class-decision"):
        assert [store.load(tmp_path / name / f"seed-{s}")["seed"].item() for s in range(3)] == [0, 1, 2]


def test_variations_stand_side_by_side(runner, tmp_path, monkeypatch):
    """Each in its own folder with its own images or network; numbers that only one has are left out."""
    runs_of = []

    def run(experiment, progress, folder, on_round):
        runs_of.append((folder.parent.parent.name, experiment.data.name, experiment.model.channels, experiment.name))
        kind, seeds = experiment.name, experiment.seeds
        made = decided(kind, "class", seeds=1, numbers=seeds, rounds=2, cross_evaluation_decision_accuracy=0.625)
        store.save(store.stamp(made, experiment), folder)

    monkeypatch.setattr(fedmi_jax, "run", run)
    monkeypatch.setattr(deciding, "search", lambda objective, trained: decided(
        "two-class", objective, seeds=1, numbers=trained["seed"].values, rounds=2))  # fmt: skip
    monkeypatch.setattr(pieces, "compact", lambda ds: ds)
    option = carry_over.CarryOver(
        tmp_path, 2, rounds=2, presets=("two-class",), only=("mnist", "narrow", "fashion-mnist")
    )
    with pytest.raises(FedmiError, match=r"^fashion: give the folder .*, or choose others with --only mnist narrow$"):
        carry_over.main(option)
    carry_over.main(replace(option, fashion=tmp_path))
    small = (16, 32, 64)
    assert runs_of == [
        ("mnist", "mnist", (32, 64, 128), "two-class"), ("narrow", "mnist", small, "two-class"),
        ("fashion-mnist", "fashion-mnist", (32, 64, 128), "two-class"),
    ] * 2  # fmt: skip
    lines = (tmp_path / "carry-over.md").read_text().splitlines()
    assert (
        lines[0] == "|  | number | criterion | MNIST, channels (32, 64, 128) | channels (16, 32, 64) | Fashion-MNIST |"
    )
    (works,) = [line for line in lines if line.startswith("| P3 | the paper's circuits work | at most 0.60 |")]
    assert works.count("(2; chance 0.50)") == 3
    (decide,) = [line for line in lines if line.startswith("| P3 | circuits that decide work | at least 0.95 |")]
    assert decide.count("; chance 0.50)") == 3
    shutil.rmtree(tmp_path / "narrow")
    shutil.rmtree(tmp_path / "fashion-mnist")
    carry_over.main(replace(option, seeds=0))
    assert len((tmp_path / "carry-over.md").read_text().splitlines()) == 4  # nothing is shared
    with pytest.raises(FedmiError, match=r"^only: unknown name 'wider'; .* did you mean wide\?$"):
        carry_over.main(replace(option, only=("wider",)))


@pytest.mark.usefixtures("reading_fast")
def test_the_stored_variations_are_tabled_as_they_are():
    """Fashion-MNIST's column anew from the results; that of MNIST is checked with its own experiment."""
    folder = Path(__file__).parent.parent / "experiments" / "beyond" / "carry-over"
    option = carry_over.CarryOver(folder, presets=("two-class",), images_per_class=250)
    there = carry_over.variations(option)["fashion-mnist"]
    numbers = carry_over.numbers(
        carry_over.results(carry_over.series(option, "fashion-mnist", there), "decision"), "decision"
    )
    lines = (folder / "carry-over.md").read_text("utf-8").splitlines()
    assert len(numbers) > 20
    for (of, label), one in numbers.items():
        (line,) = [line for line in lines if line.startswith(f"| {of} | {label} |")]
        assert line.endswith(f"| {carry_over._cell(one)} |")


def test_the_paper_search_is_measured_as_deciding_too():
    wanted = {e.name: e for e in deciding.experiments(deciding.Deciding(Path()))}
    assert wanted["dense"].sparsity.target == 0
    assert len(wanted) == 10
    for name, e in wanted.items():
        assert e.discovery.objective == "class"
        assert e.discovery.negatives == ("probe" if name in ("iid", "one-class") else "own")
        assert e.evaluation.decisions
        assert e.execution.save_weights


@pytest.mark.usefixtures("reading_fast")
def test_the_stored_sweep_is_tabled_as_it_is():
    """Its most skewed level: every cell anew from the results."""
    beyond = Path(__file__).parent.parent / "experiments" / "beyond"
    (e,) = dirichlet.sweep(dirichlet.Dirichlet(beyond / "dirichlet", alphas=(0.05,), rounds=4))
    points = [dirichlet.point(e, ds) for ds in pieces.load(beyond / "dirichlet", [e])[e.name]]
    told = (beyond / "dirichlet" / "dirichlet.md").read_text()
    assert told.strip() in (beyond / "README.md").read_text()
    cells = dict(line.split(" | ")[:2] for line in told.splitlines() if line.startswith("| "))
    own = dict(line.split(" | ")[:2] for line in dirichlet.markdown(points).splitlines() if line.startswith("| "))
    assert cells == own
    assert len(own) > 20


@pytest.mark.usefixtures("reading_fast")
def test_the_stored_choices_are_tabled_as_they_are():
    root = Path(__file__).parent.parent / "experiments"
    option = choices.Choices(root / "beyond" / "choices", base=root / "results")
    told = (option.out / "choices.md").read_text()
    assert told == choices.markdown(choices.gathered(option))
    assert told.strip() in (root / "beyond" / "README.md").read_text()


# --- label distances ---


def held(*counts):
    return xr.Dataset({"samples": (("seed", "client", "true_class"), np.array([counts]))}, {"seed": [0]})


def test_distances_of_equal_and_of_disjoint_labels():
    equal = skew.label_distance(held([10, 30], [1, 3]))
    np.testing.assert_allclose(equal["emd"], 0, atol=1e-12)
    np.testing.assert_allclose(equal["js"], 0, atol=1e-12)
    apart = skew.label_distance(held([7, 0], [0, 7]))
    np.testing.assert_allclose(apart["emd"], 1)  # |1 - 1/2| + |0 - 1/2|
    p, whole = np.array([1, 0]), np.array([0.5, 0.5])
    middle = (p + whole) / 2
    js = (p[0] * np.log2(p[0] / middle[0]) + (whole * np.log2(whole / middle)).sum()) / 2
    np.testing.assert_allclose(apart["js"], js)


def test_circuits_of_classes_without_images_are_left_out():
    ds = result("iid", seeds=1, rounds=1, local=lambda s, r, k, c: -1 if k == 2 else 0)
    ds["samples"] = (("seed", "client", "true_class"), np.array([[[5, 5], [5, 5], [0, 5]]]))
    ds = ds.assign_coords(true_class=[0, 1])
    found = skew.where_held(ds)["inter_client_iou"].sel(origin="local", layer="conv1").values.ravel()
    np.testing.assert_allclose(found, [1, 1 / 3])


@pytest.mark.usefixtures("reading_fast")
def test_the_claims_are_those_of_the_stored_results():
    root = Path(__file__).parent.parent
    stored = root / "experiments" / "results"
    names = [one.name for name in paper.PRESETS for one in preset(name).experiments]
    found = runs.gather([stored / name for name in names], paper_only=True)
    rows = claims.judge(found)
    assert claims_table.overview(rows) in (stored / "README.md").read_text()
    assert claims_table.markdown(rows, found) == (stored / "claims.md").read_text()
    for line in table.table(found, {}).splitlines():
        assert line in (stored / "README.md").read_text()


@pytest.mark.usefixtures("reading_fast")
def test_the_stored_runs_of_both_searches_are_judged_as_it_stands():
    folder = Path(__file__).parent.parent / "experiments" / "beyond" / "deciding"
    found = instruments.gather([folder])
    for more, registration in deciding.REGISTRATIONS.items():
        told = (folder / f"predictions{more}.md").read_text("utf-8")
        assert deciding.judged(found, "decision", registration) == told
        verdicts, _ = told.split("\nIntervals:", 1)
        assert verdicts.strip() in (folder / "README.md").read_text("utf-8")

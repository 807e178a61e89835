"""The timing helper with a clock that is told the time, the roofline's counts, and what every benchmark reports."""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny

from benchmarks import (
    discovery,
    end_to_end,
    golden,
    local_training,
    pytorch_reference,
    report,
    roofline,
    scaling,
    scaling_rounds,
    timing,
)
from benchmarks.timing import Budget, Contender
from fedmi_jax.config import Discovery, Execution
from fedmi_jax.devices.layout import resolve
from fedmi_jax.devices.session import telling_when_compiling
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import instrument, programs

ONCE = Budget(seconds=0, least=1, most=1)


class Script:
    """A clock, and contenders that take the seconds they are given, one entry per call."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def clock(self):
        return self.now

    def contender(self, name, seconds, warm_up=None):
        left = iter(seconds)

        def run(turn):
            self.calls.append((name, turn))
            return next(left)

        def wait(duration):  # the work is done here, after the call has returned
            self.now += duration

        return Contender(run, wait, None if warm_up is None else lambda: warm_up)


def test_contenders_take_turns_and_the_ratio_is_of_each_turn():
    script = Script()
    ours = script.contender("ours", [10, 1, 2, 3])
    theirs = script.contender("theirs", [2, 8, 12], warm_up=5)
    found = timing.compare(ours, theirs, Budget(seconds=100, most=3), script.clock)
    assert script.calls == [
        ("ours", 0), ("ours", 0), ("theirs", 0), ("ours", 1), ("theirs", 1), ("ours", 2), ("theirs", 2),
    ]  # fmt: skip
    assert found["ratio"] == 4  # the median of 2, 4, 4; that of all times would be 8 / 2 = 4, their means' 3.7
    assert found["ratio_quartiles"] == [3, 4]
    assert found["turns"] == 3
    assert found["fedmi_jax"] == {
        "median_s": 2, "quartiles_s": [1.5, 2.5], "turns_s": [1, 2, 3], "first_call_s": 10, "compile_s": 9,
    }  # fmt: skip
    assert found["pytorch"]["first_call_s"] == 5
    assert found["pytorch"]["compile_s"] is None


def test_without_pytorch_there_is_no_ratio():
    found = timing.compare(Script().contender("ours", [1, 1]), None, ONCE)
    assert (found["ratio"], found["ratio_quartiles"], found["pytorch"]) == (None, None, None)


@pytest.mark.parametrize(
    ("budget", "turns"),
    [
        (Budget(seconds=17, most=9), 3),  # the first call took 4; a fourth turn would end at 20
        (Budget(seconds=16, most=9), 3),
        (Budget(seconds=15, most=9), 2),
        (Budget(seconds=0, least=2, most=9), 2),
        (Budget(seconds=100, most=1), 1),
    ],
)
def test_no_turn_begins_that_would_end_too_late(budget, turns):
    script = Script()
    times = timing.alternate({"ours": script.contender("ours", [4] * 20)}, budget, script.clock)
    assert len(times["ours"].turns) == turns


def test_a_stage_lasts_until_the_next_begins():
    script = Script()

    def work(progress):
        for stage, seconds in (("train", 3), ("average", 1), ("discover", 5)):
            progress(1, stage)
            script.now += seconds
        return "done"

    watch = timing.Stopwatch(work, script.clock)
    assert [watch(), watch(1)] == ["done", "done"]
    assert watch.laps == [{"train": 3, "average": 1, "discover": 5}] * 2


def test_counts_against_a_closed_form():
    """28 x 28 x 1 and 32 x 32 x 3; the last layer sees 3 x 3 and 4 x 4 positions of 128 channels."""
    for size, depth, last in ((28, 1, 3), (32, 3, 4)):
        model = roofline.layers((size, size, depth), (32, 64, 128), 10)
        conv1, conv2, conv3 = size**2 * 9 * depth * 32, (size // 2) ** 2 * 9 * 32 * 64, (size // 4) ** 2 * 9 * 64 * 128
        fc = last**2 * 128 * 10
        assert roofline.training_flops(model) == 2 * (2 * conv1 + 3 * (conv2 + conv3 + fc))
        assert sum(layer.weights for layer in model) == 32 + 64 + 128 + 10 + 9 * (depth * 32 + 32 * 64 + 64 * 128) + fc
    flat = [roofline.Layer(inputs=8, outputs=2, weights=16, products=16)]  # forward 8 + 2, backward 8 + 2 and 2 bytes
    assert roofline.training_bytes(flat, batch=4) == 4 * 20 + 2 + 8 * 4 * 16 / 4
    assert roofline.training_flops(flat) == 2 * 2 * 16


def test_the_roofline_is_the_slower_of_arithmetic_and_traffic():
    peak = roofline.Peak(flops=100, bytes=10, by="")
    assert peak.least_seconds(flops=200, moved=10) == 2
    assert peak.least_seconds(flops=200, moved=30) == 3


def test_peaks_are_measured():
    peak = roofline.measure_peak(resolve(Execution()), size=64, seconds=0)
    assert min(peak.flops, peak.bytes) > 1e6
    assert peak.by in ("XLA", "BLAS")


def keeps_contract(case):
    """Times of this package, and of PyTorch with the ratio or neither."""
    sides = [case["fedmi_jax"]] + ([case["pytorch"]] if case["pytorch"] else [])
    assert (case["ratio"] is None) == (case["pytorch"] is None)
    assert all(len(side["turns_s"]) == case["turns"] and side["median_s"] > 0 for side in sides)
    assert case["fedmi_jax"]["compile_s"] >= 0
    return case["ratio"] is None or case["ratio"] > 0


@pytest.fixture(autouse=True)
def keeping_programs(monkeypatch):
    """Of one worker's tests a benchmark must not be the one that turns JAX's cache off for all."""
    monkeypatch.setattr(report, "compile_anew", lambda: None)


def printed(measure, capsys):
    """What `measure` prints through `report.run`: the lines before the JSON, and the JSON."""
    options = report.parser("some", "doc").parse_args(["--json"])
    assert report.run(options, measure) == 0
    *table, last = capsys.readouterr().out.splitlines()
    return "\n".join(table), json.loads(last)


def traced(run):
    """In place of `on_jax`: a contender whose work JAX traces, shapes and all, but neither compiles nor runs."""
    return Contender(lambda turn: jax.eval_shape(lambda: run(turn)), lambda shapes: None)


def test_local_training(squares, capsys, monkeypatch):
    monkeypatch.setattr(local_training, "on_jax", traced)

    def measure():
        return local_training.measure(2, 2, ONCE, batch=16, dataset=squares, peak_seconds=0)

    table, found = printed(measure, capsys)
    assert keeps_contract(found)
    assert "fedmi_jax_share_of_roofline: " in table
    assert found["facts"]["fedmi_jax_samples_per_s"] == pytest.approx(64 / found["fedmi_jax"]["median_s"])
    assert found["versions"]["jax"] == jax.__version__
    assert found["machine"]["jax_devices"] == jax.local_device_count()

    monkeypatch.setattr(pytorch_reference, "missing", lambda: "no PyTorch: install it")
    table, found = printed(measure, capsys)
    assert keeps_contract(found)
    assert found["ratio"] is None
    assert "no PyTorch: install it" in table


def test_too_few_images(squares):
    with pytest.raises(FedmiError, match="--clients 2 --steps 99: there are not enough images"):
        local_training.measure(2, 99, ONCE, batch=16, dataset=squares)


@pytest.mark.usefixtures("x64", "counted_run")  # whose programs it takes
def test_discovery(squares, capsys, monkeypatch):
    monkeypatch.setattr(discovery, "on_jax", traced)
    found = discovery.case(tiny.experiment(), 6, Budget(seconds=0, most=9), together=2, dataset=squares)
    assert keeps_contract(found)
    assert found["what"] == "discovery, 2 clients x 4 classes (16 circuits, 6 timed), 25 steps"
    assert found["turns"] == 3  # two circuits in each, every circuit once
    found |= {"pytorch_missing": None}
    assert "images_per_step: " in printed(lambda: found, capsys)[0]


@pytest.mark.usefixtures("x64", "counted_run")  # whose programs it takes
def test_discovery_by_the_second_instrument(squares, monkeypatch):
    """Beside the paper's search of the same circuits; the searches themselves take no time here."""
    searched = []

    def survey(setup, models, rows, seeds):
        return np.asarray(rows)

    def decide(models, which, images, seeds, probed, tasks, **how):
        searched.append((which.tolist(), probed.tolist(), seeds.tolist(), tasks.label.tolist()))

    monkeypatch.setattr(discovery, "on_jax", traced)
    monkeypatch.setattr(report, "why_no_torch", lambda: "no PyTorch")
    monkeypatch.setattr(instrument, "survey", survey)
    monkeypatch.setattr(programs, "decide_circuits", decide)
    search = Discovery(objective="decision", classes=(0, 2), steps=5, batch_size=16, masks=4, probe=(12, 8))
    budget = Budget(seconds=0, most=9)
    found = discovery.decision_case(tiny.experiment(), 6, budget, together=2, dataset=squares, search=search)
    assert keeps_contract(found)
    assert found["what"] == "discovery, 2 clients x 4 classes (16 circuits, 6 timed), 5 steps, objective decision"
    assert {"times_as_long_as_the_published_search", "published_median_s"} <= set(found["facts"])
    # circuits 0, 3, 6, 9, 12, 15 of two seeds, two clients, two classes: of local models 0 to 3, of global ones 4 and 5
    first, *turns = searched
    assert first == turns[0]
    assert turns == [
        ([0, 1], [0, 1], [0, 0], [0, 2]), ([3, 4], [3, 4], [1, 0], [0, 2]), ([5, 5], [5, 5], [1, 1], [0, 2])
    ]  # fmt: skip


def test_times_as_long_is_of_each_turn():
    one, other = (timing.Times(9, turns, True) for turns in ((2, 8, 12), (1, 2, 3)))
    assert timing.times_as_long(one, other) == (4, [3, 4])


@pytest.mark.parametrize(("size", "kind"), [((3, 2), "class-map"), ((2, 5), "class-map"), ((5, 10), "iid")])
def test_discovery_of_any_size(size, kind):
    clients, classes = size
    found = discovery.experiment(clients, classes, 200)
    assert (found.split.kind, found.split.clients) == (kind, clients)
    assert {len(own) for own in found.split.class_map} == ({classes} if kind == "class-map" else set())


@pytest.mark.usefixtures("x64", "counted_run")  # whose programs it takes
def test_end_to_end(squares, capsys):
    """The one benchmark that computes here."""
    found = end_to_end.measure(tiny.experiment(), ONCE, squares)
    table, found = printed(lambda: found, capsys)
    assert keeps_contract(found)
    assert list(found["stages"]) == ["train", "discover", "evaluate"]
    assert sum(row["fedmi_jax_s"] for row in found["stages"].values()) <= found["fedmi_jax"]["median_s"]
    assert "evaluate" in table


@pytest.mark.usefixtures("x64", "counted_run")  # whose programs it takes
def test_end_to_end_with_either_instrument(squares, monkeypatch):
    rounds = []

    def one_round(setup, start, progress):
        rounds.append(setup.facts.experiment.discovery.objective)
        for stage in ("train", "discover", "evaluate"):
            progress(1, stage)

    monkeypatch.setattr(end_to_end, "_round", one_round)
    search = Discovery(objective="decision", steps=5, batch_size=16, masks=4, probe=(12, 8))
    found = end_to_end.measure_decision(tiny.experiment(), ONCE, squares, search)
    assert rounds == ["class", "decision"] * 2  # the first call of each, then a turn
    assert keeps_contract(found)
    assert list(found["stages"]) == ["train", "discover", "evaluate"]
    facts = found["facts"]
    assert facts["times_as_long_as_the_published_round"] == pytest.approx(
        found["fedmi_jax"]["median_s"] / facts["published_median_s"]
    )


def test_scaling_of_a_few_clients(monkeypatch):
    """A row, of a round that takes no time; then its table and plot from rows of other processes."""
    rounds = []
    monkeypatch.setattr(scaling, "one_round", lambda setup, start, first: rounds.append(first.clients.shape))
    row = scaling.row(3, 2, against=False)
    assert rounds == [(1, 3), (1, 3)]  # the first one compiles
    assert (row["clients"], row["chunk"], row["ratio"]) == (3, 2, None)
    assert row["ms_per_client_step"] > 0
    assert row["peak_mib"] > row["added_mib"] >= 0
    assert row["added_kib_per_client"] == pytest.approx(row["added_mib"] * 1024 / 3)


def test_scaling_over_clients_and_chunks(monkeypatch, tmp_path, capsys):
    asked = []

    def elsewhere(clients, chunk, against):
        asked.append((clients, chunk, against))
        figures = dict.fromkeys(scaling.COLUMNS, 10.0) | {"clients": clients, "chunk": 1 if chunk == "auto" else chunk}
        return figures | {"pytorch_ms_per_client_step": 30.0, "ratio": 3.0 if against else None}

    monkeypatch.setattr(scaling, "elsewhere", elsewhere)
    monkeypatch.setattr(report, "why_no_torch", lambda: None)
    path = tmp_path / "scaling.svg"
    assert scaling.main(["--clients", "30", "3", "--chunks", "8", "--plot", str(path), "--json"]) == 0
    assert asked == [(3, "auto", False), (30, "auto", True), (30, 8, False)]
    printed = capsys.readouterr().out
    assert "30 clients: PyTorch / fedmi_jax = 3.00 per client-step" in printed
    found = json.loads(printed.splitlines()[-1])
    assert found["ratio"] == 3
    assert found["machine"]["cores"] >= 1
    assert path.read_text().startswith("<?xml")


def test_scaling_says_which_row_failed(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(FedmiError, match=r"^7 clients, chunk auto: ended with status 1$"):
        scaling.elsewhere(7, "auto", against=False)


def test_a_fifth_or_everything():
    full, fifth = end_to_end.experiment(full=True), end_to_end.experiment(full=False)
    assert full.data.images_per_client is None
    assert (fifth.data.images_per_client, fifth.evaluation.images_per_class) == (2450, 200)
    assert fifth.discovery == full.discovery


@pytest.mark.parametrize("module", [local_training, discovery, end_to_end])
def test_bad_options_end_with_status_2(module, capsys):
    for arguments in (["--turns", "0"], ["--seconds", "x"]):
        with pytest.raises(SystemExit) as stop:
            module.main(arguments)
        assert stop.value.code == 2
        assert arguments[0] in capsys.readouterr().err


def test_discovery_wants_both_sizes(capsys):
    assert discovery.main(["--clients", "3"]) == 2
    assert capsys.readouterr().err == "--clients, --classes: give both or none\n"


def test_golden_replay_without_pytorch(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    file = Path(__file__).parent / "data" / "golden_iid.npz"
    assert golden.main([str(file), "--backend", "torch"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.endswith("it comes with pip install 'fedmi-jax[reference]'\n")
    assert printed.err.count("\n") == 1


def test_a_whole_round_of_few_clients(monkeypatch, capsys):
    """Its stages and its memory, of a run that takes no time and compiles in the middle of one stage."""
    told = []

    def run(setup, progress, keeper):
        for stage in ("train", "discover", "evaluate", "done"):
            progress(1, stage)
        told.append((setup.facts.counts.shape[1], setup.layout.shard))
        return {"analysed": np.ones(4)}

    monkeypatch.setattr(scaling_rounds.simulation, "_run", run)
    row = scaling_rounds.one_of(4, "", 1, 0)
    assert told == [(4, "clients")]
    assert (row["clients"], row["circuits"]) == (4, 8)
    assert row["all"] == pytest.approx(sum(row[name] for name in scaling_rounds.STAGES.values()))
    assert row["draw"] > 0
    assert row["peak_mib"] > 100
    assert "evaluate {'prepare'" in capsys.readouterr().err


def test_compiling_is_not_counted_as_a_stage(monkeypatch):
    now = iter([0, 1, 3, 7, 15])
    monkeypatch.setattr(scaling_rounds.time, "process_time", lambda: next(now))
    clock = scaling_rounds.Clock(since=next(now))
    with telling_when_compiling(clock.compiling):
        jax.monitoring.record_event("/jax/compilation_cache/compile_requests_use_cache")
        jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", 0.5)
        clock.enter("train")
    clock.enter("end")
    assert clock.seconds == {"prepare": 1 + 4, "compile": 2, "train": 8}


def test_whole_rounds_are_tabled_and_the_largest_one_in_two_processes(monkeypatch, capsys):
    asked = []

    def elsewhere(clients, together):
        asked.append((clients, together))
        return dict.fromkeys(scaling_rounds.COLUMNS, 10.0) | {"clients": clients, "processes": together}

    monkeypatch.setattr(scaling_rounds, "elsewhere", elsewhere)
    assert scaling.main(["--rounds", "30", "3", "--processes", "2", "--json"]) == 0
    assert asked == [(3, 1), (30, 1), (30, 2)]
    assert [row["clients"] for row in json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]] == [3, 30, 30]


def test_a_whole_round_says_which_row_failed(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(FedmiError, match=r"^7 clients in 2 processes: ended with status 1$"):
        scaling_rounds.elsewhere(7, 2)

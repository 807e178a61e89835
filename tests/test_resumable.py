"""A run that ends before its end: what is kept, what it goes on from, and what it refuses to go on with."""

import contextlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import xarray as xr
from cheap import Moments, assemble, small_round

import fedmi_jax
from fedmi_jax import files
from fedmi_jax.cli import main, tables
from fedmi_jax.config import Checkpoint, Discovery, Execution, Experiment, Model, from_json, replace
from fedmi_jax.data import datasets
from fedmi_jax.errors import ConfigError, FedmiError
from fedmi_jax.federation import checks, recording, resumable, simulation
from fedmi_jax.federation.setup import place, prepare
from fedmi_jax.keeping import manifest, stored
from fedmi_jax.keeping.checkpoint import FOLDER
from fedmi_jax.keeping.manifest import Manifest
from fedmi_jax.presets import PRESETS, Preset
from fedmi_jax.results import store, summary

REFERENCE = Path(__file__).parent / "data" / "reference" / "1_class_per_client.json.gz"
SAVING = tiny.experiment(execution=Execution(client_chunk=1, precision="float64", save_weights=True))


class PowerCutError(Exception):
    """Stands for any end."""


def cut(round_, stage):
    def progress(*at):
        if at == (round_, stage):
            raise PowerCutError

    return progress


def test_runs_begun_by_earlier_versions_are_the_same_runs():
    """Identities recorded before `model` and the methods' settings could be chosen."""

    def identity(experiment):
        return Manifest(experiment, Checkpoint(), "0" * 64, {}).run

    (quick,) = PRESETS["quick"].experiments
    assert identity(Experiment()) == "13c252ece3ba4770438e968c56d8987283fef930b41607c0e045ce63f776bc14"
    assert identity(quick) == "21e00d897d3669838589f8a926e997bd9803a964062cda3a385fd5ce0f526e29"
    assert identity(replace(quick, model=Model(channels=(32, 64)))) != identity(quick)


# --- a whole run ---


def test_resumed_is_the_same_file_as_uninterrupted(counted_run, squares, tmp_path):
    """Stopped in the second of two rounds; the weights and every measure are in the file."""
    folder = tmp_path / "run"
    with pytest.raises(PowerCutError):
        resumable.run(SAVING, folder, squares, cut(2, "discover"))
    kept = sorted(path.name for path in (folder / FOLDER).iterdir())
    assert kept == ["lock", "owner.json", "round-00001.npz", "run.json", "state-00001.npz"]
    with pytest.raises(ConfigError, match=r"differs in local\.epochs \(4, now 3\)"):
        fedmi_jax.run(replace(SAVING, local=replace(SAVING.local, epochs=3)), squares, folder=folder)
    stages = []
    resumable.resume(folder, squares, lambda *at: stages.append(at))
    assert [at for at in stages if at[1] == "train"] == [(2, "train")]
    assert [path.name for path in folder.iterdir()] == ["result.nc"]
    expected = store.save(counted_run[0], tmp_path / "whole")
    assert (folder / "result.nc").read_bytes() == expected.read_bytes()


# --- the same with rounds that cost nothing ---


@pytest.fixture
def cheap(monkeypatch):
    monkeypatch.setattr(simulation, "one_round", small_round)
    monkeypatch.setattr(recording, "assemble", assemble)
    return tiny.experiment(rounds=4)


def stopped(experiment, folder, squares, at, **settings):
    with pytest.raises(PowerCutError):
        resumable.run(experiment, folder, squares, cut(*at), Checkpoint(**settings))
    return folder


def whole(experiment, squares):
    return simulation.run(experiment, squares)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_checkpoints_come_when_they_should_and_stay_while_they_should(cheap, squares, tmp_path, every):
    folder = stopped(cheap, tmp_path, squares, (4, "evaluate"), every=every, keep=1)
    states = [path.name for path in folder.glob("unfinished/state-*")]
    assert states == [f"state-{3 - 3 % every:05d}.npz"]
    stages = []
    found = resumable.resume(folder, squares, lambda *at: stages.append(at[0]))
    assert stages[0] == 3 - 3 % every + 1
    xr.testing.assert_identical(found, whole(cheap, squares))


def damaged(path):
    """One bit of it is another."""
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    return path


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(cheap, squares, tmp_path, caplog):
    folder = stopped(cheap, tmp_path, squares, (4, "train"))
    last = damaged(folder / FOLDER / "state-00003.npz")
    stages = []
    found = resumable.resume(folder, squares, lambda *at: stages.append(at[0]))
    assert stages[0] == 3
    assert f"{last}: damaged" in caplog.text
    xr.testing.assert_identical(found, whole(cheap, squares))


def test_rounds_done_again_are_kept_at_once(cheap, squares, tmp_path):
    """Though the damaged state has a higher number than theirs."""
    folder = stopped(cheap, tmp_path, squares, (4, "evaluate"), keep=1)
    damaged(folder / FOLDER / "state-00003.npz")
    with pytest.raises(PowerCutError):
        resumable.resume(folder, squares, cut(3, "train"))
    stages = []
    resumable.resume(folder, squares, lambda *at: stages.append(at[0]))
    assert min(stages) == 3


@pytest.mark.parametrize("lost", ["round-00001.npz", "state-00003.npz"])
def test_a_missing_file_costs_rounds_and_nothing_else(cheap, squares, tmp_path, lost):
    folder = stopped(cheap, tmp_path, squares, (4, "train"))
    (folder / FOLDER / lost).unlink()
    xr.testing.assert_identical(resumable.resume(folder, squares), whole(cheap, squares))


def test_more_rounds_may_be_asked_for_and_fewer_not(cheap, squares, tmp_path):
    folder = stopped(cheap, tmp_path, squares, (4, "train"), after_the_end=True)
    with pytest.raises(ConfigError, match=r"^rounds: the run in .* has 4; give at least as many"):
        resumable.resume(folder, squares, rounds=2)
    xr.testing.assert_identical(resumable.resume(folder, squares), whole(cheap, squares))
    with pytest.raises(ConfigError, match=r"^rounds: the last round, 4, has had its control"):
        resumable.resume(folder, squares, rounds=6)
    never = replace(cheap, discovery=replace(cheap.discovery, repeat="never"))
    folder = tmp_path / "never"
    resumable.run(never, folder, squares, settings=Checkpoint(after_the_end=True))
    stages = []
    more = resumable.resume(folder, squares, lambda *at: stages.append(at[0]), rounds=6)
    assert min(stages) == 5
    xr.testing.assert_identical(more, whole(replace(never, rounds=6), squares))


def test_a_last_round_that_was_looked_at_closely_is_the_last(cheap, squares, tmp_path):
    """It would not be looked at so in a run of more rounds."""
    search = Discovery(objective="decision", probe=(16, 8), batch_size=16, masks=4)
    close = replace(cheap, discovery=search, evaluation=replace(cheap.evaluation, null_samples=2))
    resumable.run(close, tmp_path, squares, settings=Checkpoint(after_the_end=True))
    once = r"^rounds: the last round, 4, has had its control \(evaluation\.null_samples\)"
    with pytest.raises(ConfigError, match=once):
        resumable.resume(tmp_path, squares, rounds=6)


def test_a_finished_run_is_resumed_to_itself(cheap, squares, tmp_path):
    made = resumable.run(cheap, tmp_path, squares)
    xr.testing.assert_identical(resumable.resume(tmp_path), made)
    with pytest.raises(ConfigError, match=r"^rounds: .* is finished, its checkpoints gone"):
        resumable.resume(tmp_path, rounds=9)
    with pytest.raises(FedmiError, match="holds no unfinished run"):
        resumable.resume(tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere").exists()


def test_other_images_are_refused(cheap, squares, tmp_path):
    folder = stopped(cheap, tmp_path, squares, (2, "train"))
    pixels = squares.train_images.copy()
    pixels[0, 0, 0] ^= 1
    other = fedmi_jax.from_arrays(
        pixels, squares.train_labels, squares.test_images, squares.test_labels, name="squares"
    )
    shown = r"squares \(SHA-256 [0-9a-f]{8}\.\.\.\)"
    said = rf"holds an unfinished run on {shown}, but is given {shown}; give it the images that it was begun on, as in"
    with pytest.raises(ConfigError, match=said) as caught:
        resumable.resume(folder, other)
    assert len(set(re.findall("[0-9a-f]{8}(?=[.]{3})", str(caught.value)))) == 2
    with pytest.raises(ConfigError, match=rf"unfinished run on {shown}, but is given mnist \(SHA-256 102f3e19"):
        resumable.resume(folder)  # what its configuration names


def test_a_run_goes_on_with_its_own_split_alone(cheap, squares, tmp_path):
    given = [np.flatnonzero(np.isin(squares.train_labels, classes)) for classes in ((0, 1), (1, 2, 3))]
    with pytest.raises(PowerCutError):
        resumable.run(cheap, tmp_path, squares, cut(3, "train"), split=given)
    for other, said in (
        (None, r'split\.kind: "own" is .* from Python, here indices \(SHA-256 .*\); give it'),
        (given[::-1], r"differs in split\.own \(indices .*, now indices "),
        (lambda labels, rng: given[::-1], r"differs in split\.own \(indices .*, now <lambda> "),
    ):
        with pytest.raises(ConfigError, match=said):
            fedmi_jax.resume(tmp_path, squares, split=other)
    with pytest.raises(ConfigError, match=r"differs in split\.kind \(own, now class-map\)"):
        fedmi_jax.run(cheap, squares, folder=tmp_path)
    stages = []
    found = resumable.resume(tmp_path, squares, lambda *at: stages.append(at[0]), split=given)
    assert stages[0] == 3
    xr.testing.assert_identical(found, simulation.run(cheap, squares, split=given))


def test_a_run_without_a_finished_round_blocks_no_folder(cheap, squares, tmp_path, caplog):
    """It may have failed for the very setting that is then changed."""
    folder = stopped(replace(cheap, rounds=5), tmp_path, squares, (1, "evaluate"))
    stored.write_arrays(folder / FOLDER / "round-00001.npz", {"on": np.ones(2)}, "that run")
    resumable.refuse(folder)
    with pytest.raises(ConfigError, match="is given mnist"):
        resumable.resume(folder)  # which is to go on with that very run
    other = replace(cheap, rounds=2, seeds=(2**63 - 1,))
    xr.testing.assert_identical(resumable.run(other, folder, squares), whole(other, squares))
    assert caplog.text == ""


def test_a_changed_configuration_on_disk_is_refused(cheap, squares, tmp_path):
    folder = stopped(cheap, tmp_path, squares, (2, "train"))
    path = folder / FOLDER / "run.json"
    text = path.read_text()
    for changed in (text.replace("0.01", "0.02", 1), text[:-20], "[]", "{}", "", "[" * 100_000):
        path.write_text(changed)
        with pytest.raises(FedmiError, match=r"run\.json: damaged") as caught:
            resumable.resume(folder, squares)
        assert "\n" not in str(caught.value)


def test_files_of_another_run_are_not_taken(cheap, squares, tmp_path):
    folder = stopped(cheap, tmp_path / "a", squares, (4, "train"))
    other = stopped(replace(cheap, seeds=(8, 9)), tmp_path / "b", squares, (4, "train"))
    (other / FOLDER / "state-00003.npz").replace(folder / FOLDER / "state-00003.npz")
    xr.testing.assert_identical(resumable.resume(folder, squares), whole(cheap, squares))


def test_what_a_callback_raises_ends_the_run_with_the_round_kept(cheap, squares, tmp_path):
    told = []

    def on_round(number, metrics):
        told.append(number)
        assert metrics["seconds"] >= 0
        if number == 2:
            raise PowerCutError

    with pytest.raises(PowerCutError):
        fedmi_jax.run(cheap, squares, folder=tmp_path, on_round=on_round)
    assert (tmp_path / FOLDER / "state-00002.npz").exists()
    xr.testing.assert_identical(fedmi_jax.resume(tmp_path, squares, on_round=on_round), whole(cheap, squares))
    assert told == [1, 2, 3, 4]


# --- killed ---


def test_killed_at_any_moment_around_any_write(cheap, squares, tmp_path, monkeypatch):
    """The folder as a kill -9 would leave it at each moment, every one resumed: always the same file, and it alone."""
    experiment, folder, snapshots = replace(cheap, rounds=3), tmp_path / "run", tmp_path / "at"

    def snapshot(moment):
        shutil.copytree(folder, snapshots / str(moment))
        for left in (snapshots / str(moment)).rglob(".*.tmp"):  # of a process that is no more
            left.rename(left.with_name(left.name.replace(f".{os.getpid()}.", ".1.")))

    with monkeypatch.context() as patched:
        moments = Moments(snapshot)
        moments.install(patched.setattr)
        resumable.run(experiment, folder, squares)
    assert moments.count == 4 + 5 * (2 * 3 + 1)  # run.json; round and state of every round, result.nc, which are sealed
    expected = (folder / "result.nc").read_bytes()
    for one in snapshots.iterdir():
        if resumable.experiment_in(one) is None:  # before run.json was there
            assert int(one.name) < 4
            resumable.run(experiment, one, squares)
        elif (one / "result.nc").exists():
            assert int(one.name) > 4 + 5 * 6
        resumable.resume(one, squares)
        assert [path.name for path in one.iterdir()] == ["result.nc"], one.name
        assert (one / "result.nc").read_bytes() == expected, one.name


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_or_a_failed_rename_is_one_line_and_resumable(cheap, squares, tmp_path, monkeypatch, call):
    """At every write in turn."""
    experiment = replace(cheap, rounds=3)
    expected, real, left = whole(experiment, squares), getattr(os, call), [0]

    def fails_sometimes(*arguments):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    monkeypatch.setattr(os, call, fails_sometimes)
    for nth in range(1, 1 + {"fsync": 2, "replace": 1}[call] * 8):  # run.json, three rounds and states, result.nc
        left[0] = nth
        folder = tmp_path / str(nth)
        with pytest.raises(FedmiError, match=r"^[^\n]* cannot be written: No space left on device; make room [^\n]*$"):
            resumable.run(experiment, folder, squares)
        assert not list(folder.rglob("*.tmp"))
        if not (folder / "result.nc").exists():  # the last flush is that of the folder with the finished file
            resumable.run(experiment, folder, squares)
        xr.testing.assert_identical(store.load(folder), expected)


@pytest.mark.parametrize("room", [0, 100, 500, 2000, 4000])
def test_a_write_that_fails_half_way_is_one_line_and_resumable(cheap, squares, tmp_path, room):
    """No file may grow beyond so many bytes: run.json, then records, states and the result meet the limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(FedmiError, match=r"^[^\n]* cannot be written: File too large$"):
            resumable.run(cheap, tmp_path, squares)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.rglob("*.tmp"))
    xr.testing.assert_identical(resumable.run(cheap, tmp_path, squares), whole(cheap, squares))


@pytest.mark.parametrize("chunk", ["auto", 8, 1])
def test_memory_that_runs_out_is_one_line_with_advice(cheap, squares, tmp_path, monkeypatch, caplog, chunk):
    def exhausted(*arguments):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes\nand more")

    experiment = replace(cheap, execution=replace(cheap.execution, client_chunk=chunk))
    with monkeypatch.context() as patched:
        patched.setattr(simulation, "one_round", exhausted)
        name, now, lower = ("client_chunk", "8", 4) if chunk == 8 else ("micro_batch", "the whole batch", 128)
        advice = (
            rf"; lower execution.{name} \(now {now}\), as in `fedmi resume DIR --{name.replace('_', '-')} {lower}`$"
        )
        with pytest.raises(FedmiError, match=rf"^memory ran out \(RESOURCE_EXHAUSTED: [^\n]*{advice}"):
            resumable.run(experiment, tmp_path, squares)
    found = resumable.resume(tmp_path, squares, **{name: lower})
    xr.testing.assert_equal(found, whole(experiment, squares))
    assert getattr(from_json(found.attrs["config"]).execution, name) == lower
    assert re.search(rf"begun with other execution\.{name} \(.*, now {lower}\): last digits may differ", caplog.text)


# --- numbers ---


def test_weights_that_are_not_finite_stop_the_run_and_keep_the_checkpoint(cheap, squares, tmp_path, monkeypatch):
    def third_round_is_bad(setup, state, number, progress):
        (weights, server), record = small_round(setup, state, number, progress)
        if number == 3:
            one = setup.facts.round(3)
            local = {name: jnp.stack([jnp.asarray(w[i]) for i in one.models[0]]) for name, w in weights.items()}
            local["conv2_bias"] = local["conv2_bias"].at[3, 5].set(jnp.inf)
            checks.require_finite_local(setup, one, local)
        return (weights, server), record

    with monkeypatch.context() as patched:
        patched.setattr(simulation, "one_round", third_round_is_bad)
        steps = prepare(cheap, squares).steps[1, 1]
        where = f"seed 5, round 3, client 1, local step {steps - 1};"
        with pytest.raises(FedmiError, match=f"^the weights are not finite: {where}"):
            resumable.run(cheap, tmp_path, squares)
    assert (tmp_path / FOLDER / "state-00002.npz").exists()
    xr.testing.assert_identical(resumable.resume(tmp_path, squares), whole(cheap, squares))


def test_repeated_rounds_are_compared_bit_by_bit(cheap, squares, monkeypatch):
    with jax.enable_x64(True):
        setup = place(prepare(cheap, squares))
        assert simulation.differing_when_repeated(setup) == []
        monkeypatch.setattr(simulation, "one_round", flipping([]))
        assert simulation.differing_when_repeated(setup) == ["loss"]


def flipping(calls):
    """The sign of a zero changes from call to call."""

    def one_round(*arguments):
        state, record = small_round(*arguments)
        calls.append(1)
        return state, record | {"loss": np.copysign(np.zeros(3), (-1) ** len(calls))}

    return one_round


def in_a_process(*arguments):
    """`fedmi` with cheap rounds that take a while, when its first checkpoint is there."""
    root = Path(__file__).parent.parent
    command = [sys.executable, "-m", "tests.cheap", "--wait", "0.5", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.Popen(
        command, cwd=root, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_a_resumable_folder_and_says_how(tmp_path, number, status):
    """A second one while the first is still waiting for its stage to end: at once."""
    out = tmp_path / "a run"
    run = in_a_process("run", "tiny", "--rounds", 100, "--out", out)
    deadline = time.monotonic() + 60
    while not (out / FOLDER / "state-00001.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    run.send_signal(number)
    if number == signal.SIGTERM:
        assert any("a second signal ends the run at once" in line for line in iter(run.stderr.readline, ""))
        run.send_signal(number)
    _, said = run.communicate(timeout=30)
    assert run.returncode == status, said
    last = said.splitlines()[-1]
    assert last.startswith("fedmi: stopped by SIGINT; " if status == 130 else "fedmi: ended at once; ")
    assert f"`fedmi resume '{out}'` continues" in last
    assert resumable.experiment_in(out).rounds == 100
    with pytest.raises(FedmiError, match=r"holds an unfinished run, \d+ of 100 rounds done; `fedmi resume '"):
        resumable.refuse(out)


def test_whoever_asks_first_which_process_it_is_gets_all_cores_and_may_pause():
    """Resumed on one device a run would differ in its last digits from one begun on two."""
    code = "from fedmi_jax.devices import processes; processes.is_first(); import jax, os; print(jax.device_count())"
    code += "; assert 'terminate_timeout' in os.environ['XLA_FLAGS']"
    own = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root, env=own)
    assert int(done.stdout) == len(os.sched_getaffinity(0))


# --- arrays ---


def test_arrays_come_back_bit_for_bit_and_booleans_take_a_bit(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "negative zero": np.array([-0.0, 0.0, np.nan, -np.inf]),
        "mask": rng.random((7, 1001)) < 0.5,
        "one": np.array(True),
        "none": np.zeros((0, 3), bool),
        "whole": np.arange(3, dtype=np.uint8),
    }
    path = tmp_path / "a.npz"
    stored.write_arrays(path, arrays, "this")
    found = stored.Stored(path)
    found.require("this")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()
    assert path.stat().st_size < 4000
    with pytest.raises(FedmiError, match="of another run"):
        found.require("that")
    with pytest.raises(TypeError, match="pickled"):
        stored.write_arrays(path, {"x": np.array([{}])}, "this")


def test_what_is_written_is_no_view_of_a_buffer(tmp_path, monkeypatch):
    """A buffer of which a traceback holds a view complains when both are collected."""
    written = []
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: written.append(type(content)))
    with pytest.raises(FedmiError, match="cannot be written"):  # there is nothing to seal
        stored.write_arrays(tmp_path / "a.npz", {"x": np.arange(3)}, "this")
    assert written == [bytes]


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, run=np.array("this"), zeros=np.zeros(10_000_000))
    files.seal(path)
    with pytest.raises(FedmiError, match="unpacks to 80000"):
        stored.Stored(path).require("this")


# --- one at a time ---


def held_by_another(home):
    """A process of its own that holds the lock, until it is killed."""
    code = (
        "import pathlib, sys, time; from fedmi_jax.keeping import lock\n"
        "with lock.held(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    owner = subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, env=environment)
    assert owner.stdout.readline() == b"held\n"
    return owner


def test_a_second_run_is_refused_and_a_dead_owner_is_none(cheap, squares, tmp_path):
    owner = held_by_another(tmp_path / FOLDER)
    try:
        with pytest.raises(FedmiError, match=rf"in use by process {owner.pid} on '{os.uname().nodename}'"):
            resumable.run(cheap, tmp_path, squares)
    finally:
        owner.kill()
        owner.communicate()
    xr.testing.assert_identical(resumable.run(cheap, tmp_path, squares), whole(cheap, squares))
    assert [path.name for path in tmp_path.iterdir()] == ["result.nc"]


# --- the command ---


@pytest.fixture
def two_experiments(cheap, squares, monkeypatch):
    """A preset of two experiments."""
    both = replace(cheap, name="one"), replace(cheap, name="other")
    monkeypatch.setitem(PRESETS, "tiny", Preset(both, "small", "-"))
    monkeypatch.setattr(datasets, "load", lambda data: squares)
    monkeypatch.setattr(summary, "summary", lambda ds: dict(ds.sizes))  # of a result that is not one
    monkeypatch.setattr(tables, "print_summary", lambda short, console: console.print(f"{short['round']} rounds"))
    return both


def fedmi(*arguments):
    return main.main(list(map(str, arguments)))


def test_a_preset_of_two_is_resumed_in_both(two_experiments, squares, tmp_path, monkeypatch, capsys):
    """The first had one round, the second none."""
    out = tmp_path / "a run"
    with monkeypatch.context() as patched:
        patched.setattr(simulation, "one_round", out_of_order(at=2))
        assert fedmi("run", "tiny", "--out", out) == 2
    assert capsys.readouterr().err.endswith("\nfedmi: out of order\n")
    assert resumable.below(tmp_path) == [out / "one", out / "other"]  # at any depth, as show and claims find results
    assert fedmi("run", "tiny", "--out", out) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"fedmi: {out / 'one'}: holds an unfinished run, 1 of 4 rounds done; `fedmi resume '")
    assert fedmi("resume", out, "--rounds", 5) == 0
    assert capsys.readouterr().out.count("5 rounds") == 2
    for experiment in two_experiments:
        found = store.load(out / experiment.name)
        assert found.identical(whole(replace(experiment, rounds=5), squares))
    assert fedmi("resume", out / "one") == 0
    assert fedmi("resume", tmp_path / "elsewhere") == 2
    assert "holds no unfinished run; `fedmi run PRESET --out DIR` begins one\n" in capsys.readouterr().err


def out_of_order(at):
    def one_round(setup, state, number, progress):
        if number == at:
            raise FedmiError("out of order")
        return small_round(setup, state, number, progress)

    return one_round


@pytest.mark.parametrize(("gone", "status"), [("/dev/full", 2), ("a pipe", 141)])
def test_a_run_goes_on_when_nothing_can_be_printed(two_experiments, tmp_path, monkeypatch, capsys, gone, status):
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(OSError), open(writer if status == 141 else gone, "w") as lost:
        monkeypatch.setattr(sys, "stdout", lost)
        assert fedmi("run", "tiny", "--out", tmp_path) == status
    assert sorted(path.parent.name for path in tmp_path.glob("*/result.nc")) == ["one", "other"]
    said = [line for line in capsys.readouterr().err.splitlines() if " round " not in line]
    full = "fedmi: standard output cannot be written: No space left on device"
    assert said == ([full] if status == 2 else [])


def test_determinism_is_checked_and_told(two_experiments, monkeypatch, capsys):
    assert fedmi("run", "tiny", "--check-determinism") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if ": round 1, computed twice on 2 cpu: " in line]
    assert [line.split(": ")[0] for line in lines] == ["one", "other"]
    assert all(line.endswith(": agree in every bit") for line in lines)
    monkeypatch.setattr(simulation, "one_round", flipping([]))
    assert fedmi("run", "tiny", "--check-determinism") == 1
    assert capsys.readouterr().out.count(": differ in loss\n") == 2


def test_a_signal_in_the_last_stage_of_one_experiment_keeps_the_next_from_starting(
    two_experiments, tmp_path, monkeypatch, capsys
):
    out = tmp_path / "a run"

    def ctrl_c_in_the_last(setup, state, number, progress):
        done = small_round(setup, state, number, progress)
        if number == 4:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        return done

    monkeypatch.setattr(simulation, "one_round", ctrl_c_in_the_last)
    assert fedmi("run", "tiny", "--out", out) == 130
    assert f"stopped by SIGINT; `fedmi resume '{out}'` continues" in capsys.readouterr().err
    assert (out / "one" / "result.nc").exists()
    assert resumable.experiment_in(out / "other").rounds == 4
    monkeypatch.setattr(simulation, "one_round", small_round)
    assert fedmi("resume", out) == 0
    assert (out / "other" / "result.nc").exists()


def test_other_hands_in_the_folder(two_experiments, squares, tmp_path, capsys):
    one, _ = two_experiments
    folder = stopped(one, tmp_path / "run", squares, (2, "evaluate"))
    notes = folder / ".notes.txt.tmp"
    notes.write_text("mine")
    assert fedmi("import", REFERENCE, "--out", folder) == 2
    assert "holds an unfinished run, 1 of 4 rounds done" in capsys.readouterr().err
    assert fedmi("resume", folder, "--rounds", 0) == 2
    assert "fedmi: rounds: " in capsys.readouterr().err
    assert fedmi("resume", folder) == 0
    assert notes.read_text() == "mine"
    with pytest.raises(FedmiError, match="already holds a result"):
        resumable.run(one, folder, squares)
    assert sorted(path.name for path in folder.iterdir()) == [".notes.txt.tmp", "result.nc"]
    (tmp_path / FOLDER / "run.json").mkdir(parents=True)
    with pytest.raises(FedmiError, match=r"run\.json: cannot be read: Is a directory$"):
        resumable.resume(tmp_path)


def test_what_an_automatic_chunk_means_is_asked_once(cheap, squares, tmp_path, monkeypatch):
    """On a GPU it depends on the memory that is free: a run that goes on with less has the chunk that it began with."""
    free, given = iter([7, 3]), []

    def stops(experiment, dataset, progress, keeper, method, on_round, split, chunk):
        given.append(chunk)
        raise KeyboardInterrupt

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(resumable, "lay_out", lambda facts: SimpleNamespace(chunk=next(free)))
    monkeypatch.setattr(simulation, "run", stops)
    automatic = replace(cheap, execution=replace(cheap.execution, client_chunk="auto"))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            resumable.run(automatic, tmp_path, squares)
    with pytest.raises(KeyboardInterrupt):
        resumable.resume(tmp_path, squares, client_chunk=2)
    assert given == [7, 7, None]
    assert manifest.read(tmp_path / "unfinished").chunk == 7

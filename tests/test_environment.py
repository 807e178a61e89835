"""Whatever the environment says: the same numbers, or one line; what still matters is recorded."""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.configurations import config as flax_config
from made_up import result
from processor import UNOPTIMISED

import fedmi_jax
from fedmi_jax import export_authors, files, import_authors, keys
from fedmi_jax.circuits import evaluation
from fedmi_jax.cli import main, run
from fedmi_jax.config import Data, Execution, Experiment
from fedmi_jax.data import datasets
from fedmi_jax.devices import require_jax, start
from fedmi_jax.devices.session import keep_compiled, session
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import simulation
from fedmi_jax.keeping import manifest
from fedmi_jax.network.ablation import ZERO
from fedmi_jax.results import store

# --- settings that would change numbers ---


@contextlib.contextmanager
def odd_draws():
    """As JAX_DEFAULT_PRNG_IMPL=rbg, JAX_THREEFRY_PARTITIONABLE=0, JAX_RANDOM_SEED_OFFSET=1 and the like have it."""
    odd = (jax.default_prng_impl("rbg"), jax.threefry_partitionable(False))
    with odd[0], odd[1], flax_config.temp_flip_flag("fix_rng_separator", True):
        jax.config.update("jax_random_seed_offset", 1)
        try:
            yield
        finally:
            jax.config.update("jax_random_seed_offset", 0)


@pytest.mark.parametrize("around", [contextlib.nullcontext, odd_draws])
def test_a_fresh_model_is_that_of_the_stored_results(around):
    """The digest was recorded from runs in a plain environment, for MNIST and seed 7 in single precision."""
    model = SimpleNamespace(channels=(32, 64, 128))
    mnist = SimpleNamespace(image_shape=(28, 28, 1), num_classes=10)
    facts = SimpleNamespace(dataset=mnist, experiment=SimpleNamespace(model=model), dtype=jnp.dtype("float32"))
    with around():
        own = simulation.initial_params(facts, 7)
    found = hashlib.sha256()
    for name in sorted(own):
        found.update(name.encode() + np.asarray(own[name]).tobytes())
    assert found.hexdigest() == "865d2ab33bef6c0a4bef688cbcfd1601e88b7e69c3ca60eff2ff007eeb432e0d"


@pytest.mark.parametrize("wide", [False, True])
def test_every_seed_has_a_key_of_its_own_in_either_precision(wide):
    with jax.enable_x64(wide):
        found = {seed: jax.random.key_data(keys.jax_key(seed, 2)).tolist() for seed in SEEDS}
        for seed in SEEDS[:4]:  # of these JAX itself keeps every bit
            expected = jax.random.fold_in(jax.random.key(seed), 2)
            assert found[seed] == jax.random.key_data(expected).tolist()
    assert len(set(map(tuple, found.values()))) == len(SEEDS)


SEEDS = (0, 3, 2**31 + 3, 2**32 - 1, 2**32 + 3, 2**63 - 1)


def test_settings_that_still_matter_are_recorded(monkeypatch, counted_run):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    monkeypatch.setenv("XLA_FLAGS", "")
    jax.config.update(UNOPTIMISED, False)  # set before every test
    start.allow_pauses()
    assert start.settings() == {}
    assert manifest.machine()["settings"] == ""
    monkeypatch.setenv("XLA_FLAGS", f"--xla_a=1 {os.environ['XLA_FLAGS']} --xla_b=2")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    with jax.default_matmul_precision("bfloat16"):
        expected = {
            "XLA_FLAGS": "--xla_a=1 --xla_b=2", "NVIDIA_TF32_OVERRIDE": "0", "JAX_DEFAULT_MATMUL_PRECISION": "bfloat16",
        }  # fmt: skip
        assert start.settings() == expected
        assert manifest.machine()["settings"] == " ".join(f"{name}={value}" for name, value in expected.items())
    assert "xla_backend_optimization_level" in json.loads(counted_run[0].attrs["settings"])["XLA_FLAGS"]


# --- settings that look for errors ---


@contextlib.contextmanager
def strict():
    with contextlib.ExitStack() as stack:
        for setting in (
            jax.debug_nans(True), jax.debug_infs(True), jax.numpy_dtype_promotion("strict"),
            jax.numpy_rank_promotion("raise"), jax.transfer_guard("disallow"),
        ):  # fmt: skip
            stack.enter_context(setting)
        yield


def test_a_healthy_run_passes_whatever_looks_for_errors(counted_run, squares):
    settings = Execution(client_chunk=1, precision="float64", save_weights=True)
    with strict():
        found = simulation.run(tiny.experiment(execution=settings), squares)
    for name, expected in counted_run[0].items():
        assert found[name].values.tobytes() == expected.values.tobytes(), name


def test_no_program_gives_a_nan_where_there_is_nothing_to_average():
    labels = np.array([0, 0, 1, 1, 2, 2])
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1), np.uint8)
    params = tiny.params(size=4, dtype=jnp.float32, channels=(4,))
    with session(Execution()), jax.debug_nans(True):
        test = evaluation.make_evaluation_set(tiny.on_device(pixels, labels, jnp.float32), labels, 4, 6)
        judge = partial(evaluation.performance, narrowing=False)
        whole = (params, {"conv1": np.ones(4, np.float32)}, ZERO, 3)
        judged = [evaluation.divided(jax.jit(judge)(*whole, alone, test)) for alone in (False, True)]
        (found, accuracy), (_, alone) = judged  # the class 3 has no image
        with pytest.raises(FloatingPointError):  # it is on
            jax.jit(lambda x: x / x)(jnp.zeros(1))
    assert np.isnan([found.target_softmax, found.call_rate[3], accuracy.per_class[3], alone.overall]).all()
    assert np.isfinite([*found.call_rate[:3], found.false_positive_rate, accuracy.overall]).all()
    assert {leaf.dtype.name for leaf in jax.tree.leaves(judged)} == {"float32"}


# --- settings with which JAX does not start ---


def fedmi(*arguments, **environment):
    """(status, standard error) of a process."""
    own = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    command = [sys.executable, "-m", "fedmi_jax.cli.main", *map(str, arguments)]
    done = subprocess.run(command, env=own | environment, capture_output=True, text=True)
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"JAX_PLATFORMS": "cuda"}, "JAX does not start with JAX_PLATFORMS=cuda: "),
        (
            {"FLAX_FIX_RNG_SEPARATOR": "maybe"},
            "JAX cannot be imported: invalid truth value 'maybe' for environment 'FLA",
        ),
        ({"JAX_ENABLE_X64": "maybe"}, "JAX cannot be imported: invalid truth value 'maybe' for environment 'JAX_E"),
    ],
)
def test_an_environment_without_a_way_is_one_line(environment, said, tmp_path):
    status, told = fedmi("run", "quick", "--out", tmp_path / "run", **environment)
    assert (status, told.count("\n")) == (2, 1)
    assert told.startswith(f"fedmi: {said}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (AssertionError(), "there is no such device, or the part of JAX for it is not installed; "),
        (RuntimeError("Unable to\ninitialize backend 'x': (a hint)"), "Unable to initialize backend 'x':; without"),
        (TypeError("'NoneType'"), "'NoneType'; without"),
    ],
)
def test_whatever_keeps_jax_from_starting_is_one_line(error, said, monkeypatch):
    def devices():
        raise error

    monkeypatch.setattr(jax, "devices", devices)
    with pytest.raises(FedmiError) as caught:
        start.start()
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "JAX_PLATFORMS=cpu" in str(caught.value)


def test_whatever_keeps_jax_from_being_imported_is_one_line(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "jax", None)  # as if it were not installed
    with pytest.raises(FedmiError, match=r"^JAX cannot be imported: import of jax halted"):
        require_jax()
    for words in (["run", "quick", "--out", tmp_path / "a"], ["resume", tmp_path]):
        assert main.main(list(map(str, words))) == 2
        assert capsys.readouterr().err.startswith("fedmi: JAX cannot be imported: ")


def test_xla_flags_may_be_a_file(monkeypatch, tmp_path):
    file = tmp_path / "flags"
    file.write_text("--xla_a=1\n--xla_force_host_platform_device_count=3\n")
    monkeypatch.setenv("XLA_FLAGS", str(file))
    start.allow_pauses()
    assert os.environ["XLA_FLAGS"].split() == [*file.read_text().split(), f"--{start._PAUSES}={start.PAUSE}"]
    before = os.environ["XLA_FLAGS"]
    start.allow_pauses()
    assert os.environ["XLA_FLAGS"] == before
    for name in (tmp_path / "none", tmp_path):
        monkeypatch.setenv("XLA_FLAGS", str(name))
        with pytest.raises(FedmiError, match=r"^XLA_FLAGS: .* cannot be read \(.*\); give flags"):
            start.allow_pauses()


# --- folders that are not what they seem ---


def test_a_tilde_is_the_home_folder_wherever_a_path_is_given(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    made = result("one-class", seeds=1, rounds=1)
    assert store.save(made, "~/a run") == tmp_path / "a run" / "result.nc"
    assert store.load("~/a run").attrs["name"] == "one-class"
    export_authors(made, "~/theirs.json")
    assert import_authors("~/theirs.json", channels=(40, 40, 40)).sizes["client"] == 3
    assert fedmi_jax._path("~/x") == run.parse(Experiment(), "quick", ["--out=~/x"]).out == tmp_path / "x"
    monkeypatch.setenv("FEDMI_CACHE", "~/cache")
    assert files.cache_folder() == tmp_path / "cache"


def test_a_home_folder_that_there_is_not_is_one_line(monkeypatch, capsys):
    nobody = "~no-such-user/x"
    calls = [lambda: store.load(nobody), lambda: fedmi_jax._path(nobody), lambda: import_authors(nobody)]
    calls += [lambda: datasets.load(Data(name="fashion_mnist", data_dir=nobody)), files.cache_folder]
    monkeypatch.setenv("FEDMI_CACHE", nobody)
    for call in calls:
        with pytest.raises(FedmiError, match=r"^~no-such-user/x: there is no such user, or no home folder is known"):
            call()
    assert main.main(["show", nobody]) == 2
    assert f"{nobody}: there is no such user" in capsys.readouterr().err


def test_without_a_home_folder_no_program_is_kept(monkeypatch):
    monkeypatch.delenv("FEDMI_CACHE", raising=False)
    monkeypatch.setattr(Path, "expanduser", lambda path: (_ for _ in ()).throw(RuntimeError("no home")))
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        keep_compiled()
        assert jax.config.values["jax_compilation_cache_dir"] is None
        monkeypatch.setenv("FEDMI_CACHE", "~/x")
        with pytest.raises(FedmiError, match="no home folder is known"):
            keep_compiled()
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_current_folder_that_was_removed_is_one_line(monkeypatch, capsys, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main.main(["list"]) == 0
    capsys.readouterr()
    file = Path(__file__).parent / "data" / "reference" / "1_class_per_client.json.gz"
    for words in (
        ["run", "quick", "--out", "x"], ["resume", "x"], ["show", "."], ["claims", "x", "--out", "y"],
        ["figures", "x"], ["import", str(file), "--out", "x"], ["export", "x", "--out", "x.json"],
    ):  # fmt: skip
        assert main.main(words) == 2, words
        said = capsys.readouterr().err
        assert (said.startswith("fedmi: "), said.count("\n")) == (True, 1), words


def test_a_closed_stream_leaves_its_number_to_no_file():
    """What XLA prints to its standard error would else end up in whatever file was opened first."""
    code = "import os; from fedmi_jax.cli import terminal; terminal.hold_numbers(); print(os.open(os.devnull, 0))"
    command = ["sh", "-c", 'exec "$0" -c "$1" <&- 2>&-', sys.executable, code]
    assert int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout) > 2

"""What every test shares: two CPU devices, as in real use; a small data set, and a small run."""

import logging
import os
import pickle
from pathlib import Path

from processor import FLAGS, UNOPTIMISED, compiling_fast, programs_folder

# Both must be said before JAX starts. The golden replay compiles as a user's run does, in a process of its own.
os.environ["XLA_FLAGS"] = compiling_fast(os.environ.get("XLA_FLAGS", ""))
# Programs are kept from one run of the suite to the next, and every process that a test starts uses them too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(programs_folder()))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import hypothesis
import jax
import pytest
import quick
import tiny
import xarray as xr

from fedmi_jax.config import Execution
from fedmi_jax.devices import start
from fedmi_jax.federation import simulation
from fedmi_jax.results import store

jax.config.update("jax_num_cpu_devices", 2)
start.allow_pauses()  # now, because XLA_FLAGS are part of a program's key

# A slow machine fails no test: how long examples take to draw is no property of what is tested.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

SHARED_RUNS = {"run": {"counted_run", "some"}, "deciding": {"deciding_run"}}
ALIKE = {"test_method_runs", "test_own_method"}
"""Files whose runs are of the same shapes as the counted run."""
LONGEST = (
    "run", "deciding", "test_golden", "test_local", "test_readme", "test_planted", "test_choice",
    "test_studies", "test_depth", "test_readout", "test_client_methods", "test_ablation", "test_discovery",
    "test_methods", "test_model", "test_figures", "test_evaluation", "test_single",
)  # fmt: skip
"""Groups of tests that take longest, which therefore begin."""


def group(item):
    """Tests of one group go to one worker, because they share programs, runs or figures: those that use one of the
    shared runs, or are in one file. (Two workers may not share what is compiled in a process.)"""
    if item.path.stem in ALIKE:
        return "run"
    return next((name for name, runs in SHARED_RUNS.items() if runs & set(item.fixturenames)), item.path.stem)


@pytest.hookimpl(tryfirst=True)  # before the workers read the groups, and pytest the marks
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item)))
        if "deciding_run" in item.fixturenames:
            item.add_marker("slow")
        if quick.is_left_out(f"{item.path.stem.removeprefix('test_')}::{item.originalname}"):
            item.add_marker("thorough")
    items.sort(key=lambda item: LONGEST.index(group(item)) if group(item) in LONGEST else len(LONGEST))


RUN_LONG = {"deciding", "test_deciding", "test_choice", "test_planted", "test_readout", "test_golden_decision"}
"""Groups of tests whose programs take longer to run than to compile, or must give 1 where a sum of shares is 1."""


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup(item):
    """How the programs of this test are compiled; told on the command line, as a user's."""
    fast = FLAGS[0] in os.environ["XLA_FLAGS"].split()
    jax.config.update(UNOPTIMISED, fast and group(item) not in RUN_LONG)


MANY = 20_000
"""Pieces of memory of a process. Linux allows about 65 000, and every compiled program has a few; a process that wants
more of them ends."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item, nextitem):
    """Between groups, a process that holds very many programs lets go of them."""
    if nextitem is not None and group(nextitem) != group(item) and memory_pieces() > MANY:
        jax.clear_caches()


def memory_pieces():
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.fixture
def x64():
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def squares():
    """A data set whose four classes are learnt in a moment."""
    return tiny.squares()


def file_in(path):
    """As `store.load` finds it."""
    path = Path(path)
    return path / store.FILE if path.is_dir() else path


@pytest.fixture
def reading_fast(monkeypatch):
    """The same files by the C library, in a fifth of h5netcdf's time; what `store.load` does with them is tested in
    `test_results`."""
    monkeypatch.setattr(store, "load", lambda path: xr.load_dataset(file_in(path), engine="netcdf4"))


@pytest.fixture
def pickled_files(monkeypatch):
    """Results stand as pickles where netCDF files would, and are there and back in a moment. For tests of what is done
    with results; what the files are is tested in `test_results`."""

    def save(ds, folder):
        file = Path(folder) / store.FILE
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(ds))
        return file

    monkeypatch.setattr(store, "save", save)
    monkeypatch.setattr(store, "load", lambda path: pickle.loads(file_in(path).read_bytes()))


class CompileCounter(logging.Handler):
    """Notes the programs that JAX compiles, per (round, stage)."""

    def __init__(self):
        super().__init__()
        self.stage, self.compiled = (0, "prepare"), {}

    def emit(self, record):
        if record.getMessage().startswith("Compiling "):
            self.compiled.setdefault(self.stage, []).append(record.getMessage()[:80])

    def at(self, round_, stage):
        self.stage = (round_, stage)


@pytest.fixture(scope="session")
def counted_run(squares):
    """The result of the small experiment, weights kept, and what was compiled when: it is the first to run it."""
    settings = Execution(client_chunk=1, precision="float64", save_weights=True)
    counter, logger = CompileCounter(), logging.getLogger("jax")
    logger.addHandler(counter)
    try:
        with jax.log_compiles():
            result = simulation.run(tiny.experiment(execution=settings), squares, counter.at)
    finally:
        logger.removeHandler(counter)
    return result, counter.compiled


@pytest.fixture(scope="session")
def deciding_run(squares):
    """The result of an experiment whose circuits are searched by the second instrument, with all its controls."""
    return simulation.run(tiny.deciding(), squares)

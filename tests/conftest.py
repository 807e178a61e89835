"""What every test shares: two CPU devices, as in real use; a small data set, and a small run."""

import logging
import os

from processor import compiling_fast, programs_folder

# Both must be said before JAX starts. The golden replay compiles as a user's run does, in a process of its own.
os.environ["XLA_FLAGS"] = compiling_fast(os.environ.get("XLA_FLAGS", ""))
# Programs are kept from one run of the suite to the next, and every process that a test starts uses them too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(programs_folder()))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import hypothesis
import jax
import pytest
import tiny

from fedmi_jax.config import Execution
from fedmi_jax.devices import start
from fedmi_jax.federation import simulation

jax.config.update("jax_num_cpu_devices", 2)
start.allow_pauses()  # now, because XLA_FLAGS are part of a program's key

# A slow machine fails no test: how long examples take to draw is no property of what is tested.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")

SHARED_RUNS = {"counted_run", "deciding_run", "some"}
GROUPS = (
    "run", "test_local", "test_golden", "test_readme", "test_depth", "test_discovery", "test_methods", "test_model",
    "test_figures", "test_figures_whole", "test_evaluation", "test_benchmarks", "test_ops", "test_sparse_ops",
    "test_pruning", "test_devices",
)  # fmt: skip
"""Tests of one group go to one worker, because they share programs, runs or figures: the longest first. The others come
last, one by one, to whichever worker has nothing left to do."""


def group(item):
    name = "run" if SHARED_RUNS & set(item.fixturenames) else item.path.stem
    return name if name in GROUPS else None


@pytest.hookimpl(tryfirst=True)  # before the workers read the groups
def pytest_collection_modifyitems(items):
    for item in items:
        if name := group(item):
            item.add_marker(pytest.mark.xdist_group(name))
    items.sort(key=lambda item: GROUPS.index(group(item)) if group(item) else len(GROUPS))


@pytest.fixture
def x64():
    """Double precision within one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def squares():
    """A data set whose four classes are learnt in a moment."""
    return tiny.squares()


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
    """The same experiment, whose circuits are searched by the second instrument, and what was compiled when."""
    counter, logger = CompileCounter(), logging.getLogger("jax")
    logger.addHandler(counter)
    try:
        with jax.log_compiles():
            result = simulation.run(tiny.deciding(), squares, counter.at)
    finally:
        logger.removeHandler(counter)
    return result, counter.compiled

"""How the work is laid out changes no result: chunks, devices, processes; and what goes wrong says so."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from processor import UNOPTIMISED

from fedmi_jax.aggregation import NO_STATE, Clients, fedavg
from fedmi_jax.config import Evaluation, Execution
from fedmi_jax.devices import layout as layouts
from fedmi_jax.devices import lift, processes
from fedmi_jax.devices.layout import AXIS, resolve
from fedmi_jax.errors import ConfigError
from fedmi_jax.federation import programs
from fedmi_jax.results import store

TESTS = Path(__file__).parent


def test_a_layout_is_what_the_settings_say():
    assert resolve(Execution(client_chunk=1)).one_by_one
    assert resolve(Execution(client_chunk=100)).chunk == 100
    assert resolve(Execution(micro_batch=7)).micro_batch == 7
    assert resolve(Execution(), Evaluation(batch_size=9)).forward_batch == 9
    assert resolve(Execution(devices=1)).devices == 1
    assert resolve(Execution(shard="clients")).batch_devices == 1
    if jax.default_backend() == "cpu":
        assert resolve(Execution()).one_by_one
        assert resolve(Execution()).devices == 2
        assert resolve(Execution(), models=5).shard == "batch"
        assert resolve(Execution(), models=16).shard == "clients"


def test_more_devices_than_there_are():
    there = jax.device_count()
    with pytest.raises(ConfigError, match=rf"^execution\.devices: {there + 1} asked for, but JAX has {there}"):
        resolve(Execution(devices=there + 1))


def test_an_automatic_chunk_fits_the_memory_that_is_free(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(layouts, "_free_memory", lambda: 1000)
    assert resolve(Execution(), models=50, model_bytes=90).chunk == 11
    assert resolve(Execution(), models=9, model_bytes=90).chunk == 9
    assert resolve(Execution(), models=9, model_bytes=90, rows=10).chunk == 10
    assert resolve(Execution(), models=50, model_bytes=90_000).chunk == 1
    assert resolve(Execution(client_chunk=3), models=50, model_bytes=90).chunk == 3


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 9), st.integers(1, 10))
def test_chunks_of_any_size_give_every_entry_once(length, chunk):
    layout = resolve(Execution(client_chunk=chunk))
    values = np.arange(length), np.arange(2.0 * length).reshape(length, 2)
    doubled = lift.lift(lambda a, b: {"sum": a + b.sum(), "twice": 2 * b}, layout, *values)
    np.testing.assert_array_equal(doubled["sum"], values[0] + values[1].sum(1))
    np.testing.assert_array_equal(doubled["twice"], 2 * values[1])


@pytest.mark.parametrize("length", [1, 4, 7])
def test_dealing_over_devices_gives_every_entry_once(length):
    layout = resolve(Execution(client_chunk=2))
    run = jax.jit(lambda a, b: lift.deal(lambda x, y: x * y, layout, (a,), (b,)))
    np.testing.assert_array_equal(run(np.arange(length), np.int32(3)), 3 * np.arange(length))


def test_the_average_of_dealt_clients_is_a_collective():
    layout = resolve(Execution(shard="clients"))
    dealt = jax.device_put(np.arange(8.0, dtype=np.float32).reshape(4, 2), NamedSharding(layout.mesh, P(AXIS)))
    start, ones = lift.replicate({"w": np.zeros((1, 2), np.float32)}, layout), np.ones((1, 4), int)
    work = NO_STATE, start, Clients({"w": dealt}, ones, ones[..., None], ones, ones)
    method = fedavg()
    call = programs.aggregate.lower(*work, layout=layout, method=method).compile()
    assert "all-reduce" in call.as_text()
    assert "all-gather" not in call.as_text()
    mean, _ = programs.aggregate(*work, layout=layout, method=method)
    np.testing.assert_array_equal(mean["w"], [[3, 4]])


# --- whole runs elsewhere ---


def elsewhere(*arguments):
    """tests/elsewhere.py in a process of its own, which may outlive this call."""
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent), UNOPTIMISED.upper(): "1"}
    command = [sys.executable, str(TESTS / "elsewhere.py"), *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"


def same(found, expected):
    for layer in ("conv1", "conv2", "conv3"):
        xr.testing.assert_equal(found[f"mask_{layer}"], expected[f"mask_{layer}"])
    xr.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.slow
def test_on_eight_devices_the_result_is_the_same(counted_run, tmp_path):
    """Four models on eight devices, whole clients on each, against two devices that share every batch."""
    run = elsewhere(tmp_path, 8)
    _, said = run.communicate(timeout=500)
    assert run.returncode == 0, said
    same(store.load(tmp_path), counted_run[0])


@pytest.mark.slow
def test_two_processes_one_dies_the_other_says_so_and_both_resume_to_the_same_result(counted_run, tmp_path):
    """The other ends at the next exchange; or, should it be busy for long, by the watch of JAX's runtime, which aborts.
    Process 0 alone has a folder: what the other needs of the checkpoint it is told."""
    left, dies = pair(tmp_path, "--die")
    dies.communicate(timeout=300)
    assert dies.returncode == 9
    died = time.monotonic()
    _, said = left.communicate(timeout=120)
    assert time.monotonic() - died < 60
    line = {
        2: "^fedmi: process 0 of 2: another process ended or is out of reach",
        -signal.SIGABRT: "This most likely indicates that another task died",
    }
    assert re.search(line[left.returncode], said, re.MULTILINE), said
    assert sorted(path.name for path in (tmp_path / "0" / "unfinished").glob("*.npz")) == [
        "round-00001.npz", "state-00001.npz",
    ]  # fmt: skip
    for run in pair(tmp_path):
        _, said = run.communicate(timeout=500)
        assert run.returncode == 0, said
    assert list(tmp_path.iterdir()) == [tmp_path / "0"]
    same(store.load(tmp_path / "0"), counted_run[0])


def pair(folder, *second):
    """Processes 0 and 1 of one run, each with a folder of its own; `second`: what the other is told."""
    meet, told = free_port(), ((), second)
    return [elsewhere(folder / str(i), 1, "--meet", meet, 2, i, *told[i]) for i in range(2)]


@pytest.mark.slow
def test_processes_that_do_not_come_are_not_waited_for_forever(tmp_path):
    alone = elsewhere(tmp_path, 1, "--meet", free_port(), 2, 1, "--patience", 3)
    _, said = alone.communicate(timeout=60)
    assert alone.returncode == 2
    assert said.startswith("fedmi: distributed: the processes at 127.0.0.1:")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("host:1", None, 0), "distributed: give all of --coordinator"),
        (("host", 2, 0), "coordinator: give HOST:PORT"),
        (("host:port", 2, 0), "coordinator: give HOST:PORT"),
        (("host:1", 2, 2), "process-id: ids run from 0 to 1; got 2"),
    ],
)
def test_process_options_that_do_not_fit_together(given, message):
    with pytest.raises(ConfigError, match=f"^{message}"):
        processes.join(*given)


def test_an_array_is_the_same_on_every_device():
    layout = resolve(Execution())
    placed = lift.replicate({"a": jnp.arange(3)}, layout)["a"]
    assert placed.sharding.is_fully_replicated
    assert len(placed.addressable_shards) == jax.device_count()

"""Whole rounds of many clients: `python -m benchmarks.scaling --rounds 100 1000 10000 [--processes 2]`.

MNIST dealt out in shards of equal labels, 6 images a client, the full CNN, one local step each. Every client's own
class is analysed: its circuit is searched in its own model and in the average, and measured, with all similarities, up
to the result. Few steps of search and few test images, since the question is what grows.

Times are processor seconds of all processes, without compiling: waiting for a processor that others use does not count.
Every row runs in processes of its own, since the peak of a process's memory only grows.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.peaks import peak_memory
from fedmi_jax.config import Data, Discovery, Evaluation, Execution, Experiment, Local, Split
from fedmi_jax.devices import processes
from fedmi_jax.devices.session import session, telling_when_compiling
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import simulation
from fedmi_jax.federation.setup import place, prepare
from fedmi_jax.keeping.checkpoint import InMemory

IMAGES, SEARCH_STEPS, TEST_IMAGES = 6, 3, 1
STAGES = {"prepare": "draw", "train": "train", "discover": "search", "evaluate": "measure", "done": "result"}
"""When a stage begins, and its name. The server's step is part of the search."""


def experiment(clients: int) -> Experiment:
    return Experiment(
        name="many",
        rounds=1,
        data=Data(images_per_client=IMAGES),
        split=Split(kind="shards", clients=clients, shards_per_client=1),
        local=Local(epochs=1, batch_size=IMAGES),
        discovery=Discovery(steps=SEARCH_STEPS),
        evaluation=Evaluation(images_per_class=TEST_IMAGES),
        execution=Execution(shard="clients"),
    )


@dataclass
class Clock:
    """Processor seconds by stage, and of compiling apart."""

    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = "prepare"
    interrupted: str = "prepare"
    """The stage that goes on after a program is compiled."""
    since: float = field(default_factory=time.process_time)

    def enter(self, stage: str) -> None:
        now = time.process_time()
        self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        self.stage, self.since = stage, now

    def tell(self, _: int, stage: str) -> None:
        """A stage of the round begins: on standard error, so that a run that is cut off has said how far it came."""
        self.enter(stage)
        said = {name: round(value, 1) for name, value in self.seconds.items()}
        print(stage, said, f"{peak_memory() / 2**20:.0f} MiB", file=sys.stderr, flush=True)

    def compiling(self, begins: bool) -> None:
        """For `telling_when_compiling`: what happens while JAX compiles counts as "compile"."""
        if begins and self.stage != "compile":
            self.interrupted = self.stage
            self.enter("compile")
        elif not begins and self.stage == "compile":
            self.enter(self.interrupted)


def row(clients: int) -> dict[str, Any]:
    """One whole run, in this process; milliseconds are of a client."""
    clock = Clock()
    with session(Execution()), telling_when_compiling(clock.compiling):
        setup = place(prepare(experiment(clients)))
        before = peak_memory()
        found = simulation._run(setup, clock.tell, InMemory())
        clock.enter("end")
    ms = {name: 1e3 * clock.seconds.get(stage, 0.0) / clients for stage, name in STAGES.items()}
    peak = peak_memory()
    return {
        "clients": clients,
        "circuits": int(found["analysed"].sum()) * 2,
        "compile_s": clock.seconds.get("compile", 0.0),
        **ms,
        "all": sum(ms.values()),
        "peak_mib": peak / 2**20,
        "kib_per_client": (peak - before) / 2**10 / clients,
    }


# --- all rows -------------------------------------------------------------------------------------------------------


def measure(clients: list[int], several: int) -> dict[str, Any]:
    """Every number of clients in one process, and the largest in several. A row that is known is told at once."""
    rows = []
    for count, together in [*((n, 1) for n in clients), *([(clients[-1], several)] if several > 1 else [])]:
        rows.append(elsewhere(count, together))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"benchmark": "scaling of whole rounds", "rows": rows, "pytorch_missing": None}


def elsewhere(clients: int, together: int) -> dict[str, Any]:
    """The row of so many clients in so many processes: times of all, memory of the one that takes most."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        meet = f"127.0.0.1:{one.getsockname()[1]}"
    command = [sys.executable, "-m", "benchmarks.scaling", "--round"]
    alone = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    started = [
        subprocess.Popen(
            [*command, json.dumps([clients, meet, together, i])], env=alone, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(together)
    ]  # fmt: skip
    ended = [(*process.communicate(), process.returncode) for process in started]
    for _, wrong, status in ended:
        if status:
            last = (wrong.strip().splitlines() or [f"ended with status {status}"])[-1]
            raise FedmiError(f"{clients} clients in {together} processes: {last}")
    found = [json.loads(said.splitlines()[-1]) for said, _, _ in ended]
    added = {name: sum(one[name] for one in found) for name in (*STAGES.values(), "all", "compile_s")}
    most = {name: max(one[name] for one in found) for name in ("peak_mib", "kib_per_client")}
    return found[0] | {"processes": together} | added | most


def one_of(clients: int, meet: str, together: int, this: int) -> dict[str, Any]:
    """What each of the processes does."""
    if together > 1:
        processes.join(meet, together, this)
    with processes.ending_together():
        return row(clients)


COLUMNS = {
    "clients": "clients", "processes": "processes", **{name: f"{name} ms" for name in STAGES.values()},
    "all": "all ms a client", "compile_s": "compile s", "peak_mib": "peak MiB", "kib_per_client": "KiB a client",
}  # fmt: skip


def show(found: dict[str, Any], console: Console) -> None:
    table = Table(*COLUMNS.values(), title="whole rounds", title_justify="left")
    for one in found["rows"]:
        table.add_row(*(f"{one[name]:.4g}" for name in COLUMNS))
    console.print(table)
    report.show_machine(found, console)

"""Many clients: seconds and memory per client-step as their number grows, and over chunk sizes at a fixed number.

    python -m benchmarks.scaling [--clients 3 10 30 100 300 1000] [--chunks 8] [--plot FILE] [--json]
    python -m benchmarks.scaling --rounds 100 300 1000 10000 --processes 2

MNIST dealt out in shards of equal labels, 20 images a client, the full CNN, one local step each (99 % sparse), then the
average. Every row is a process of its own, since the peak of a process's memory only grows. The PyTorch reference
trains its clients one after the other, so a client-step costs it the same at any number: it is timed on 30 clients, in
the row with the most clients, taking turns with fedmi_jax there.

--rounds: whole rounds instead, with search and measures (`benchmarks.scaling_rounds`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import report, scaling_rounds
from benchmarks.peaks import peak_memory
from fedmi_jax.aggregation import NO_STATE
from fedmi_jax.config import Data, Discovery, Execution, Experiment, Local, Split
from fedmi_jax.devices.session import session
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import simulation
from fedmi_jax.federation.setup import Round, Setup, place, prepare
from fedmi_jax.network.model import Params

if TYPE_CHECKING:
    from benchmarks.pytorch_reference.federation import Reference

IMAGES, REFERENCE_CLIENTS = 20, 30
COLUMNS = {
    "clients": "clients", "chunk": "chunk", "compile_s": "compile s", "ms_per_client_step": "ms a step",
    "peak_mib": "peak MiB", "added_mib": "added MiB", "added_kib_per_client": "KiB a client",
}  # fmt: skip


def experiment(clients: int, chunk: Any) -> Experiment:
    return Experiment(
        name="scaling",
        rounds=1,
        data=Data(images_per_client=IMAGES),
        split=Split(kind="shards", clients=clients, shards_per_client=1),
        local=Local(epochs=1, batch_size=IMAGES),
        discovery=Discovery(classes=(0,)),
        execution=Execution(client_chunk=chunk),
    )


# --- one row, in its own process ------------------------------------------------------------------------------------


def row(clients: int, chunk: Any, against: bool) -> dict[str, Any]:
    """Seconds and peak memory of local training and average; against: PyTorch too, in turns."""
    setup = place(prepare(experiment(clients, chunk)))
    start, first = simulation.initial_models(setup), setup.facts.round(1)
    jax.block_until_ready(setup.train_images)
    before, work = peak_memory(), partial(one_round, setup, start, first)
    cold, turns, theirs = seconds(work), [seconds(work) / clients], []
    peak = peak_memory()  # before PyTorch takes its share
    if against:
        torch_work = reference(setup)
        theirs = [seconds(torch_work) / REFERENCE_CLIENTS]
        turns.append(seconds(work) / clients)
        theirs.append(seconds(torch_work) / REFERENCE_CLIENTS)
    return {
        "clients": clients,
        "chunk": setup.layout.chunk,
        "shard": setup.layout.shard,
        "compile_s": max(0.0, cold - turns[0] * clients),
        "ms_per_client_step": 1e3 * float(np.median(turns)),
        "peak_mib": peak / 2**20,
        "added_mib": (peak - before) / 2**20,
        "added_kib_per_client": (peak - before) / 2**10 / clients,
        "pytorch_ms_per_client_step": 1e3 * float(np.median(theirs)) if theirs else None,
        "ratio": float(np.median(np.divide(theirs, turns))) if theirs else None,
    }


def one_round(setup: Setup, start: Params, first: Round) -> Any:
    local, _ = simulation.train(setup, start, first)
    return simulation.aggregate(setup, NO_STATE, start, local, first)


def seconds(work: Any) -> float:
    began = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - began


def reference(setup: Setup) -> Callable[[], None]:
    """The PyTorch reference's work for REFERENCE_CLIENTS of the clients, prepared and warm."""
    from benchmarks.pytorch_reference import federation as torch_federation
    from benchmarks.pytorch_reference import model

    few = place(prepare(experiment(REFERENCE_CLIENTS, "auto"), setup.facts.dataset))
    prepared = torch_federation.prepare(few, model.place(device=report.torch_device()))
    start = model.from_package(simulation.initial_params(few.facts, 0), prepared.where)
    if warm_up := torch_federation.warm_up(prepared, start):
        warm_up()
    return partial(_reference_round, prepared, start)


def _reference_round(prepared: Reference, start: Any) -> None:
    from benchmarks.pytorch_reference import federation as torch_federation

    torch_federation.train(prepared, start, 1)
    torch_federation.synchronise(prepared.where)


# --- all rows -------------------------------------------------------------------------------------------------------


def measure(clients: list[int], chunks: list[int]) -> dict[str, Any]:
    """What `main` prints; clients ascending."""
    missing, most = report.why_no_torch(), clients[-1]
    growing = [elsewhere(n, "auto", against=n == most and not missing) for n in clients]
    chunked = [growing[-1], *(elsewhere(most, chunk, against=False) for chunk in chunks)]
    figures = {"ratio": growing[-1]["ratio"], "ratio_is_of": f"{most} clients"}
    return {"benchmark": "scaling", **figures, "growing": growing, "chunked": chunked, "pytorch_missing": missing}


def elsewhere(clients: int, chunk: Any, against: bool) -> dict[str, Any]:
    request = json.dumps([clients, chunk, against])
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.scaling", "--row", request], capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
        raise FedmiError(f"{clients} clients, chunk {chunk}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def show(found: dict[str, Any], console: Console) -> None:
    for title, part in (("more clients", "growing"), ("larger chunks", "chunked")):
        table = Table(*COLUMNS.values(), title=title, title_justify="left")
        for one in found[part]:
            table.add_row(*(f"{one[name]:.4g}" for name in COLUMNS))
        console.print(table)
    if found["ratio"] is not None:
        console.print(f"{found['ratio_is_of']}: PyTorch / fedmi_jax = {found['ratio']:.2f} per client-step")
    report.show_machine(found, console)


def plot(found: dict[str, Any], path: Path) -> None:
    """Time and memory over clients, and over chunk sizes."""
    from matplotlib.figure import Figure

    figure = Figure((7.2, 2.8), layout="constrained")
    panels = figure.subplots(1, 3)
    curve(panels[0], found["growing"], "clients", "ms_per_client_step", "ms per client-step")
    curve(panels[1], found["growing"], "clients", "added_mib", "added by a round, MiB")
    curve(panels[2], found["chunked"], "chunk", "ms_per_client_step", "ms per client-step")
    panels[2].set_title(f"{found['growing'][-1]['clients']} clients, in chunks", fontsize=9)
    if theirs := found["growing"][-1]["pytorch_ms_per_client_step"]:
        panels[0].axhline(theirs, color="0.5", linestyle="--", linewidth=1)
        panels[0].text(
            found["growing"][0]["clients"], theirs, "PyTorch reference", va="bottom", fontsize=8, color="0.4"
        )
        panels[0].set_ylim(top=1.25 * max(theirs, *(r["ms_per_client_step"] for r in found["growing"])))
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def curve(panel: Any, rows: list[dict[str, Any]], x: str, y: str, label: str) -> None:
    panel.plot([r[x] for r in rows], [r[y] for r in rows], marker="o", markersize=4, color="#0072b2")
    panel.set(xscale="log", xlabel=x, ylabel=label, ylim=(0, None))
    panel.xaxis.set_major_formatter("{x:.0f}")
    panel.spines[["top", "right"]].set_visible(False)


def main(arguments: list[str] | None = None) -> int:
    parser = report.parser("scaling", __doc__)
    parser.add_argument("--clients", type=report.positive_int, nargs="+", default=[3, 10, 30, 100, 300, 1000])
    parser.add_argument("--chunks", type=report.positive_int, nargs="*", default=[8])
    parser.add_argument("--plot", type=Path, help="write the curves to this file (svg, png, pdf)")
    parser.add_argument("--row", help="for the benchmark itself: one row, as JSON")
    parser.add_argument(
        "--rounds", type=report.positive_int, nargs="+", help="clients of whole rounds, not of training"
    )
    parser.add_argument(
        "--processes", type=report.positive_int, default=1, help="the largest of --rounds in so many, too"
    )
    parser.add_argument("--round", help="for the benchmark itself: one process's part of a whole round, as JSON")
    options = parser.parse_args(arguments)
    if options.round:
        print(json.dumps(scaling_rounds.one_of(*json.loads(options.round))))
        return 0
    if options.rounds:
        whole = partial(scaling_rounds.measure, sorted(options.rounds), options.processes)
        return report.run(options, whole, scaling_rounds.show)
    if options.row:
        report.compile_anew()
        with session(Execution()):
            print(json.dumps(row(*json.loads(options.row))))
        return 0
    return report.run(options, partial(measure, sorted(options.clients), options.chunks), partial(_show, options.plot))


def _show(path: Path | None, found: dict[str, Any], console: Console) -> None:
    show(found, console)
    if path:
        plot(found, path)
        console.print(f"{path}")


if __name__ == "__main__":
    sys.exit(main())

"""Flower's round: its FedAvg strategy over its simulation (Ray actors), clients in PyTorch.

`Strategy.start` runs all rounds in one go; here its three steps (send, wait, aggregate) are called one round at a time.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flower_client
import torch
import work
from flwr.app import ArrayRecord, ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation


def play(todo: work.Work, rounds: Callable[[Callable[[], dict[str, Any]]], None]) -> None:
    """Actors as many as there are cores for, `flower_cpus` threads each; on a GPU they share it."""
    server, count, cpus = ServerApp(), len(todo.labels), todo.settings["flower_cpus"]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = 1 / min(count, max(1, cores // cpus)) if torch.cuda.is_available() else 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "work.npz"  # actors are other processes, and read it themselves
        work.write(todo, path)

        @server.main()
        def main(grid: Grid, context: Context) -> None:
            rounds(federation(todo, path, grid, f"{flower_client.DEVICE.type}, {cpus} threads per actor"))

        run_simulation(
            server, flower_client.app, count,
            backend_config={
                "init_args": {"num_cpus": cores, "log_to_driver": False},
                "client_resources": {"num_cpus": cpus, "num_gpus": share},
            },
        )  # fmt: skip


def federation(todo: work.Work, path: Path, grid: Grid, device: str) -> Callable[[], dict[str, Any]]:
    """A function that plays the next round."""
    count, model = len(todo.labels), flower_client.network()
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count)
    state = {"arrays": ArrayRecord(flower_client.to_torch(todo.params)), "round": 0}
    test = flower_client.images(todo, todo.test_images)

    def one_round() -> dict[str, Any]:
        state["round"] += 1
        began = time.perf_counter()
        config = ConfigRecord({"work": str(path)})
        messages = strategy.configure_train(state["round"], state["arrays"], config, grid)
        replies = list(grid.send_and_receive(messages, timeout=3600))
        for reply in replies:
            if reply.has_error():
                raise RuntimeError(reply.error.reason)
        state["arrays"], _ = strategy.aggregate_train(state["round"], replies)
        seconds = time.perf_counter() - began
        model.load_state_dict(state["arrays"].to_torch_state_dict())
        with torch.inference_mode():
            found = model(test).argmax(-1).cpu().numpy()
        return {"seconds": seconds, "accuracy": float((found == todo.test_labels).mean()), "device": device}

    return one_round

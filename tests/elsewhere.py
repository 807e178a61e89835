"""The small experiment in a folder, in a process of its own, on so many devices, alone or with others.

python tests/elsewhere.py OUT DEVICES [--meet HOST:PORT PROCESSES ID] [--patience SECONDS] [--die]
"""

import argparse
import os
from pathlib import Path

import jax
import tiny

from fedmi_jax.config import Execution
from fedmi_jax.devices import processes
from fedmi_jax.federation import resumable


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("devices", type=int)
    parser.add_argument("--meet", nargs=3)
    parser.add_argument("--patience", type=int)
    parser.add_argument("--die", action="store_true", help="in the middle of the second round")
    options = parser.parse_args()
    jax.config.update("jax_num_cpu_devices", options.devices)
    if options.patience:
        processes.JOIN_SECONDS = options.patience
    if options.meet:
        where, many, this = options.meet
        processes.join(where, int(many), int(this))
    settings = Execution(client_chunk=2, shard="clients", precision="float64", save_weights=True)

    def progress(number, stage):
        if options.die and (number, stage) == (2, "discover"):
            os._exit(9)

    with processes.ending_together():
        resumable.run(tiny.experiment(execution=settings), options.out, tiny.squares(), progress)
    assert jax.local_device_count() == options.devices


main()

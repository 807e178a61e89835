"""A run in a folder with rounds that cost nothing or little, here or in a process of its own, and what can end it.

python -m tests.cheap [--real] [--die-at N] [--wait SECONDS] run tiny --out DIR ...: the `fedmi` command, killed when
the N-th moment around a write has come; N = 0 tells at the end how many there were. --wait: what a round takes.
"""

import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import tiny
import xarray as xr

from fedmi_jax import files
from fedmi_jax.cli import main as command
from fedmi_jax.config import Discovery, Evaluation, Local
from fedmi_jax.data import datasets
from fedmi_jax.federation import recording, simulation
from fedmi_jax.keeping import stored
from fedmi_jax.presets import PRESETS, Preset
from fedmi_jax.results import store


def small_round(setup, state, number, progress):
    """In place of `simulation.one_round`: also a function of its arguments alone."""
    progress(number, "train")
    weights = {name: np.asarray(leaf) * 1.5 + number for name, leaf in state[0].items()}
    record = {"loss": np.full((2, 3), number + weights["fc_bias"].sum()), "on": np.arange(11) % (number + 1) == 0}
    progress(number, "evaluate")
    return (weights, state[1]), record


def assemble(facts, records):
    """Every array of every round."""
    arrays = {}
    for name, one in records[0].items():
        dims = ("round", *(f"{name} {i}" for i in range(one.ndim)))
        arrays[name] = (dims, np.stack([record[name] for record in records]))
    required = {name: ("x", np.ones(3, bool)) for name in ("analysed", "mask_conv1")}
    return store.stamp(xr.Dataset({**arrays, **required}), facts.experiment)


def experiment(**changes):
    """The least that has every kind of measure: one seed, few steps."""
    least = {
        "seeds": (3,),
        "rounds": 3,
        "local": Local(epochs=1, batch_size=64),
        "discovery": Discovery(classes=(0, 2), steps=3, batch_size=16),
        "evaluation": Evaluation(batch_size=20),
    }
    return tiny.experiment(**least | changes)


class Moments:
    """Calls `at(n)` at the n-th moment around a write: before it is sealed, before each flush, around the rename."""

    def __init__(self, at):
        self.at, self.count = at, 0

    def tick(self):
        self.count += 1
        self.at(self.count)

    def around(self, call, after=False):
        def called(*arguments, **options):
            self.tick()
            result = call(*arguments, **options)
            if after:
                self.tick()
            return result

        return called

    def install(self, put):
        """put(object, name, value), as `setattr` or a monkeypatch's."""
        sealing = self.around(files.seal)
        for module in (store, stored):
            put(module, "seal", sealing)
        put(os, "fsync", self.around(os.fsync))
        put(os, "replace", self.around(os.replace, after=True))


def slowed(seconds):
    def one_round(setup, state, number, progress):
        done = small_round(setup, state, number, progress)
        time.sleep(seconds)
        progress(number, "evaluate")
        return done

    return one_round


def main(arguments):
    PRESETS["tiny"] = Preset((experiment(),), "small", "-")
    squares = tiny.squares()
    datasets.load = lambda data: squares
    die_at, wait, real = None, 0, False
    while arguments[0].startswith("--"):
        name = arguments.pop(0)
        real |= name == "--real"
        die_at = int(arguments.pop(0)) if name == "--die-at" else die_at
        wait = float(arguments.pop(0)) if name == "--wait" else wait
    if not real:
        simulation.one_round, recording.assemble = slowed(wait), assemble
    moments = Moments(lambda n: n == die_at and os.kill(os.getpid(), signal.SIGKILL))
    moments.install(setattr)
    status = command.main(arguments)
    if die_at == 0:
        print(f"moments {moments.count}")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What `benchmarks.gpu` does itself, each in a process of its own: python -m benchmarks.gpu_steps NAME [--dry].

Each prints one JSON object as its last line and ends with 1 where what must hold does not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import report
from fedmi_jax import presets
from fedmi_jax.config import Data, Discovery, Evaluation, Execution, Experiment, Local, Split, replace
from fedmi_jax.devices.session import session
from fedmi_jax.federation import simulation
from fedmi_jax.network.ops import conv_windows, relu_pool

LAYERS = ((28, 1, 32), (14, 32, 64), (7, 64, 128))
"""(pixels a side, input and output channels) of the paper's convolutions."""


def device(dry: bool) -> dict[str, Any]:
    """What there is."""
    found = {"machine": report.machine(tf32=False), "versions": report.versions()}
    memory = jax.local_devices()[0].memory_stats() or {}
    return {**found, "memory_mib": memory.get("bytes_limit", 0) / 2**20, "driver": _driver()}


def _driver() -> str | None:
    try:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(ask, capture_output=True, text=True, timeout=20).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        return None


def ties(dry: bool) -> dict[str, Any]:
    """Whether equal inputs give equal bits wherever they stand, so that the first of a window gets the gradient."""
    return {
        "equal": {
            f"{size}x{size}, {inputs} to {outputs}, {models} models": bool(_tie(size, inputs, outputs, models))
            for size, inputs, outputs in (LAYERS[1:2] if dry else LAYERS)
            for models in ((2,) if dry else (1, 3))
        }
    }


def _tie(size: int, inputs: int, outputs: int, models: int) -> bool:
    rng = np.random.default_rng(0)
    x = np.broadcast_to(rng.normal(size=inputs).astype(np.float32), (models, 8, size, size, inputs))
    kernel = jnp.asarray(rng.normal(size=(models, 3, 3, inputs, outputs)), jnp.float32)
    inner = np.asarray(jax.jit(jax.vmap(conv_windows))(x, kernel))[:, :, :, 1:-1, 1:-1]
    same = (inner == inner[:, :1, :1, :1, :1]).all()
    elements = jnp.asarray(np.broadcast_to(inner[:, :1, :1, :1, :1], inner.shape)[0])
    pull = jax.jit(jax.grad(lambda e: relu_pool(e, jnp.full(outputs, 1e3, e.dtype)).sum()))
    gradient = np.asarray(pull(elements))
    return bool(same and (gradient[0] == 1).all() and not gradient[1:].any())


def agrees(dry: bool) -> dict[str, Any]:
    """A small run in double precision, on the device and on a CPU: every mask, and how far weights are apart."""
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder) / "cpu.npz"
        env = os.environ | {"JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "benchmarks.gpu_steps", "small", "--into", str(there)]
        subprocess.run([*command, *["--dry"] * dry], env=env, check=True, stdout=subprocess.DEVNULL)
        with np.load(there) as cpu:
            own = small(dry)
            masks = {name: int((own[name] != cpu[name]).sum()) for name in own if name.startswith("mask_")}
            scores = [
                np.abs(own[name] - cpu[name])[np.isfinite(cpu[name])] for name in own if name.startswith("score_")
            ]
    apart = max(float(one.max(initial=0)) for one in scores)
    return {"mask_entries_that_differ": masks, "scores_differ_by": apart, "equal": {"masks": not any(masks.values())}}


def small(dry: bool) -> dict[str, np.ndarray]:
    """Masks and scores of that run."""
    import fedmi_jax

    result = fedmi_jax.run(replace(tiny(dry), execution=Execution(precision="float64")))
    names = [str(name) for name in result.data_vars if str(name).startswith(("mask_", "score_"))]
    return {name: result[name].values for name in names}


def tiny(dry: bool) -> Experiment:
    """Three clients of two classes each, for a round."""
    (two,) = presets.preset("two-class").experiments
    images, steps, judged = (32, 20, 5) if dry else (512, 60, 50)
    return replace(
        two, rounds=1, data=Data(images_per_client=images), local=Local(epochs=1, batch_size=32),
        discovery=Discovery(steps=steps), evaluation=Evaluation(images_per_class=judged),
    )  # fmt: skip


def seeds(dry: bool) -> dict[str, Any]:
    """Seconds a round of local training, of 1, 4 and 10 seeds at once."""
    rows = {}
    for count in (1, 2) if dry else (1, 4, 10):
        experiment = replace(tiny(dry), seeds=tuple(range(count)))
        rows[count] = _seconds(experiment)
    return {"seconds": rows}


def clients(dry: bool) -> dict[str, Any]:
    """Seconds a round of local training, of more and more clients at once, 60 images and a step each."""
    rows = {}
    for count in (2, 3) if dry else (5, 10, 50, 100, 300, 1000):
        experiment = replace(
            tiny(dry), split=Split(kind="iid", clients=count), data=Data(images_per_client=8 if dry else 60),
            local=Local(epochs=1, batch_size=60), discovery=Discovery(classes=(0,)),
        )  # fmt: skip
        rows[count] = _seconds(experiment)
        print(json.dumps({"clients": count, **rows[count]}), flush=True)
    return {"seconds": rows}


def _seconds(experiment: Experiment) -> dict[str, float]:
    """Of the first training of a round, and of the second, which has nothing to compile."""
    work, setup = _training(experiment)
    first, again = _timed(work), _timed(work)
    return {"first_s": first, "s": again, "chunk": setup.layout.chunk}


def _training(experiment: Experiment) -> tuple[Callable[[], Any], Any]:
    from fedmi_jax.federation.setup import place, prepare

    setup = place(prepare(experiment))
    start, state = simulation.initial_state(setup)
    return partial(simulation.train, setup, start, setup.facts.round(1), state), setup


def _timed(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - begin


def iid(dry: bool) -> dict[str, Any]:
    """The iid preset with all its rounds and measures, twice: the second time nothing is compiled."""
    import fedmi_jax

    (full,) = presets.preset("iid").experiments
    begin = time.perf_counter()
    fedmi_jax.run(tiny(dry) if dry else full)
    first, begin = time.perf_counter() - begin, time.perf_counter()
    fedmi_jax.run(tiny(dry) if dry else full)
    again = time.perf_counter() - begin
    return {"first_s": first, "s": again, "compiling_s": max(0.0, first - again)}


def profile(dry: bool) -> dict[str, Any]:
    """The ten kernels that take longest in a round of local training."""
    work, _ = _training(replace(tiny(dry), local=Local(epochs=1, batch_size=32 if dry else 256)))
    _timed(work)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            _timed(work)
        (file,) = Path(folder).rglob("*.xplane.pb")
        return {"kernels": _longest(jax.profiler.ProfileData.from_file(str(file)))}


def _longest(found: Any, most: int = 10) -> list[dict[str, Any]]:
    """Of the device's lines; of all where there is none, as on a CPU."""
    planes = list(found.planes)
    planes = [plane for plane in planes if "/device:GPU" in plane.name] or planes
    total: dict[str, list[float]] = {}
    for plane in planes:
        for line in plane.lines:
            for event in line.events:
                total.setdefault(event.name[:80], []).append(event.duration_ns / 1e6)
    rows = [{"kernel": name, "ms": sum(times), "times": len(times)} for name, times in total.items()]
    return sorted(rows, key=lambda row: -row["ms"])[:most]


STEPS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "device": device, "ties": ties, "agrees": agrees, "seeds": seeds, "clients": clients, "iid": iid,
    "profile": profile,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_steps")
    parser.add_argument("name", choices=(*STEPS, "small"))
    parser.add_argument("--dry", action="store_true", help="tiny sizes")
    parser.add_argument("--into", type=Path, help="of small: the file to write")
    options = parser.parse_args(arguments)
    if options.name == "small":
        np.savez(options.into, **small(options.dry))  # type: ignore[arg-type]
        return 0
    with session(Execution()):
        found = STEPS[options.name](options.dry)
    print(json.dumps(found))
    return 0 if all(found.get("equal", {}).values()) else 1


if __name__ == "__main__":
    sys.exit(main())

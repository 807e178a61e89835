"""Replay a search of the second instrument (docs/decisions.md): a small network, two circuits, in double precision.

    python -m benchmarks.golden_decision [FILE] [--backend jax|torch] [--json]
    python -m benchmarks.golden_decision FILE --make

FILE (by default tests/data/golden_decision.npz) holds the network, the images, every draw, and what the PyTorch
reference found; --make writes it anew. fedmi_jax, or the reference, finds the circuits again from the same draws. Exit
status 1 when a figure is over its limit (`LIMITS`).

Axes: n circuits, P probe images, T steps, B images of a batch, M samples of all gates, N images of which a size is
chosen, C channels of all convolutions, L sizes, Y classes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import pytorch_reference
from benchmarks.golden import relative
from fedmi_jax.circuits import deciding
from fedmi_jax.circuits.deciding import Probed, Task
from fedmi_jax.circuits.evaluation import groups
from fedmi_jax.circuits.survey import survey
from fedmi_jax.config import Discovery, Execution
from fedmi_jax.data import probe
from fedmi_jax.data.batches import Plan
from fedmi_jax.devices.session import session
from fedmi_jax.errors import FedmiError
from fedmi_jax.network.images import Images
from fedmi_jax.network.layers import conv_layers

FILE = Path("tests") / "data" / "golden_decision.npz"
LIMITS = {
    "scores": 1e-7, "masks_differing": 0, "ranks_differing": 0, "sizes_differing": 0, "curve": 1e-10,
    "explained": 1e-10, "spread": 1e-10, "temperature": 1e-10,
}  # fmt: skip
"""Largest allowed: relative errors; channels, places in the order, and sizes that differ. Scores agree to single
precision, in which optax computes the falling learning rate."""
SETTINGS = Discovery(objective="decision", probe=(48, 24), batch_size=32, masks=8, steps=120)
CLASSES, SIZE, CHANNELS, BATCH = 4, 8, (4, 6, 8), 24
MOMENTS = ([0.4], [0.3])

Arrays = Mapping[str, np.ndarray]


# --- the file ---


def made(seed: int = 138) -> dict[str, np.ndarray]:
    """All that a search is given: class c of 4 is bright in the c-th quarter of an image; a third of the network's
    weights is 0. The second circuit is told from two of the other classes only."""
    rng = np.random.default_rng(seed)
    total, (searched, judged) = sum(CHANNELS), SETTINGS.probe
    labels = np.concatenate([np.repeat(np.arange(CLASSES), n) for n in (searched, judged)])
    arrays = {"labels": labels.astype(np.uint8), "pixels": _images(rng, labels), **_network(rng)}
    asked = [(1, np.arange(CLASSES) != 1), (3, np.isin(np.arange(CLASSES), (0, 2)))]
    rows = []
    for label, others in asked:
        plan, draws = probe.search_plan(label, others, SETTINGS, (seed, 0, label), total)
        chosen, valid = probe.selection(label, others, SETTINGS.probe, BATCH)
        rows.append((label, others, plan.indices.astype(np.uint8), draws, np.where(valid, chosen, -1).astype(np.int16)))
    names = ("label", "others", "plan", "draws", "chosen")
    return arrays | {name: np.stack(parts) for name, parts in zip(names, zip(*rows, strict=True), strict=True)}


def _images(rng: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """uint8 (P, 8, 8, 1)."""
    images = rng.integers(0, 60, (len(labels), 2, 4, 2, 4))
    images[np.arange(len(labels)), labels // 2, :, labels % 2] += rng.integers(20, 190, (len(labels), 4, 4))
    return images.reshape(-1, SIZE, SIZE, 1).astype(np.uint8)


def _network(rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Wider than PyTorch's default, so that so small a model's answer depends on the image; one channel is dead."""
    params, before = {}, 1
    for number, width in enumerate(CHANNELS, 1):
        params[f"conv{number}_kernel"] = _drawn(rng, (3, 3, before, width), 9 * before)
        params[f"conv{number}_bias"] = rng.uniform(-1, 1, width) / np.sqrt(9 * before)
        before = width
    params["conv2_kernel"][..., 2] = 0
    params["fc_kernel"] = _drawn(rng, (before, CLASSES), before)
    params["fc_bias"] = rng.uniform(-1, 1, CLASSES) / np.sqrt(before)
    return {f"params/{name}": leaf for name, leaf in params.items()}


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], fan_in: int) -> np.ndarray:
    return 4 * rng.uniform(-1, 1, shape) / np.sqrt(fan_in) * (rng.random(shape) >= 1 / 3)


FOUND = ("scores", "mask", "rank", "sizes", "curve", "untrimmed", "explained", "spread", "temperature")
"""What a search finds, each with leading axis n; scores (n, C) as the search ended, rank (n, C) with 0 for dead
channels."""


def read(path: Path) -> dict[str, np.ndarray]:
    """The file at `path`. Raises FedmiError, one line, for anything else."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # on damaged archives and headers zipfile and numpy raise nearly anything
        raise FedmiError(f"{path}: not a readable golden file: {' '.join(str(error).split())}") from None
    if missing := {"pixels", "draws", *FOUND} - set(arrays):
        raise FedmiError(f"{path}: not a golden file of a decision: lacks {', '.join(sorted(missing))}")
    return arrays


def params_of(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name.removeprefix("params/"): leaf for name, leaf in arrays.items() if name.startswith("params/")}


def plan_of(index: np.ndarray) -> Plan:
    steps, width = index.shape
    return Plan(index.astype(np.int32), np.full(len(index), width, np.int32), np.int32(steps))


# --- who searches ---


def with_jax(arrays: Arrays) -> dict[str, np.ndarray]:
    """`FOUND` as `fedmi_jax.circuits.deciding` finds it; scores of channels that were left out are at most 0 there."""
    params = {name: jnp.asarray(leaf) for name, leaf in params_of(arrays).items()}
    moments = (jnp.asarray(m) for m in MOMENTS)
    images = Images(jnp.asarray(arrays["pixels"]), jnp.asarray(arrays["labels"], jnp.int32), *moments)
    found = [jax.tree.map(np.asarray, _searched(params, images, _task(arrays, n))) for n in range(len(arrays["label"]))]
    return {name: np.stack([_named(one)[name] for one in found]) for name in FOUND}


def _task(arrays: Arrays, n: int) -> Task:
    chosen = arrays["chosen"][n].astype(np.int32)
    label, others, plan, draws = (arrays[name][n] for name in ("label", "others", "plan", "draws"))
    truth = SETTINGS.objective == "contrast"
    return Task(
        jnp.asarray(label), jnp.asarray(others), plan_of(plan), draws, np.maximum(chosen, 0), chosen >= 0, truth
    )


@partial(jax.jit)
def _searched(params: Any, images: Images, task: Task) -> deciding.Found:
    searched = CLASSES * SETTINGS.probe[0]
    index, valid = groups(np.arange(len(images.pixels)), BATCH)
    logits, means = survey(params, images, jnp.asarray(index), jnp.asarray(valid & (index < searched)), narrowing=False)
    return deciding.decide(
        params, images, Probed(logits[: len(images.pixels)], means), task, settings=SETTINGS, searched=searched,
        micro_batch=SETTINGS.batch_size, narrowing=False,
    )  # fmt: skip


def _named(found: deciding.Found) -> dict[str, Any]:
    choice = found.choice
    score, mask, rank = (
        np.concatenate([part[layer] for layer in conv_layers(part)])
        for part in (choice.score, choice.mask, choice.rank)
    )
    rest = (choice.sizes, choice.curve, choice.untrimmed, choice.explained, found.spread, found.temperature)
    return dict(zip(FOUND, (score, mask, rank, *rest), strict=True))


def with_torch(arrays: Arrays) -> dict[str, np.ndarray]:
    """`FOUND` as the PyTorch reference finds it."""
    if reason := pytorch_reference.missing():
        raise FedmiError(reason)
    from benchmarks.pytorch_reference import deciding as theirs  # torch is imported only when asked for
    from benchmarks.pytorch_reference import model

    where = model.place("float64", "cpu")
    params = model.from_package(params_of(arrays), where)
    images = model.images(arrays["pixels"], arrays["labels"], MOMENTS, where)
    found = []
    for label, others, plan, draws, chosen in zip(*(arrays[name] for name in TASK), strict=True):
        task = theirs.Task(int(label), others, plan_of(plan), draws, chosen[chosen >= 0].astype(np.int64))
        one = theirs.decide(params, images, CLASSES * SETTINGS.probe[0], task, SETTINGS, BATCH)
        rank = np.zeros(len(one.mask), int)
        rank[one.order] = np.arange(1, len(one.order) + 1)
        rest = (one.sizes, one.curve, one.untrimmed, one.explained, one.spread, one.temperature)
        found.append((one.score.numpy(), one.mask.numpy(), rank, *rest))
    return {name: np.stack(parts) for name, parts in zip(FOUND, zip(*found, strict=True), strict=True)}


TASK = ("label", "others", "plan", "draws", "chosen")
BACKENDS = {"jax": with_jax, "torch": with_torch}


# --- comparison ---


def replay(arrays: Arrays, found: Arrays) -> dict[str, Any]:
    """Every figure that is compared; `LIMITS` says how far they may be off."""
    expected, live = arrays, arrays["rank"] > 0

    def placed(one: Arrays) -> np.ndarray:
        """Scores as circuits have them: positive ones of channels that were left out become 0."""
        return np.where(arrays["mask"], one["scores"], np.minimum(one["scores"], 0))[live]

    figures = {"scores": relative(placed(found), placed(expected))}
    figures |= {f"{name}s_differing": int(np.sum(found[name] != expected[name])) for name in ("mask", "rank")}
    sizes = [found[name] != expected[name] for name in ("sizes", "untrimmed")]
    figures["sizes_differing"] = int(sum(part.sum() for part in sizes))
    return figures | {name: relative(found[name], expected[name]) for name in LIMITS if name in FOUND[4:]}


def verdicts(figures: Mapping[str, Any]) -> dict[str, bool]:
    """Which figures are within their limits."""
    return {name: bool(figures[name] <= limit) for name, limit in LIMITS.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.golden_decision", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", default=FILE)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--backend", choices=tuple(BACKENDS), default="jax", help="fedmi_jax or the PyTorch reference")
    parser.add_argument("--make", action="store_true", help="write the file, with what the PyTorch reference finds")
    options = parser.parse_args(arguments)
    try:
        with session(Execution(precision="float64")):
            if options.make:
                given = made()
                np.savez_compressed(options.file, **(given | with_torch(given)))  # type: ignore[arg-type]
            arrays = read(options.file)
            figures = replay(arrays, BACKENDS[options.backend](arrays))
    except FedmiError as error:
        print(error, file=sys.stderr)
        return 2
    passed = verdicts(figures)
    print(json.dumps({**figures, "limits": LIMITS, "within_limits": passed, "passed": all(passed.values())}, indent=2)
          if options.json else _shown(figures, passed))  # fmt: skip
    return 0 if all(passed.values()) else 1


def _shown(figures: Mapping[str, Any], passed: Mapping[str, bool]) -> str:
    lines = [f"{k:18} {v:10.3g}   limit {LIMITS[k]:g}   {'ok' if passed[k] else 'OVER'}" for k, v in figures.items()]
    return "\n".join([*lines, "passed" if all(passed.values()) else "failed"])


if __name__ == "__main__":
    sys.exit(main())

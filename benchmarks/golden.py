"""Replay a golden file: the authors' published code, run in double precision on recorded batches, against this package.

    python -m benchmarks.golden FILE [--json]

The package's own functions train, average, discover and measure in float64 on the file's batches. What is compared:
round-1 local weights from the file's initial model; the average of the file's local models; discovery and metrics of
every round from the file's own weights. Exit status 1 when a figure is over its limit (`LIMITS`).

Axes: R rounds, K clients, J circuits of a client, T steps, B images of a batch.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedmi_jax import execution, programs, sparsity
from fedmi_jax.aggregation import fedavg
from fedmi_jax.circuits import connectivity, evaluation
from fedmi_jax.config import Discovery, Execution, FedmiError, Local, Sparsity
from fedmi_jax.data import batches, datasets
from fedmi_jax.data.batches import Plan
from fedmi_jax.local import Images
from fedmi_jax.model import CONV_LAYERS, LAYERS, Params

LIMITS = {
    "weights": 1e-10,
    "average": 1e-6,
    "scores": 1e-10,
    "masks_differing": 0,
    "metrics": 1e-6,
    "global_accuracy": 1e-6,
    "edges_differing": 0,
}
"""Largest allowed: relative errors of weights, average and scores; channels and edge counts that differ; differences of
metrics and accuracy in percentage points."""

REQUIRED = {
    "config", "train_plan", "discovery_plan", "discovery_classes", "test_index", "gates/conv1", "metrics",
    "global_accuracy", "init/conv1.weight",
}  # fmt: skip
"""What a file must hold to be one; edge counts are compared where it has them."""


@dataclass(frozen=True, eq=False)
class Golden:
    """A golden file; arrays as in the file, weights in this package's layout."""

    arrays: Mapping[str, np.ndarray]

    @cached_property
    def config(self) -> dict[str, Any]:
        return json.loads(str(self.arrays["config"]))

    @cached_property
    def rounds(self) -> int:
        return self.arrays["gates/conv1"].shape[0]

    @cached_property
    def clients(self) -> int:
        return self.arrays["train_plan"].shape[1]

    def params(self, model: str) -> Params:
        """The model of this name ("init", "round1/client0", "round1/global"), float64."""
        channels = len(self.arrays[f"{model}/conv3.bias"])
        parts = (self.arrays[f"{model}/{k}.{kind}"] for k in LAYERS for kind in ("weight", "bias"))
        read = {k: from_torch(k, next(parts), next(parts), channels) for k in LAYERS}
        return {name: jnp.asarray(value) for part in read.values() for name, value in part.items()}

    def stacked(self, names: list[str]) -> Params:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(self.params, names))

    def locals_(self, round_: int) -> list[str]:
        return [f"round{round_}/client{k}" for k in range(self.clients)]


def from_torch(layer: str, weight: np.ndarray, bias: np.ndarray, channels: int) -> dict[str, np.ndarray]:
    """PyTorch's layouts to this package's: (out, in, 3, 3) to (3, 3, in, out); the linear layer's columns, channel
    slowest, to rows, channel fastest. channels: of the last convolution."""
    if weight.ndim == 4:
        kernel = weight.transpose(2, 3, 1, 0)
    else:
        kernel = weight.reshape(weight.shape[0], channels, -1).transpose(2, 1, 0).reshape(-1, weight.shape[0])
    return {f"{layer}_kernel": kernel.astype(np.float64), f"{layer}_bias": bias.astype(np.float64)}


def read(path: Path) -> Golden:
    """The golden file at `path`. Raises FedmiError, one line, for anything else."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            golden = Golden({key: file[key] for key in file.files})
        missing = REQUIRED - set(golden.arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise FedmiError(f"{path}: not a readable golden file: {error}") from None
    if missing:
        raise FedmiError(f"{path}: not a golden file: lacks {', '.join(sorted(missing))}")
    return golden


def relative(found: Any, expected: Any) -> float:
    """Largest absolute difference over the largest expected magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), np.finfo(np.float64).tiny))


def replay(golden: Golden, settings: Execution) -> dict[str, Any]:
    """Every figure the replay compares."""
    how = execution.layout(settings)
    dataset = datasets.load(datasets.config.Data())
    moments = [jnp.asarray(m, jnp.float64) for m in (dataset.mean, dataset.std)]
    train = Images(jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels), *moments)
    test = Images(jnp.asarray(dataset.test_images), jnp.asarray(dataset.test_labels), *moments)
    return (
        _training(golden, train, how) | _average(golden) | _circuits(golden, train, test, dataset, how) | _edges(golden)
    )


def _training(golden: Golden, images: Images, how: execution.Layout) -> dict[str, Any]:
    """Round-1 weights of every client, trained from the initial model on the file's batches."""
    config = golden.config
    recorded = golden.arrays["train_plan"][0]  # the first round's
    plans = [_plan(one.reshape(-1, one.shape[-1]), how, how.batch_devices) for one in recorded]
    steps = max(len(plan.indices) for plan in plans)
    sparse = Sparsity(target=config["sparsity"])
    start, which = golden.stacked(["init"]), np.zeros(golden.clients, int)
    sizes = sparsity.weight_sizes(golden.params("init"))
    keep = [sparsity.keep_counts(sparse, int(plan.steps), sizes) for plan in plans]
    pad = lambda a: np.pad(a, [(0, steps - len(a))] + [(0, 0)] * (a.ndim - 1), "edge")  # noqa: E731
    plan = batches.stack([Plan(pad(p.indices), pad(p.weight), p.steps) for p in plans])
    trained, _ = programs.train_models(
        start, images, which, plan, np.stack(list(map(pad, keep))), np.ones((golden.clients, 10)),
        how=how, local=Local(learning_rate=config["lr"]), sparse=sparse,
    )  # fmt: skip
    expected = golden.stacked(golden.locals_(1))
    return {"weights": {name: relative(trained[name], expected[name]) for name in expected}}


def _plan(index: np.ndarray, how: execution.Layout, devices: int) -> Plan:
    """The file's batches (T, B); -1, where a file has it, is padding."""
    rows = [row[row >= 0] for row in index]
    rows = [row for row in rows if len(row)]
    if not rows:
        return Plan(np.zeros_like(index), np.zeros(index.shape), np.int32(0))
    return batches.from_batches(rows, how.padded(index.shape[1], devices), len(index))


def _average(golden: Golden) -> dict[str, Any]:
    """The mean of the file's local models against the file's global model; the authors average in single precision."""
    worst, server = 0.0, fedavg("uniform")
    for r in range(1, golden.rounds + 1):
        expected = golden.params(f"round{r}/global")
        found, _ = server.apply(None, expected, golden.stacked(golden.locals_(r)), jnp.ones(golden.clients))
        worst = max([worst, *(relative(found[name], expected[name]) for name in expected)])
    return {"average": worst}


def _circuits(golden: Golden, train: Images, test: Images, dataset: Any, how: execution.Layout) -> dict[str, Any]:
    """Scores, masks, metrics and global accuracy of every round, from the file's own weights."""
    config, labels = golden.config, golden.arrays["discovery_classes"]
    clients, slots = labels.shape
    settings = Discovery(steps=config["discovery_steps"], learning_rate=config["gate_lr"], l0=config["l0_lambda"])
    chosen = evaluation.make_test_set(
        test, dataset.test_labels, dataset.num_classes, 250, among=golden.arrays["test_index"]
    )
    real = np.tile(labels.ravel() >= 0, 2)  # clients may have different numbers of circuits
    which = np.concatenate([np.repeat(np.arange(clients), slots), np.full(clients * slots, clients)])[real]
    target = np.tile(labels.ravel(), 2)[real]
    scores_error, differing, metrics, accuracy = 0.0, 0, 0.0, 0.0
    for r in range(golden.rounds):
        models = golden.stacked([*golden.locals_(r + 1), f"round{r + 1}/global"])
        recorded = golden.arrays["discovery_plan"][r].reshape(len(real), settings.steps, -1)[real]
        plan = batches.stack([_plan(one, how, 1) for one in recorded])
        scores = programs.discover_circuits(models, train, which, plan, None, how=how, settings=settings)
        for layer in CONV_LAYERS:
            gates, masks = (
                golden.arrays[f"{kind}/{layer}"][r].reshape(len(real), -1)[real] for kind in ("gates", "masks")
            )
            looked_for = np.asarray(plan.steps) > 0
            scores_error = max(scores_error, relative(np.asarray(scores[layer])[looked_for], gates[looked_for]))
            differing += int(np.sum((np.asarray(scores[layer]) > 0) != masks))
        found, total = _metrics(models, chosen, which, scores, target, how)
        expected = golden.arrays["metrics"][r].reshape(-1, 3)[real].reshape(2, -1, 3)
        metrics = max(metrics, _largest(found[..., :2], expected[..., :2]), _largest(found[1, :, 2], expected[1, :, 2]))
        accuracy = max(accuracy, abs(total - float(golden.arrays["global_accuracy"][r])))
    return {"scores": scores_error, "masks_differing": differing, "metrics": metrics, "global_accuracy": accuracy}


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(found - expected)))


def _metrics(models: Params, test: Any, which: Any, scores: Any, target: Any, how: Any) -> tuple[np.ndarray, float]:
    """Percent (2, circuits, 3): sufficiency, necessity, cross-evaluation (of the global rows: the local circuit's mask
    on the global model); and the global model's accuracy."""
    gates = {layer: (score > 0).astype(jnp.float64) for layer, score in scores.items()}
    own = np.arange(len(target)), target
    judge = programs.measure_circuits
    kept = judge(models, test, which, gates, None, target, how=how, measure=evaluation.performance)
    removed = {layer: 1 - gate for layer, gate in gates.items()}
    necessity = judge(models, test, which, removed, None, target, how=how, measure=evaluation.class_accuracy)
    local_masks = {layer: jnp.tile(gate[: len(target) // 2], (2, 1)) for layer, gate in gates.items()}
    crossed = judge(models, test, which, local_masks, None, target, how=how, measure=evaluation.performance)
    columns = np.asarray(kept.call_rate)[own], np.asarray(necessity), np.asarray(crossed.call_rate)[own]
    overall, _ = programs.measure_models(models, test, how=how)
    return 100 * np.stack(columns, -1).reshape(2, -1, 3), 100 * float(overall[-1])


def _edges(golden: Golden) -> dict[str, Any]:
    """Edge counts of the functional connectivity of the file's masks in the file's weights, where the file has them."""
    if "edge_counts" not in golden.arrays:
        return {}
    differing, labels = 0, golden.arrays["discovery_classes"]
    for key, expected in json.loads(str(golden.arrays["edge_counts"])).items():
        r, where, client, label = key.split("/")
        at = (int(r), int(where == "global"), int(client), int(np.flatnonzero(labels[int(client)] == int(label))[0]))
        model = f"round{int(r) + 1}/" + ("global" if where == "global" else f"client{client}")
        mask_in = None
        for layer in CONV_LAYERS:
            mask = golden.arrays[f"masks/{layer}"][at]
            wired = connectivity.physical(golden.arrays[f"{model}/{layer}.weight"])
            differing += int(connectivity.functional(wired, mask, mask_in).sum()) != expected[layer]
            mask_in = mask
    return {"edges_differing": differing}


def verdicts(figures: dict[str, Any]) -> dict[str, bool]:
    """Which figures are within their limits."""
    worst = {k: max(v.values()) if isinstance(v, dict) else v for k, v in figures.items()}
    return {name: bool(worst[name] <= limit) for name, limit in LIMITS.items() if name in worst}


def show(figures: dict[str, Any], passed: dict[str, bool]) -> str:
    lines = []
    for name, value in figures.items():
        rows = {f"weights {k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value}
        for label, figure in rows.items():
            verdict = "ok" if figure <= LIMITS[name] else "OVER"
            lines.append(f"{label:24} {figure:10.3g}   limit {LIMITS[name]:g}   {verdict}")
    return "\n".join([*lines, "passed" if all(passed.values()) else "failed"])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.golden", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--client-chunk", type=int, default=None, help="clients side by side; default: as on any run")
    parser.add_argument("--shard", choices=("auto", "clients", "batch"), default="auto", help="what devices share out")
    options = parser.parse_args(arguments)
    settings = Execution(precision="float64", client_chunk=options.client_chunk or "auto", shard=options.shard)
    try:
        golden = read(options.file)
        with execution.session(settings):
            figures = replay(golden, settings)
    except FedmiError as error:
        print(error, file=sys.stderr)
        return 2
    passed = verdicts(figures)
    report = {**figures, "limits": LIMITS, "within_limits": passed, "passed": all(passed.values())}
    print(json.dumps(report, indent=2) if options.json else show(figures, passed))
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Replay a golden file: the authors' published code, run in double precision on recorded batches, against this package.

    python -m benchmarks.golden FILE [--backend jax|torch] [--json]

The package's own functions, or the PyTorch reference's, train, average, discover and measure in float64 on the file's
batches. What is compared: round-1 local weights from the file's initial model; the average of the file's local models;
discovery and metrics of every round from the file's own weights. Exit status 1 when a figure is over its limit
(`LIMITS`).

Axes: R rounds, K clients, J circuits of a client, T steps, B images of a batch.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import golden_jax, pytorch_reference
from benchmarks.golden_file import Golden, read
from fedmi_jax.config import Discovery, Execution, Local, Sparsity
from fedmi_jax.devices.session import session
from fedmi_jax.errors import FedmiError
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.network.model import Params
from fedmi_jax.results import connectivity

Masks = Mapping[str, np.ndarray]
"""bool {"conv1": (C, O_1), ...}."""

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


def relative(found: Any, expected: Any) -> float:
    """Largest absolute difference over the largest expected magnitude."""
    found, expected = np.asarray(found), np.asarray(expected)
    return float(np.max(np.abs(found - expected)) / max(np.max(np.abs(expected)), np.finfo(np.float64).tiny))


class Backend(Protocol):
    """Who does the work: fedmi_jax itself, or the PyTorch reference. Models are stacked, in this package's layout.

    Axes: M models, C circuits; index arrays hold -1 where there is padding.
    """

    def train(self, start: Params, index: np.ndarray, local: Local, sparse: Sparsity) -> Mapping[str, Any]:
        """Every client's model (K, ...) after its steps on these batches (K, T, B), from one start."""
        ...

    def average(self, models: Params) -> Mapping[str, Any]:
        """The mean of (K, ...)."""
        ...

    def discover(
        self, models: Params, which: np.ndarray, index: np.ndarray, settings: Discovery
    ) -> Mapping[str, np.ndarray]:
        """Final scores {"conv1": (C, O_1), ...}; which (C,), each circuit's model; index (C, T, B)."""
        ...

    def call_rate(self, models: Params, which: np.ndarray, gates: Masks, target: np.ndarray) -> np.ndarray:
        """(C,): judged on all chosen test images, the share of the target's that are called the target."""
        ...

    def class_accuracy(self, models: Params, which: np.ndarray, gates: Masks, target: np.ndarray) -> np.ndarray:
        """(C,): judged on the target's test images alone."""
        ...

    def accuracy(self, models: Params) -> np.ndarray:
        """(M,): of the whole models on the chosen test images."""
        ...


def replay(golden: Golden, backend: Backend) -> dict[str, Any]:
    """Every figure the replay compares."""
    return _training(golden, backend) | _average(golden, backend) | _circuits(golden, backend) | _edges(golden)


def _training(golden: Golden, backend: Backend) -> dict[str, Any]:
    """Round-1 weights of every client, trained from the initial model on the file's batches."""
    trained, expected = trained_and_recorded(golden, backend)
    return {"weights": {name: relative(trained[name], expected[name]) for name in expected}}


def trained_and_recorded(golden: Golden, backend: Backend) -> tuple[Mapping[str, Any], Params]:
    """Those weights, and the file's."""
    config, recorded = golden.config, golden.arrays["train_plan"][0]  # (K, epochs, T, B)
    index = recorded.reshape(golden.clients, -1, recorded.shape[-1])
    local, sparse = Local(learning_rate=config["lr"]), Sparsity(target=config["sparsity"])
    return backend.train(golden.params("init"), index, local, sparse), golden.stacked(golden.locals_(1))


def _average(golden: Golden, backend: Backend) -> dict[str, Any]:
    """The mean of the file's local models against the file's global model; the authors average in single precision."""
    worst = 0.0
    for r in range(1, golden.rounds + 1):
        expected = golden.params(f"round{r}/global")
        found = backend.average(golden.stacked(golden.locals_(r)))
        worst = max([worst, *(relative(found[name], expected[name]) for name in expected)])
    return {"average": worst}


def _circuits(golden: Golden, backend: Backend) -> dict[str, Any]:
    """Scores, masks, metrics and global accuracy of every round, from the file's own weights."""
    config, labels = golden.config, golden.arrays["discovery_classes"]
    clients, slots = labels.shape
    settings = Discovery(steps=config["discovery_steps"], learning_rate=config["gate_lr"], l0=config["l0_lambda"])
    real = np.tile(labels.ravel() >= 0, 2)  # clients may have different numbers of circuits
    which = np.concatenate([np.repeat(np.arange(clients), slots), np.full(clients * slots, clients)])[real]
    target = np.tile(labels.ravel(), 2)[real]
    scores_error, differing, metrics, accuracy = 0.0, 0, 0.0, 0.0
    for r in range(golden.rounds):
        models = golden.stacked([*golden.locals_(r + 1), f"round{r + 1}/global"])
        recorded = golden.arrays["discovery_plan"][r].reshape(len(real), settings.steps, -1)[real]
        scores = backend.discover(models, which, recorded, settings)
        looked_for = (recorded >= 0).any((1, 2))
        for layer in CONV_LAYERS:
            gates, masks = (
                golden.arrays[f"{kind}/{layer}"][r].reshape(len(real), -1)[real] for kind in ("gates", "masks")
            )
            scores_error = max(scores_error, relative(scores[layer][looked_for], gates[looked_for]))
            differing += int(np.sum((scores[layer] > 0) != masks))
        found = _metrics(backend, models, which, {layer: scores[layer] > 0 for layer in CONV_LAYERS}, target)
        expected = golden.arrays["metrics"][r].reshape(-1, 3)[real].reshape(2, -1, 3)
        metrics = max(metrics, _largest(found[..., :2], expected[..., :2]), _largest(found[1, :, 2], expected[1, :, 2]))
        total = 100 * float(backend.accuracy(models)[-1])
        accuracy = max(accuracy, abs(total - float(golden.arrays["global_accuracy"][r])))
    return {"scores": scores_error, "masks_differing": differing, "metrics": metrics, "global_accuracy": accuracy}


def _largest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(found - expected)))


def _metrics(backend: Backend, models: Params, which: np.ndarray, masks: Masks, target: np.ndarray) -> np.ndarray:
    """Percent (2, circuits, 3): sufficiency, necessity, cross-evaluation (of the global rows: the local circuit's mask
    on the global model)."""
    local_masks = {layer: np.tile(mask[: len(target) // 2], (2, 1)) for layer, mask in masks.items()}
    columns = (
        backend.call_rate(models, which, masks, target),
        backend.class_accuracy(models, which, {layer: ~mask for layer, mask in masks.items()}, target),
        backend.call_rate(models, which, local_masks, target),
    )
    return 100 * np.stack(columns, -1).reshape(2, -1, 3)


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


def _backend(name: str, settings: Execution, test_index: np.ndarray) -> Backend:
    """test_index: the test images that are judged."""
    if name == "jax":
        return golden_jax.backend(settings, test_index)
    if reason := pytorch_reference.missing():
        raise FedmiError(reason)
    from benchmarks.pytorch_reference import golden as golden_torch  # torch is imported only when asked for

    return golden_torch.backend(test_index)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.golden", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--backend", choices=("jax", "torch"), default="jax", help="fedmi_jax or the PyTorch reference")
    parser.add_argument("--client-chunk", type=int, help="clients and circuits side by side (jax only)")
    parser.add_argument("--shard", choices=("auto", "clients", "batch"), default="auto", help="what devices share out")
    options = parser.parse_args(arguments)
    try:
        chunk = "auto" if options.client_chunk is None else options.client_chunk
        settings = Execution(precision="float64", client_chunk=chunk, shard=options.shard)
        golden = read(options.file)
        with session(settings):
            figures = replay(golden, _backend(options.backend, settings, golden.arrays["test_index"]))
    except FedmiError as error:
        print(error, file=sys.stderr)
        return 2
    passed = verdicts(figures)
    report = {**figures, "limits": LIMITS, "within_limits": passed, "passed": all(passed.values())}
    print(json.dumps(report, indent=2) if options.json else show(figures, passed))
    return 0 if all(passed.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Local training with pruning: fedmi_jax against PyTorch, and against what this machine can do.

    python -m benchmarks.local_training [--clients 5] [--steps N] [--json]

Real MNIST in equal shuffled shares, batches of 256, 99 % sparse: the training of the iid preset, with fewer steps. Both
sides train the same clients on the same batches; placing the images on the device is not counted.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from benchmarks import report, roofline
from benchmarks.timing import Budget, Contender, compare, on_jax
from fedmi_jax import presets
from fedmi_jax.config import Data, Discovery, Experiment, Local, Split, replace
from fedmi_jax.data import batches
from fedmi_jax.data.batches import Plan
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import programs, simulation
from fedmi_jax.federation.setup import Setup, place, prepare
from fedmi_jax.network.model import Params

if TYPE_CHECKING:
    from benchmarks.pytorch_reference.federation import Reference


def experiment(clients: int, steps: int, batch: int) -> Experiment:
    """The iid preset with so many images per client that a round of one epoch is `steps` full batches."""
    (iid,) = presets.preset("iid").experiments
    return replace(
        iid,
        split=Split(kind="iid", clients=clients),
        data=Data(images_per_client=steps * batch),
        local=Local(epochs=1, batch_size=batch),
        discovery=Discovery(),  # none takes place, and the preset's classes need not exist
    )


def measure(
    clients: int, steps: int, budget: Budget, batch: int = 256, dataset: Dataset | None = None,
    peak_seconds: float = 2.0,
) -> dict[str, Any]:  # fmt: skip
    """What `main` prints."""
    setup = place(prepare(experiment(clients, steps, batch), dataset))
    if (setup.facts.steps != steps).any():
        raise FedmiError(f"--clients {clients} --steps {steps}: there are not enough images for batches of {batch}")
    everyone = dict(enumerate(setup.facts.clients[0]))
    plan = batches.training_plan(everyone, batch, 1, seed=0, round_=1, shape=setup.plan_shape)
    missing = report.why_no_torch()
    found = compare(jax_side(setup, plan), None if missing else torch_side(setup, plan), budget)
    target = setup.facts.experiment.sparsity.target
    what = f"local training, {clients} clients x {steps} steps, batch {batch}, {target:.1%}"
    facts = rates(setup, found, clients * steps * batch, batch, peak_seconds)
    return {"benchmark": "local_training", "what": what, **found, "facts": facts, "pytorch_missing": missing}


def jax_side(setup: Setup, plan: Plan) -> Contender:
    return on_jax(partial(_train, setup, simulation.initial_models(setup), plan))


def _train(setup: Setup, starts: Params, plan: Plan, turn: int) -> Any:
    return programs.train_models(
        starts, setup.train_images, np.zeros(len(plan.indices), int), plan, setup.facts.keep[0], setup.facts.counts[0],
        layout=setup.layout, local=setup.facts.experiment.local, sparse=setup.facts.experiment.sparsity,
        method=setup.facts.method,
    )  # fmt: skip


def torch_side(setup: Setup, plan: Plan) -> Contender:
    from benchmarks.pytorch_reference import federation as torch_federation
    from benchmarks.pytorch_reference import model

    reference = torch_federation.prepare(setup, model.place(device=report.torch_device()))
    start = model.from_package(simulation.initial_params(setup.facts, 0), reference.where)
    run = partial(_train_torch, reference, start, plan)
    wait = partial(torch_federation.synchronise, reference.where)
    return Contender(run, wait, torch_federation.warm_up(reference, start))


def _train_torch(reference: Reference, start: Any, plan: Plan, turn: int) -> Any:
    from benchmarks.pytorch_reference import training

    local, sparse = reference.setup.facts.experiment.local, reference.setup.facts.experiment.sparsity
    return [training.train(start, reference.train_images, one, local, sparse) for one in training.unstacked(plan)]


def rates(setup: Setup, found: dict[str, Any], samples: int, batch: int, seconds: float) -> dict[str, Any]:
    """Samples per second of both sides, and their shares of the roofline."""
    data, channels = setup.facts.dataset, setup.facts.experiment.model.channels
    model = roofline.layers(data.image_shape, channels, data.num_classes)
    flops, moved = roofline.training_flops(model), roofline.training_bytes(model, batch)
    peak = roofline.measure_peak(setup.layout, seconds=seconds)
    facts: dict[str, Any] = {
        "matmul_peak_gflop_per_s": peak.flops / 1e9,
        "matmul_peak_by": peak.by,
        "copy_bandwidth_gb_per_s": peak.bytes / 1e9,
        "mflop_per_sample": flops / 1e6,
        "least_kb_moved_per_sample": moved / 1e3,
        "roofline_samples_per_s": 1 / peak.least_seconds(flops, moved),
    }
    for name in ("fedmi_jax", "pytorch"):
        if side := found[name]:
            facts[f"{name}_samples_per_s"] = samples / side["median_s"]
            facts[f"{name}_share_of_roofline"] = samples * peak.least_seconds(flops, moved) / side["median_s"]
    return facts


def main(arguments: list[str] | None = None) -> int:
    parser = report.parser("local_training", __doc__)
    parser.add_argument("--clients", type=report.positive_int, default=5)
    parser.add_argument("--steps", type=report.positive_int, help="per client; by default 8, on a GPU 40")
    options = parser.parse_args(arguments)
    return report.run(options, partial(_measure, options))


def _measure(options: Any) -> dict[str, Any]:
    steps = options.steps or (8 if jax.default_backend() == "cpu" else 40)
    return measure(options.clients, steps, report.budget(options, seconds=100, most=11, least=3))


if __name__ == "__main__":
    sys.exit(main())

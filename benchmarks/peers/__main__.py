"""FedAvg's local training in fedmi_jax, FedJAX and Flower's simulation: the same work, round by round in turn.

    python -m benchmarks.peers [--json] [--fedjax-python PATH] [--flower-python PATH]

The paper's CNN, dense, on iid MNIST: every client trains its own epochs (Adam), the server takes the mean. No peer is a
dependency: each runs under the interpreter it is given, in a process of its own; one that is absent or fails is
reported with its versions and its error. All start from one model on the same shares; only the shuffles differ, so the
averaged models must come out alike: their accuracy on 1000 test images is shown, and judged (`TOLERANCE`).

The first round is reported apart (it compiles, and loads the data into Ray's actors). Whoever is not playing waits,
which costs nothing but for Ray, whose processes take a few hundredths of a core even so. Exit status 1 when fedmi_jax
itself fails, or an accuracy is off; a peer that fails is a finding.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import fedmi_jax
from benchmarks.peers import work
from benchmarks.peers.contestant import Contestant, Failed, Running, missing
from fedmi_jax.config import Data, Model, Split
from fedmi_jax.data import datasets, partition
from fedmi_jax.errors import FedmiError

HERE = Path(__file__).parent
OURS = "fedmi_jax"
TOLERANCE = 0.03
"""Accuracies of averaged models may differ by this much: different shuffles, 1000 images."""
TEST_IMAGES = 1000
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@dataclass
class Score:
    """What is known of a contestant."""

    versions: dict[str, str | None] = field(default_factory=dict)
    first: float | None = None
    """Seconds of the first round."""
    seconds: list[float] = field(default_factory=list)
    """Of every timed round."""
    accuracy: float | None = None
    """Of the averaged model after the last round."""
    device: str | None = None
    error: str | None = None

    def note(self, answer: dict[str, Any]) -> None:
        """A timed round."""
        self.seconds.append(answer["seconds"])
        self.accuracy, self.device = answer["accuracy"], answer["device"]


def drawn(options: argparse.Namespace) -> work.Work:
    """The work: iid shares of MNIST, cut to as many images as asked for, and a first model."""
    if options.images % options.batch_size:
        raise FedmiError(f"--images: a multiple of the batch size {options.batch_size}; got {options.images}")
    dataset = datasets.load(Data())
    held = partition.partition(dataset.train_labels, dataset.num_classes, Split(clients=options.clients), options.seed)
    if options.images > min(map(len, held)):
        raise FedmiError(f"--images: at most {min(map(len, held))} with {options.clients} clients")
    chosen = np.stack(partition.limit(held, options.images, options.seed))
    names = ("batch_size", "epochs", "learning_rate", "fedjax_backend", "flower_cpus")
    return work.Work(
        settings={name: getattr(options, name) for name in names},
        images=np.asarray(dataset.train_images)[chosen],
        labels=dataset.train_labels[chosen],
        test_images=np.asarray(dataset.test_images[:TEST_IMAGES]),
        test_labels=dataset.test_labels[:TEST_IMAGES],
        mean=np.asarray(dataset.mean, np.float32),
        std=np.asarray(dataset.std, np.float32),
        params=first_model(options.seed),
    )


def first_model(seed: int) -> dict[str, np.ndarray]:
    """PyTorch's default: weights and biases uniform in +-1/sqrt(fan in). Drawn without JAX, which would claim a GPU."""
    rng, params = np.random.default_rng(seed), {}
    widths = Model().channels
    shapes = [(3, 3, i, o) for i, o in zip((1, *widths), widths, strict=False)] + [(9 * widths[-1], 10)]
    for layer, shape in zip(work.LAYERS, shapes, strict=True):
        bound = 1 / math.sqrt(math.prod(shape[:-1]))
        params[f"{layer}_kernel"] = rng.uniform(-bound, bound, shape).astype(np.float32)
        params[f"{layer}_bias"] = rng.uniform(-bound, bound, shape[-1]).astype(np.float32)
    return params


def contestants(options: argparse.Namespace) -> list[Contestant]:
    """fedmi_jax first."""
    package = Path(fedmi_jax.__file__).parents[1]
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    devices = {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={CORES}",
        "JAX_PMAP_NO_RANK_REDUCTION": "0",  # FedJAX's pmap backend fails without it (JAX 0.5.3)
    }
    return [
        Contestant(OURS, HERE / "fedmi_side.py", ("jax", "jaxlib"), "pip install .", sys.executable,
                   {"PYTHONPATH": path}),
        Contestant("fedjax", HERE / "fedjax_side.py", ("fedjax", "jax", "jaxlib"), "pip install fedjax 'jax<0.6'",
                   options.fedjax_python, devices if options.fedjax_backend == "pmap" else {}),
        Contestant("flower", HERE / "flower_side.py", ("flwr", "ray", "torch"), "pip install 'flwr[simulation]' torch",
                   options.flower_python),
    ]  # fmt: skip


def compete(players: list[Contestant], todo: work.Work, rounds: int, folder: Path, timeout: float) -> dict[str, Score]:
    """A first round of everybody who can play, then the timed ones in turn: A B C A B C ..."""
    file, scores, running = folder / "work.npz", {who.name: Score() for who in players}, {}
    work.write(todo, file)
    with ExitStack() as ended:
        for who in players:
            score = scores[who.name]
            with noting(score):
                one = running[who.name] = Running(who, file, folder / f"{who.name}.log", timeout)
                ended.callback(one.stop)
                score.versions = one.greet()
                score.error = missing(who, score.versions)
                if score.error is None:
                    score.first = one.play()["seconds"]
        for _ in range(rounds):
            for name, one in running.items():
                with noting(scores[name]):
                    if scores[name].error is None:
                        scores[name].note(one.play())
    return scores


@contextmanager
def noting(score: Score) -> Iterator[None]:
    """A failure within it ends the contestant's part, not the contest."""
    try:
        yield
    except Failed as failure:
        score.error = str(failure)


def judged(scores: dict[str, Score]) -> dict[str, Any]:
    """Every figure of the report; the ratio of a peer is the median of its time over fedmi_jax's in the same turn."""
    ours, report = scores[OURS], {}
    ours.versions = {"fedmi_jax": fedmi_jax.__version__, **ours.versions}
    for name, score in scores.items():
        facts = asdict(score)
        if score.error is None and ours.error is None:
            ratios = [theirs / own for theirs, own in zip(score.seconds, ours.seconds, strict=True)]
            facts |= {"median_seconds": median(score.seconds), "ratio": median(ratios)}
            facts |= {"ratio_range": [min(ratios), max(ratios)], "same_work": _alike(score, ours)}
        report[name] = facts
    peers = {name: facts["ratio"] for name, facts in report.items() if "ratio" in facts and name != OURS}
    return {"machine": machine(), "contestants": report, "ratio": peers}


def _alike(score: Score, ours: Score) -> bool:
    assert score.accuracy is not None
    assert ours.accuracy is not None
    return abs(score.accuracy - ours.accuracy) <= TOLERANCE


def machine() -> str:
    """Processor and number of cores at hand."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.machine()}, {CORES} cores"


def show(report: dict[str, Any], todo: work.Work) -> str:
    clients, images = todo.labels.shape
    settings = todo.settings
    lines = [
        report["machine"],
        f"{clients} clients x {images} images x {settings['epochs']} epochs, batch {settings['batch_size']}, dense; "
        "seconds per round: median (min - max)",
    ]
    for name, facts in report["contestants"].items():
        lines += ["", f"{name}: " + ", ".join(f"{k} {v or 'absent'}" for k, v in facts["versions"].items())]
        lines += [f"  {facts['device']}"] if facts["device"] else []
        lines.append("  " + (_timed(facts) if "ratio" in facts else str(facts["error"] or "fedmi_jax has no time")))
    return "\n".join(lines)


def _timed(facts: dict[str, Any]) -> str:
    seconds, (low, high) = facts["seconds"], facts["ratio_range"]
    verdict = "" if facts["same_work"] else "  NOT THE SAME WORK: accuracy is off"
    return (
        f"{facts['median_seconds']:.2f} s ({min(seconds):.2f} - {max(seconds):.2f}), first {facts['first']:.1f} s; "
        f"{facts['ratio']:.2f}x fedmi_jax's time ({low:.2f} - {high:.2f}); accuracy {facts['accuracy']:.3f}{verdict}"
    )


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"at least 1; got {value}")
    return value


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="benchmarks.peers", description=(__doc__ or "").splitlines()[0])
    made.add_argument("--json", action="store_true", help="print one JSON object on the last line")
    made.add_argument("--fedjax-python", default=sys.executable, help="interpreter that has fedjax")
    made.add_argument("--flower-python", default=sys.executable, help="interpreter that has flwr[simulation] and torch")
    made.add_argument("--fedjax-backend", choices=("jit", "pmap"), default="jit", help="clients in turn, or per device")
    made.add_argument("--flower-cpus", type=positive, default=1, help="cores, and threads, of a Flower client")
    made.add_argument("--rounds", type=positive, default=3, help="timed rounds, after one that is not")
    made.add_argument("--clients", type=positive, default=5)
    made.add_argument("--images", type=positive, default=2048, help="per client, a multiple of the batch size")
    made.add_argument("--epochs", type=positive, default=1)
    made.add_argument("--batch-size", type=positive, default=256)
    made.add_argument("--learning-rate", type=float, default=1e-3)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--timeout", type=float, default=300, help="seconds to wait for a round")
    made.add_argument("--logs", type=Path, help="folder to keep what the contestants printed")
    return made


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    try:
        todo = drawn(options)
    except FedmiError as error:
        print(error, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        scores = compete(contestants(options), todo, options.rounds, folder, options.timeout)
    report = judged(scores)
    print(show(report, todo))
    if options.json:
        print(json.dumps(report))
    return (
        0 if scores[OURS].error is None and all(f.get("same_work", True) for f in report["contestants"].values()) else 1
    )


if __name__ == "__main__":
    sys.exit(main())

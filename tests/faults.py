"""Planted faults: does the suite notice when the package is a little wrong?

python -m tests.faults [--only NAME ...] [--sample N [--day D]]: each fault is planted in a copy of the package, the
tests that should notice it run on that copy, and one of them must fail. (They must pass without the fault.) Exit status
1 where a fault survives, or where the text it changes is not there any more.
"""

import argparse
import datetime
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

from processor import programs_folder

ROOT = Path(__file__).parent.parent


class Fault(NamedTuple):
    """A piece of text that stands once in a file of the package, and what it is changed to."""

    name: str
    file: str
    """Below fedmi_jax/, without .py."""
    old: str
    new: str
    tests: str
    """The test files that should notice it, as in "gates model": tests/test_gates.py and tests/test_model.py."""


# fmt: off
# ruff: noqa: E501
FAULTS = [Fault(*row) for row in (
    # --- network ---
    ("a gate is open at 0", "network/gates", "return (score > 0).astype", "return (score >= 0).astype", "gates"),
    ("a gate's gradient is the sigmoid", "network/gates", "(g * s * (1 - s),)", "(g * s,)", "gates"),
    ("the pool's second winner gets the gradient", "network/ops", "jnp.where(a == top, 0, jnp", "jnp.where((a == top) & (b < top), 0, jnp", "ops"),
    ("ReLU lets a gradient pass at 0", "network/ops", "jnp.where(top > 0, first, -1)", "jnp.where(top >= 0, first, -1)", "ops"),
    ("the crop of a column is that of a row", "network/ops", "(1, 1 - crop_w)), kernel", "(1, 1 - crop_h)), kernel", "ops"),
    ("a sign in Winograd's transform", "network/ops", "inner = (u[1] + u[2]) / 2", "inner = (u[1] - u[2]) / 2", "ops"),
    ("the backward kernel is flipped in one direction", "network/sparse_ops", "kernel[::-1, ::-1].swapaxes", "kernel[::-1].swapaxes", "sparse_ops"),
    ("the last run of weights is left out", "network/sparse_ops", "runs = -(-jnp.sum(there, 0, dtype=jnp.int32) // RUN)", "runs = jnp.sum(there, 0, dtype=jnp.int32) // RUN", "sparse_ops"),
    ("pixels run to 256", "network/images", "(self.mean.dtype) / 255 - ", "(self.mean.dtype) / 256 - ", "evaluation"),
    ("micro-batches take each other's weights", "network/images", "weight.reshape(-1, micro_batch)", "weight[::-1].reshape(-1, micro_batch)", "local"),
    # --- training ---
    ("the ramp is late by a step", "training/pruning", "target * t / rise, sparsity.target)", "target * (t - 1) / rise, sparsity.target)", "pruning"),
    ("the number of weights to keep is rounded", "training/pruning", "np.trunc((1 - schedule", "np.round((1 - schedule", "pruning"),
    ("biases are pruned", "training/pruning", 'return name.endswith("_kernel")', "return True", "local"),
    ("ties do not stay", "training/pruning", "kept = size[name] >= threshold[name]", "kept = size[name] > threshold[name]", "pruning"),
    ("no floor", "training/pruning", "if sparsity.floor and params", "if not sparsity.floor and params", "pruning"),
    ("the floor saves one weight too few", "training/pruning", "jnp.sum(kept, axes) < floor", "jnp.sum(kept, axes) < floor - 1", "pruning"),
    ("a step of padding is the client's own", "training/local", "(plan.indices.shape[0]) < plan.steps", "(plan.indices.shape[0]) <= plan.steps", "local"),
    # --- circuits ---
    ("false positives over all images", "circuits/evaluation", "jnp.sum(count * other)", "jnp.sum(count)", "evaluation"),
    ("softmax of the class over every image", "circuits/evaluation", "_mean(probabilities[:, target], own)", "_mean(probabilities[:, target], valid)", "evaluation"),
    ("padding counts as an image", "circuits/evaluation", "called, classes = (answer == target) & valid,", "called, classes = (answer == target),", "evaluation"),
    ("a closed channel with a positive mean is left out", "network/ablation", "is_open | (self.outputs[layer] > 0)", "is_open", "discovery"),
    ("open channels are cheap", "circuits/objective", "return settings.l0 * jnp.sum", "return -settings.l0 * jnp.sum", "discovery"),
    # --- aggregation ---
    ("a weighted sum over the number of clients", "aggregation/fedavg", "total = jnp.sum(weights)", "total = jnp.asarray(len(weights))", "methods"),
    ("FedProx pulls away from the start", "aggregation/fedprox", "g + mu * (w - w0)", "g - mu * (w - w0)", "local"),
    ("the weighting is the other one", "aggregation/fedavg", 'weighting == "samples"', 'weighting != "samples"', "methods"),
    # --- federation ---
    ("the drift gap is of one and the same circuit", "federation/recording", "sufficiency[::-1] - cross", "sufficiency - cross", "simulation"),
    ("necessity keeps the circuit", "federation/controls", "own._replace(gates=remove[0])", "own._replace(gates=gates(masks, facts.dtype))", "simulation"),
    ("every round draws the same clients", "federation/setup", "keys.PARTICIPATE, number)", "keys.PARTICIPATE, 0)", "simulation"),
    ("a round is skipped", "federation/simulation", "range(done + 1, rounds + 1)", "range(done + 2, rounds + 1)", "resumable"),
    # --- devices ---
    ("chunks are cut too short", "devices/lift", "size = -(-length // chunks)", "size = length // chunks", "devices"),
    # --- data ---
    ("every round has the same batches", "data/batches", "generator(seed, TRAIN, round_, client)", "generator(seed, TRAIN, 0, client)", "batches"),
    ("a short batch counts for less", "data/batches", "batch, 1 / len(batch)", "batch, 1 / width", "batches"),
    ("discovery draws with replacement", "data/batches", "batch, replace=False, shuffle=False", "batch, replace=True, shuffle=False", "batches"),
    ("clients are limited by one draw", "data/partition", "generator(seed, LIMIT, client)", "generator(seed, LIMIT, 0)", "partition"),
    ("one client with enough images is enough", "data/partition", ".sum(axis=0).min() >= split.min_samples", ".sum(axis=0).max() >= split.min_samples", "partition"),
    # --- results ---
    ("two empty sets have nothing in common", "results/similarity", "np.where(either == 0, 1.0,", "np.where(either == 0, 0.0,", "similarity"),
    ("a gap in the rounds is a step", "results/similarity", "np.diff(rounds) == 1", "np.diff(rounds) >= 1", "similarity"),
    ("an edge needs one end in the circuit", "results/connectivity", "kept & mask_in[..., None, :]", "kept | mask_in[..., None, :]", "connectivity"),
    # --- analysis ---
    ("a set is compared with itself", "analysis/nulls", "_ratio(with_self - itself,", "_ratio(with_self,", "nulls"),
    ("who never worked has collapsed", "analysis/interference", "return _count(_turns(cross, 1))", "return out(cross).sum('round')", "interference"),
    ("a verdict by half of the interval", "analysis/verdicts", "criterion.low <= low and high <= criterion.high", "criterion.low <= high and low <= criterion.high", "claims"),
    ("channels are matched without the layer before", "analysis/alignment", "b[:, inputs])", "b)", "alignment"),
    # --- keeping ---
    ("a damaged checkpoint is used", "keeping/stored", "if not whole:", "if whole is None:", "resumable"),
    ("all checkpoints but the last are removed", "keeping/checkpoint", "[: -self.settings.keep]", "[:-1]", "resumable"),
    ("the checksum covers nothing", "files", "_LABEL + _digest(path, content)", 'line[:-1] or _digest(path, content)', "results"),
)]
# fmt: on

QUICK = "gates ops sparse_ops pruning evaluation methods batches partition similarity connectivity nulls interference"
"""Test files of which a sample is taken, because they are through in a moment."""


def main():
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults whose names hold one of these")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of those that are noticed quickly")
    parser.add_argument("--day", type=int, default=datetime.date.today().toordinal(), help="which sample: today's")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if not options.only or any(part in fault.name for part in options.only)]
    if options.sample:
        quick = [fault for fault in faults if set(fault.tests.split()) <= set(QUICK.split())]
        faults = [quick[(options.day * options.sample + i) % len(quick)] for i in range(options.sample)]
    with tempfile.TemporaryDirectory() as place:
        said = [judged(fault, Path(place)) for fault in faults]
    noticed = sum(word == "noticed" for word in said)
    print(f"{noticed} of {len(faults)} faults noticed")
    return int(noticed < len(faults))


def judged(fault, place):
    """Prints a row of the table; its word."""
    began = time.monotonic()
    word = verdict(fault, place)
    print(f"{word:24} {time.monotonic() - began:5.0f} s   {fault.name} ({fault.file}: {fault.tests})", flush=True)
    return word


def verdict(fault, place):
    package = place / "fedmi_jax"
    shutil.rmtree(package, ignore_errors=True)
    shutil.copytree(ROOT / "fedmi_jax", package, ignore=shutil.ignore_patterns("__pycache__"))
    file = package / f"{fault.file}.py"
    text = file.read_text()
    if text.count(fault.old) != 1:
        return "TEXT NOT FOUND ONCE"
    if fault.tests not in PASSING:
        if tested(fault.tests, place):
            return "FAILS WITHOUT THE FAULT"
        PASSING.add(fault.tests)
    file.write_text(text.replace(fault.old, fault.new))
    status = tested(fault.tests, place)
    return {0: "SURVIVES", 1: "noticed"}.get(status, f"PYTEST ENDED WITH {status}")


PASSING = set()
"""Test files that are known to pass on the package as it is."""


def tested(names, place):
    """Exit status of these test files on the package in `place`: 1 where a test fails."""
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in names.split()]
    flags = ["-x", "-n0", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-c", str(ROOT / "pyproject.toml")]
    paths = os.pathsep.join(map(str, (place, ROOT)))
    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(programs_folder()))
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_COMPILATION_CACHE_DIR": programs}
    command = [sys.executable, "-m", "pytest", *flags, *files]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True).returncode


if __name__ == "__main__":
    sys.exit(main())

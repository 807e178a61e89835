"""Planted faults: does the suite notice when the package is a little wrong?

python -m tests.faults [--only NAME ...] [--sample N [--day D]]: each fault is planted in a copy of the package, the
tests that should notice it run on that copy, and one of them must fail. (All of them must pass without a fault.) Exit
status 1 where a fault survives, or where the text that it changes does not stand in the package exactly once.
"""

import argparse
import datetime
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent))

import hypothesis
import pytest
from processor import programs_folder

ROOT = Path(__file__).parent.parent
PATIENCE = 900
"""Seconds. Tests that take longer have noticed the fault: it has made a loop endless."""


class Fault(NamedTuple):
    """A piece of text that stands once in a file of the package, and what it is changed to."""

    name: str
    file: str
    """Below fedmi_jax/, without .py."""
    old: str
    new: str
    tests: str
    """What should notice it, as in "gates model::test_outputs": tests/test_gates.py and one test of test_model.py."""

    @property
    def room(self) -> str:
        return self.file.rpartition("/")[0]


# fmt: off
# ruff: noqa: E501
FAULTS = [Fault(*row) for row in (
    # --- network ---
    ("a gate is open at 0", "network/gates", "return (score > threshold).astype", "return (score >= threshold).astype", "gates"),
    ("a gate's gradient is the sigmoid", "network/gates", "* s * (1 - s), jnp", "* s, jnp", "gates"),
    ("the pool's second winner gets the gradient", "network/ops", "jnp.where(a == top, 0, jnp", "jnp.where((a == top) & (b < top), 0, jnp", "ops"),
    ("ReLU lets a gradient pass at 0", "network/ops", "jnp.where(top > 0, first, -1)", "jnp.where(top >= 0, first, -1)", "ops"),
    ("the crop of a column is that of a row", "network/ops", "(1, 1 - crop_w)), kernel", "(1, 1 - crop_h)), kernel", "ops"),
    ("a sign in Winograd's transform", "network/ops", "inner = (u[1] + u[2]) / 2", "inner = (u[1] - u[2]) / 2", "ops"),
    ("the backward kernel is flipped in one direction", "network/sparse_ops", "kernel[::-1, ::-1].swapaxes", "kernel[::-1].swapaxes", "sparse_ops"),
    ("the last run of weights is left out", "network/sparse_ops", "runs = -(-jnp.sum(there, 0, dtype=jnp.int32) // RUN)", "runs = jnp.sum(there, 0, dtype=jnp.int32) // RUN", "sparse_ops"),
    ("pixels run to 256", "network/images", "(self.mean.dtype) / 255 - ", "(self.mean.dtype) / 256 - ", "evaluation"),
    ("micro-batches take each other's weights", "network/images", "shape[1:]) for leaf in batch)", "shape[1:]) for leaf in (*batch[:-1], batch[-1][::-1]))", "local"),
    ("a closed gate gets a gradient", "network/gates", "return g * gate, (gate > 0) * sum_to", "return g * gate, sum_to", "gates"),
    ("an open channel is replaced by its mean", "network/ablation", "(1 - gate) * self.outputs", "gate * self.outputs", "model::test_mean_ablation_replaces_closed_channels"),
    # --- training ---
    ("the ramp is late by a step", "training/pruning", "target * t / rise, sparsity.target)", "target * (t - 1) / rise, sparsity.target)", "pruning"),
    ("the number of weights to keep is rounded", "training/pruning", "np.trunc((1 - s)", "np.round((1 - s)", "pruning"),
    ("biases are pruned", "network/layers", 'return name.endswith("_kernel")', "return True", "local::test_is_the_plain_loop"),
    ("ties do not stay", "training/pruning", "kept[name] = size[name] >= threshold[name]", "kept[name] = size[name] > threshold[name]", "pruning"),
    ("no floor", "training/pruning", "if sparsity.floor and size[name].ndim == 4:\n            kept", "if not sparsity.floor and size[name].ndim == 4:\n            kept", "pruning"),
    ("the floor saves one weight too few", "training/pruning", "jnp.sum(kept, axes) < floor", "jnp.sum(kept, axes) < floor - 1", "pruning"),
    ("a step of padding is the client's own", "training/local", "(plan.indices.shape[0]) < plan.steps", "(plan.indices.shape[0]) <= plan.steps", "local::test_is_the_plain_loop"),
    # --- circuits ---
    ("false positives over all images", "circuits/evaluation", "jnp.sum(count * other)", "jnp.sum(count)", "evaluation"),
    ("softmax of the class over every image", "circuits/evaluation", "_mean(probabilities[:, target], own)", "_mean(probabilities[:, target], valid)", "evaluation"),
    ("padding counts as an image", "circuits/evaluation", "dtype=probabilities.dtype) * valid[:, None]", "dtype=probabilities.dtype)", "evaluation::test_performance_of_circuits"),
    ("padding is of the class", "circuits/evaluation", "own = valid & (labels == target)", "own = labels == target", "evaluation::test_performance_of_circuits"),
    ("a closed channel with a positive mean is left out", "network/ablation", "is_open | (self.outputs[layer] > 0)", "is_open", "discovery::test_smaller_models_are_used_and_change_nothing"),
    ("open channels are cheap", "circuits/objective", "lambda scores, _: settings.l0", "lambda scores, _: -settings.l0", "discovery::test_l0_penalty_is_the_sum_of_sigmoids"),
    ("side by side, the narrowest circuit decides", "circuits/narrowing", "lax.pmax(needed, beside)", "lax.pmin(needed, beside)", "model::test_side_by_side_all_take_the_smallest_model_that_holds_the_widest"),
    ("a model one channel too small is chosen", "circuits/narrowing", "needed <= jnp.array(smaller)", "needed <= jnp.array(smaller) + 1", "model::test_the_smallest_model_that_fits_is_run"),
    ("a dense model passes for a sparse one", "federation/simulation", "np.concatenate(found)[which].all()", "np.concatenate(found)[which].any()", "homes::test_a_stack_is_sparse_where_all_models_that_are_asked_for_are"),
    ("other models in a stack pass for sparse ones", "federation/homes", "parts=parts, sparse=False", "parts=parts", "homes::test_a_stack_is_sparse_where_all_models_that_are_asked_for_are"),
    ("one weight too many is visited", "circuits/narrowing", "jnp.count_nonzero(k) <= n", "jnp.count_nonzero(k) <= n + 1", "model::test_a_model_is_sparse_up_to_an_eighth_of_each_convolution_but_the_first"),
    ("where the class alone is asked for, all images are looked at", "circuits/evaluation", "jnp.where(alone, some, all_)", "all_", "evaluation"),
    # --- aggregation ---
    ("a weighted sum over the number of clients", "aggregation/fedavg", "total = jnp.sum(weights)", "total = jnp.asarray(len(weights))", "server_methods::test_fedavg_is_the_mean_of_the_clients"),
    ("FedProx pulls away from the start", "aggregation/fedprox", "g + mu * (w - w0)", "g - mu * (w - w0)", "client_methods::test_fedprox_adds_the_gradient_of_its_penalty"),
    ("the weighting is the other one", "aggregation/means", 'if weighting == "samples"', 'if weighting != "samples"', "server_methods::test_fedavg_is_the_mean_of_the_clients"),
    ("a row that nobody holds is 0", "aggregation/means", "jnp.where(total > 0, mean, jnp.asarray(otherwise, stacked.dtype))", "mean", "server_methods::test_a_class_that_nobody_holds_keeps_its_row"),
    ("a weight of no circuit is its holder's alone", "aggregation/means", "holds[:, None] & blocks, row)", "holds[:, None], row)", "server_methods::test_circuit_mean_is_a_loop_over_channels"),
    ("FedRS compares a class with all images", "aggregation/fedrs", "counts / jnp.max(counts)", "counts / jnp.sum(counts)", "client_methods::test_fedrs_scales_the_logits_by_the_clients_classes"),
    # --- federation ---
    ("the drift gap is of one and the same circuit", "federation/recording", "sufficiency[::-1] - cross", "sufficiency - cross", "cases::test_drift_gap_by_hand"),
    ("necessity keeps the circuit", "federation/controls", "own._replace(gates=remove[0])", "own._replace(gates=gates(masks, facts.dtype))", "controls::test_every_judgement_has_its_model_and_its_ablation"),
    ("every round draws the same clients", "federation/setup", "keys.PARTICIPATE, number)", "keys.PARTICIPATE, 0)", "simulation::test_who_takes_part_is_drawn_every_round_for_every_seed"),
    ("a round is skipped", "federation/simulation", "range(done + 1, rounds + 1)", "range(done + 2, rounds + 1)", "resumable::test_checkpoints_come_when_they_should_and_stay_while_they_should"),
    ("the round of a checkpoint is done again", "federation/simulation", "range(done + 1, rounds + 1)", "range(max(done, 1), rounds + 1)", "resumable::test_checkpoints_come_when_they_should_and_stay_while_they_should"),
    ("the server sees the circuit of another class", "federation/simulation", "cases.label[cases.real]]", "cases.label[cases.real] - 1]", "simulation::test_the_server_sees_every_circuit_at_its_clients_and_class"),
    ("clients start from the global model, not from what they are served", "federation/programs/training", "start = served(method, pick(global_models, which), seen)", "start = pick(global_models, which)", "client_methods::test_clients_start_from_what_they_are_served_with_their_own_state"),
    ("local circuits are searched on the global model", "federation/cases", "model=np.concatenate([local, server])", "model=np.concatenate([server, local])", "cases::test_a_round_of_three_circuits_by_hand"),
    ("circuits are crossed with their own model", "federation/cases", "other=np.concatenate([server, local])", "other=np.concatenate([local, server])", "cases::test_a_round_of_three_circuits_by_hand"),
    ("a circuit is its own mirror", "federation/cases", "mirror=np.concatenate([most + count, count])", "mirror=np.concatenate([count, most + count])", "cases::test_a_round_of_three_circuits_by_hand"),
    ("local and global circuits see the same batches", "federation/cases", "purposes[o], number", "purposes[0], number", "cases::test_a_round_of_three_circuits_by_hand"),
    ("circuits are searched twice a round too early", "federation/controls", "number == experiment.rounds", "number == experiment.rounds - 1", "controls::test_the_second_search_sees_other_batches"),
    ("a crossed circuit has its own model's means", "federation/simulation", "lambda v: v[cases.mirror], ablation", "lambda v: v, ablation", "cases::test_circuits_are_crossed_with_the_other_models_means"),
    ("means are of the first seed's clients", "federation/simulation", "cases.seed * len(facts.clients[0]) + cases.client", "cases.client", "cases::test_means_are_of_the_circuits_model_over_its_clients_images"),
    ("a circuit is searched on images of all classes", "federation/setup", "own[labels[own] == label]", "own", "cases::test_discovery_sees_the_clients_images_of_the_class_alone"),
    ("the step after the bad one is named", "federation/checks", "[bad[0]]) - 1)", "[bad[0]]))", "resumable::test_weights_that_are_not_finite_stop_the_run_and_keep_the_checkpoint"),
    ("classes without an image count in a round's metrics", "federation/metrics", "held = facts.counts > 0", "held = facts.counts >= 0", "cases::test_metrics_of_a_round_by_hand"),
    ("a round's metrics are of global circuits", "federation/metrics", '_by_client(facts, record["cross_evaluation"][0])', '_by_client(facts, record["cross_evaluation"][1])', "cases::test_metrics_of_a_round_by_hand"),
    # --- devices ---
    ("results of padding are taken for others", "devices/lift", "a.shape[2:])[:length], done)", "a.shape[2:])[-length:], done)", "devices::test_chunks_of_any_size_give_every_entry_once"),
    ("a batch is cut to whole pieces", "devices/layout", "self._pieces(share) * -(-share //", "self._pieces(share) * (share //", "batches::test_padded_widths_split_evenly_and_waste_little"),
    # --- data ---
    ("every round has the same batches", "data/batches", "generator(seed, TRAIN, round_, client)", "generator(seed, TRAIN, 0, client)", "batches"),
    ("a short batch counts for less", "data/batches", "own / np.maximum(self.counts, 1)[..., None]", "own / own.shape[-1]", "batches"),
    ("discovery draws with replacement", "data/batches", "batch, replace=False, shuffle=False", "batch, replace=True, shuffle=False", "batches"),
    ("clients are limited by one draw", "data/partition", "generator(seed, LIMIT, client)", "generator(seed, LIMIT, 0)", "partition"),
    ("one client with enough images is enough", "data/partition", ".sum(axis=0).min() >= split.min_samples", ".sum(axis=0).max() >= split.min_samples", "partition"),
    ("a client holds images twice", "data/partition", "np.array_split(rng.permutation(len(labels)),", "np.array_split(rng.integers(len(labels), size=len(labels)),", "partition"),
    ("a client holds the first of its classes alone", "data/partition", "np.isin(labels, classes)", "np.isin(labels, classes[:1])", "partition"),
    ("the last batch of an epoch is left out", "data/batches", "epochs * -(-samples // batch_size)", "epochs * (samples // batch_size)", "batches"),
    ("skew is twice as large", "data/partition", ".sum(axis=1) / 2", ".sum(axis=1)", "partition"),
    ("other test images are the same images", "data/identity", "dataset.train_labels, dataset.test_images, dataset.test_labels", "dataset.train_labels, dataset.test_labels", "identity"),
    # --- results ---
    ("two empty sets have nothing in common", "results/similarity", "np.where(either == 0, 1.0,", "np.where(either == 0, 0.0,", "similarity"),
    ("a gap in the rounds is a step", "results/similarity", "np.diff(rounds) == 1", "np.diff(rounds) >= 1", "similarity"),
    ("an edge needs one end in the circuit", "results/connectivity", "kept & mask_in[..., None, :]", "kept | mask_in[..., None, :]", "connectivity"),
    ("two sets are alike where they have something in common", "results/similarity", "np.count_nonzero(a | b, axis=-1)", "np.count_nonzero(a & b, axis=-1)", "similarity"),
    ("stability is against the first round", "results/similarity", "_one_to_one(mask[:, :-1], mask", "_one_to_one(mask[:, :1], mask", "similarity"),
    ("a circuit is paired with itself", "results/similarity", "same=i == j", "same=False", "similarity"),
    ("a result says nothing of its run", "results/store", "return schema.described(ds).assign_attrs(attrs)", "return schema.described(ds)", "results::test_stamp_keeps_the_experiment"),
    ("what is not there is true", "results/schema", '"b": False', '"b": True', "schema::test_the_documentation_is_the_table"),
    ("an interval of 90 %", "results/statistics", "LEVEL = 0.95", "LEVEL = 0.9", "statistics"),
    ("a seed without a value counts", "results/statistics", "limits, there.sum(0))", "limits, there.sum(0) * 0 + len(there))", "statistics"),
    ("a summary is of the first round", "results/summary", "images = ds.isel(round=-1)", "images = ds.isel(round=0)", "results"),
    ("classes that a client lacks count as held", "results/worth", 'held = ds["samples"] > 0', 'held = ds["samples"] >= 0', "results::test_summary_says_what_a_run_is_worth"),
    # --- analysis ---
    ("a set is compared with itself", "analysis/nulls", "_ratio(with_self - itself,", "_ratio(with_self,", "nulls"),
    ("who never worked has collapsed", "analysis/interference", "return _count(_turns(cross, 1))", "return out(cross).sum('round')", "interference"),
    ("a verdict by half of the interval", "analysis/verdicts", "criterion.low <= low and high <= criterion.high", "criterion.low <= high and low <= criterion.high", "claims"),
    ("channels are matched without the layer before", "analysis/alignment", "b[:, inputs])", "b)", "alignment"),
    ("three seeds are too few", "analysis/verdicts", "estimate.seeds < MIN_SEEDS", "estimate.seeds <= MIN_SEEDS", "claims::test_one_definition"),
    ("two empty sets are not expected to be equal", "analysis/nulls", "table[0, 0] = 1.0", "table[0, 0] = 0.0", "nulls"),
    # --- keeping ---
    ("a damaged checkpoint is used", "keeping/stored", "if not whole:", "if whole is None:", "resumable::test_a_damaged_checkpoint_is_passed_over_for_the_one_before"),
    ("all checkpoints but the last are removed", "keeping/checkpoint", "[: -self.settings.keep]", "[:-1]", "resumable::test_a_damaged_checkpoint_is_passed_over_for_the_one_before"),
    ("bits are read in the other order", "keeping/stored", "np.unpackbits(bits, count", "np.unpackbits(bits, bitorder='little', count", "resumable::test_arrays_come_back_bit_for_bit_and_booleans_take_a_bit"),
    ("a run goes on from a fresh model", "keeping/checkpoint", "self._state(done, fresh) if done else fresh", "fresh", "resumable::test_checkpoints_come_when_they_should_and_stay_while_they_should"),
    ("a run on other images is the same run", "keeping/manifest", "[_identity(self.experiment), self.dataset, *own]", "[_identity(self.experiment), *own]", "resumable::test_runs_begun_by_earlier_versions_are_the_same_runs"),
    # --- ground ---
    ("the checksum covers nothing", "files", "_LABEL + _digest(path, content)", 'line[:-1] or _digest(path, content)', "results::test_what_is_no_result_is_refused_in_one_line"),
    ("keys of other purposes draw the same", "keys", "spawn_key=(purpose, *key)", "spawn_key=key", "batches"),
    ("part of a client is none", "config", "e.split.clients + 0.5)", "e.split.clients)", "cases::test_participants_are_the_nearest_number_of_clients"),
)]
# fmt: on

SLOW = {
    "sparse_ops", "evaluation", "local", "discovery", "model",
    "client_methods::test_clients_start_from_what_they_are_served_with_their_own_state",
}  # fmt: skip
"""Tests of which no sample is taken, because they compile much."""


def main():
    parser = argparse.ArgumentParser(prog="tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="faults whose names hold one of these")
    parser.add_argument("--sample", type=int, metavar="N", help="one fault of each of so many rooms, noticed quickly")
    parser.add_argument("--day", type=int, default=datetime.date.today().toordinal(), help="which sample: today's")
    options = parser.parse_args()
    faults = [fault for fault in FAULTS if not options.only or any(part in fault.name for part in options.only)]
    if options.sample:
        faults = sample(faults, options.sample, options.day)
    return judge(faults)


def sample(faults, number, day):
    """One quick fault of each of so many rooms. Every day other rooms have their turn, and in each the next fault."""
    quick = [fault for fault in faults if is_quick(fault)]
    rooms = [[fault for fault in quick if fault.room == room] for room in dict.fromkeys(f.room for f in quick)]
    turns = [divmod(day * number + i, len(rooms)) for i in range(min(number, len(rooms)))]
    return [rooms[which][turn % len(rooms[which])] for turn, which in turns]


def is_quick(fault):
    """Whether its tests are through in a moment."""
    return not any(SLOW & {test, test.split("::")[0]} for test in fault.tests.split())


def judge(faults):
    """Prints a line for every fault. Returns 0 where all are noticed, else 1."""
    noticed = 0
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        copy_package(place)
        named = dict.fromkeys(test for fault in faults for test in fault.tests.split())
        if (said := outcome(list(named), place)) != PASSED:
            print(f"nothing can be told, because the tests must pass without a fault: {said}")
            return 1
        for fault in faults:
            began = time.monotonic()
            said = planted(fault, place)
            noticed += said.startswith(NOTICED)
            print(f"{time.monotonic() - began:4.0f} s  {fault.file}: {fault.name}: {said}", flush=True)
    print(f"{noticed} of {len(faults)} faults noticed")
    return int(noticed < len(faults))


def copy_package(place):
    """Anew, because Python may take compiled code of a file for that of another which was written in the same second."""
    shutil.rmtree(place / "fedmi_jax", ignore_errors=True)
    shutil.copytree(ROOT / "fedmi_jax", place / "fedmi_jax", ignore=shutil.ignore_patterns("__pycache__"))


def planted(fault, place):
    """What the tests say of this fault."""
    copy_package(place)
    file = place / "fedmi_jax" / f"{fault.file}.py"
    text = file.read_text(encoding="utf-8")
    if text.count(fault.old) != 1:
        return "ITS TEXT DOES NOT STAND THERE ONCE"
    file.write_text(text.replace(fault.old, fault.new), encoding="utf-8")
    said = outcome(fault.tests.split(), place)
    return "SURVIVED" if said == PASSED else said


PASSED, NOTICED, ELSEWHERE = "passed", "noticed", 99


def outcome(tests, place):
    """How these tests end on the package in `place`: PASSED; NOTICED, and by which test; or another end of pytest."""
    paths = [place, ROOT, Path(__file__).parent]
    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(programs_folder()))
    environment = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "JAX_COMPILATION_CACHE_DIR": programs}
    flags = ["-x", "-n0", "-rfE", "--tb=no", "--color=no", "-m", "not slow", "-p", "no:cacheprovider", "-p", "faults"]
    command = [sys.executable, "-m", "pytest", *flags, "-c", str(ROOT / "pyproject.toml"), *map(address, tests)]
    try:
        status, said = ended(command, place, os.environ | environment)
    except subprocess.TimeoutExpired:
        return f"{NOTICED}, because its tests did not end in {PATIENCE} s"
    if status == 0:
        return PASSED
    failed = re.search(r"^(?:FAILED|ERROR) \S*/(\S+::.+?)(?: - |$)", said, re.MULTILINE)
    if status != 1 or not failed:
        return "ANOTHER PACKAGE WAS TESTED" if status == ELSEWHERE else f"PYTEST ENDED WITH {status}"
    return f"{NOTICED} by {failed[1]}"


def address(test):
    file, *one = test.split("::")
    return "::".join([str(ROOT / "tests" / f"test_{file}.py"), *one])


def ended(command, place, environment):
    """Exit status and output. Raises TimeoutExpired; then nothing that was started is left."""
    process = subprocess.Popen(
        command, cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=PATIENCE)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return process.returncode, said


# --- as a plugin of the tests that it runs ---


def pytest_configure():
    """Property tests try the same examples every time, and do not look for a smaller one that fails."""
    phases = [phase for phase in hypothesis.Phase if phase.name in ("explicit", "generate")]
    hypothesis.settings.register_profile("faults", derandomize=True, phases=phases)
    hypothesis.settings.load_profile("faults")


def pytest_collection_finish():
    """What the tests import must be the copy in the current folder."""
    import fedmi_jax

    if Path(fedmi_jax.__file__) != Path.cwd() / "fedmi_jax" / "__init__.py":
        pytest.exit(f"{fedmi_jax.__file__} is tested, not the copy in {Path.cwd()}", ELSEWHERE)


if __name__ == "__main__":
    sys.exit(main())

"""One round of the two-class preset: train, average, discover local and global circuits, every measure.

    python -m benchmarks.end_to_end [--full | --images N] [--decision] [--json]

By default with a fifth of the training and of the test images; discovery has its 200 steps and full batches either
way. Both sides do the same work on the same batches, drawn within the timing as in a run; placing the images on the
device is not counted. The stages are timed too: a stage ends when its results are there.

With --decision it is a round of fedmi_jax's whose circuits the second instrument finds (docs/decisions.md), in turns
with the round as published.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import report
from benchmarks.timing import Budget, Contender, Stopwatch, alternate, compare, on_jax, times_as_long
from fedmi_jax import presets
from fedmi_jax.config import Data, Discovery, Evaluation, Experiment, replace
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.federation import simulation
from fedmi_jax.federation.setup import Setup, place, prepare
from fedmi_jax.federation.simulation import Progress
from fedmi_jax.keeping.checkpoint import State

if TYPE_CHECKING:
    from benchmarks.pytorch_reference.federation import Reference

FIFTH = {"data": Data(images_per_client=2450), "evaluation": Evaluation(images_per_class=200)}
"""Of about 12 250 images of two classes, and of about 1000 test images of a class."""


def experiment(full: bool, images: int | None = None) -> Experiment:
    """images: of a client, and one test image of a class for every ten of them, in place of a fifth."""
    (two,) = presets.preset("two-class").experiments
    if images:
        few = Evaluation(images_per_class=max(1, images // 10))
        return replace(two, data=Data(images_per_client=images), evaluation=few)
    return two if full else replace(two, **FIFTH)


def measure(experiment: Experiment, budget: Budget, dataset: Dataset | None = None) -> dict[str, Any]:
    """What `main` prints."""
    setup, missing = place(prepare(experiment, dataset)), report.why_no_torch()
    ours, our_laps = jax_side(setup)
    theirs, their_laps = (None, None) if missing else torch_side(setup)
    found = compare(ours, theirs, budget)
    what = f"one round, {setup.facts.counts.sum()} training images, {len(setup.facts.clients[0])} clients"
    facts = {
        "circuits": 2 * len(setup.facts.circuits.label),
        "local_steps": setup.facts.steps.ravel().tolist(),
        "test_images": int(setup.test.valid.sum()),
    }
    found |= {"stages": stages(our_laps, their_laps, found["turns"]), "facts": facts, "pytorch_missing": missing}
    return {"benchmark": "end_to_end", "what": what, **found}


def jax_side(setup: Setup) -> tuple[Contender, Stopwatch]:
    watch = Stopwatch(partial(_round, setup, simulation.initial_state(setup)))
    return on_jax(watch), watch


def _round(setup: Setup, start: State, progress: Progress) -> Any:
    return simulation.one_round(setup, start, 1, progress)


def torch_side(setup: Setup) -> tuple[Contender, Stopwatch]:
    from benchmarks.pytorch_reference import federation as torch_federation
    from benchmarks.pytorch_reference import model

    reference = torch_federation.prepare(setup, model.place(device=report.torch_device()))
    start = model.from_package(simulation.initial_params(setup.facts, 0), reference.where)
    watch = Stopwatch(partial(_torch_round, reference, start))
    wait = partial(torch_federation.synchronise, reference.where)
    return Contender(watch, wait, torch_federation.warm_up(reference, start)), watch


def _torch_round(reference: Reference, start: Any, progress: Progress) -> Any:
    from benchmarks.pytorch_reference import federation as torch_federation
    from benchmarks.pytorch_reference import training

    progress(1, "train")
    local, _ = torch_federation.train(reference, start, 1)
    torch_federation.synchronise(reference.where)
    return torch_federation.analyse(reference, local, training.average(local), 1, progress)


def measure_decision(
    experiment: Experiment, budget: Budget, dataset: Dataset | None = None, search: Discovery | None = None
) -> dict[str, Any]:
    """What `main` prints with --decision: a round with the second instrument, and how many times as long as a round
    with the paper's search it takes, turn by turn."""
    search = search or Discovery(objective="decision")
    setups = [place(prepare(one, dataset)) for one in (experiment, replace(experiment, discovery=search))]
    (published, their_laps), (ours, our_laps) = (jax_side(setup) for setup in setups)
    times = alternate({"published": published, "fedmi_jax": ours}, budget)
    longer, quartiles = times_as_long(times["fedmi_jax"], times["published"])
    turns = len(times["fedmi_jax"].turns)
    facts = {
        "times_as_long_as_the_published_round": longer, "times_as_long_quartiles": quartiles,
        "published_median_s": times["published"].median,
        **{f"published_{name}_s": row["fedmi_jax_s"] for name, row in stages(their_laps, None, turns).items()},
    }  # fmt: skip
    what = f"one round, objective decision, {setups[1].facts.counts.sum()} training images"
    sides = {"turns": turns, "fedmi_jax": times["fedmi_jax"].summary(), "pytorch": None, "pytorch_missing": None}
    found = {"benchmark": "end_to_end", "what": what, "ratio": None, "ratio_quartiles": None, **sides}
    return found | {"stages": stages(our_laps, None, turns), "facts": facts}


def stages(ours: Stopwatch, theirs: Stopwatch | None, turns: int) -> dict[str, dict[str, float | None]]:
    """Per stage: median seconds of both sides, and the median of the turns' ratios."""
    found: dict[str, dict[str, float | None]] = {}
    for stage in ours.laps[-1]:
        own = np.array([laps[stage] for laps in ours.laps[-turns:]])
        found[stage] = {"fedmi_jax_s": float(np.median(own)), "pytorch_s": None, "ratio": None}
        if theirs:
            other = np.array([laps[stage] for laps in theirs.laps[-turns:]])
            found[stage] |= {"pytorch_s": float(np.median(other)), "ratio": float(np.median(other / own))}
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = report.parser("end_to_end", __doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="with all images; takes many minutes on a CPU")
    size.add_argument("--images", type=report.positive_int, help="of a client, and a tenth as many of a class to test")
    parser.add_argument("--decision", action="store_true", help="the second instrument beside the paper's search")
    options = parser.parse_args(arguments)
    return report.run(options, partial(_measure, options))


def _measure(options: Any) -> dict[str, Any]:
    chosen = measure_decision if options.decision else measure
    return chosen(experiment(options.full, options.images), report.budget(options, seconds=150, most=5))


if __name__ == "__main__":
    sys.exit(main())

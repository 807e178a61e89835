"""Circuit discovery: all circuits of a round, fedmi_jax against PyTorch.

    python -m benchmarks.discovery [--clients K --classes Y] [--circuits N] [--steps 200] [--json]

By default 3 clients x 2 classes (the two-class preset: 6 circuits on local models, 6 on the global one), which `ratio`
is of, and 5 clients x 10 classes (the iid preset with every class: 100 circuits, of which a few, evenly spread, are
timed). 200 steps each, on the batches that the method gives (256 * the class's share of the client's data).

The models were trained and pruned with fedmi_jax for a round of 50 steps, outside the timing: how many channels matter
depends on it. The circuits take turns: in a turn each side finds the same few of them. On a GPU that is all of them,
since there they run side by side.

The last table is of the second instrument (docs/decisions.md) on the first case's circuits: beside PyTorch's search
with the same objective, and, as `times_as_long_as_the_published_search`, beside fedmi_jax's own as the paper has it.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from benchmarks import decision, report
from benchmarks.timing import Budget, Contender, compare, on_jax
from fedmi_jax import presets
from fedmi_jax.config import Data, Discovery, Experiment, Local, Split, replace
from fedmi_jax.data.batches import Plan
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.devices import lift
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import programs, simulation
from fedmi_jax.federation.setup import Setup, place, prepare
from fedmi_jax.network.ablation import ZERO
from fedmi_jax.network.model import Params

if TYPE_CHECKING:
    from benchmarks.pytorch_reference.federation import Reference

IMAGES, EPOCHS = 2560, 5
"""Of a client, in the training before."""


class Work(NamedTuple):
    """Circuits to be found: P turns of c each."""

    models: Params
    """(K + 1, ...): local ones, then the global one."""
    which: np.ndarray
    """(P, c) each circuit's model."""
    rows: np.ndarray
    """(P, c) each circuit's row in the round's table of cases."""
    plan: Plan
    """(P, c, T, B)."""


def experiment(clients: int, classes: int, steps: int, images: int = IMAGES) -> Experiment:
    """The preset of this size, or one like it: disjoint classes where there are enough, else equal shares."""
    training = {"data": Data(images_per_client=images), "local": Local(epochs=EPOCHS)}
    (two,), (iid,) = presets.preset("two-class").experiments, presets.preset("iid").experiments
    if (clients, classes) == (3, 2):
        return replace(two, discovery=Discovery(steps=steps), **training)
    if clients * classes <= 10:
        own = tuple(tuple(range(k * classes, (k + 1) * classes)) for k in range(clients))
        split = Split(kind="class-map", clients=clients, class_map=own)
        return replace(two, split=split, discovery=Discovery(steps=steps), **training)
    found = Discovery(classes=tuple(range(classes)), steps=steps)
    return replace(iid, split=Split(kind="iid", clients=clients), discovery=found, **training)


def case(
    experiment: Experiment, limit: int | None, budget: Budget, together: int | None = None,
    dataset: Dataset | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Times of one experiment's circuits, or of `limit` of them; together: how many in a turn."""
    setup = place(prepare(experiment, dataset))
    work = a_round(setup, limit, together)
    turns, each = work.which.shape
    budget = replace(budget, least=min(turns, budget.most))
    missing = report.why_no_torch()
    found = compare(jax_side(setup, work), None if missing else torch_side(setup, work), budget)
    return {"what": describe(setup, turns * each), **found, "facts": facts(setup, found, each)}


def decision_case(
    experiment: Experiment, limit: int | None, budget: Budget, together: int | None = None,
    dataset: Dataset | None = None, search: Discovery | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The same circuits as those of `case`, as the second instrument finds them, in turns with the paper's search.

    search: its settings; by default those of the objective, with the experiment's steps and classes.
    """
    published = place(prepare(experiment, dataset))
    work = a_round(published, limit, together)
    looked_for = experiment.discovery
    search = search or Discovery(objective="decision", steps=looked_for.steps, classes=looked_for.classes)
    setup = place(prepare(replace(experiment, discovery=search), dataset))
    turns, each = work.which.shape
    budget = replace(budget, least=min(turns, budget.most))
    found = decision.case(setup, work.models, work.rows, jax_side(published, work), budget)
    return {"what": f"{describe(setup, turns * each)}, objective decision", **found}


def describe(setup: Setup, timed: int) -> str:
    total, settings = 2 * len(setup.facts.circuits.label), setup.facts.experiment.discovery
    some = f", {timed} timed" if timed < total else ""
    clients, classes = len(setup.facts.clients[0]), len(setup.facts.circuits.label) // len(setup.facts.clients[0])
    return f"discovery, {clients} clients x {classes} classes ({total} circuits{some}), {settings.steps} steps"


def a_round(setup: Setup, limit: int | None, together: int | None) -> Work:
    """A round's circuits, or `limit` of them, evenly spread, in turns of equally many."""
    cases = setup.facts.cases(setup.facts.round(1))
    models, plan, which = trained(setup), simulation.discovery_plans(setup, cases, 1), cases.model
    total = len(which)
    chosen = np.linspace(0, total - 1, min(limit or total, total)).astype(int)
    side_by_side = setup.layout.devices if setup.layout.one_by_one else len(chosen)
    most = max(1, len(chosen) // (together or side_by_side))
    turns = next(p for p in range(most, 0, -1) if len(chosen) % p == 0)
    rows = chosen.reshape(turns, -1)
    return Work(models, which[rows], rows, Plan(*(np.asarray(part)[rows] for part in plan)))


def trained(setup: Setup) -> Params:
    """Every client's model after a round, and their average."""
    (start, state), first = simulation.initial_state(setup), setup.facts.round(1)
    local, _ = simulation.train(setup, start, first, state)
    average, _ = simulation.aggregate(setup, state, start, local, first)
    own = jax.tree.map(lambda leaf: leaf[: first.clients.size], local)
    return lift.replicate(jax.tree.map(lambda *leaves: np.concatenate(leaves), own, average), setup.layout)


def jax_side(setup: Setup, work: Work) -> Contender:
    return on_jax(partial(_discover, setup, work))


def _discover(setup: Setup, work: Work, turn: int) -> Any:
    row = turn % len(work.which)
    return programs.discover_circuits(
        work.models, setup.train_images, work.which[row], Plan(*(np.asarray(part)[row] for part in work.plan)), ZERO,
        layout=setup.layout, settings=setup.facts.experiment.discovery,
    )  # fmt: skip


def torch_side(setup: Setup, work: Work) -> Contender:
    from benchmarks.pytorch_reference import federation as torch_federation
    from benchmarks.pytorch_reference import model

    reference = torch_federation.prepare(setup, model.place(device=report.torch_device()))
    models = model.unstacked(work.models, reference.where)
    run, wait = (
        partial(_discover_torch, reference, models, work),
        partial(torch_federation.synchronise, reference.where),
    )
    return Contender(run, wait, torch_federation.warm_up(reference, models[-1]))


def _discover_torch(reference: Reference, models: list[Any], work: Work, turn: int) -> Any:
    from benchmarks.pytorch_reference import circuits, training

    row, settings = turn % len(work.which), reference.setup.facts.experiment.discovery
    plans = training.unstacked(Plan(*(np.asarray(part)[row] for part in work.plan)))
    return [
        circuits.discover(models[m], reference.train_images, plan, settings)
        for m, plan in zip(work.which[row], plans, strict=True)
    ]


def facts(setup: Setup, found: dict[str, Any], each: int) -> dict[str, Any]:
    """Of both sides: seconds for all of the round's circuits, from the mean over those timed."""
    total = 2 * len(setup.facts.circuits.label)
    known: dict[str, Any] = {
        "circuits_in_a_turn": each,
        "images_per_step": [min(setup.facts.discovery_batches), max(setup.facts.discovery_batches)],
    }
    for name in ("fedmi_jax", "pytorch"):
        if side := found[name]:
            known[f"{name}_s_for_{total}_circuits"] = total / each * float(np.mean(side["turns_s"]))
    return known


def measure(
    cases: list[tuple[int, int, int | None]], steps: int, budget: Budget, images: int = IMAGES
) -> dict[str, Any]:  # fmt: skip
    """What `main` prints; cases: (clients, classes, circuits timed or None for all)."""
    found = [case(experiment(clients, classes, steps, images), limit, budget) for clients, classes, limit in cases]
    clients, classes, limit = cases[0]
    found.append(decision_case(experiment(clients, classes, steps, images), limit, budget))
    first = {"ratio": found[0]["ratio"], "ratio_is_of": found[0]["what"]}
    return {"benchmark": "discovery", **first, "cases": found, "pytorch_missing": report.why_no_torch()}


def main(arguments: list[str] | None = None) -> int:
    parser = report.parser("discovery", __doc__)
    parser.add_argument("--clients", type=report.positive_int, help="one case only; with --classes")
    parser.add_argument("--classes", type=report.positive_int, help="per client")
    parser.add_argument("--circuits", type=report.positive_int, help="time only this many of a round's circuits")
    parser.add_argument("--steps", type=report.positive_int, default=200)
    parser.add_argument("--images", type=report.positive_int, default=IMAGES, help="of a client")
    options = parser.parse_args(arguments)
    return report.run(options, partial(_measure, options))


def _measure(options: Any) -> dict[str, Any]:
    if (options.clients is None) != (options.classes is None):
        raise FedmiError("--clients, --classes: give both or none")
    some = 12 if jax.default_backend() == "cpu" else None
    cases = [(3, 2, options.circuits), (5, 10, options.circuits or some)]
    if options.clients:
        cases = [(options.clients, options.classes, options.circuits)]
    # on a CPU each circuit is timed once, in so many turns; on a GPU a turn is the whole round, and short
    seconds, most = (0, 1000) if jax.default_backend() == "cpu" else (45, 9)
    return measure(cases, options.steps, report.budget(options, seconds, most), options.images)


if __name__ == "__main__":
    sys.exit(main())

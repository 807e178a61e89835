"""The second instrument's search in the benchmarks: on the models of a round, beside PyTorch's and beside the paper's.

A search is here all that finds a circuit: what the models make of the probe images, the search, and the choice of the
size. The draws are made before, as those of the paper's search are.

Axes: P turns of c circuits each, n circuits of a round, Y classes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks import report
from benchmarks.timing import Budget, Contender, alternate, on_jax, times_as_long
from fedmi_jax import keys
from fedmi_jax.circuits.deciding import Task
from fedmi_jax.config import Discovery
from fedmi_jax.federation import instrument, programs
from fedmi_jax.federation.cases import Cases
from fedmi_jax.federation.setup import Setup
from fedmi_jax.network.model import Params


def case(
    setup: Setup, models: Params, rows: np.ndarray, published: Contender, budget: Budget
) -> dict[str, Any]:  # fmt: skip
    """Times of both sides, and how many times as long as the paper's search this one takes, turn by turn.

    Args: setup: of an experiment with objective "decision"; rows (P, c): the circuits of every turn, out of the round's
    table of cases; published: the paper's search of the same circuits on the same models.
    """
    cases = setup.facts.cases(setup.facts.round(1))
    others = np.arange(setup.facts.dataset.num_classes) != cases.label[:, None]
    keyed = cases.keys(setup.facts.experiment.seeds, keys.DECIDE, 1)
    tasks = instrument.tasks(setup, cases, others, keyed, models, setup.facts.experiment.discovery)
    ours = on_jax(partial(_discover, setup, models, cases, tasks, rows))
    contenders = {"fedmi_jax": ours, "published": published}
    if not report.why_no_torch():
        contenders["pytorch"] = torch_side(setup, models, cases.model, tasks, rows)
    times = alternate(contenders, budget)
    found: dict[str, Any] = {"turns": len(times["fedmi_jax"].turns), "ratio": None, "ratio_quartiles": None}
    if theirs := times.get("pytorch"):
        found["ratio"], found["ratio_quartiles"] = times_as_long(theirs, times["fedmi_jax"])
    longer, quartiles = times_as_long(times["fedmi_jax"], times["published"])
    facts = {
        "circuits_in_a_turn": rows.shape[1], "times_as_long_as_the_published_search": longer,
        "times_as_long_quartiles": quartiles, "published_median_s": times["published"].median,
    }  # fmt: skip
    sides = {name: times[name].summary() if name in times else None for name in ("fedmi_jax", "pytorch")}
    return found | sides | {"facts": facts}


def _discover(setup: Setup, models: Params, cases: Cases, tasks: Task, rows: np.ndarray, turn: int) -> Any:
    row, settings = rows[turn % len(rows)], setup.facts.experiment.discovery
    seeds = cases.seed[row]
    which, first, back = np.unique(cases.model[row], return_index=True, return_inverse=True)
    probed = jax.tree.map(lambda leaf: leaf[back], instrument.survey(setup, models, which, seeds[first]))
    return programs.decide_circuits(
        models, cases.model[row], setup.probe, seeds, probed, jax.tree.map(lambda leaf: leaf[row], tasks),
        layout=setup.layout, settings=settings, searched=setup.facts.dataset.num_classes * settings.probe[0],
    )  # fmt: skip


def torch_side(setup: Setup, models: Params, model: np.ndarray, tasks: Task, rows: np.ndarray) -> Contender:
    """The PyTorch reference, one circuit after the other."""
    from benchmarks.pytorch_reference import deciding, federation
    from benchmarks.pytorch_reference.model import images, place, unstacked

    where, data, settings = place(device=report.torch_device()), setup.facts.dataset, setup.facts.experiment.discovery
    own, probe = unstacked(models, where), setup.probe
    assert probe is not None
    shown = images(np.asarray(probe.pixels)[0], np.asarray(probe.labels)[0], (data.mean, data.std), where)
    searched = data.num_classes * settings.probe[0]

    def one(n: int, settings: Discovery) -> Any:
        label, others, plan, draws, chosen, valid, _ = jax.tree.map(lambda leaf: np.asarray(leaf)[n], tuple(tasks))
        task = deciding.Task(int(label), others, plan, draws, chosen[valid])
        return deciding.decide(own[model[n]], shown, searched, task, settings, where.forward_batch)

    def run(turn: int) -> list[Any]:
        return [one(n, settings) for n in rows[turn % len(rows)].tolist()]

    def little() -> Any:
        return deciding.survey(own[0], shown, where.forward_batch, where.forward_batch)

    return Contender(run, partial(federation.synchronise, where), None if where.device.type == "cuda" else little)

"""The round and the run: local training, aggregation, discovery, evaluation, record.

Axes: S seeds, K clients, of which P take part in a round, M = S * P models (seed-major), C circuits (seed-, then
client-, then class-major), Y classes, T steps, B images of a batch. Models are stacked as (M local ones, then S global
ones).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from fedmi_jax import keys
from fedmi_jax.aggregation import aggregator
from fedmi_jax.circuits import evaluation
from fedmi_jax.config import Experiment, replace
from fedmi_jax.data import batches
from fedmi_jax.data.batches import Plan
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.devices import lift
from fedmi_jax.devices.session import session
from fedmi_jax.federation import checks, controls, metrics, programs, recording
from fedmi_jax.federation.metrics import OnRound
from fedmi_jax.federation.setup import Circuits, Round, Setup, memory, prepare
from fedmi_jax.keeping.checkpoint import InMemory, Keeper, State
from fedmi_jax.network.layers import CONV_LAYERS
from fedmi_jax.network.model import Gates, Params

__all__ = ["Circuits", "Round", "Setup", "memory", "prepare", "run"]

Progress = Callable[[int, str], None]
"""Called as (round, stage) when a stage of a round begins, and as (rounds + 1, "done") at the end."""


def run(
    experiment: Experiment, dataset: Dataset | None = None, progress: Progress | None = None,
    keeper: Keeper | None = None, on_round: OnRound | None = None,
) -> xr.Dataset:  # fmt: skip
    """Run the experiment and return its result (see `fedmi_jax.results.schema` for the variables).

    Args: dataset: images to use in place of those `experiment.data` names; keeper: where every round is kept, and which
    rounds are done (`fedmi_jax.keeping.checkpoint`); on_round: told of every round that is done and kept
    (`fedmi_jax.federation.metrics`). Raises FedmiError for a configuration that does not fit the data, and for a loss
    or weights that are not finite.
    """
    with session(experiment.execution):
        return _run(prepare(experiment, dataset), progress or _silent, keeper or InMemory(), on_round)


def _run(setup: Setup, progress: Progress, keeper: Keeper, on_round: OnRound | None = None) -> xr.Dataset:
    rounds = setup.experiment.rounds
    done, state = keeper.start(initial_state(setup))
    state = lift.replicate(state, setup.layout)
    for number in range(done + 1, rounds + 1):
        began = time.monotonic()
        state, record = one_round(setup, state, number, progress)
        keeper.add(number, record, state)
        if on_round is not None:
            on_round(number, metrics.of_round(setup, record, time.monotonic() - began))
    progress(rounds + 1, "done")
    return recording.assemble(setup, keeper.records(rounds))


def initial_state(setup: Setup) -> State:
    """Every seed's fresh global model, (S, ...), on every device, and the server's state."""
    globals_ = initial_models(setup)
    return globals_, jax.vmap(aggregator(setup.experiment.aggregation).init)(globals_)


def one_round(setup: Setup, state: State, number: int, progress: Progress) -> tuple[State, recording.Record]:
    """The state after this round, and all that was measured in it: a function of its arguments alone."""
    round_ = setup.round(number)
    progress(number, "train")
    local, losses = train(setup, state[0], round_)
    globals_, server = aggregate(setup, state[1], state[0], local, round_)
    checks.require_finite_weights(setup, round_, local, globals_)
    record = recording.snapshot(setup, round_, losses, local, globals_)
    return (globals_, server), record | analyse(setup, local, globals_, round_, progress)


def differing_when_repeated(setup: Setup) -> list[str]:
    """The names of the arrays of the first round in which two computations of it differ in any bit.

    Only the second one runs programs that were run before; nothing else is different.
    """
    start = lift.replicate(initial_state(setup), setup.layout)
    found = [one_round(setup, start, 1, _silent) for _ in range(2)]
    flat = [{**record, "global weights": np.concatenate([np.ravel(w) for w in s[0].values()])} for s, record in found]
    return [k for k, v in flat[0].items() if np.asarray(v).tobytes() != np.asarray(flat[1][k]).tobytes()]


def _silent(round_: int, stage: str) -> None:
    pass


def initial_models(setup: Setup) -> Params:
    """Every seed's fresh global model, (S, ...), on every device."""
    fresh = [setup.initial_params(seed) for seed in setup.experiment.seeds]
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *fresh)
    return lift.replicate(stacked, setup.layout)


def train(setup: Setup, globals_: Params, round_: Round) -> tuple[Params, np.ndarray]:
    """Local training of the round's clients: global params (S, ...) -> local params (M, ...) and losses (M, T)."""
    local = setup.experiment.local
    plans = [
        batches.training_plan(
            {k: setup.clients[s][k] for k in clients}, local.batch_size, local.epochs, seed, round_.number,
            setup.plan_shape,
        )
        for s, (seed, clients) in enumerate(zip(setup.experiment.seeds, round_.clients, strict=True))
    ]  # fmt: skip
    plan = Plan(*(np.concatenate(parts) for parts in zip(*plans, strict=True)))
    which = round_.models
    trained, losses = programs.train_models(
        globals_, setup.train_images, which[0], plan, setup.keep[which], setup.counts[which],
        how=setup.layout, local=local, sparse=setup.experiment.sparsity,
    )  # fmt: skip
    losses = np.asarray(losses)
    checks.require_finite_losses(setup, round_, losses)
    return trained, losses


def aggregate(setup: Setup, state: Any, globals_: Params, local: Params, round_: Round) -> tuple[Params, Any]:
    """The server's step for every seed: new global params (S, ...) and server state."""
    samples = np.take_along_axis(setup.counts.sum(-1), round_.clients, 1)
    return programs.aggregate(state, globals_, local, samples, how=setup.layout, settings=setup.experiment.aggregation)


def analyse(
    setup: Setup, local: Params, globals_: Params, round_: Round, progress: Progress = _silent
) -> dict[str, np.ndarray]:
    """Discover every circuit on local and on global models and measure them; arrays with leading axes (2, C)."""
    models = programs.joined(local, globals_, how=setup.layout)
    which = models_of(setup, round_)
    progress(round_.number, "discover")
    fill = _fills(setup, models, which, round_)
    how, settings = setup.layout, replace(setup.experiment.discovery, repeat="never")  # one program for both
    search = partial(programs.discover_circuits, models, setup.train_images, which, how=how, settings=settings)
    scores, *again = [search(discovery_plans(setup, round_, p), fill) for p in controls.searches(setup, round_)]
    checks.require_scores(setup, round_, (scores, *again))
    progress(round_.number, "evaluate")
    found = recording.of_circuits(setup, round_, scores) | controls.rediscovery(setup, round_, scores, again)
    return found | measure(setup, models, which, scores, fill, round_)


def models_of(setup: Setup, round_: Round) -> np.ndarray:
    """(2C,) each circuit's model: the client's own, then its seed's global one."""
    c, models = setup.circuits.at(round_.rows), round_.clients.size
    place = np.zeros(setup.counts.shape[:2], int)
    place[round_.models] = np.arange(models)
    return np.concatenate([place[c.seed, c.client], models + c.seed])


def discovery_plans(setup: Setup, round_: Round, purposes: tuple[int, int] = keys.DISCOVER) -> Plan:
    """The discovery batches of every circuit, local ones first: (2C, T, B)."""
    c, steps = setup.circuits, setup.experiment.discovery.steps
    width = setup.layout.padded(max(setup.discovery_batches), 1)
    plans = []
    for purpose in purposes:
        for i in round_.rows:
            key = (setup.experiment.seeds[c.seed[i]], purpose, round_.number, int(c.client[i]), int(c.label[i]))
            images, batch = setup.discovery_images[i], setup.discovery_batches[i]
            plans.append(batches.discovery_plan(images, batch, steps, key, width))
    return batches.stack(plans)


def measure(
    setup: Setup, models: Params, which: np.ndarray, scores: Gates, fill: Gates | None, round_: Round
) -> dict[str, np.ndarray]:
    """Section 5's measures of every circuit (leading axes (2, C): local, global) and of every model."""
    how, test = setup.layout, setup.test
    target = np.tile(setup.circuits.label[round_.rows], 2)
    gates = {layer: (scores[layer] > 0).astype(setup.dtype) for layer in CONV_LAYERS}
    other = np.roll(which, len(which) // 2)  # a local circuit's mask on the global model, and the other way round
    judge = programs.measure_circuits
    whole = programs.all_open(models)  # judged in the same call as circuits, which is then compiled but once
    count = len(whole["conv1"])
    everything = np.concatenate([which, other, np.arange(count)]), _stacked(gates, gates, whole)
    fills = None if fill is None else _stacked(fill, _swap(fill), whole)
    classes = np.concatenate([target, target, np.zeros(count, int)])
    judged = judge(models, test, *everything, fills, classes, how=how, measure=evaluation.performance)
    kept, crossed, (_, accuracy) = _split(judged, len(which))
    by_class = controls.class_judgements(setup, round_, which, scores, fill)
    accuracies = np.asarray(judge(models, test, *by_class, how=how, measure=evaluation.class_accuracy))
    empty = programs.empty_masks(models, which, fill, target, how=how)
    found = recording.of_measures(setup, round_, kept[0], crossed[0], accuracies[: len(which)], empty, accuracy)
    return found | controls.random_masks(setup, round_, accuracies)


def _stacked(*parts: Gates) -> Gates:
    return {layer: jnp.concatenate([part[layer] for part in parts]) for layer in CONV_LAYERS}


def _split(judged: Any, circuits: int) -> list[Any]:
    """On the own model, on the other one, and the rest."""
    ends = (slice(circuits), slice(circuits, 2 * circuits), slice(2 * circuits, None))
    return [jax.tree.map(lambda values, part=part: values[part], judged) for part in ends]


def _swap(fill: Gates) -> Gates:
    """The fills of the other model, with the same client's data."""
    return {k: jnp.roll(v, v.shape[0] // 2, 0) for k, v in fill.items()}


def _fills(setup: Setup, models: Params, which: np.ndarray, round_: Round) -> Gates | None:
    """Mean ablation: every channel's mean output, on each circuit's model, over its client's data, (2C, O_l)."""
    if setup.experiment.discovery.ablation == "zero":
        return None
    clients, batch = [own for seed in setup.clients for own in seed], setup.layout.forward_batch
    rows = -(-max(map(len, clients)) // batch)
    index, valid = (
        np.stack(part) for part in zip(*(evaluation.groups(own, batch, rows) for own in clients), strict=True)
    )
    c = setup.circuits.at(round_.rows)
    client = np.tile(c.seed * len(setup.clients[0]) + c.client, 2)
    pairs, back = np.unique(np.stack([which, client]), axis=1, return_inverse=True)
    means = programs.mean_outputs(
        models, setup.train_images, pairs[0], index[pairs[1]], valid[pairs[1]], how=setup.layout
    )
    return {layer: mean[back] for layer, mean in means.items()}

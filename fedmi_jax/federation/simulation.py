"""The round and the run: local training, aggregation, discovery, evaluation, record.

Axes: S seeds, K clients, of which P take part in a round, M = S * P models (seed-major), C circuits (seed-, then
client-, then class-major), n cases (`fedmi_jax.federation.cases`, which says how models are stacked), Y classes, T
steps, B images of a batch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
import xarray as xr
from jax import Array

from fedmi_jax import keys
from fedmi_jax.aggregation import NO_STATE, Clients, Method
from fedmi_jax.aggregation import State as MethodState
from fedmi_jax.circuits import evaluation
from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.config import Experiment, replace
from fedmi_jax.data import batches
from fedmi_jax.data.batches import Plan
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.data.own_split import OwnSplit
from fedmi_jax.devices import lift
from fedmi_jax.devices.layout import described
from fedmi_jax.devices.session import session
from fedmi_jax.federation import checks, controls, doubts, instrument, metrics, programs, readout, recording, thorough
from fedmi_jax.federation.cases import Cases
from fedmi_jax.federation.homes import Stack, at_home
from fedmi_jax.federation.instrument import Decided
from fedmi_jax.federation.metrics import OnRound
from fedmi_jax.federation.programs import Masked
from fedmi_jax.federation.setup import Facts, Round, Setup, place, prepare
from fedmi_jax.keeping.checkpoint import InMemory, Keeper, State
from fedmi_jax.network import model
from fedmi_jax.network.ablation import ZERO, Ablation, Gates
from fedmi_jax.network.model import Params

Progress = Callable[[int, str], None]
"""Called as (round, stage) when a stage of a round begins, and as (rounds + 1, "done") at the end."""


def run(
    experiment: Experiment, dataset: Dataset | None = None, progress: Progress | None = None,
    keeper: Keeper | None = None, method: Method | None = None, on_round: OnRound | None = None,
    split: OwnSplit | None = None, chunk: int | None = None,
) -> xr.Dataset:  # fmt: skip
    """Run the experiment and return its result (see `fedmi_jax.results.schema` for the variables).

    Args: dataset: images to use in place of those `experiment.data` names; keeper: where every round is kept, and which
    rounds are done (`fedmi_jax.keeping.checkpoint`); method: in place of the one that `experiment.aggregation` names;
    on_round: told of every round that is done and kept (`fedmi_jax.federation.metrics`); split: in place of the one
    that `experiment.split` names (`fedmi_jax.data.own_split`); chunk: what `execution.client_chunk` "auto" meant in the
    rounds that are done. Raises FedmiError for a configuration that does not fit the data, for a loss or weights that
    are not finite, and for a method that does not keep the shapes.
    """
    with session(experiment.execution):
        setup = place(prepare(experiment, dataset, method, split), chunk)
        doubts.warn(setup.facts)
        return _run(setup, progress or _silent, keeper or InMemory(), on_round)


def _run(setup: Setup, progress: Progress, keeper: Keeper, on_round: OnRound | None = None) -> xr.Dataset:
    rounds = setup.facts.experiment.rounds
    done, state = keeper.start(initial_state(setup))
    state = lift.replicate(state, setup.layout)
    for number in range(done + 1, rounds + 1):
        began = time.monotonic()
        state, record = one_round(setup, state, number, progress)
        keeper.add(number, record, state)
        if on_round is not None:
            on_round(number, metrics.of_round(setup.facts, record, time.monotonic() - began))
    progress(rounds + 1, "done")
    told = {"method": setup.facts.method.name} | described(setup.layout)
    return recording.assemble(setup.facts, keeper.records(rounds)).assign_attrs(told)


def initial_state(setup: Setup) -> State:
    """Every seed's fresh global model, (S, ...), on every device, and the method's state."""
    global_models, clients = initial_models(setup), setup.facts.counts.shape[1]
    return global_models, programs.initial_state(
        global_models, clients=clients, layout=setup.layout, method=setup.facts.method
    )


def one_round(setup: Setup, state: State, number: int, progress: Progress) -> tuple[State, recording.Record]:
    """The state after this round, and all that was measured in it: a function of its arguments alone.

    Circuits of local models are searched before the server averages, so that it may use them.
    """
    round_ = setup.facts.round(number)
    cases = setup.facts.cases(round_)
    of_local = cases.of("local")
    progress(number, "train")
    local, losses = train(setup, state[0], round_, state[1])
    checks.require_finite_local(setup, round_, local)
    progress(number, "discover")
    found = discover(setup, lean(setup, stack(setup, round_, local, *state), of_local.model), of_local, number)
    masks = circuits_of(setup, round_, of_local, found) if setup.facts.method.needs_circuits else None
    global_models, remembered = aggregate(setup, state[1], state[0], local, round_, masks)
    checks.require_finite_global(setup, round_, global_models)
    models = lean(setup, stack(setup, round_, local, global_models, remembered))
    found = joined(found, discover(setup, models, cases.of("global"), number))
    progress(number, "evaluate")
    record = recording.snapshot(setup, round_, losses, local, global_models)
    record |= recording.of_method(setup.facts.method, remembered)
    return (global_models, remembered), record | judged(setup, round_, models, cases, found)


def judged(setup: Setup, round_: Round, models: Stack, cases: Cases, found: Found) -> recording.Record:
    """The circuits of a round, how alike they are to those found again, and all that is measured of them."""
    record = recording.of_circuits(cases, found.circuit)
    record |= controls.rediscovery(setup.facts.experiment, cases, found.circuit, found.again)
    return record | measure(setup, round_, models, cases, found)


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
    fresh = [initial_params(setup.facts, seed) for seed in setup.facts.experiment.seeds]
    stacked = jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *fresh)
    return lift.replicate(stacked, setup.layout)


def initial_params(facts: Facts, seed: int) -> Params:
    """The fresh model of a seed."""
    dataset, channels = facts.dataset, facts.experiment.model.channels
    with keys.same_draws():
        key = keys.jax_key(seed, keys.INIT)
        return _initialise(key, dataset.image_shape, channels, dataset.num_classes, facts.dtype)


_initialise = jax.jit(
    model.init, static_argnums=(1, 2, 3, 4),
    compiler_options={"xla_backend_optimization_level": 0},  # it is run once; optimised, its compilation takes seconds
)  # fmt: skip


def train(
    setup: Setup, global_models: Params, round_: Round, state: MethodState = NO_STATE
) -> tuple[Params, np.ndarray]:
    """Local training of the round's clients: global params (S, ...) -> local params (M, ...) and losses (M, T).

    Where clients have homes that do not share them out evenly, the last model stands there more than once.
    state: the method's, as `initial_state` and `aggregate` give it.
    """
    local, pooled, everyone = setup.facts.experiment.local, setup.facts.method.pooled, round_.clients.shape[1]
    round_ = round_.pooled if pooled else round_
    rows = lift.homed(round_.clients.size, setup.layout)
    seed, client = which = tuple(part[rows] for part in round_.models)
    trained, losses = programs.train_models(
        global_models, setup.train_images, seed, training_plans(setup, round_.number, seed, client),
        setup.facts.keep[which], setup.facts.training_counts[which], state, client,
        layout=setup.layout, local=local, sparse=setup.facts.experiment.sparsity, method=setup.facts.method,
    )  # fmt: skip
    losses = np.asarray(losses)[: round_.clients.size]
    checks.require_finite_losses(setup, round_, losses)
    if pooled:
        each = np.repeat(np.arange(round_.clients.size), everyone)
        again = tuple(each[lift.homed(len(each), setup.layout)].tolist())
        return programs.repeated(trained, rows=again, layout=setup.layout), losses[each]
    return trained, losses


def training_plans(setup: Setup, number: int, seed: np.ndarray, client: np.ndarray) -> Plan:
    """The batches of a round of these clients (m,) of these seeds (m,), (m, T, B); of a device's own clients alone,
    where clients have homes."""
    facts, local = setup.facts, setup.facts.experiment.local

    def draw(rows: np.ndarray) -> Plan:
        plans = [
            batches.training_plan(
                {k: facts.training[s][k]}, local.batch_size, local.epochs, facts.experiment.seeds[s], number,
                setup.plan_shape,
            )
            for s, k in zip(seed[rows].tolist(), client[rows].tolist(), strict=True)
        ]  # fmt: skip
        return Plan(*(np.concatenate(parts) for parts in zip(*plans, strict=True)))

    return lift.drawn(draw, np.arange(len(seed)), setup.layout)


def aggregate(
    setup: Setup, state: MethodState, global_models: Params, local: Params, round_: Round, masks: Gates | None = None
) -> tuple[Params, MethodState]:
    """The server's step for every seed: new global params (S, ...) and the method's state.

    Args: local (M, ...); masks: the circuits of the local models, {layer: bool (S, P, Y, O_l)}, for a method that needs
    them.
    """
    there = (np.arange(len(round_.clients))[:, None], round_.clients)
    counts, steps = setup.facts.counts[there], setup.facts.steps[there]
    images, labels = seen_images(setup) or (None, None)
    clients = Clients(local, counts.sum(-1), counts, steps, round_.clients, masks, images, labels)  # type: ignore[arg-type]
    return programs.aggregate(state, global_models, clients, layout=setup.layout, method=setup.facts.method)


def seen_images(setup: Setup) -> tuple[Array, Array] | None:
    """The images that the server may see, (S, N, H, W, I), and their labels (S, N); None for a method that asks for
    none."""
    seen = setup.facts.seen
    return None if seen is None else programs.seen_images(setup.train_images, *seen, layout=setup.layout)


def stack(setup: Setup, round_: Round, local: Params, global_models: Params, state: MethodState = NO_STATE) -> Stack:
    """The models that `Cases.model` counts: local ones (M, ...), global ones (S, ...) and, of a method that serves
    every client a model of its own, these (M, ...). Each stays where it was made.
    """
    method, parts, counts = setup.facts.method, [local, global_models], [round_.clients.size, len(round_.clients)]
    if method.serve is not None:
        which = (part[lift.homed(counts[0], setup.layout)] for part in round_.models)
        parts.append(programs.serve_models(global_models, state, *which, layout=setup.layout, method=method))
        counts.append(counts[0])
    return Stack(tuple(parts), tuple(counts))


def lean(setup: Setup, models: Stack, which: np.ndarray | slice = slice(None)) -> Stack:
    """The stack, which says so if all of these of its models are sparse. Models are looked at only where all of a run
    are expected to be: a program would otherwise be compiled for both."""
    if not (setup.layout.narrowing and setup.facts.stays_sparse):
        return models
    found = [
        np.asarray(programs.sparse(part, layout=setup.layout))[:count]
        for part, count in zip(models.parts, models.counts, strict=True)
    ]
    return Stack(models.parts, models.counts, bool(np.concatenate(found)[which].all()))


def circuits_of(setup: Setup, round_: Round, cases: Cases, found: Found) -> Gates:
    """The circuits of local models as a method sees them: bool (S, P, Y, O_l) a layer, closed where none was found."""
    shape, classes = round_.clients.shape, setup.facts.dataset.num_classes

    def by_client(mask: np.ndarray) -> np.ndarray:
        by_model = np.zeros((round_.clients.size, classes, mask.shape[-1]), bool)
        by_model[cases.model[cases.real], cases.label[cases.real]] = mask[cases.real]
        return by_model.reshape(*shape, *by_model.shape[1:])

    return {layer: by_client(mask) for layer, mask in found.circuit.mask.items()}  # type: ignore[return-value]


class Found(NamedTuple):
    """What the searches of some cases found: arrays (n, ...) on the host."""

    circuit: Circuit
    again: list[Circuit]
    """Found by a second search on the same weights, on request."""
    ablation: Ablation
    """What a closed channel of each circuit's own model is replaced by."""
    decided: Decided | None = None
    """What else is known, of the second instrument."""


def joined(first: Found, second: Found) -> Found:
    """The rows of both."""
    return jax.tree.map(lambda a, b: np.concatenate([a, b]), first, second)


def discover(setup: Setup, models: Stack, cases: Cases, number: int) -> Found:
    """Search these circuits on their models (`stack`), once or twice (`controls.searches`)."""
    experiment, searches = setup.facts.experiment, controls.searches(setup.facts.experiment, number)
    if not experiment.discovery.as_published:
        circuits, ablation, decided = instrument.discover(setup, models, cases, searches, number)
        checks.require_scores(experiment, number, cases, [one.score for one in circuits])
        return Found(circuits[0], circuits[1:], jax.tree.map(np.asarray, ablation), decided)
    ablation = _ablation(setup, models, cases)
    settings = replace(experiment.discovery, repeat="never")  # one program, whatever the control
    search = partial(programs.discover_circuits, layout=setup.layout, settings=settings)
    found = []
    for purposes in searches:

        def run(which: np.ndarray, rows: Any, purposes: tuple[int, int] = purposes) -> Circuit:
            row, ablation = rows
            draw = partial(discovery_plans, setup, cases, number, purposes)
            return search(models, setup.train_images, which, lift.drawn(draw, row, setup.layout), ablation)

        rows = (np.arange(len(cases.model)), ablation)
        found.append(jax.tree.map(np.asarray, at_home(run, models, cases.model, rows, setup.layout)))
    checks.require_scores(experiment, number, cases, [one.score for one in found])
    decided = instrument.watched(setup, models, cases) if experiment.decides else None
    return Found(found[0], found[1:], jax.tree.map(np.asarray, ablation), decided)


def discovery_plans(
    setup: Setup, cases: Cases, number: int, purposes: tuple[int, int] = keys.DISCOVER, rows: np.ndarray | None = None
) -> Plan:
    """The discovery batches of every case, or of these rows: (n, T, B)."""
    facts, steps = setup.facts, setup.facts.experiment.discovery.steps
    width = setup.layout.padded(max(facts.discovery_batches), 1)
    keyed = cases.keys(facts.experiment.seeds, purposes, number)
    chosen = range(len(keyed)) if rows is None else rows.tolist()
    return batches.stack([
        batches.discovery_plan(facts.discovery_images[i], facts.discovery_batches[i], steps, keyed[row], width)
        for row, i in ((row, cases.circuit[row]) for row in chosen)
    ])  # fmt: skip


def measure(setup: Setup, round_: Round, models: Stack, cases: Cases, found: Found) -> recording.Record:
    """Section 5's measures of every circuit, on its own model and on the other one, and of every model."""
    test, mask, ablation = setup.test, found.circuit.mask, found.ablation
    own = Masked(cases.model, controls.gates(mask, setup.facts.dtype), ablation, cases.label)
    crossed = own._replace(model=cases.other, ablation=jax.tree.map(lambda v: v[cases.mirror], ablation))
    # Whole models are judged in the same call as circuits, which is then compiled but once.
    rows = programs.stacked([own, crossed, programs.whole_models(models, ablation)])
    by_class = programs.stacked(controls.by_class(setup.facts, cases, own, crossed, mask, round_.number))
    n, decided = len(cases.model), found.decided
    if decided is None:
        judged, accuracies = programs.judge_both(models, test, rows, by_class, layout=setup.layout)
    else:
        judged = instrument.judge(setup, models, cases, decided, rows)
        accuracies = programs.judge(models, test, by_class, alone=True, layout=setup.layout)[1].overall
    kept, across, (_, accuracy, *_) = (
        jax.tree.map(lambda values, part=part: values[part], judged)
        for part in (slice(n), slice(n, 2 * n), slice(2 * n, None))
    )
    empty = empty_masks(setup, models, cases, ablation)
    record = recording.of_measures(setup.facts, round_, cases, kept[0], across[0], accuracies[:n], empty, accuracy)
    record |= controls.random_masks(setup.facts.experiment, cases, accuracies[n:])
    record |= readout.accuracies(setup, round_, models)
    if decided is not None:
        record |= instrument.measures(cases, decided, kept[2], across[2])
        record |= instrument.controls(setup, models, cases, decided, own, crossed, round_.number)
        record |= thorough.checks(setup, round_, models, cases, decided, own)
    return record


def _ablation(setup: Setup, models: Stack, cases: Cases) -> Ablation:
    """What a closed channel is replaced by, (n, ...): 0, or its mean output on the circuit's model over its client's
    data."""
    facts = setup.facts
    if facts.experiment.discovery.ablation == "zero":
        return ZERO
    clients, batch = [own for seed in facts.clients for own in seed], setup.layout.forward_batch
    rows = -(-max(map(len, clients)) // batch)
    index, valid = (
        np.stack(part) for part in zip(*(evaluation.groups(own, batch, rows) for own in clients), strict=True)
    )
    client = cases.seed * len(facts.clients[0]) + cases.client
    pairs, back = np.unique(np.stack([cases.model, client]), axis=1, return_inverse=True)

    def run(which: np.ndarray, rows: Any) -> Ablation:
        return programs.mean_outputs(models, setup.train_images, which, *rows, layout=setup.layout)

    means = at_home(run, models, pairs[0], (index[pairs[1]], valid[pairs[1]]), setup.layout)
    return jax.tree.map(lambda mean: mean[back], means)


def empty_masks(setup: Setup, models: Stack, cases: Cases, ablation: Ablation) -> Any:
    """`programs.empty_masks` of every case."""

    def run(which: np.ndarray, rows: Any) -> Any:
        return programs.empty_masks(models, which, *rows, layout=setup.layout)

    return at_home(run, models, cases.model, (ablation, cases.label), setup.layout)

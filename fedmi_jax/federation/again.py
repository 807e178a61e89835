"""Another search on the models of a stored run: what a second instrument finds, without training them again. And the
models that clients got from the server, where each got one of its own and they follow from the stored ones.

Axes: S seeds, K clients, of which P took part in a round, M = S * P models of a round, R rounds.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator

import numpy as np
import xarray as xr

from fedmi_jax import config
from fedmi_jax.aggregation import NO_STATE, Clients, State, chosen
from fedmi_jax.config import Discovery, Evaluation, Experiment, replace
from fedmi_jax.data import batches, datasets, identity, own_split
from fedmi_jax.data.datasets import Dataset
from fedmi_jax.data.own_split import OwnSplit
from fedmi_jax.devices import lift
from fedmi_jax.devices.layout import Layout, described
from fedmi_jax.devices.session import session
from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import doubts, metrics, programs, recording, simulation
from fedmi_jax.federation.metrics import OnRound
from fedmi_jax.federation.setup import Facts, Setup, place, prepare
from fedmi_jax.network.model import Params
from fedmi_jax.results import store


def search_again(
    result: xr.Dataset, discovery: Discovery | None = None, evaluation: Evaluation | None = None,
    dataset: Dataset | None = None, progress: simulation.Progress | None = None, on_round: OnRound | None = None,
    rounds: Collection[int] | None = None, split: OwnSplit | None = None,
) -> xr.Dataset:  # fmt: skip
    """The result of the same run with other settings of search and measures: its models are those that are stored.

    Args: discovery, evaluation: None: those of the run; dataset: the images, where the run had images of one's own;
    progress: called as (round, stage) when a stage begins; on_round: called as (round, metrics) after each round;
    rounds: in which to search, None: in all that the result has; split: the split, where the run was given one.
    Raises FedmiError for a result without weights, without its configuration, of other images, without such a round, or
    of a method of the user's own that served every client a model of its own, which is not stored.
    """
    experiment = changed(result, discovery, evaluation)
    wanted = _wanted(result, rounds)
    advance, records = progress or _silent, []
    with session(experiment.execution):
        images = dataset or datasets.load(experiment.data)
        _require_images(result, images)
        setup = place(_prepared(experiment, images, split))
        doubts.warn(setup.facts)
        for number, state in _states(result, experiment, simulation.initial_models(setup), setup.layout):
            if number not in wanted:
                continue
            began = time.monotonic()
            records.append(_round(setup, result.sel(round=number), number, state, advance))
            if on_round is not None:
                on_round(number, metrics.of_round(setup.facts, records[-1], time.monotonic() - began))
        advance(experiment.rounds + 1, "done")
        method = result.attrs.get("method", setup.facts.method.name)
        found = recording.assemble(setup.facts, records, wanted)
        return found.assign_attrs({"method": method} | described(setup.layout))


def _prepared(experiment: Experiment, dataset: Dataset, split: OwnSplit | None) -> Facts:
    settled = own_split.settle(experiment, dataset.train_labels, split)
    if changed := config.differences(experiment, settled):
        raise FedmiError(f"split: the result is of another one; {', '.join(changed)}")
    return prepare(experiment, dataset, split=split)


def _wanted(result: xr.Dataset, rounds: Collection[int] | None) -> list[int]:
    """The rounds to search in, ascending."""
    there = result["round"].values.tolist()
    if rounds is None:
        return there
    if not rounds or not set(rounds) <= set(there):
        given, has = (", ".join(map(str, sorted(some))) for some in (rounds, there))
        raise FedmiError(f"rounds: give some that the result has; it has {has}, given are {given or 'none'}")
    return sorted(set(rounds))


def _states(result: xr.Dataset, experiment: Experiment, start: Params, layout: Layout) -> Iterator[tuple[int, State]]:
    """Every round of the result, and what the method remembers after it. Of a method that serves every client a model
    of its own the server's steps are made again, from the stored models; others need no memory here.

    start: the models before the first round, (S, ...).
    """
    method, rounds = chosen(experiment.aggregation, experiment.local), result["round"].values.tolist()
    if method.serve is None:
        yield from ((number, NO_STATE) for number in rounds)
        return
    global_models, clients = start, result.sizes["client"]
    state = programs.initial_state(start, clients=clients, layout=layout, method=method)
    for number in rounds:
        stored = result.sel(round=number)
        seen = _clients(stored, experiment, layout)
        _, state = programs.aggregate(state, global_models, seen, layout=layout, method=method)
        global_models = lift.replicate(_weights(experiment, stored, "global"), layout)
        yield number, state


def _clients(stored: xr.Dataset, experiment: Experiment, layout: Layout) -> Clients:
    """What the server saw of the clients of a round, but for images and circuits."""
    local, there = experiment.local, _there(stored)
    numbers = there[1].reshape(stored.sizes["seed"], -1)
    counts = stored["samples"].values[there].reshape(*numbers.shape, -1)
    samples = counts.sum(-1)
    steps = np.vectorize(batches.local_steps, otypes=[int])(samples, local.batch_size, local.epochs)
    models = lift.deal_out(_local(experiment, stored), layout)
    return Clients(models, samples, counts, steps, numbers)  # type: ignore[arg-type]


def experiment_of(result: xr.Dataset) -> Experiment:
    """The experiment whose models the result holds. Raises FedmiError where something is missing for a search."""
    if "config" not in result.attrs:
        raise FedmiError("result: does not say how it was made; only a run's own result can be searched again")
    if "weights_local_fc_bias" not in result:
        raise FedmiError(
            "result: has no weights, so there are no models to search; make it with `fedmi run ... "
            "--execution.save-weights`"
        )
    if "served_accuracy" in result and not follows(result):
        raise FedmiError(
            f"result: of {result.attrs.get('method', 'a method')}, whose clients' own models from the server are not "
            "stored; run it again instead"
        )
    return config.from_json(result.attrs["config"])


def follows(result: xr.Dataset) -> bool:
    """Whether the models that the server gave each client, of its own, follow from those that are stored."""
    if "config" not in result.attrs:
        return False
    experiment, rounds = config.from_json(result.attrs["config"]), result["round"].values.tolist()
    method, from_the_first = chosen(experiment.aggregation, experiment.local), list(range(1, len(rounds) + 1))
    return method.serve is not None and not method.needs_circuits and rounds == from_the_first


def served(result: xr.Dataset, layout: Layout) -> Iterator[tuple[int, Params]]:
    """Every round of a result of which `follows` holds, and what the server gave every client after it, (S, K, ...); of
    clients that sat the round out, anything. To be called within `devices.session`."""
    experiment, shape = config.from_json(result.attrs["config"]), (result.sizes["seed"], result.sizes["client"])
    method, which = chosen(experiment.aggregation, experiment.local), np.indices(shape).reshape(2, -1)

    def global_models(number: int) -> Params:
        return lift.replicate(_weights(experiment, result.sel(round=number), "global"), layout)

    # whatever it starts with: a client that took part has what it trained itself
    for number, state in _states(result, experiment, global_models(int(result["round"][0])), layout):
        each = programs.serve_models(global_models(number), state, *which, layout=layout, method=method)
        yield number, {name: leaf.reshape(*shape, *leaf.shape[1:]) for name, leaf in each.items()}


def changed(result: xr.Dataset, discovery: Discovery | None, evaluation: Evaluation | None) -> Experiment:
    """The experiment of a result with these settings, on all devices that are there, and without weights, which the
    run's own result has. Raises FedmiError as `experiment_of`, and for a value that nothing would read."""
    before = experiment_of(result)
    execution = replace(before.execution, save_weights=False, devices=None)
    search = {"discovery": discovery or before.discovery, "evaluation": evaluation or before.evaluation}
    config.refuse_unused(Experiment(**search))  # the rest is stored
    return replace(before, execution=execution, **search)


def _round(
    setup: Setup, stored: xr.Dataset, number: int, state: State, progress: simulation.Progress
) -> recording.Record:
    round_ = setup.facts.round(number)
    local = lift.deal_out(_local(setup.facts.experiment, stored), setup.layout)
    global_models = lift.replicate(_weights(setup.facts.experiment, stored, "global"), setup.layout)
    both = simulation.lean(setup, simulation.stack(setup, round_, local, global_models, state))
    cases = setup.facts.cases(round_)
    progress(number, "discover")
    found = [simulation.discover(setup, both, cases.of(origin), number) for origin in ("local", "global")]
    progress(number, "evaluate")
    losses = np.zeros((round_.clients.size, int(setup.facts.steps.max())))
    record = recording.snapshot(setup, round_, losses, local, global_models)
    record["train_loss"] = stored["train_loss"].values.astype(record["train_loss"].dtype)
    record |= {name: stored[name].values for name in setup.facts.method.tells if name in stored}
    return record | simulation.judged(setup, round_, both, cases, simulation.joined(*found))


def _there(stored: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Seed slot and client of every model of a round, (M,) each."""
    return np.nonzero(stored["participates"].values)  # type: ignore[return-value]


def _local(experiment: Experiment, stored: xr.Dataset) -> Params:
    """(M, ...) of the round's clients."""
    there = _there(stored)
    return {name: leaf[there] for name, leaf in _weights(experiment, stored, "local").items()}


def _weights(experiment: Experiment, stored: xr.Dataset, origin: str) -> Params:
    """(S, ...) of the global models, (S, K, ...) of the local ones."""
    start, dtype = f"weights_{origin}_", np.dtype(experiment.execution.precision)
    names = [str(name).removeprefix(start) for name in stored if str(name).startswith(start)]
    return {name: stored[start + name].values.astype(dtype) for name in names}  # type: ignore[return-value]


def _require_images(result: xr.Dataset, dataset: Dataset) -> None:
    of, now = store.images(result), identity.describe(dataset)
    if of is not None and not of.is_same(now):
        raise FedmiError(f"dataset: the result is of {of}; these are {now}")


def _silent(round_: int, stage: str) -> None:
    pass

"""Circuits that decide, looked at from all sides in the last round: whether they are complete, robust and minimal, and
compute what their model computes; how good the order of channels is (`areas`); and what the same search finds where
training made nothing.

Axes: S seeds, M local models, n cases, O_l channels of convolution l, N random halves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fedmi_jax import config, keys
from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.circuits.sameness import LEAST as SAME
from fedmi_jax.devices import lift
from fedmi_jax.federation import areas, instrument, programs, sets
from fedmi_jax.federation.homes import SERVER, Stack, at_home, rewritten
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.results.schema import NULLS, STATUS

if TYPE_CHECKING:
    from fedmi_jax.federation.cases import Cases
    from fedmi_jax.federation.instrument import Decided
    from fedmi_jax.federation.programs import Masked
    from fedmi_jax.federation.recording import Record
    from fedmi_jax.federation.setup import Round, Setup

HALVES = 10
"""Random halves of a circuit, and of what is not in it."""
LEAST = 0.01
"""Share of the decision that a channel must be worth to be needed."""


def checks(setup: Setup, round_: Round, models: Stack, cases: Cases, decided: Decided, own: Masked) -> Record:
    """Of a run that asks for random masks, in its last round; before, NaN and 0; otherwise nothing."""
    experiment = setup.facts.experiment
    if not experiment.thorough:
        return {}
    last = round_.number == experiment.rounds
    n = len(cases.model)
    if last:
        found = _halves(setup, round_, models, cases, decided, own) | _sameness(setup, models, decided, own)
        found |= areas.areas(setup, models, cases, decided, own, round_.number)
    else:
        found = _no_halves(n) | _no_sameness(own) | dict.fromkeys(areas.NAMES, np.full(n, np.nan, np.float32))
    record = {name: cases.place(values) for name, values in found.items()}
    nulls = _nulls(setup, round_, models, cases) if last else []
    return record | _placed(cases, nulls)


# --- complete, robust, minimal ---


def _no_halves(n: int) -> dict[str, np.ndarray]:
    return dict.fromkeys(
        ("completeness_gap", "robust_explained", "robust_explained_worst", "minimal"), np.full(n, np.nan, np.float32)
    )


def _halves(
    setup: Setup, round_: Round, models: Stack, cases: Cases, decided: Decided, own: Masked
) -> dict[str, np.ndarray]:
    masks = np.concatenate([np.asarray(gate) > 0 for gate in own.gates.values()], 1)
    judged = list(_sets(masks, cases.keys(setup.facts.experiment.seeds, keys.HALF, round_.number)))
    rows = np.array([row for row, _, _ in judged])
    explained = sets.explained(setup, models, decided, own, rows, np.stack([kept for _, _, kept in judged]))
    by_kind: dict[str, list[list[float]]] = {kind: [[] for _ in masks] for kind in KINDS}
    for (row, kind, _), value in zip(judged, explained, strict=True):
        by_kind[kind][row].append(float(value))
    found = {name: values.copy() for name, values in _no_halves(len(masks)).items()}
    for row in np.flatnonzero(decided.status != STATUS.index("undefined")):
        of = {kind: np.array(values[row]) for kind, values in by_kind.items()}
        found["completeness_gap"][row] = np.abs(of["circuit without half"] - of["model without half"]).mean()
        found["robust_explained"][row] = of["with others"].mean()
        found["robust_explained_worst"][row] = of["with others"].min()
        found["minimal"][row] = np.mean(of["circuit"][0] - of["without one"] > LEAST) if masks[row].any() else np.nan
    return found


KINDS = ("circuit", "circuit without half", "model without half", "with others", "without one")


def _sets(masks: np.ndarray, keyed: list[tuple[int, ...]]) -> Iterator[tuple[int, str, np.ndarray]]:
    """(row, kind, kept channels bool (C,)) of everything that is judged."""
    for row, (mask, key) in enumerate(zip(masks, keyed, strict=True)):
        rng = keys.generator(*key)
        yield row, "circuit", mask
        for _ in range(HALVES):
            half = mask & (rng.random(len(mask)) < 0.5)
            yield row, "circuit without half", mask & ~half
            yield row, "model without half", ~half
            yield row, "with others", mask | (rng.random(len(mask)) < 0.5)
        for channel in np.flatnonzero(mask):
            without = mask.copy()
            without[channel] = False
            yield row, "without one", without


# --- the same computation ---


def _no_sameness(own: Masked) -> dict[str, np.ndarray]:
    n = len(own.label)
    found = {f"fidelity_{layer}": np.full((n, gate.shape[1]), np.nan, np.float32) for layer, gate in own.gates.items()}
    return found | dict.fromkeys(("same_computation", "silent"), np.full(n, np.nan, np.float32))


def _sameness(setup: Setup, models: Stack, decided: Decided, own: Masked) -> dict[str, np.ndarray]:
    """Of the circuits' channels; NaN for all others."""

    def run(_: Any, rows: Any) -> Any:
        return programs.sameness(models, setup.some, *rows, layout=setup.layout)

    fidelity, silent = at_home(run, models, own.model, (own, decided.others), setup.layout)
    defined = (decided.status != STATUS.index("undefined"))[:, None]
    kept = {layer: (np.asarray(gate) > 0) & defined for layer, gate in own.gates.items()}
    found = {
        f"fidelity_{layer}": np.where(mask, np.asarray(fidelity[layer]), np.nan).astype(np.float32)
        for layer, mask in kept.items()
    }
    same, unheard = (np.concatenate([np.asarray(part[layer]) for layer in kept], 1) for part in (fidelity, silent))
    mask = np.concatenate(list(kept.values()), 1)
    return found | {"same_computation": _share(same >= SAME, mask), "silent": _share(unheard, mask)}


def _share(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Of the channels of each mask (n, C) those for which it is so, (n,); NaN where there are none."""
    count = mask.sum(1)
    return np.where(count > 0, (values & mask).sum(1) / np.maximum(count, 1), np.nan).astype(np.float32)


# --- where training made nothing ---


def _nulls(setup: Setup, round_: Round, models: Stack, cases: Cases) -> list[tuple[Circuit, Decided]]:
    """What the search finds on the models before training, on local models whose filters' weights stand in another
    order, and of classes that say nothing, each for the circuits of local models.

    All are stacked as the models of the round are, so that the round's programs serve for them, too.
    """
    local = cases.of("local")
    shuffled = replace(setup, probe=_shuffled(setup), facts=_asking_for_truth(setup))
    permuted = _permuted(setup, models, local, round_.number)
    fresh = models.counts[0] + local.seed
    searched = [
        (setup, _untrained(setup, models), fresh), (setup, permuted, local.model), (shuffled, models, local.model)
    ]  # fmt: skip
    found = []
    for (where, stacked, rows), purpose in zip(searched, (keys.UNTRAINED, keys.PERMUTED, keys.SHUFFLED), strict=True):
        of = replace(local, model=np.asarray(rows))
        circuits, _, decided = instrument.discover(where, stacked, of, [(purpose, purpose)], round_.number)
        found.append((circuits[0], decided))
    return found


def _untrained(setup: Setup, models: Stack) -> Stack:
    """The stack with every seed's fresh model in place of the server's."""
    from fedmi_jax.federation.simulation import initial_models

    parts = list(models.parts)
    parts[SERVER] = initial_models(setup)
    return models.with_parts(*parts)


def _permuted(setup: Setup, models: Stack, cases: Cases, number: int) -> Stack:
    """The stack with the local models that have cases, each filter's weights in random order: as sparse, and no longer
    trained."""
    first = dict(zip(*np.unique(cases.model, return_index=True), strict=True))

    def permute(which: int, params: dict[str, np.ndarray]) -> None:
        if which not in first:
            return
        case = first[which]
        seed, client = setup.facts.experiment.seeds[cases.seed[case]], int(cases.client[case])
        for place, name in enumerate([*(f"{layer}_kernel" for layer in conv_layers(params)), "fc_kernel"]):
            rng, kernel = keys.generator(seed, keys.PERMUTE, number, client, place), params[name]
            kernel[...] = rng.permuted(kernel.reshape(-1, kernel.shape[-1]), axis=0).reshape(kernel.shape)

    return rewritten(models, permute, setup.layout)


def _shuffled(setup: Setup) -> Any:
    """The probe images in random order, those to search on and the others each among themselves, under the labels that
    were there before."""
    assert setup.probe is not None
    searched = setup.facts.experiment.discovery.probe[0] * setup.facts.dataset.num_classes
    pixels = np.array(setup.probe.pixels)
    for slot, seed in enumerate(setup.facts.experiment.seeds):
        rng = keys.generator(seed, keys.SHUFFLED)
        order = [rng.permutation(searched), searched + rng.permutation(pixels.shape[1] - searched)]
        pixels[slot] = pixels[slot][np.concatenate(order)]
    return lift.replicate(setup.probe._replace(pixels=pixels), setup.layout)


def _asking_for_truth(setup: Setup) -> Any:
    experiment = setup.facts.experiment
    contrast = config.with_objective(experiment.discovery, objective="contrast")
    return replace(setup.facts, experiment=replace(experiment, discovery=contrast))


def _placed(cases: Cases, nulls: list[tuple[Circuit, Decided]]) -> Record:
    """As in `schema.NULLS`; NaN and 0 where none was searched."""
    local, (n, kinds) = cases.of("local"), (int(np.sum(cases.origin == 0)), len(NULLS))
    explained, counts = np.full((n, kinds), np.nan, np.float32), np.zeros((2, n, kinds), np.int64)
    state = np.zeros((n, kinds), np.int8)
    for i, (circuit, decided) in enumerate(nulls):
        size, reached = sum(mask.sum(-1) for mask in circuit.mask.values()), decided.reached
        if NULLS[i] == "shuffled":
            size, reached = best_tried(decided)
        defined = decided.status != STATUS.index("undefined")
        explained[:, i] = np.where(defined, np.asarray(reached), np.nan)
        counts[0, :, i] = np.where(defined, size, 0)
        counts[1, :, i] = sum(live.sum(-1) for live in decided.live.values())
        state[:, i] = decided.status
    values = {"null_explained": explained, "null_size": counts[0], "null_live": counts[1], "null_status": state}
    return {name: local.place(value) for name, value in values.items()}


def best_tried(decided: Decided) -> tuple[np.ndarray, np.ndarray]:
    """The size that explains most of all that were tried, and what it explains, (n,) each.

    Of labels that say nothing a whole model explains less than nothing. A share of that is no target: only all live
    channels would come near it, whatever the search had found.
    """
    assert decided.sizes is not None
    assert decided.curve is not None
    rows, best = np.arange(len(decided.curve)), np.argmax(decided.curve, 1)
    return decided.sizes[rows, best], decided.curve[rows, best]

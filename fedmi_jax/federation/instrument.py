"""The second instrument in a round: circuits that decide, searched on the probe images, and how far they do.

Axes: S seeds, P probe images, n cases, m models that cases are of, N test images, Y classes, G groups of B images, L
sizes of a grid, O_l channels of convolution l.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from fedmi_jax import keys
from fedmi_jax.circuits.deciding import Probed, Task, compiled_for, status
from fedmi_jax.circuits.discovery import Circuit
from fedmi_jax.circuits.evaluation import Asked, EvaluationSet, groups
from fedmi_jax.circuits.question import Explained
from fedmi_jax.data import probe
from fedmi_jax.devices import lift
from fedmi_jax.federation import programs
from fedmi_jax.federation.homes import at_home, size, some
from fedmi_jax.federation.programs import Masked
from fedmi_jax.network.ablation import ZERO, Ablation
from fedmi_jax.network.layers import conv_layers
from fedmi_jax.results.schema import STATUS

if TYPE_CHECKING:
    from fedmi_jax.config import Discovery
    from fedmi_jax.federation.cases import Cases
    from fedmi_jax.federation.homes import Models
    from fedmi_jax.federation.recording import Record
    from fedmi_jax.federation.setup import Setup


class Decided(NamedTuple):
    """What is known of the searches besides their circuits, on the host."""

    status: np.ndarray
    """int8 (n,), as in `schema.STATUS`."""
    spread: np.ndarray
    """(n,), nats that there were to explain on the probe images."""
    competence: np.ndarray
    """(n,), balanced accuracy of the whole model on the test images."""
    reached: np.ndarray | None
    """(n,): what the circuits explain on the probe images that their sizes were chosen on."""
    live: dict[str, np.ndarray]
    """bool (n, O_l) a layer: channels that could be part."""
    rank: dict[str, np.ndarray] | None
    """int (n, O_l) a layer: the order in which sizes were tried, 1 the best; 0 for dead channels."""
    untrimmed: np.ndarray | None
    """(n,) channels before those that could go were left out."""
    sizes: np.ndarray | None
    """(n, L)."""
    curve: np.ndarray | None
    """(n, L), on probe images."""
    others: np.ndarray
    """bool (n, Y): the classes that the class is told from."""
    rows: np.ndarray
    """(m,): rows of the stacked models."""
    whole: np.ndarray
    """(m, N, Y): their logits on the test images."""


def discover(
    setup: Setup, models: Models, cases: Cases, searches: list[tuple[int, int]], number: int
) -> tuple[list[Circuit], Ablation, Decided]:  # fmt: skip
    """The circuits (n, ...) of every search, what replaces a closed channel, and what else is known of the first."""
    settings, facts, layout = setup.facts.experiment.discovery, setup.facts, setup.layout
    rows, first, back = np.unique(cases.model, return_index=True, return_inverse=True)
    each, classes = survey(setup, models, rows, cases.seed[first]), facts.dataset.num_classes
    probed = jax.tree.map(lambda leaf: leaf[back], each)  # by case, so that no program is one of how many models
    whole = whole_logits(setup, models, rows, setup.test)
    others = _others(setup, cases)
    competence = _competence(setup, whole[back], cases.label, others)
    ablation = probed.means if settings.ablation == "mean-map" else ZERO
    found, decided = [], None
    for purposes in searches:
        keyed = cases.keys(facts.experiment.seeds, purposes, number)

        def run(which: np.ndarray, rows: Any, keyed: list[tuple[int, ...]] = keyed) -> Any:
            row, seeds, probed = rows
            draw = partial(tasks, setup, cases, others, keyed, models, settings)
            return programs.decide_circuits(
                models, which, setup.probe, seeds, probed, lift.drawn(draw, row, layout),
                layout=layout, settings=compiled_for(settings), searched=classes * settings.probe[0],
            )  # fmt: skip

        one = at_home(run, models, cases.model, (np.arange(len(back)), cases.seed, probed), layout)
        one = jax.tree.map(np.asarray, one)
        state = _status(one.spread, competence, one.choice.compact)
        found.append(_circuit(one.choice, state))
        choice = one.choice
        decided = decided or Decided(
            state, one.spread, competence, choice.explained, choice.live, choice.rank, choice.untrimmed, choice.sizes,
            choice.curve, others, rows, whole,
        )  # fmt: skip
    assert decided is not None
    return found, ablation, decided


def watched(setup: Setup, models: Models, cases: Cases) -> Decided:
    """What there was to explain for circuits of the paper's search, and by which channels; no size was tried."""
    rows, back = np.unique(cases.model, return_inverse=True)
    whole = whole_logits(setup, models, rows, setup.test)
    others = _others(setup, cases)
    competence = _competence(setup, whole[back], cases.label, others)

    def run(which: np.ndarray, rows: Any) -> Any:
        whole, label, others = rows
        return programs.to_explain(models, which, whole, setup.test, label, others, layout=setup.layout)

    found = at_home(run, models, cases.model, (whole[back], cases.label, others), setup.layout)
    live, spread = jax.tree.map(np.asarray, found)
    state = _status(spread, competence, np.ones(len(spread), bool))
    return Decided(state, spread, competence, None, live, None, None, None, None, others, rows, whole)


def _others(setup: Setup, cases: Cases) -> np.ndarray:
    """The classes (n, Y) that every case's class is told from."""
    facts = setup.facts
    held, negatives = facts.counts[cases.seed, cases.client] > 0, facts.experiment.discovery.negatives
    rows = zip(cases.label.tolist(), held, strict=True)
    return np.stack([probe.others(label, own, facts.dataset.num_classes, negatives) for label, own in rows])


def whole_logits(setup: Setup, models: Models, rows: np.ndarray, test: EvaluationSet) -> np.ndarray:
    """`programs.whole_logits` of these models (m,): (m, N, Y)."""

    def run(which: np.ndarray, _: Any) -> Any:
        return programs.whole_logits(models, which, test, layout=setup.layout)

    return np.asarray(at_home(run, models, rows, (), setup.layout))


def survey(setup: Setup, models: Models, rows: np.ndarray, seeds: np.ndarray) -> Probed:
    """What these models (m,) make of the probe images of their seeds (m,): (m, P, Y), and means (m, ...)."""
    assert setup.facts.probe is not None
    count, searched = setup.facts.probe.shape[1], setup.facts.experiment.discovery.probe[0]
    index, valid = groups(np.arange(count), setup.layout.forward_batch)
    to_search = valid & (index < searched * setup.facts.dataset.num_classes)

    def run(which: np.ndarray, seeds: Any) -> Any:
        return programs.survey_models(models, which, setup.probe, seeds, index, to_search, layout=setup.layout)

    logits, means = at_home(run, models, rows, seeds, setup.layout)
    return Probed(np.asarray(logits)[:, :count], jax.tree.map(np.asarray, means))  # type: ignore[arg-type]


def tasks(
    setup: Setup, cases: Cases, others: np.ndarray, keyed: list[tuple[int, ...]], models: Models, settings: Discovery,
    rows: np.ndarray | None = None,
) -> Task:  # fmt: skip
    """The task of every case, or of these rows, stacked."""
    batch, one = setup.layout.forward_batch, some(models)
    channels = sum(one[f"{layer}_bias"].shape[-1] for layer in conv_layers(one))
    chosen = range(len(keyed)) if rows is None else rows.tolist()
    each = [
        Task(
            np.int32(label), others[row], *probe.search_plan(label, others[row], settings, keyed[row], channels),
            *probe.selection(label, others[row], settings.probe, batch), np.bool_(settings.objective == "contrast"),
        )
        for row, label in ((row, int(cases.label[row])) for row in chosen)
    ]  # fmt: skip
    return jax.tree.map(lambda *parts: np.stack(parts), *each)


def _competence(setup: Setup, whole: np.ndarray, label: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Balanced accuracy (n,) of whole models, logits (n, N, Y), on the class; 0 where there is no other class."""
    test = setup.test
    labels = np.where(test.valid, np.asarray(test.images.labels)[np.asarray(test.indices)], -1).ravel()
    called, found = whole.argmax(-1) == label[:, None], np.zeros(len(label))
    for i, (c, apart) in enumerate(zip(label, others, strict=True)):
        wrong = [called[i, labels == other].mean() for other in np.flatnonzero(apart) if (labels == other).any()]
        if wrong and (labels == c).any():
            found[i] = (called[i, labels == c].mean() + 1 - np.mean(wrong)) / 2
    return found


def _status(spread: np.ndarray, competence: np.ndarray, compact: np.ndarray) -> np.ndarray:
    named = [status(*one) for one in zip(spread.tolist(), competence.tolist(), compact.tolist(), strict=True)]
    return np.array([STATUS.index(name) for name in named], np.int8)


def _circuit(choice: Any, state: np.ndarray) -> Circuit:
    """Nothing is open, and no score is a number, where there was nothing to find."""
    defined = (state != STATUS.index("undefined"))[:, None]
    score = {layer: np.where(defined, score, -np.inf).astype(score.dtype) for layer, score in choice.score.items()}
    return Circuit(score, {layer: mask & defined for layer, mask in choice.mask.items()})


def judge(setup: Setup, models: Models, cases: Cases, decided: Decided, rows: Masked) -> Any:
    """`programs.judge_decisions` of rows that are the circuits on their own model, then on the other one, then whole
    models: each compared with the answers of the model that it is on."""
    asked = _asked(decided, cases, len(rows.label))
    whole = whole_table(decided, size(models))
    return programs.judge_decisions(models, setup.test, rows, asked, whole, layout=setup.layout)


def _asked(decided: Decided, cases: Cases, rows: int) -> Asked:
    """For so many rows, the first ones circuits on their own and on the other model."""
    n = len(cases.model)
    model, others = np.zeros(rows, int), np.ones((rows, decided.others.shape[1]), bool)
    model[: 2 * n], others[: 2 * n] = np.concatenate([cases.model, cases.other]), np.tile(decided.others, (2, 1))
    return Asked(others, model)  # type: ignore[arg-type]


def whole_table(decided: Decided, models: int) -> np.ndarray:
    """The logits of all stacked models, (models, N, Y); zeros for those without cases."""
    table = np.zeros((models, *decided.whole.shape[1:]), decided.whole.dtype)
    table[decided.rows] = decided.whole
    return table


def measures(cases: Cases, decided: Decided, kept: Explained, across: Explained) -> Record:
    """Of every circuit on its own model, and on the other one; NaN where there is no circuit."""
    defined = decided.status != STATUS.index("undefined")
    there = defined & defined[cases.mirror]  # of a model that decides nothing nothing can be explained

    def of(values: Any, wanted: np.ndarray = defined) -> np.ndarray:
        return cases.place(np.where(wanted, values, np.nan))

    kappa = [
        (one.agreement - one.constant_agreement) / np.maximum(1 - one.constant_agreement, 1e-9)
        for one in (kept, across)
    ]
    return {
        "status": cases.place(decided.status),
        "spread": cases.place(decided.spread),
        "competence": cases.place(decided.competence),
        "live": cases.place(np.stack([live.sum(-1) for live in decided.live.values()], -1)),
        "explained": of(kept.explained),
        "explained_plain": of(kept.explained_plain),
        "auc": of(kept.auc),
        "decision_accuracy": of(kept.accuracy),
        "bias_accuracy": of(kept.bias_accuracy),
        "kappa": of(kappa[0]),
        "cross_evaluation_explained": of(across.explained, there),
        "cross_evaluation_auc": of(across.auc),
        "cross_evaluation_decision_accuracy": of(across.accuracy),
        "cross_evaluation_bias_accuracy": of(across.bias_accuracy),
        "cross_evaluation_kappa": of(kappa[1], there),
        **{f"live_{layer}": cases.place(live) for layer, live in decided.live.items()},
        **_tried(cases, decided, defined),
    }


def _tried(cases: Cases, decided: Decided, defined: np.ndarray) -> Record:
    """How sizes were chosen, where they were."""
    if decided.sizes is None or decided.curve is None or decided.untrimmed is None or decided.rank is None:
        return {}
    return {
        "untrimmed_size": cases.place(np.where(defined, decided.untrimmed, 0)),
        "curve_size": cases.place(decided.sizes),
        "curve": cases.place(np.where(defined[:, None], decided.curve, np.nan)),
        **{
            f"rank_{layer}": cases.place(np.where(defined[:, None], rank, 0).astype(np.int16))
            for layer, rank in decided.rank.items()
        },
    }


BLOCK = 64
"""Rows that are judged on some test images in one call."""


def judge_on_some(setup: Setup, models: Models, rows: Masked, others: np.ndarray) -> Any:
    """`programs.judge_decisions` of rows (r,) on some of the test images, each compared with the answers of the model
    that it is on, block after block. others bool (r, Y)."""
    assert setup.some is not None
    whole = whole_logits(setup, models, np.arange(size(models)), setup.some)
    asked = Asked(others, rows.model)  # type: ignore[arg-type]
    return programs.judge_decisions(models, setup.some, rows, asked, whole, layout=setup.layout, block=BLOCK)


def controls(
    setup: Setup, models: Models, cases: Cases, decided: Decided, own: Masked, crossed: Masked, number: int
) -> Record:
    """What is judged on some of the test images: the rest of the model without the circuit, and N random sets of live
    channels, as many in each layer as the circuit has, on the circuit's own model and on the other one."""
    samples, n = setup.facts.experiment.evaluation.null_samples, len(cases.model)
    removed = own._replace(gates={layer: 1 - gate for layer, gate in own.gates.items()})
    sets = _live_sets(setup, cases, decided, own, number)
    random = [part._replace(gates=gates) for gates in sets for part in (own, crossed)]
    rows = programs.stacked([removed, *random])
    judged = judge_on_some(setup, models, rows, np.tile(decided.others, (len(rows.label) // n, 1)))
    performance, accuracy, compared = jax.tree.map(lambda leaf: leaf.reshape(-1, n, *leaf.shape[1:]), judged)
    defined = decided.status != STATUS.index("undefined")
    there = defined & defined[cases.mirror]
    record = {
        "removed_explained": cases.place(np.where(defined, compared.explained[0], np.nan)),
        "removed_call_rate": cases.place(performance.call_rate[0]),
        "removed_class_accuracy": cases.place(accuracy.per_class[0]),
    }
    if not samples:
        return record
    measured = {
        "explained": compared.explained, "auc": compared.auc, "decision_accuracy": compared.accuracy,
        "bias_accuracy": compared.bias_accuracy,
    }  # fmt: skip
    for prefix, first, explains in (("random_live", 1, defined), ("random_live_cross_evaluation", 2, there)):
        for name, values in measured.items():
            known = explains if name == "explained" else defined
            record[f"{prefix}_{name}"] = cases.place(np.where(known[:, None], values[first::2].T, np.nan))
    return record


def _live_sets(setup: Setup, cases: Cases, decided: Decided, own: Masked, number: int) -> list[dict[str, np.ndarray]]:
    """N times gates (n, O_l) a layer: random live channels, as many as the circuit has in the layer, or all."""
    samples, dtype = setup.facts.experiment.evaluation.null_samples, setup.facts.dtype
    sets = [{layer: np.zeros(gate.shape, dtype) for layer, gate in own.gates.items()} for _ in range(samples)]
    for row, key in enumerate(cases.keys(setup.facts.experiment.seeds, keys.LIVE_MASK, number)):
        for sample, gates in enumerate(sets):
            rng = keys.generator(*key, sample)
            for layer, gate in gates.items():
                alive = np.flatnonzero(decided.live[layer][row])
                gate[row, rng.permutation(alive)[: int(own.gates[layer][row].sum())]] = 1
    return sets

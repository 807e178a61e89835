"""What must hold of a run's numbers: they are finite, and the same when computed again.

Axes: S seeds, M models of a round, T local steps, n cases, O_l channels of convolution l.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fedmi_jax.errors import FedmiError
from fedmi_jax.federation import programs
from fedmi_jax.results.schema import ORIGINS

if TYPE_CHECKING:
    from fedmi_jax.circuits.objective import Scores
    from fedmi_jax.config import Experiment
    from fedmi_jax.federation.cases import Cases
    from fedmi_jax.federation.setup import Round, Setup
    from fedmi_jax.network.model import Params


def require_finite_losses(setup: Setup, round_: Round, losses: np.ndarray) -> None:
    """losses (M, T). Raises FedmiError that names the first seed, round, client and step of one that is not finite."""
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        raise _not_finite(setup, round_, "training loss is", bad[0, 0], bad[0, 1])


def require_finite_local(setup: Setup, round_: Round, local: Params) -> None:
    """The same for weights (M, ...). A step before the last would have shown in the next step's loss."""
    bad = np.flatnonzero(~np.asarray(programs.finite(local, layout=setup.layout))[: round_.clients.size])
    if len(bad):
        raise _not_finite(setup, round_, "weights are", bad[0], int(setup.facts.steps[round_.models][bad[0]]) - 1)


def require_finite_global(setup: Setup, round_: Round, global_models: Params) -> None:
    """The same for the averaged weights (S, ...)."""
    bad = np.flatnonzero(~np.asarray(programs.finite(global_models, layout=setup.layout)))
    if len(bad):
        seed = setup.facts.experiment.seeds[bad[0]]
        raise FedmiError(f"the averaged weights are not finite: seed {seed}, round {round_.number}")


def require_scores(experiment: Experiment, number: int, cases: Cases, searches: Sequence[Scores]) -> None:
    """Scores of every search, (n, O_l) a layer. Raises FedmiError for one that is no number, which would pass for a
    closed channel; minus infinity is the score of a class without images."""
    for scores in searches:
        bad = ~np.concatenate([np.asarray(layer) < np.inf for layer in scores.values()], 1).all(1)
        if bad.any():
            row, rate = int(np.argmax(bad)), experiment.discovery.learning_rate
            where = f"seed {experiment.seeds[cases.seed[row]]}, round {number}, client {cases.client[row]}"
            raise FedmiError(
                f"the scores of discovery are not finite: {where}, class {cases.label[row]}, "
                f"{ORIGINS[cases.origin[row]]} model; lower discovery.learning_rate (now {rate:g})"
            )


def _not_finite(setup: Setup, round_: Round, what: str, model: int, step: int) -> FedmiError:
    seed, client = (part[model] for part in round_.models)
    where = f"seed {setup.facts.experiment.seeds[seed]}, round {round_.number}, client {client}, local step {step}"
    rate = setup.facts.experiment.local.learning_rate
    return FedmiError(f"the {what} not finite: {where}; lower local.learning_rate (now {rate:g})")

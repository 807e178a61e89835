"""What must hold of a run's numbers: they are finite, and the same when computed again.

Axes: S seeds, M models of a round, T local steps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fedmi_jax import programs
from fedmi_jax.config import FedmiError

if TYPE_CHECKING:
    from fedmi_jax.model import Params
    from fedmi_jax.setup import Round, Setup


def require_finite_losses(setup: Setup, round_: Round, losses: np.ndarray) -> None:
    """losses (M, T). Raises FedmiError that names the first seed, round, client and step of one that is not finite."""
    bad = np.argwhere(~np.isfinite(losses))
    if len(bad):
        raise _not_finite(setup, round_, "training loss is", bad[0, 0], bad[0, 1])


def require_finite_weights(setup: Setup, round_: Round, local: Params, globals_: Params) -> None:
    """The same for weights (M, ...) and (S, ...). A step before the last would have shown in the next step's loss."""
    bad = np.flatnonzero(~np.asarray(programs.finite(local, how=setup.layout)))
    if len(bad):
        raise _not_finite(setup, round_, "weights are", bad[0], int(setup.steps[round_.models][bad[0]]) - 1)
    bad = np.flatnonzero(~np.asarray(programs.finite(globals_, how=setup.layout)))
    if len(bad):
        seed = setup.experiment.seeds[bad[0]]
        raise FedmiError(f"the averaged weights are not finite: seed {seed}, round {round_.number}")


def _not_finite(setup: Setup, round_: Round, what: str, model: int, step: int) -> FedmiError:
    seed, client = (part[model] for part in round_.models)
    where = f"seed {setup.experiment.seeds[seed]}, round {round_.number}, client {client}, local step {step}"
    rate = setup.experiment.local.learning_rate
    return FedmiError(f"the {what} not finite: {where}; lower local.learning_rate (now {rate:g})")

"""What sets of channels explain of a decision, however many sets.

Axes: r sets, n cases, C channels of all convolutions, N test images, Y classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

from fedmi_jax.federation import instrument

if TYPE_CHECKING:
    from fedmi_jax.federation.homes import Models
    from fedmi_jax.federation.instrument import Decided
    from fedmi_jax.federation.programs import Masked
    from fedmi_jax.federation.setup import Setup


def explained(
    setup: Setup, models: Models, decided: Decided, own: Masked, rows: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """What these sets of channels, bool (r, C), explain of the decisions of the cases `rows` (r,), on some test images.

    own: the cases' circuits.
    """
    ends, layers = np.cumsum([gate.shape[1] for gate in own.gates.values()])[:-1], list(own.gates)
    gates = dict(zip(layers, np.split(kept.astype(setup.facts.dtype), ends, 1), strict=True))
    masked = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], own)._replace(gates=gates)
    return instrument.judge_on_some(setup, models, masked, decided.others[rows])[2].explained

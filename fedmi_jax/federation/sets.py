"""What sets of channels explain of a decision, however many sets.

Axes: r sets, n cases, C channels of all convolutions, N test images, Y classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

from fedmi_jax.circuits.evaluation import Asked
from fedmi_jax.federation import programs

if TYPE_CHECKING:
    from fedmi_jax.federation.instrument import Decided
    from fedmi_jax.federation.programs import Masked
    from fedmi_jax.federation.setup import Setup
    from fedmi_jax.network.model import Params

BLOCK = 256
"""Sets of channels that are judged in one call."""


def explained(
    setup: Setup, models: Params, decided: Decided, own: Masked, rows: np.ndarray, kept: np.ndarray
) -> np.ndarray:
    """What these sets of channels, bool (r, C), explain of the decisions of the cases `rows` (r,), on some test images.

    They are judged in blocks of one size, so that their number, which is never the same, compiles nothing. own: the
    cases' circuits.
    """
    assert setup.some is not None
    whole = programs.whole_logits(models, np.arange(len(models["fc_bias"])), setup.some, how=setup.layout)
    ends, layers = np.cumsum([gate.shape[1] for gate in own.gates.values()])[:-1], list(own.gates)
    found = [np.zeros(0)]
    for start in range(0, len(rows), BLOCK):
        chosen = np.resize(np.arange(start, min(start + BLOCK, len(rows))), BLOCK)
        gates = np.split(kept[chosen].astype(setup.facts.dtype), ends, 1)
        masked = jax.tree.map(lambda leaf, at=rows[chosen]: np.asarray(leaf)[at], own)
        masked = masked._replace(gates=dict(zip(layers, gates, strict=True)))
        asked = Asked(decided.others[rows[chosen]], masked.model)  # type: ignore[arg-type]
        judged = programs.judge_decisions(models, setup.some, masked, asked, whole, how=setup.layout)
        found.append(np.asarray(judged[2].explained)[: min(BLOCK, len(rows) - start)])
    return np.concatenate(found)

"""What of an experiment can be done, and will come to nothing."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from fedmi_jax.errors import FedmiWarning

if TYPE_CHECKING:
    from fedmi_jax.federation.setup import Facts


def of_search(facts: Facts) -> list[str]:
    """A line for each."""
    d = facts.experiment.discovery
    found = [d.doubt] if d.doubt else []
    if d.objective != "class" and d.negatives == "own":
        alone = sorted({int(k) for s, k in zip(*((facts.counts > 0).sum(-1) == 1).nonzero(), strict=True)})
        if alone:
            found.append(
                f"discovery.negatives: own leaves clients {', '.join(map(str, alone))} nothing to tell their one class "
                "from; their circuits will be undefined"
            )
    return found


def warn(facts: Facts) -> None:
    """Each as a `FedmiWarning`."""
    for line in of_search(facts):
        warnings.warn(line, FedmiWarning, stacklevel=3)

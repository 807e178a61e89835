"""The authors' algorithm in PyTorch, one client and one circuit after the other: what fedmi_jax is measured against.

Written from the method's description, for speed, as somebody who knows PyTorch well would: images normalised once and
kept on the device, batches gathered by index, nothing waits for a GPU within a step, evaluation in inference mode,
frozen weights without gradients in discovery, channels-last convolutions, fused Adam. It takes the same index plans as
the package, so that both do the same work on the same data.

Importing this package does not import torch; its modules do. torch comes with the extra `reference`.
"""

from __future__ import annotations

import importlib

HINT = "pip install 'fedmi-jax[reference]'"


def missing() -> str | None:
    """Why there is no PyTorch here and how to get it, in one line; None where there is."""
    try:
        importlib.import_module("torch")
    except ImportError as error:
        return f"PyTorch cannot be imported ({error}); it comes with {HINT}"
    return None

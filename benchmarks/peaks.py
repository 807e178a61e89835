"""The most memory that was taken."""

from __future__ import annotations

import resource
import sys

import jax


def peak_memory() -> int:
    """Bytes: of the device where it tells, else of this process."""
    said = jax.local_devices()[0].memory_stats() or {}
    unit = 1 if sys.platform == "darwin" else 1024
    return said.get("peak_bytes_in_use") or unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

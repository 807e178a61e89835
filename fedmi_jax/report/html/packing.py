"""Arrays inside JSON: their bytes, deflated, in base64. `unpack.js` is the way back."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import numpy as np

KINDS = {"b": "bits", "u1": "u1", "i1": "i1", "u2": "u2", "f4": "f4"}
"""What a value is, by numpy's name of it: bits are eight to a byte, the lowest first; others are little-endian."""

Packed = dict[str, Any]


def packed(values: np.ndarray) -> Packed:
    """{"kind": one of `KINDS`, "shape": [...], "data": "..."}, the last axis fastest.

    Floating point becomes float32, integers must be of a type in `KINDS`. Raises ValueError for any other type.
    """
    values = np.asarray(values)
    values = values.astype(np.float32) if values.dtype.kind == "f" else values
    name = "b" if values.dtype == bool else f"{values.dtype.kind}{values.dtype.itemsize}"
    if name not in KINDS:
        raise ValueError(f"no way to pack {values.dtype}")
    ordered = np.packbits(values, axis=None, bitorder="little") if name == "b" else values.astype(f"<{name}")
    content = base64.b64encode(zlib.compress(np.ascontiguousarray(ordered).tobytes(), 9)).decode()
    return {"kind": KINDS[name], "shape": list(values.shape), "data": content}

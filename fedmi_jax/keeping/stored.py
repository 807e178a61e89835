"""Named arrays in a sealed .npz file, bit for bit, booleans as bits; never a pickle."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmi_jax.errors import FedmiError
from fedmi_jax.files import replacing, seal, sealed

Record = Mapping[str, np.ndarray]
_BITS, _RUN = "bits of ", "run"


def write_arrays(path: Path, arrays: Record, run: str) -> None:
    """A sealed .npz of these arrays, booleans as bits, uncompressed. Raises FedmiError when it cannot be written."""
    packed: dict[str, np.ndarray] = {_RUN: np.array(run)}
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise TypeError(f"{name}: objects would be pickled")
        if array.dtype == bool:
            packed |= {_BITS + name: np.packbits(array), name: np.array(array.shape, np.int64)}
        else:
            packed[name] = array
    content = io.BytesIO()  # in memory: a zip file that cannot be written to its end complains once more when it goes
    np.savez(content, **packed)  # type: ignore[arg-type]
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())  # no view: `content` complains when it goes and one is left
        seal(temporary)


@dataclass(frozen=True)
class Stored(Mapping[str, np.ndarray]):
    """A file of `write_arrays`, of which one array at a time is read.

    Getting one raises FedmiError when the file is not what was written.
    """

    path: Path

    def require(self, run: str) -> None:
        """Raise FedmiError unless the file is whole and of this run."""
        try:
            whole = sealed(self.path)
        except OSError as error:
            raise FedmiError(f"{self.path}: cannot be read: {error.strerror or error}") from None
        if not whole:
            raise FedmiError(f"{self.path}: damaged (its checksum is another)")
        if str(self._load(_RUN)) != run:
            raise FedmiError(f"{self.path}: of another run")

    def __iter__(self) -> Iterator[str]:
        with np.load(self.path, allow_pickle=False) as packed:
            names = packed.files
        return iter(name for name in names if name != _RUN and not name.startswith(_BITS))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __getitem__(self, name: str) -> np.ndarray:
        bits = self._load(_BITS + name, required=False)
        array = self._load(name)
        if bits is None:
            return array
        shape = tuple(array.ravel().tolist())
        if math.prod(shape) > 8 * bits.size:  # before anything of that size is made
            raise FedmiError(f"{self.path}: {name!r} has fewer bits than its shape {shape} asks for")
        return np.unpackbits(bits, count=math.prod(shape)).astype(bool).reshape(shape)

    def _load(self, name: str, required: bool = True) -> Any:
        try:
            with np.load(self.path, allow_pickle=False) as packed:
                unpacked = sum(member.file_size for member in packed.zip.infolist())
                if unpacked > self.path.stat().st_size:  # it was written uncompressed
                    raise ValueError(f"unpacks to {unpacked} bytes")
                found = packed[name] if required or name in packed.files else None
            if isinstance(found, bytes):  # what numpy makes of a member that is no array
                raise ValueError("no array")
            return found
        except MemoryError:
            raise
        except Exception as error:  # on damaged headers numpy raises nearly anything, tokenizer's errors included
            raise FedmiError(f"{self.path}: {name!r} cannot be read ({' '.join(str(error).split())[:80]})") from None

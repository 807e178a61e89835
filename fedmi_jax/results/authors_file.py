"""The authors' results files as typed values: their JSON, checked against their schema.

`fedmi_jax.results.authors` describes the schema, and turns such values into a result of this project.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from fedmi_jax.config import explain
from fedmi_jax.errors import FedmiError
from fedmi_jax.network.layers import conv_names
from fedmi_jax.results.schema import ORIGINS

MAX_BYTES = 2**26
"""No file is read that is larger than this, once decompressed; parsed it takes twenty times as much memory."""
IMAGE_CHANNELS = (1, 3)

_Layer = Annotated[str, Field(pattern=r"^(conv[1-9]\d?|fc)$")]
_Channel = Annotated[int, Field(ge=0, strict=True)]
_Destination = Annotated[int, Field(ge=0)]  # keys are text, hence not strict
_Percent = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False, strict=True)]


@dataclass(frozen=True)
class _Metrics:
    accuracy: _Percent | None = None
    necessity: _Percent | None = None
    local_mask_on_global_weights_acc: _Percent | None = None


@dataclass(frozen=True)
class Circuit:
    """One circuit: channels by layer, and the edges of its functional connectivity."""

    active_nodes: dict[_Layer, list[_Channel]]
    connectivity: dict[_Layer, dict[_Destination, list[_Channel]]]
    """Their newer code leaves out a layer whose weights are all zero."""
    metrics: _Metrics

    def edges(self, layer: str) -> dict[int, list[int]]:
        """Destination -> sources."""
        return self.connectivity.get(layer, {})


Clients = dict[Annotated[str, Field(pattern=r"^client_(0|[1-9]\d{0,5})$")], dict[str, Circuit]]


@dataclass(frozen=True)
class Round:
    """The circuits of one round."""

    clients_local_model: Annotated[Clients, Field(min_length=1)]
    clients_global_model: Annotated[Clients, Field(min_length=1)]


Tree = dict[str, Round]
"""A whole file: {"round_1": ...}."""
_Key = Annotated[str, Field(pattern=r"^round_[1-9]\d{0,5}$")]
_FILE = TypeAdapter(Annotated[dict[_Key, Round], Field(min_length=1)])


def _read(path: Path) -> bytes:
    """The file's bytes, decompressed when they are gzip's, whatever its name."""
    try:
        with open(path, "rb") as raw:
            zipped = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.open(raw) if zipped else raw as plain:
                content = plain.read(MAX_BYTES + 1)  # stops there: a small file can unpack to terabytes
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FedmiError(f"{path}: truncated or damaged gzip file ({error})") from None
    except OSError as error:
        raise FedmiError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(content) > MAX_BYTES:
        raise FedmiError(f"{path}: more than {MAX_BYTES} bytes; this is no results file of the authors")
    return content


def parse(path: Path) -> Tree:
    """The file checked against the schema. Raises FedmiError, in one line with the file and the place in it."""
    content = _read(path)
    try:
        return _FILE.validate_json(content)
    except MemoryError:
        raise FedmiError(f"{path}: too large for the memory of this machine") from None
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise FedmiError(f"{path}: not JSON, or truncated: {first.get('ctx', {}).get('error')}") from None
        raise FedmiError(f"{path}: not the authors' schema: {explain(error)}") from None


def models(tree: Tree) -> Iterator[tuple[str, int, Clients]]:
    """Every (round's key, index of the origin, its clients) in the order of the rounds."""
    for key in sorted(tree, key=final_number):
        yield key, 0, tree[key].clients_local_model
        yield key, 1, tree[key].clients_global_model


def places(tree: Tree) -> Iterator[tuple[str, Circuit]]:
    """Every circuit, and where it stands in the file."""
    for key, origin, clients in models(tree):
        for client, classes in clients.items():
            for name, circuit in classes.items():
                yield f"{key}.clients_{ORIGINS[origin]}_model.{client}.{name}", circuit


def final_number(key: str) -> int:
    """N of "round_N" or "client_N"."""
    return int(key.rpartition("_")[2])


def require_network(path: Path, tree: Tree, channels: tuple[int, ...]) -> None:
    """Raise FedmiError unless every circuit is one of a network with so many channels in each convolution."""
    for place, circuit in places(tree):
        for problem in _problems(circuit, channels):
            own = " ".join(map(str, channels))
            raise FedmiError(f"{path}: {place}.{problem}; the file was read with channels {own}: give its network's")


def _problems(circuit: Circuit, channels: tuple[int, ...]) -> Iterator[str]:
    layers, below = conv_names(len(channels)), (IMAGE_CHANNELS[-1], *channels)
    wanted = ", ".join(layers)
    if sorted(circuit.active_nodes) != sorted(layers):
        yield f"active_nodes: must have {wanted}; got {', '.join(sorted(circuit.active_nodes)) or 'none'}"
        return
    if not circuit.connectivity.keys() <= {*layers, "fc"}:
        yield f"connectivity: must have {wanted} and fc; got {', '.join(sorted(circuit.connectivity))}"
    if circuit.edges("fc"):
        yield "connectivity.fc: must be empty"
    for layer, sources, width in zip(layers, below, channels, strict=False):
        edges = circuit.edges(layer)
        yield from _beyond(f"active_nodes.{layer}", circuit.active_nodes[layer], width)
        yield from _beyond(f"connectivity.{layer}", edges, width)
        yield from _beyond(f"connectivity.{layer}, from", (s for own in edges.values() for s in own), sources)


def _beyond(place: str, found: Iterable[int], width: int) -> Iterator[str]:
    largest = max(found, default=-1)
    if largest >= width:
        yield f"{place}: channels must be less than {width}; got {largest}"

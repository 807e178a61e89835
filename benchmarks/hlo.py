"""What an optimised GPU module of XLA's would do, read from its text: launches, bytes, products, convolutions.

A module is computations of operations. On a GPU every operation of the entry and of its loops is one launch, except
those in FREE; a fusion is one. What an operation moves is counted as all of its operands and results: an upper bound,
since a kernel that reads a slice of an operand is counted with the whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

SIZE = {
    "pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "s64": 8,
    "u64": 8, "f64": 8, "c64": 8,
}  # fmt: skip
"""Bytes of a number."""
FREE = {
    "parameter", "get-tuple-element", "tuple", "constant", "bitcast", "while", "conditional", "call",
    "optimization-barrier", "after-all", "copy-done", "async-done", "all-reduce-done", "partition-id", "replica-id",
}  # fmt: skip
"""Operations that launch nothing themselves."""


class Operation(NamedTuple):
    """One line of a computation."""

    name: str
    result: str
    """Its type, as "f32[3,4]{1,0}" or a tuple of such."""
    code: str
    """As "fusion" or "custom-call"."""
    operands: tuple[str, ...]
    line: str


class Convolution(NamedTuple):
    """A convolution that a library does."""

    window: str
    """As "3x3"."""
    groups: int


class Body(NamedTuple):
    """A computation that launches kernels: the entry, a loop's body, a branch."""

    label: str
    """"entry", "branch", "call", or "loop"."""
    trips: int
    """How often it is done each time its surroundings are done once; 1 where this is not known."""
    launches: int
    moved: int
    """Bytes, an upper bound."""
    kernels: tuple[Operation, ...]
    inner: tuple[Body, ...]

    @property
    def all_launches(self) -> int:
        """Of its loops too, as often as they are done."""
        return self.launches + sum(body.trips * body.all_launches for body in self.inner)

    @property
    def all_moved(self) -> int:
        return self.moved + sum(body.trips * body.all_moved for body in self.inner)


Computations = dict[str, list[Operation]]


def parse(text: str) -> tuple[Computations, str]:
    """The computations of a module by name, and the name of its entry."""
    found: Computations = {}
    entry = here = ""
    for line in text.splitlines():
        if head := re.match(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            here = head[2]
            found[here], entry = [], here if head[1] else entry
        elif here and (row := re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$", line)):
            operands = tuple(re.findall(r"%([\w.\-]+)", re.split(r"\), |\)$", row[4])[0]))
            found[here].append(Operation(row[1], row[2], row[3], operands, line))
    return found, entry


def body(computations: Computations, name: str, label: str = "entry", trips: int = 1) -> Body:
    """What a computation launches, and what the loops and branches in it do."""
    types = {operation.name: operation.result for operation in computations[name]}
    kernels = tuple(operation for operation in computations[name] if operation.code not in FREE)
    moved = sum(moved_by(operation, types) for operation in kernels)
    inner = tuple(body(computations, *called) for operation in computations[name] for called in _called(operation))
    return Body(label, trips, len(kernels), moved, kernels, inner)


def moved_by(operation: Operation, types: dict[str, str]) -> int:
    """Bytes of its results and operands."""
    return bytes_of(operation.result) + sum(bytes_of(types.get(name, "")) for name in operation.operands)


def bytes_of(kind: str) -> int:
    """Of all arrays that a type names."""
    shapes = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", kind)
    return sum(SIZE.get(dtype, 0) * math.prod(int(n) for n in shape.split(",") if n) for dtype, shape in shapes)


def _called(operation: Operation) -> Iterator[tuple[str, str, int]]:
    """Computations that it runs as parts of the module, not as parts of one kernel: name, label, trips."""
    line = operation.line
    if operation.code == "while":
        trips = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
        yield _named(line, "body"), "loop", int(trips[1]) if trips else 1
    elif operation.code == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", line)
        names = re.findall(r"%?([\w.\-]+)", branches[1]) if branches else []
        for name in names or re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line):
            yield name, "branch", 1
    elif operation.code == "call":
        yield _named(line, "to_apply"), "call", 1


def _named(line: str, what: str) -> str:
    found = re.search(rf"{what}=%?([\w.\-]+)", line)
    assert found, f"{what} in {line}"
    return found[1]


def convolutions(computations: Computations) -> list[Convolution]:
    """All that a library does, wherever in the module."""
    lines = (operation.line for own in computations.values() for operation in own)
    return [
        Convolution(window[1], int(groups[1]) if (groups := re.search(r"feature_group_count=(\d+)", line)) else 1)
        for line in lines
        if "cudnn$conv" in line and (window := re.search(r"window=\{size=(\w+)", line))
    ]


def reduced_products(computations: Computations) -> list[Operation]:
    """Products and convolutions of float32 that the device may do with factors of fewer bits, since nothing asks for
    full precision."""
    return [
        operation
        for own in computations.values()
        for operation in own
        if _is_product(operation) and "f32" in operation.result and not _full_precision(operation.line)
    ]


def _is_product(operation: Operation) -> bool:
    library = operation.code == "custom-call" and re.search(r"cublas|cudnn\$conv", operation.line)
    return operation.code in ("dot", "convolution") or bool(library)


def _full_precision(line: str) -> bool:
    return bool(re.search(r"operand_precision=\{highest|HIGHEST", line)) or "algorithm=dot_f32_f32_f32" in line


def other_types(computations: Computations) -> set[str]:
    """Floating-point types in the module, but for float32."""
    lines = (operation.result for own in computations.values() for operation in own)
    return {dtype for result in lines for dtype in re.findall(r"\b(f64|f16|bf16|f8\w+)\[", result)}

"""Command-line words to typed options, with one-line errors."""

from __future__ import annotations

import contextlib
import io
import itertools
from typing import Any, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from fedmi_jax.errors import ConfigError


def parsed(kind: type, arguments: list[str], prog: str, **options: Any) -> Any:
    """tyro.cli, with its boxed errors in one line."""
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(kind, args=arguments, prog=prog, **options)
    except SystemExit as ended:
        if not ended.code:  # --help
            raise
    rows = [row.strip("│ ") for row in boxed.getvalue().splitlines()][1:]  # below the title
    problem = itertools.takewhile(_says_something, itertools.dropwhile(lambda row: not _says_something(row), rows))
    raise ConfigError(f"{' '.join(problem)}; see `{prog} --help`")


def _says_something(row: str) -> bool:
    """And is no rule or frame; a terminal without box characters gets plain ones."""
    return bool(row.strip("-─╰╯ "))


CLASS_MAPS = ConstructorRegistry()


@CLASS_MAPS.primitive_rule
def _class_map(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """A class map on the command line: --split.class-map 0,1 3,4 6,7, one word per client."""
    parts = [part for part in get_args(info.type) if part is not Ellipsis]
    if get_origin(info.type) is not tuple or not parts or any(get_origin(part) is not tuple for part in parts):
        return None
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar="CLASS,CLASS...",
        instance_from_str=lambda words: tuple(tuple(int(c) for c in word.split(",")) for word in words),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, classes)) for classes in value],
    )

"""Command-line words to typed options, with one-line errors."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from fedmi_jax.config import flat, to_dict
from fedmi_jax.errors import ConfigError, FedmiError, did_you_mean
from fedmi_jax.files import user_path


def parsed(kind: type, arguments: list[str], prog: str, **options: Any) -> Any:
    """tyro.cli, with its boxed errors in one line."""
    boxed = io.StringIO()
    try:
        with contextlib.redirect_stderr(boxed):
            return tyro.cli(kind, args=arguments, prog=prog, registry=RULES, **options)
    except SystemExit as ended:
        if not ended.code:  # --help
            raise
    rows = [row.strip("│ ") for row in boxed.getvalue().splitlines()][1:]  # below the title
    raise ConfigError(f"{_problem(rows)}{_meant(rows, options.get('default'))}; see `{prog} --help`")


def _problem(rows: list[str]) -> str:
    """The first paragraph of the box."""
    first = itertools.takewhile(_says_something, itertools.dropwhile(lambda row: not _says_something(row), rows))
    said = " ".join(first).removesuffix(".")
    return said.replace("Error parsing", "option")


def _says_something(row: str) -> bool:
    """And is no rule or frame; a terminal without box characters gets plain ones."""
    return bool(row.strip("-─╰╯ "))


def _meant(rows: list[str], default: Any) -> str:
    """Of an option that there is not: the one of the box's suggestions that is most like it."""
    wrong = re.search(r"Unrecognized options: (--[^\s,=]+)", " ".join(rows))
    if wrong is None:
        return ""
    near = [row.split()[0].rstrip(",") for row in rows if row.startswith("--")]
    return did_you_mean(wrong[1], near) if (own := _misplaced(wrong[1], default)) is None else f"; did you mean {own}?"


def _misplaced(word: str, default: Any) -> str | None:
    """The option of an experiment that is meant by its section, as --sparsity, or by a wrong path, as --local.mu."""
    fields = flat(to_dict(default.experiment)) if hasattr(default, "experiment") else {}
    options = [f"--{name.replace('_', '-')}" for name in fields]
    inside = [option for option in options if option.startswith(f"{word}.")]
    alike = [option for option in options if option.strip("-").split(".")[-1] == word.strip("-").split(".")[-1]]
    return next(iter([*inside, *alike]), None)


RULES = ConstructorRegistry()
"""How words become values, where tyro's own errors would not say what to write."""


def _whole(word: str) -> int:
    if "," in word:
        raise ValueError(f"put spaces between numbers, as in {word.replace(',', ' ')}; got {word!r}")
    try:
        return int(word)
    except ValueError:
        raise ValueError(f"give a whole number, as in 3; got {word!r}") from None


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ValueError(f"give a number, as in 0.5; got {word!r}") from None


def _path(word: str) -> Path:
    if not word:
        raise ValueError("the name is empty; give a file or folder, and . for the current folder")
    try:
        return user_path(word)
    except FedmiError as error:
        raise ValueError(str(error)) from None


def _classes(word: str) -> tuple[int, ...]:
    try:
        return tuple(int(label) for label in word.split(","))
    except ValueError:
        raise ValueError(f"give each client's classes with commas between them, as in 0,1 3,4; got {word!r}") from None


class _Words(NamedTuple):
    """How the words after an option become its value, and back."""

    nargs: int | Literal["*"]
    metavar: str
    read: Callable[[list[str]], Any]
    write: Callable[[Any], list[str]]


def _one(metavar: str, value_of: Callable[[str], Any]) -> _Words:
    return _Words(1, metavar, lambda words: value_of(words[0]), lambda value: [str(value)])


def _several(metavar: str, value_of: Callable[[str], Any], word_of: Callable[[Any], str] = str) -> _Words:
    """A tuple of any length, one word each."""
    return _Words("*", metavar, lambda words: tuple(map(value_of, words)), lambda values: [*map(word_of, values)])


_KINDS: dict[Any, _Words] = {
    int: _one("INT", _whole),
    float: _one("FLOAT", _number),
    Path: _one("PATH", _path),
    tuple[int, ...]: _several("INT [INT ...]", _whole),
    tuple[Path, ...]: _several("PATH [PATH ...]", _path),
    tuple[tuple[int, ...], ...]: _several("CLASS,CLASS...", _classes, lambda classes: ",".join(map(str, classes))),
}


@RULES.primitive_rule
def _ours(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """These kinds of values, each also as one of a few fixed ones: None, or "auto"."""
    members = [_bare(member) for member in (get_args(info.type) if _is_union(info.type) else [info.type])]
    fixed = {str(v): v for member in members for v in ([None] if member is type(None) else _choices(member))}
    kinds = [member for member in members if member in _KINDS]
    if len(kinds) != 1 or len(members) != 1 + len([m for m in members if m is type(None) or _choices(m)]):
        return None
    words = _KINDS[kinds[0]]

    def read(said: list[str]) -> Any:
        if len(said) == 1 and said[0] in fixed:
            return fixed[said[0]]
        try:
            return words.read(said)
        except ValueError as error:
            others = [name for name, meaning in fixed.items() if meaning is not None]
            raise ValueError("; or say ".join([str(error), *others])) from None

    def write(value: Any) -> list[str]:
        return [str(value)] if value is None or str(value) in fixed else words.write(value)

    return PrimitiveConstructorSpec(
        nargs=words.nargs,
        metavar="|".join(["{" + ",".join(fixed) + "}"] * bool(fixed) + [words.metavar]),
        instance_from_str=read,
        is_instance=lambda value: True,  # what is no value of the field was refused when the default was made
        str_from_instance=write,
    )


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _choices(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _bare(kind: Any) -> Any:
    """Without the bounds that `Annotated` adds, at any depth."""
    if hasattr(kind, "__metadata__"):
        return _bare(kind.__origin__)
    if get_origin(kind) is tuple:
        return tuple[tuple(part if part is Ellipsis else _bare(part) for part in get_args(kind))]  # type: ignore[return-value]
    return kind

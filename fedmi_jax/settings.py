"""How a section of an experiment's settings is declared: as a frozen dataclass that checks its values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import field, fields
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic.dataclasses
from pydantic import ConfigDict, Field, ValidationError

from fedmi_jax.errors import ConfigError, did_you_mean

T = TypeVar("T", bound=type)


Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
LARGEST = 2**31 - 1
"""Of a whole number, unless something else is said: what an index on a device can be."""
Count = Annotated[int, Field(ge=1, le=LARGEST)]
Index = Annotated[int, Field(ge=0, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A result keeps its seeds as 64-bit integers, and all of their bits make the random draws."""
Width = Annotated[int, Field(ge=1, le=2**20)]
Share = Annotated[float, Field(gt=0, le=1)]


def explain(error: ValidationError, section: str = "") -> str:
    """The first problem of a pydantic error in one line that starts with the field's path."""
    problems = [(_path(section, problem["loc"]), problem) for problem in error.errors()]
    path, first = problems[0]
    if first["type"] == "unexpected_keyword_argument":
        above, _, name = path.rpartition(".")
        known = _FIELDS.get(above, ())
        return f"{path}: unexpected field; there are {', '.join(known)}{did_you_mean(name, known)}"
    wanted = " or ".join(problem["msg"].lower() for where, problem in problems if where == path)
    shown = repr(first.get("input"))
    return f"{path}: {wanted}; got {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _path(section: str, loc: tuple[int | str, ...]) -> str:
    """Without what pydantic adds to say which kind of a value was tried."""
    names = [str(part) for part in loc if not str(part).startswith(("literal[", "constrained-"))]
    return ".".join([section, *names]).strip(".")


_FIELDS: dict[str, list[str]] = {}
"""The names of every section's fields."""


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def settings(section: str) -> Callable[[T], T]:
    """A frozen dataclass whose values are checked, and whose errors are ConfigErrors that name `section`."""

    def decorate(cls: T) -> T:
        strict = ConfigDict(extra="forbid", allow_inf_nan=False)
        made = pydantic.dataclasses.dataclass(frozen=True, config=strict)(cls)
        construct = made.__init__
        _FIELDS[section] = [one.name for one in fields(made)]

        @functools.wraps(construct)
        def construct_or_explain(self: Any, *args: Any, **values: Any) -> None:
            try:
                construct(self, *args, **values)
            except ValidationError as error:
                raise ConfigError(explain(error, section)) from None

        made.__init__ = construct_or_explain
        return made  # type: ignore[return-value]

    return decorate

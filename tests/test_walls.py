"""Which room of the package may import which: read from the source, one row per rule."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "fedmi_jax"
FLOORS = [
    {"errors"},
    {"settings", "files", "keys"},
    {"methods", "sections", "searches"},
    {"config"},
    {"presets", "network"},
    {"data", "devices", "aggregation"},
    {"training", "circuits", "results"},
    {"keeping", "analysis"},
    {"federation", "report"},
    {"studies"},
    {"cli"},
]
"""A room imports rooms of lower floors only; `fedmi_jax/__init__.py` stands above them all."""
NEVER = [
    ("results", "jax", "a result is read without JAX"),
    ("analysis", "jax", "what is judged is judged without JAX"),
    ("report", "jax", "a figure trains nothing"),
    ("report", "fedmi_jax.federation", "a figure trains nothing"),
    ("network", "fedmi_jax.data", "the network knows no data set"),
    ("network", "fedmi_jax.config", "the network is configured by its arguments"),
    ("training", "fedmi_jax.circuits", "training knows no circuits"),
    ("circuits", "fedmi_jax.training", "circuits are searched in frozen models"),
    ("circuits", "fedmi_jax.aggregation", "a search knows no server"),
    ("aggregation", "fedmi_jax.circuits", "a server is handed masks; it does not search"),
    ("data", "jax", "who holds what is decided on the host"),
    ("federation", "rich", "a round prints nothing"),
    ("studies", "fedmi_jax.training", "a study trains nothing"),
]


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Names of all modules that a file imports, wherever in it; of `from a import b` both a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.name != "__init__.py")


def within(name, module):
    return name == module or name.startswith(f"{module}.")


def test_every_room_has_a_floor():
    floors = [room for floor in FLOORS for room in floor]
    assert sorted(floors) == sorted({room_of(path) for path in FILES} - {"py"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_leads_up_or_sideways(path):
    floor = next(i for i, rooms in enumerate(FLOORS) if room_of(path) in rooms)
    below = {room_of(path)}.union(*FLOORS[:floor])
    for name in imports(path):
        if within(name, "fedmi_jax") and name != "fedmi_jax":
            assert name.split(".")[1] in below, f"{room_of(path)} imports {name}"


@pytest.mark.parametrize(("room", "module", "why"), NEVER, ids=[f"{room}-{module}" for room, module, _ in NEVER])
def test_what_a_room_never_imports(room, module, why):
    for path in (path for path in FILES if room_of(path) == room):
        assert not [name for name in imports(path) if within(name, module)], f"{path}: {why}"

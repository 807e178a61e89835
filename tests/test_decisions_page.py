"""docs/decisions.md: its example runs, and no option is left out."""

import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from fedmi_jax.cli.main import COMMANDS
from fedmi_jax.config import Discovery

PAGE = (Path(__file__).parent.parent / "docs" / "decisions.md").read_text()


def test_the_example_prints_what_it_should(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(example, names)
    first, second = capsys.readouterr().out.splitlines()
    assert first == "found [2] of 4"
    explained, auc, accuracy = map(float, re.findall(r"\d\.\d+", second))
    assert explained > 0.9
    assert (auc, accuracy) == (1, 1)
    assert names["logits"].shape == (200, 2)


@pytest.mark.parametrize("name", [one.name for one in fields(Discovery)])
def test_every_option_of_the_search_is_there_with_its_default(name):
    (default,) = re.findall(rf"^\| `discovery\.{name}` \| ([^|]*) \|", PAGE, re.MULTILINE)
    value = getattr(Discovery(objective="decision"), name)
    written = " ".join(map(str, value)) if isinstance(value, tuple) else str(value).removesuffix(".0")
    assert default == {"objective": "-", "classes": "each client's"}.get(name, written)


def test_its_commands_are_commands():
    for word in re.findall(r"^fedmi (\w+)", PAGE, re.MULTILINE):
        assert word in COMMANDS


def test_the_notebook_finds_the_channel_that_sees(capsys):
    path = Path(__file__).parent.parent / "docs" / "notebooks" / "a-circuit-that-decides.ipynb"
    cells, names = json.loads(path.read_text("utf-8"))["cells"], {}
    exec("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), names)
    assert capsys.readouterr().out.startswith("found [2]\n")
    assert names["explained"][2] > 0.9
    assert max(names["explained"][channel] for channel in (0, 1, 3)) < 0.1

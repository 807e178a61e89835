"""The short form of `python -m tests.fuzz`."""

import fuzz
import pytest

KINDS = [name for name, kind in fuzz.KINDS.items() if kind.promised]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_copies_are_refused_in_one_line_or_harmless(kind):
    found = fuzz.judge(kind, 25)
    assert set(found) <= {"refused", "read"}
    assert found.total() == 25

"""The short forms of `python -m tests.fuzz` and `python -m tests.torture`."""

import sys

import fuzz
import pytest
import torture

KINDS = [name for name, kind in fuzz.KINDS.items() if kind.promised]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_copies_are_refused_in_one_line_or_harmless(kind):
    found = fuzz.judge(kind, 25)
    assert set(found) <= {"refused", "read"}
    assert found.total() == 25


def test_a_run_killed_at_fixed_and_random_moments_ends_in_the_same_file(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["torture", "--kills", "1", "--moments", "1"])
    assert torture.main() == 0, capsys.readouterr().out

"""The daily check leaves out tests that there are, and keeps one that is to notice each planted fault."""

from pathlib import Path

import faults
import pytest
import quick

TESTS = Path(__file__).parent


@pytest.mark.parametrize("row", quick.LEFT_OUT)
def test_what_is_left_out_is_there(row):
    file, *one = row.split("::")
    text = (TESTS / f"test_{file}.py").read_text(encoding="utf-8")
    assert all(f"def {test}(" in text for test in one)
    assert quick.LEFT_OUT[row]


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_of_every_planted_fault_a_test_that_should_notice_it_is_kept(fault):
    assert not all(map(quick.is_left_out, fault.tests.split()))

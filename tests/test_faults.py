"""The table of planted faults fits the package and the suite as they are now."""

from pathlib import Path

import faults
import pytest

PACKAGE = Path(__file__).parent.parent / "fedmi_jax"


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_changes_one_place_and_names_tests_that_there_are(fault):
    assert (PACKAGE / f"{fault.file}.py").read_text(encoding="utf-8").count(fault.old) == 1
    assert fault.old != fault.new
    for name in fault.tests.split():
        assert (PACKAGE.parent / "tests" / f"test_{name}.py").exists()

"""The table of planted faults fits the package and the suite as they are now."""

from pathlib import Path

import faults
import pytest

TESTS = Path(__file__).parent


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.name)
def test_a_fault_changes_one_place_and_names_tests_that_there_are(fault):
    assert (TESTS.parent / "fedmi_jax" / f"{fault.file}.py").read_text(encoding="utf-8").count(fault.old) == 1
    assert fault.old != fault.new
    for name in fault.tests.split():
        file, *one = name.split("::")
        text = (TESTS / f"test_{file}.py").read_text(encoding="utf-8")
        assert all(f"def {test}(" in text for test in one)


def test_samples_are_of_different_rooms_and_all_quick_faults_have_their_turn():
    samples = [faults.sample(faults.FAULTS, 4, day) for day in range(100)]
    assert all(len({fault.room for fault in sample}) == 4 for sample in samples)
    seen = {fault for sample in samples for fault in sample}
    assert seen == {fault for fault in faults.FAULTS if faults.is_quick(fault)}
    assert {"federation", "keeping"} <= {fault.room for fault in seen}

"""The faults planted for the fuzz tests still fit the readers; `python -m tests.harness.planted_faults` plants them."""

from __future__ import annotations

import pytest

from tests.harness.planted_faults import FAULTS, ROOT, Fault, fuzz_test_of


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title)
def test_a_planted_fault_fits_its_reader(fault: Fault) -> None:
    assert (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) == 1
    assert fault.old != fault.new
    assert (ROOT / fuzz_test_of(fault.file)).is_file()

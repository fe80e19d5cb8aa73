"""A check that cannot fail proves nothing: every seeded fault is found, by the check its row names."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.kernels.cuda.mutants import MUTANTS
from tests.kernels.cuda.sim import BUILD, ROOT, build


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    build()
    objects = sorted(str(p) for p in (BUILD / "cuda-sim/CMakeFiles").rglob("*.o"))
    command = [sys.executable, "-m", "tests.kernels.cuda.mutants", *objects]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("title", MUTANTS)
def test_a_seeded_fault_is_caught(outcomes: dict[str, str], title: str) -> None:
    assert outcomes[title] == MUTANTS[title].caught_by

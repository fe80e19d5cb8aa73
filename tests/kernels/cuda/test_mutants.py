"""A check that cannot fail proves nothing: every seeded fault is found, by the check its row names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.cuda import order_mutants
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


@pytest.fixture(scope="module")
def order_outcomes(
    family: Callable[[str], tuple[Any, Path]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    _, folder = family("umt5")
    out = tmp_path_factory.mktemp("order") / "library"
    command = [sys.executable, "-m", "tests.kernels.cuda.order_mutants", str(folder), str(out)]
    environment = os.environ | {"T5K_CUDA_SIM": str(build())}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("title", order_mutants.MUTANTS)
def test_a_missing_wait_is_caught(order_outcomes: dict[str, str], title: str) -> None:
    is_control = title.startswith("control")
    assert (order_outcomes[title] == order_mutants.SURVIVED) == is_control, order_outcomes[title]

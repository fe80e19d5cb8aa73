"""The small cases again with every access checked by AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.cuda.sim import ROOT, build


def _runtime(name: str) -> str:
    done = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_small_cases_are_clean_under_asan_and_ubsan() -> None:
    preload = [_runtime("libasan.so"), _runtime("libubsan.so")]
    if not all(Path(p).is_absolute() for p in preload):
        pytest.skip("the compiler came without libasan and libubsan")
    library = build("cuda-sim-asan", "-DT5K_SANITIZE=address")
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",  # Python's own leaks; fibers
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.kernels.cuda.cases", str(library), "small"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]

"""The kernels under g++'s sanitizers: bounds, alignment, undefined behaviour and races of every access.

AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer see the CUDA threads as they are: the simulator tells
TSan of a fiber per CUDA thread, ordered by barriers, __syncwarp and the launch, by nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels.cuda.sim import ROOT, build


def _run(preload: list[str], options: dict[str, str], library: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """The named cases (or "small") in a Python that has the sanitizers' runtimes from its start."""
    paths = []
    for name in preload:
        done = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
        paths.append(done.stdout.strip())
    if not all(Path(p).is_absolute() for p in paths):
        pytest.skip(f"the compiler came without {' and '.join(preload)}")
    environment = {**os.environ, "LD_PRELOAD": " ".join(paths), "OPENBLAS_NUM_THREADS": "1", **options}
    # GCC 12's ThreadSanitizer does not know the wide address randomisation of newer kernels.
    prefix = ["setarch", "-R"] if shutil.which("setarch") else []
    command = [*prefix, sys.executable, "-m", "tests.kernels.cuda.cases", str(library), *names]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def _run_asan(library: Path, *names: str) -> subprocess.CompletedProcess[str]:
    # Leaks are Python's own; fake stacks do not follow fibers.
    options = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0", "PYTHONMALLOC": "malloc"}
    return _run(["libasan.so", "libubsan.so"], options, library, *names)


def _run_tsan(library: Path, *names: str) -> subprocess.CompletedProcess[str]:
    # Interceptors would report the simulator's own memcpy between lanes.
    options = {"TSAN_OPTIONS": "ignore_interceptors_accesses=1:halt_on_error=1"}
    return _run(["libtsan.so"], options, library, *names)


def _wrong(sanitizer: str) -> Path:
    return build(
        f"cuda-sim-wrong-{sanitizer}", f"-DT5K_SANITIZE={sanitizer}", f"-DT5K_OPS={Path(__file__).parent / 'wrong'}"
    )


def test_small_cases_are_clean_under_asan_and_ubsan() -> None:
    done = _run_asan(build("cuda-sim-asan", "-DT5K_SANITIZE=address"), "small")
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


def test_small_cases_have_no_race() -> None:
    pipelined = ["gemm-f16-f16-17x129x80-store", "gemm-bf16-bf16-65x70x40-store", "attend_rows-f32-causal-2x8x70"]
    pipelined += ["gemm-i8-bf16-17x129x80-store", "gemm-i4-bf16-65x70x40-store"]
    done = _run_tsan(build("cuda-sim-tsan", "-DT5K_SANITIZE=thread"), "small", *pipelined)
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]


@pytest.mark.parametrize("kernel", ["race", "race_in_warp"])
def test_a_race_is_named_with_its_line(kernel: str) -> None:
    done = _run_tsan(_wrong("thread"), f"wrong:{kernel}")
    assert done.returncode != 0
    assert "ThreadSanitizer: data race" in done.stderr
    assert "wrong.cu" in done.stderr


@pytest.mark.parametrize(
    ("kernel", "report"),
    [
        ("read_past_shared", "index 64 out of bounds"),
        ("read_past_global", "use-after-poison"),
        ("shift", "shift exponent"),
    ],
)
def test_a_bad_access_is_named_with_its_line(kernel: str, report: str) -> None:
    done = _run_asan(_wrong("address"), f"wrong:{kernel}")
    assert done.returncode != 0
    assert report in done.stderr
    assert "wrong.cu" in done.stderr

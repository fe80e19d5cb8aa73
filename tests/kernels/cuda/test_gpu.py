"""Every case on a real GPU. It has not met one yet: where there is none it is skipped and says what is missing."""

from __future__ import annotations

import pytest

from tests.kernels.cuda import compilers
from tests.kernels.cuda.cases import CASES, run_case
from tests.kernels.cuda.gpu import Gpu, missing
from tests.kernels.cuda.sim import LaunchFailed, build

REASON = missing()


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return Gpu()


@pytest.mark.gpu
@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_kernels_agree_with_float64_on_a_device(gpu: Gpu) -> None:
    wrong = []
    for name in CASES:
        try:
            run_case(gpu, name)
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
        except LaunchFailed as error:  # takes the context with it: what follows would fail for this alone
            wrong.append(f"{name}: {error}; cases after it were not run")
            break
    assert not wrong, "\n".join(wrong)


@pytest.mark.skipif(not (compilers.nvrtc_library() or compilers.nvcc()), reason="neither NVRTC nor nvcc is installed")
def test_the_code_that_will_drive_a_gpu_runs_on_the_simulator() -> None:
    gpu = Gpu(str(build()))
    for name in (
        "rms_norm-f16-3x33",
        "linear-i4-bf16-3x33x17-store",
        "attend-f32-self-3x8x40",
        "beam_step-2x3x50",
    ):
        run_case(gpu, name)

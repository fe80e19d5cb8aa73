"""Every kernel, dtype and awkward shape as nvcc and as NVRTC compiled it, against float64 and the simulator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.kernels.cuda import jobs, reference
from tests.kernels.cuda.cases import CASES, SMALL, run_case
from tests.kernels.cuda.jobs import KERNELS
from tests.kernels.cuda.linear_cases import Linear
from tests.kernels.cuda.sim import Sim
from tests.kernels.ptx.interpreter import PtxMachine

NAMES = sorted(CASES)
USES_APPROXIMATION = (
    "attend",
    "log_softmax",
    "linear-f32-f32-5x64x20-gated",
    "linear-f32-f32-2x24x16-act",
    "gemm-bf16-bf16-33",
)
ULPS = {"f32": 2.0**-23, "f16": 2.0**-10, "bf16": 2.0**-7}
"""One unit in the last place, relative."""


@contextmanager
def recorded(machine: Sim, into: list[np.ndarray]) -> Iterator[None]:
    """Keeps every array that a case reads back."""
    down = machine.down

    def keep(*arguments: Any) -> np.ndarray:
        into.append(down(*arguments))
        return into[-1].copy()

    machine.down = keep  # type: ignore[method-assign]
    try:
        yield
    finally:
        machine.down = down  # type: ignore[method-assign]


def _numbers(array: np.ndarray) -> tuple[np.ndarray, float]:
    """float64 values, and the relative size of one unit in the last place."""
    if array.dtype == np.uint16:
        return reference.decode("bf16", array), ULPS["bf16"]
    return array.astype(np.float64), ULPS["f16" if array.dtype == np.float16 else "f32"]


def assert_alike(got: np.ndarray, want: np.ndarray, name: str) -> None:
    """Integers equal; floats within 2 ulp (fp32: 16) of the largest value of their array.

    nvcc fuses products and sums that g++ rounds apart, and expf differs in its last bit: long fp32 sums show it, 16-bit
    results hide it.
    """
    if got.dtype.names:
        for field in got.dtype.names:
            assert_alike(got[field], want[field], f"{name}.{field}")
        return
    if got.dtype.kind == "i" or got.dtype == np.uint8:
        assert np.array_equal(got, want), name
        return
    (a, ulp), (b, _) = _numbers(got), _numbers(want)
    both = np.isfinite(a) & np.isfinite(b)
    assert np.array_equal(a[~both], b[~both], equal_nan=True), name
    if not both.any():
        return
    allowed = (16 if ulp == ULPS["f32"] else 2) * ulp * np.abs(b[both]).max()
    worst = np.abs(a[both] - b[both]).max()
    assert worst <= allowed, f"{name}: {worst:.3g} apart, {allowed:.3g} allowed"


@pytest.fixture(scope="session")
def simulated(sim: Sim) -> Callable[[str], list[np.ndarray]]:
    """What the simulator computes for a case, once for all compilers."""

    @cache
    def arrays(name: str) -> list[np.ndarray]:
        kept: list[np.ndarray] = []
        with recorded(sim, kept):
            run_case(sim, name, order=0)
        return kept

    return arrays


@pytest.mark.parametrize("name", NAMES)
def test_compiled_kernel_agrees_with_float64_and_the_simulator(
    compiled: PtxMachine, simulated: Callable[[str], list[np.ndarray]], name: str
) -> None:
    ours: list[np.ndarray] = []
    with recorded(compiled, ours):
        run_case(compiled, name, order=2 + len(name) % 2)
    theirs = simulated(name)
    assert len(ours) == len(theirs) > 0
    for got, want in zip(ours, theirs, strict=True):
        assert_alike(got, want, name)


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith(USES_APPROXIMATION) and "cross" not in n])
def test_tolerances_leave_room_for_the_gpu_s_approximate_instructions(compiled: PtxMachine, name: str) -> None:
    try:
        for seed in (1, 2):
            compiled.noise(seed)
            run_case(compiled, name, order=0)
    finally:
        compiled.noise(0)


@pytest.mark.parametrize("name", sorted(n for n in SMALL if "f16" not in n))
def test_results_do_not_depend_on_the_order_of_threads(compiled: PtxMachine, name: str) -> None:
    outputs = []
    for order in (0, 1, 4, 5):
        kept: list[np.ndarray] = []
        with recorded(compiled, kept):
            run_case(compiled, name, order)
        outputs.append([a.tobytes() for a in kept])
    assert all(each == outputs[0] for each in outputs)


def test_every_kernel_is_there_known_and_takes_its_record(compiled: PtxMachine) -> None:
    assert compiled.unknown() == []
    for name, record in KERNELS.items():
        assert compiled.job_bytes(name) == len(bytes(record())), name


MORE = [
    *(  # as many groups of k as are asked for ahead, and some of the next turn
        Linear(kernel="linear", weights=w, x=x, R=8, K=K, N=16)
        for w, K in (("f32", 260), ("f16", 514), ("bf16", 514), ("i8", 1028), ("i4", 1032))
        for x in jobs.DTYPES
    ),
    *(
        Linear(kernel="gemm", weights=w, x=x, R=64, K=34, N=64, epilogue=epilogue, act=act, y_is_f32=is_f32)
        for w, x in (("f16", "f16"), ("bf16", "bf16"), ("i8", "bf16"), ("i4", "bf16"))
        for act in jobs.ACTIVATIONS
        for epilogue in ("act", "gated")
        for is_f32 in (False, True)
    ),
    *(
        Linear(kernel="linear", weights=w, x=x, R=8, K=40, N=16, epilogue=epilogue, act=act)
        for w in (*jobs.DTYPES, "i8", "i4")
        for x in jobs.DTYPES
        for act in jobs.ACTIVATIONS
        for epilogue in ("act", "gated")
    ),
]
"""Whole tiles under every epilogue: compilers unroll each of them, the cases for awkward shapes need only one."""


@pytest.mark.parametrize("compiled", ["nvrtc"], indirect=True)
def test_the_cases_reach_nearly_every_instruction_of_every_kernel(compiled: PtxMachine) -> None:
    for name in NAMES:
        run_case(compiled, name)
    for run in MORE:
        run(compiled, np.random.default_rng(5))
        compiled.reset()
    reached = {name: 1 - len(compiled.missed(name)) / compiled.length(name) for name in KERNELS}
    assert min(reached.values()) > 0.7, {n: round(r, 2) for n, r in reached.items() if r <= 0.7}
    total = sum(compiled.length(n) for n in KERNELS)
    assert sum(len(compiled.missed(n)) for n in KERNELS) < 0.15 * total

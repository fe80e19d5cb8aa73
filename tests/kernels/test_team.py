"""The thread team: a phase too small to share wakes nobody, and a large one is shared with the same bits."""

# ruff: noqa: N806 - tensor letters

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from engines.t5 import native
from tests.kernels import ops

TASKS = Path("/proc/self/task")


def cpu_ns(thread: str) -> int:
    return int((TASKS / thread / "schedstat").read_text().split()[0])


@pytest.mark.parametrize("form", ["fp32", "int8"])
@pytest.mark.parametrize("rows", [1, 4])
def test_a_product_of_a_few_microseconds_is_the_callers_alone(form: str, rows: int) -> None:
    rng = np.random.default_rng(0)
    data, N = ops.packed(form, rng.standard_normal((128, 192)).astype(np.float32))
    x, y = ops.rows(rng.standard_normal((rows, 192)).astype(np.float32)), ops.aligned((rows, ops.stride(N)))
    before = set(os.listdir(TASKS))
    with ops.bench("", threads=2) as handle:
        (worker,) = set(os.listdir(TASKS)) - before
        time.sleep(0.05)  # it spins for a moment after its start
        begin, own = cpu_ns(worker), time.thread_time_ns()
        status = native.library().t5k_op_linear(
            handle,
            native.FORMATS[form],
            0,
            0,
            0,
            data.ctypes.data,
            192,
            N,
            N,
            x.ctypes.data,
            rows,
            y.ctypes.data,
            20_000,
        )
        spent, own = cpu_ns(worker) - begin, time.thread_time_ns() - own
    assert status == 0
    assert spent < 0.05 * own


@pytest.mark.parametrize("form", ["fp32", "bf16", "int8", "int4"])
def test_one_two_and_five_threads_give_the_same_bits_around_the_limit(form: str) -> None:
    rng = np.random.default_rng(1)
    for R, K, N in ((1, 192, 1024), (2, 320, 1040), (5, 192, 768), (9, 192, 1024)):
        w, x = rng.standard_normal((N, K)).astype(np.float32), rng.standard_normal((R, K)).astype(np.float32)
        one, two, five = (ops.linear("", form, w, x, threads=threads) for threads in (1, 2, 5))
        assert one.tobytes() == two.tobytes() == five.tobytes(), (R, K, N)

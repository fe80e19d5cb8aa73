"""Every kernel, dtype and awkward shape on the simulator, against float64."""

from __future__ import annotations

import ctypes as c

import pytest

from tests.kernels.cuda.cases import CASES, SMALL, run_case
from tests.kernels.cuda.jobs import KERNELS
from tests.kernels.cuda.sim import Sim


@pytest.mark.parametrize("name", sorted(CASES))
def test_kernel_agrees_with_float64(sim: Sim, name: str) -> None:
    run_case(sim, name, order=2 + len(name) % 2)


@pytest.mark.parametrize("name", sorted(n for n in SMALL if "-f32" in n or "f16" not in n))
def test_results_do_not_depend_on_the_order_of_threads(sim: Sim, name: str) -> None:
    for order in (0, 1, 4, 5):
        run_case(sim, name, order)


def test_every_kernel_has_a_case_and_a_record_of_the_right_size(sim: Sim) -> None:
    assert sim.kernels() == sorted(KERNELS)
    for name, record in KERNELS.items():
        assert sim.lib.sim_job_bytes(name.encode()) == c.sizeof(record), name
    tested = {"_".join(n.split("-")[:3] if n.startswith(("linear", "gemm-i")) else n.split("-")[:2]) for n in CASES}
    for name in KERNELS:
        op = name.replace("store_kv", "attend_rows").replace("attend_merge", "attend")
        assert any(each.startswith(op) for each in tested), name

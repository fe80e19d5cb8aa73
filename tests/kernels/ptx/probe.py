"""Small PTX kernels written by a test: a snippet over arrays, one element per thread."""

from __future__ import annotations

import ctypes as c
from collections.abc import Sequence

import numpy as np

from tests.kernels.ptx.interpreter import PtxMachine

HEAD = ".version 8.0\n.target sm_80\n.address_size 64\n"
INPUTS, OUTPUTS = "abcd", "rsuv"  # %t is the thread's number
MAX_ARRAYS = 8


class Job(c.Structure):
    """Addresses of inputs, then of outputs."""

    _fields_ = [("at", c.c_uint64 * MAX_ARRAYS)]


def kernel(body: str, declarations: str = "") -> str:
    """A module with one kernel `probe`, whose parameter `job` holds eight addresses."""
    return f"""{HEAD}{declarations}
.visible .entry probe(.param .align 8 .b8 job[{8 * MAX_ARRAYS}])
{{
    .reg .pred %p, %q;
    .reg .b32 %t, %x, %y, %z;
    .reg .b64 %at<{MAX_ARRAYS}>, {", ".join(f"%{name}" for name in INPUTS + OUTPUTS)};
    mov.u32 %t, %tid.x;
{body}
    ret;
}}
"""


def compute(
    machine: PtxMachine, snippet: str, inputs: Sequence[np.ndarray], outputs: Sequence[type], declarations: str = ""
) -> list[np.ndarray]:
    """Runs `snippet` on each thread's elements: inputs of at most 8 bytes in %a, %b ..., others at [%at0], [%at1] ...

    Gives what the threads leave in %r, %s, %u, %v.
    """
    threads = len(inputs[0])
    sizes = [a.itemsize for a in inputs] + [np.dtype(t).itemsize for t in outputs]
    lines = []
    for i, size in enumerate(sizes):
        lines += [f"ld.param.u64 %at{i}, [job+{8 * i}];", f"mad.wide.u32 %at{i}, %t, {size}, %at{i};"]
    for i, name in enumerate(INPUTS[: len(inputs)]):
        if sizes[i] <= 8:
            lines.append(f"ld.global.u{8 * sizes[i]} %{name}, [%at{i}];")
    lines.append(snippet)
    for i, name in enumerate(OUTPUTS[: len(outputs)], start=len(inputs)):
        lines.append(f"st.global.b{8 * sizes[i]} [%at{i}], %{name};")
    machine.load(kernel("\n".join(lines), declarations))
    try:
        memory = [machine.up(a) for a in inputs] + [machine.empty(threads * np.dtype(t).itemsize) for t in outputs]
        job = Job((c.c_uint64 * MAX_ARRAYS)(*memory))
        machine.launch("probe", job, grid=(1,), threads=threads)
        return [machine.down(m, (threads,), t) for m, t in zip(memory[len(inputs) :], outputs, strict=True)]
    finally:
        machine.reset()


def run(
    machine: PtxMachine, body: str, *, threads: int = 64, grid: tuple[int, ...] = (1,), shared: int = 0
) -> np.ndarray:
    """Runs a whole body; [job] is 64 words of zeros in global memory, returned afterwards."""
    machine.load(kernel(body))
    try:
        memory = machine.up(np.zeros(64, np.uint32))
        job = Job((c.c_uint64 * MAX_ARRAYS)(memory))
        machine.launch("probe", job, grid=grid, threads=threads, shared=shared)
        return machine.down(memory, (64,), np.uint32)
    finally:
        machine.reset()

"""Every kernel compiles for every GPU generation we name, within the committed registers, and without spilling.

Compiled, not run: nothing here says a kernel works on a GPU. resources.json is rewritten by
`python -m tests.kernels.cuda.test_compile` when a change is wanted.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.kernels.cuda import compilers
from tests.kernels.cuda.jobs import KERNELS

TABLE = Path(__file__).parent / "resources.json"
SLACK = (8, 0, 0)
"""Registers another release of nvcc may add before a person looks; spilled and shared bytes may not grow at all."""
needs_nvcc = pytest.mark.skipif(compilers.nvcc() is None, reason="nvcc is not installed")
needs_nvrtc = pytest.mark.skipif(
    compilers.nvrtc_library() is None, reason="the nvidia-cuda-nvrtc wheel is not installed"
)


@needs_nvcc
@pytest.mark.parametrize("arch", compilers.ARCHS)
def test_nvcc_compiles_every_kernel_within_its_limits(arch: int) -> None:
    found = compilers.nvcc_resources(arch)
    limits = json.loads(TABLE.read_text())[f"sm_{arch}"]
    assert sorted(found) == sorted(KERNELS) == sorted(limits)
    over = {
        name: f"registers, spills, shared: {now}, at most {limits[name]}"
        for name, now in found.items()
        if any(n > most + more for n, most, more in zip(now, limits[name], SLACK, strict=True))
    }
    assert not over


def test_no_kernel_is_allowed_to_spill() -> None:
    table = json.loads(TABLE.read_text())
    assert sorted(table) == sorted(f"sm_{arch}" for arch in compilers.ARCHS)
    assert not [name for limits in table.values() for name, (_, spills, _) in limits.items() if spills]


@needs_nvrtc
@pytest.mark.parametrize("arch", [80, 90])
def test_nvrtc_compiles_every_kernel_without_a_toolkit_or_a_driver(arch: int) -> None:
    library = compilers.nvrtc_library()
    assert library
    cubin, log = compilers.nvrtc_compile(library, arch)
    assert cubin.startswith(b"\x7fELF")
    assert not [name for name in KERNELS if name.encode() not in cubin]
    assert "warning" not in log


if __name__ == "__main__":
    found = {f"sm_{arch}": compilers.nvcc_resources(arch) for arch in compilers.ARCHS}
    rows = (
        f' "{arch}": {{\n' + ",\n".join(f'  "{n}": {v}' for n, v in sorted(t.items())) + "\n }"
        for arch, t in found.items()
    )
    TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n")

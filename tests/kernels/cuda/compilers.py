"""nvcc and NVRTC over every kernel at once: one translation unit that includes each .cu file."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from engines.t5 import cuda
from engines.t5.cuda import nvrtc_library, sources, unit
from tests.kernels.cuda.sim import BUILD, ROOT

__all__ = ["nvcc", "nvcc_cubin", "nvcc_resources", "nvrtc_compile", "nvrtc_library", "unit"]

KERNELS = ROOT / "kernels"
ARCHS = (80, 86, 89, 90, 100, 120)
FLAGS = ("-std=c++17", "-cubin", "-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-Werror")


def _hash(*extra: str) -> str:
    digest = hashlib.sha256(unit().encode())
    for text in sources().values():
        digest.update(text)
    digest.update("".join(extra).encode())
    return digest.hexdigest()[:16]


def nvcc() -> str | None:
    return shutil.which("nvcc")


def nvcc_resources(arch: int) -> dict[str, list[int]]:
    """Kernel -> [registers, spilled bytes, static shared bytes] of nvcc's cubin. Kept under build/ by source hash."""
    compiler = nvcc()
    assert compiler
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    folder = BUILD / "cuda-nvcc"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"sm_{arch}-{_hash(version, *FLAGS)}.json"
    if not kept.exists() or not (folder / f"sm_{arch}.cubin").exists():
        source = folder / f"all-{arch}.cu"
        source.write_text(unit())
        command = [compiler, f"-arch=sm_{arch}", f"-I{KERNELS}", *FLAGS, "-o", str(folder / f"sm_{arch}.cubin")]
        done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        kept.write_text(json.dumps(_resources(done.stdout + done.stderr)))
    found: dict[str, list[int]] = json.loads(kept.read_text())
    return found


def nvcc_cubin(arch: int) -> bytes:
    """What nvcc made of every kernel for one architecture."""
    nvcc_resources(arch)
    return (BUILD / f"cuda-nvcc/sm_{arch}.cubin").read_bytes()


def _resources(log: str) -> dict[str, list[int]]:
    found = {}
    for block in re.split(r"Compiling entry function '", log)[1:]:
        name = block.split("'", 1)[0]
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", block))
        registers = re.search(r"Used (\d+) registers", block)
        shared = re.search(r"(\d+) bytes smem", block)
        assert registers
        found[name] = [int(registers[1]), spills, int(shared[1]) if shared else 0]
    return found


def nvrtc_compile(library: Path, arch: int) -> tuple[bytes, str]:
    """(cubin, log) of every kernel, with no toolkit, header or driver: only NVRTC's own library. Raises on an error.

    The engine's own call of NVRTC; kept under build/ by source hash.
    """
    folder = BUILD / "cuda-nvrtc"
    kept = folder / f"sm_{arch}-{_hash(library.name, metadata.version('nvidia-cuda-nvrtc'))}.cubin"
    if not kept.exists():
        cubin, log = cuda.nvrtc_compile(library, arch, "--ptxas-options=-v")
        folder.mkdir(parents=True, exist_ok=True)
        kept.with_suffix(".log").write_text(log)
        kept.write_bytes(cubin)
    return kept.read_bytes(), kept.with_suffix(".log").read_text()

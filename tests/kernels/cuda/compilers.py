"""nvcc and NVRTC over every kernel at once: one translation unit that includes each .cu file."""

from __future__ import annotations

import ctypes as c
import hashlib
import json
import re
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from tests.kernels.cuda.sim import BUILD, ROOT

KERNELS = ROOT / "kernels"
ARCHS = (80, 86, 89, 90, 100, 120)
FLAGS = ("-std=c++17", "-cubin", "-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills,-Werror")


def unit() -> str:
    """Every .cu file, each in its own namespace scope as written."""
    return "".join(f'#include "ops/{path.name}"\n' for path in sorted((KERNELS / "ops").glob("*.cu")))


def _hash(*extra: str) -> str:
    digest = hashlib.sha256(unit().encode())
    for pattern in ("ops/*.cu", "device/cuda_*"):
        for path in sorted(KERNELS.glob(pattern)):
            digest.update(path.read_bytes())
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


def nvrtc_library() -> Path | None:
    """libnvrtc of the nvidia-cuda-nvrtc wheel, if it is installed."""
    try:
        files = metadata.files("nvidia-cuda-nvrtc") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if re.match(r"libnvrtc\.so\.\d+$", f.name)), None)


def nvrtc_compile(library: Path, arch: int) -> tuple[bytes, str]:
    """(cubin, log) of every kernel, with no toolkit, header or driver: only NVRTC's own library. Raises on an error.

    Kept under build/ by source hash, as the engine will keep its cubins.
    """
    folder = BUILD / "cuda-nvrtc"
    kept = folder / f"sm_{arch}-{_hash(library.name, metadata.version('nvidia-cuda-nvrtc'))}.cubin"
    if not kept.exists():
        cubin, log = _nvrtc(library, arch)
        folder.mkdir(parents=True, exist_ok=True)
        kept.with_suffix(".log").write_text(log)
        kept.write_bytes(cubin)
    return kept.read_bytes(), kept.with_suffix(".log").read_text()


def _nvrtc(library: Path, arch: int) -> tuple[bytes, str]:
    builtins = next(library.parent.glob("libnvrtc-builtins.so.*"))
    c.CDLL(str(builtins), mode=c.RTLD_GLOBAL)
    lib = c.CDLL(str(library))
    headers = sorted(
        p for p in (*KERNELS.glob("ops/*.cu"), *KERNELS.glob("device/cuda_*")) if p.name != "cuda_driver.h"
    )
    names = (c.c_char_p * len(headers))(*[str(p.relative_to(KERNELS)).encode() for p in headers])
    texts = (c.c_char_p * len(headers))(*[p.read_bytes() for p in headers])
    program = c.c_void_p()
    assert lib.nvrtcCreateProgram(c.byref(program), unit().encode(), b"all.cu", len(headers), texts, names) == 0
    options = [f"--gpu-architecture=sm_{arch}".encode(), b"--std=c++17", b"--ptxas-options=-v"]
    code = lib.nvrtcCompileProgram(program, len(options), (c.c_char_p * len(options))(*options))
    size = c.c_size_t()
    lib.nvrtcGetProgramLogSize(program, c.byref(size))
    log = c.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    assert code == 0, log.value.decode()
    lib.nvrtcGetCUBINSize(program, c.byref(size))
    cubin = c.create_string_buffer(size.value)
    lib.nvrtcGetCUBIN(program, cubin)
    lib.nvrtcDestroyProgram(c.byref(program))
    return cubin.raw, log.value.decode()

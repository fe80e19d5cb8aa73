"""PTX of every kernel, as nvcc and as NVRTC write it for sm_80. Kept under build/ by the sources' hash."""

from __future__ import annotations

import ctypes as c
import subprocess
import tempfile
from importlib import metadata
from pathlib import Path

from engines.t5 import cuda
from tests.kernels.cuda import compilers
from tests.kernels.cuda.compilers import KERNELS
from tests.kernels.cuda.sim import BUILD

ARCH = "compute_80"
FOLDER = BUILD / "ptx"


def missing(compiler: str) -> str:
    """Why this compiler cannot be asked here, or ''."""
    if compiler == "nvcc":
        return "" if compilers.nvcc() else "nvcc is not installed"
    return "" if compilers.nvrtc_library() else "the nvidia-cuda-nvrtc wheel is not installed"


def ptx(compiler: str) -> str:
    """PTX of all kernels by `nvcc` or `nvrtc`."""
    library = compilers.nvrtc_library()
    version = metadata.version("nvidia-cuda-nvrtc") if compiler == "nvrtc" else str(compilers.nvcc())
    kept = FOLDER / f"{compiler}-{compilers._hash(ARCH, version)}.ptx"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            made = Path(folder) / "all.ptx"
            if compiler == "nvcc":
                _nvcc(made)
            else:
                assert library
                made.write_text(nvrtc_ptx(library, compilers.unit(), _headers()))
            made.rename(kept)
    return kept.read_text()


def changed_ptx(file: str, text: str, units: tuple[str, ...]) -> str:
    """PTX of a few ops (`units`, such as ops/gemm.cu) by NVRTC with one file's text replaced."""
    library = compilers.nvrtc_library()
    assert library
    return nvrtc_ptx(library, "".join(f'#include "{unit}"\n' for unit in units), _headers() | {file: text})


def _headers() -> dict[str, str]:
    """Everything a kernel may include, by the name it is included under."""
    return {name: text.decode() for name, text in cuda.sources().items()}


def _nvcc(made: Path) -> None:
    source = made.with_suffix(".cu")
    source.write_text(compilers.unit())
    command = [str(compilers.nvcc()), f"-arch={ARCH}", "-std=c++17", "-ptx", f"-I{KERNELS}", "-o", str(made)]
    done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def nvrtc_ptx(library: Path, unit: str, headers: dict[str, str]) -> str:
    """PTX of one translation unit, by NVRTC alone. Raises AssertionError with its log."""
    c.CDLL(str(next(library.parent.glob("libnvrtc-builtins.so.*"))), mode=c.RTLD_GLOBAL)
    lib = c.CDLL(str(library))
    names = (c.c_char_p * len(headers))(*[name.encode() for name in headers])
    texts = (c.c_char_p * len(headers))(*[text.encode() for text in headers.values()])
    program, size = c.c_void_p(), c.c_size_t()
    assert lib.nvrtcCreateProgram(c.byref(program), unit.encode(), b"all.cu", len(headers), texts, names) == 0
    options = [f"--gpu-architecture={ARCH}".encode(), b"--std=c++17"]
    code = lib.nvrtcCompileProgram(program, len(options), (c.c_char_p * len(options))(*options))
    lib.nvrtcGetProgramLogSize(program, c.byref(size))
    log = c.create_string_buffer(size.value)
    lib.nvrtcGetProgramLog(program, log)
    assert code == 0, log.value.decode()
    lib.nvrtcGetPTXSize(program, c.byref(size))
    text = c.create_string_buffer(size.value)
    lib.nvrtcGetPTX(program, text)
    lib.nvrtcDestroyProgram(c.byref(program))
    return text.value.decode()

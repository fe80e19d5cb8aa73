"""The T5 engine's CUDA device: whether one is present, and its kernels compiled to a cubin on first use.

Kernels travel as source. NVRTC from its wheel (else nvcc from PATH) compiles them for the device on first use, in about
ten seconds; the cubin is kept under $DYNO_CACHE by source, architecture and compiler. `python -m engines.t5.cuda 80 90`
does so ahead of time, on any machine. `cuda-sim` is the emulator of kernels/sim, which tests and benches build: its
library is named by T5K_CUDA_SIM, or is in this checkout's build folder.
"""

from __future__ import annotations

import ctypes as c
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from engines.cache_folder import cache_root
from engines.errors import Unavailable
from engines.models.cache import build_once
from engines.processes.temp_folders import owned_folder
from engines.t5 import native

DEVICES = ("cuda", "cuda-sim")
DRIVER = "libcuda.so.1"
WHEELS = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12")
OPTIONS = ("--std=c++17",)
_CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Compiler:
    """Something that makes a cubin: its name and version (the cache's key), and the CUDA release it belongs to."""

    version: str
    cuda_major: int
    compile: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Target:
    """Where an engine runs: the driver library to open and the kernels for its device."""

    driver: str
    image: bytes
    name: str


def activations(dtype: str) -> str:
    """What passes between ops on this device, and what caches hold: 16 bits beside every narrower weight.

    int8 and int4 weights meet bf16, which has fp32's range; its rounding is finer than theirs.
    """
    return dtype if dtype in ("fp32", "fp16") else "bf16"


def sources() -> dict[str, bytes]:
    """Every kernel source and header by its path below kernels/, as installed or as in this checkout."""
    installed = Path(__file__).with_name("kernels")
    root = installed if installed.is_dir() else _CHECKOUT / "kernels"
    files = (*root.glob("ops/*.cu"), *root.glob("ops/*.h"), *root.glob("cuda/kernel/*"))
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(files)}


def unit() -> str:
    """One translation unit of all kernels."""
    return "".join(f'#include "{name}"\n' for name in sources() if name.endswith(".cu"))


def compilers() -> list[Compiler]:
    """What this environment can make cubins with, the best first: NVRTC from a wheel needs no toolkit."""
    found = [_nvrtc_compiler(wheel) for wheel in WHEELS]
    nvcc = shutil.which("nvcc")
    return [each for each in (*found, _nvcc_compiler(nvcc) if nvcc else None) if each]


def missing(device: str) -> str:
    """What stands between this machine and `device`, in one sentence; '' if nothing does."""
    try:
        _look(device)
    except Unavailable as error:
        return str(error)
    return ""


@dataclass(frozen=True, slots=True)
class Group:
    """The GPUs that tensor-parallel ranks may use: how many, and whether each reaches the memory of every other."""

    devices: int
    are_peers: bool
    cuda_major: int = 0
    """Of the newest CUDA that the driver runs."""


def group(device: str) -> Group:
    """The GPUs of `device`. Raises Unavailable with what is missing."""
    _, about, _ = _look(device)
    return Group(about.devices, bool(about.are_peers), about.driver_version // 1000)


def target(device: str) -> Target:
    """The driver and the compiled kernels for `device`, compiled now if the cache has none. Raises Unavailable."""
    driver, about, compiler = _look(device)
    image = cubin(about.arch, compiler) if compiler else b"\0"
    return Target(driver, image, f"{about.name.decode()} (sm_{about.arch})" if compiler else device)


def cubin(arch: int, compiler: Compiler) -> bytes:
    """Every kernel for sm_<arch>, from the cache or compiled into it. Raises Unavailable with the compiler's words."""
    digest = hashlib.sha256(f"{compiler.version} {' '.join(OPTIONS)}".encode())
    for name, text in sources().items():
        digest.update(f"\0{name}\0".encode() + text)
    folder = cache_root() / "cubins" / f"sm_{arch}-{digest.hexdigest()[:16]}"
    build_once(folder, lambda into: _compile_into(into, arch, compiler))
    return (folder / "t5k.cubin").read_bytes()


def _compile_into(folder: Path, arch: int, compiler: Compiler) -> None:
    (folder / "t5k.cubin").write_bytes(compiler.compile(arch))


def _look(device: str) -> tuple[str, native.Cuda, Compiler | None]:
    """Driver, device and compiler; None for the simulator, which is its own kernels."""
    driver = _simulator() if device == "cuda-sim" else DRIVER
    about, error = native.Cuda(), native.Error()
    if native.library().t5k_cuda_look(driver.encode(), c.byref(about), c.byref(error)):
        raise Unavailable(error.message.decode(errors="replace"))
    if device == "cuda-sim":
        return driver, about, None
    able = compilers()
    if not able:
        raise Unavailable(
            f"{about.name.decode()} is here, but nothing to compile its kernels with: pip install {WHEELS[0]} (or put "
            "nvcc on PATH)"
        )
    supported = about.driver_version // 1000
    fitting = [each for each in able if each.cuda_major <= supported]
    if not fitting:
        raise Unavailable(
            f"the driver supports CUDA {supported}.{about.driver_version % 1000 // 10}, the compilers here make "
            f"kernels for CUDA {min(each.cuda_major for each in able)}: update the driver, or pip install {WHEELS[1]}"
        )
    return driver, about, fitting[0]


def _simulator() -> str:
    named = os.environ.get("T5K_CUDA_SIM")
    path = Path(named) if named else _CHECKOUT / "build/cuda-sim/libcuda_sim.so"
    if not path.is_file():
        raise Unavailable(
            f"{path} is missing: cmake -S kernels/sim -B build/cuda-sim && cmake --build build/cuda-sim (the emulator "
            "is for tests; it is not installed)"
        )
    return str(path)


# ---- compilers ------------------------------------------------------------------------------------------------------


def _nvrtc_compiler(wheel: str) -> Compiler | None:
    library = nvrtc_library(wheel)
    if library is None:
        return None
    version = metadata.version(wheel)
    return Compiler(f"{wheel} {version}", int(version.split(".")[0]), lambda arch: nvrtc_compile(library, arch)[0])


def nvrtc_library(wheel: str = WHEELS[0]) -> Path | None:
    """libnvrtc of an installed wheel; None if it is not there."""
    return _in_wheel(wheel, r"libnvrtc\.so\.\d+$")


def _in_wheel(wheel: str, name: str) -> Path | None:
    try:
        files = metadata.files(wheel) or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(f.locate())) for f in files if re.match(name, f.name)), None)


def nvrtc_compile(library: Path, arch: int, *options: str) -> tuple[bytes, str]:
    """(cubin, log) of every kernel for sm_<arch>. Raises Unavailable with NVRTC's log if it refuses."""
    c.CDLL(str(next(library.parent.glob("libnvrtc-builtins.so.*"))), mode=c.RTLD_GLOBAL)
    nvrtc = c.CDLL(str(library))
    texts = sources()
    names = (c.c_char_p * len(texts))(*[name.encode() for name in texts])
    bodies = (c.c_char_p * len(texts))(*texts.values())
    program, size = c.c_void_p(), c.c_size_t()
    _ok(nvrtc.nvrtcCreateProgram(c.byref(program), unit().encode(), b"t5k.cu", len(texts), bodies, names))
    try:
        flags = [f"--gpu-architecture=sm_{arch}", *OPTIONS, *options]
        code = nvrtc.nvrtcCompileProgram(program, len(flags), (c.c_char_p * len(flags))(*[f.encode() for f in flags]))
        _ok(nvrtc.nvrtcGetProgramLogSize(program, c.byref(size)))
        log = c.create_string_buffer(size.value)
        _ok(nvrtc.nvrtcGetProgramLog(program, log))
        output = log.value.decode(errors="replace")
        if code:
            raise Unavailable(f"NVRTC cannot compile the kernels for sm_{arch}: {output or f'error {code}'}")
        _ok(nvrtc.nvrtcGetCUBINSize(program, c.byref(size)))
        found = c.create_string_buffer(size.value)
        _ok(nvrtc.nvrtcGetCUBIN(program, found))
    finally:
        nvrtc.nvrtcDestroyProgram(c.byref(program))
    return found.raw, output


def _ok(code: int) -> None:
    if code:
        raise Unavailable(f"NVRTC failed with error {code}")


def _nvcc_compiler(nvcc: str) -> Compiler | None:
    done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    release = re.search(r"release (\d+)\.\d+, V(\S+)", done.stdout)
    if not release:
        return None
    return Compiler(f"nvcc {release[2]}", int(release[1]), lambda arch: _nvcc(nvcc, arch))


def _nvcc(nvcc: str, arch: int) -> bytes:
    with owned_folder("nvcc") as folder:
        source, out = folder / "t5k.cu", folder / "t5k.cubin"
        source.write_text(unit())
        for name, text in sources().items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(text)
        command = [nvcc, f"-arch=sm_{arch}", *OPTIONS, "-cubin", f"-I{folder}", "-o", str(out), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Unavailable(f"nvcc cannot compile the kernels for sm_{arch}: {done.stderr.strip()[-400:]}")
        return out.read_bytes()


def main(archs: list[str]) -> None:
    """Compile for the named architectures (80, 90, ...) and print the path of each cubin."""
    able = compilers()
    if not able:
        sys.exit(f"nothing to compile with: pip install {WHEELS[0]}, or put nvcc on PATH")
    for arch in archs:
        print(
            f"sm_{arch}: {len(cubin(int(arch), able[0]))} bytes by {able[0].version}, under {cache_root() / 'cubins'}"
        )


if __name__ == "__main__":
    main(sys.argv[1:])

"""Building the native library for tests: the shipped one in place if it is missing, and sanitizer variants."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def cmake_build(folder: Path, *options: str) -> str:
    """Configure and build kernels/ in `folder`; returns what the tools said. One process at a time; others wait."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _cmake_build(folder, *options)


def _cmake_build(folder: Path, *options: str) -> str:
    tools = [Path(sys.executable).parent / "cmake", shutil.which("cmake")]
    cmake = str(next(tool for tool in tools if tool and Path(tool).exists()))
    said = []
    for command in (
        [cmake, "-S", str(ROOT / "kernels"), "-B", str(folder), *options],
        [cmake, "--build", str(folder), "-j", str(len(os.sched_getaffinity(0)))],
    ):
        done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said.append(done.stdout)
        assert done.returncode == 0, done.stdout[-4000:]
    return "".join(said)


def ensure_library() -> None:
    """Build libt5k.so into the source tree unless it is there."""
    from engines.t5 import native

    if not native.library_path().is_file():
        cmake_build(ROOT / "build" / "native", "-DT5K_INPLACE=ON")

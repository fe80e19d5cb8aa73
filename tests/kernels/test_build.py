"""The build itself: no warnings, clean under the sanitizers, and no code for a wide ISA that an old CPU could meet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from tests.kernels.build import ROOT, cmake_build

OPTIONS = {
    "address": {"ASAN_OPTIONS": "detect_stack_use_after_return=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
    "thread": {"TSAN_OPTIONS": "halt_on_error=1"},
}


@pytest.mark.parametrize("sanitizer", ["", "address", "thread"])
def test_the_native_smoke_test_passes(sanitizer):
    """Every format, ISA, rank and request kind. Kept in build/, so that only changed files are compiled again."""
    folder = ROOT / "build" / f"test-{sanitizer or 'plain'}"
    said = cmake_build(folder, "-DT5K_TESTS=ON", f"-DT5K_SANITIZE={sanitizer}")
    assert "warning" not in said, said
    done = subprocess.run(
        [str(folder / "t5k_smoke")], env=os.environ | OPTIONS.get(sanitizer, {}), check=False, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert done.stdout.endswith("ok\n")


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not here")
def test_op_objects_share_no_symbol_between_isas():
    """A weak (inline) symbol compiled with AVX-512 flags could be the one the linker keeps for every ISA."""
    folder = ROOT / "build" / "test-plain"
    cmake_build(folder, "-DT5K_TESTS=ON", "-DT5K_SANITIZE=")
    objects = [path for path in folder.rglob("*.o") if "t5k_ops_" in str(path)]
    assert objects
    listed = subprocess.run(["nm", *map(str, objects)], check=True, capture_output=True, text=True).stdout
    weak = re.findall(r"^[0-9a-f]+ [VWu] .+$", listed, re.M)  # not nm's file headers: a path may look like anything
    assert not weak, weak[:5]

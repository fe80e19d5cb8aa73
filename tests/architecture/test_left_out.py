"""Every reason for skipping a test says how to have it, and a heavy test without its mark fails in the quick run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.left_out import how_to_have, summary

TESTS = Path(__file__).parents[1]
REASON = re.compile(r"(?:pytest\.skip\(\s*f?|mark\.skipif\([^\n]*?reason=)\"([^\"]+)\"")
HEAVY = {
    "starts a process (subprocess.Popen)": "import subprocess\n\ndef test_it():\n    subprocess.run(['true'])\n",
    "starts a process (os.fork)": "import os\n\ndef test_it():\n    os._exit(0) if not os.fork() else None\n",
    "loads the native library (libt5k.so)": "import ctypes\n\ndef test_it():\n    ctypes.CDLL('libt5k.so')\n",
    "loads a library that runs models (torch)": "def test_it():\n    import torch\n",
}
"""The guard's words -> a test that it refuses."""


def test_every_reason_for_skipping_says_how_to_have_the_test() -> None:
    reasons = {reason for path in TESTS.rglob("*.py") for reason in REASON.findall(path.read_text(encoding="utf-8"))}
    assert len(reasons) > 20
    assert not {reason for reason in reasons if not how_to_have(reason)}


def test_one_line_per_reason_with_its_number() -> None:
    lines = list(summary(["Skipped: no java on this machine"] * 3 + ["Skipped: nvcc is not installed"]))
    assert lines == [
        "   3 tests: no java on this machine. To have them: apt-get install default-jre-headless",
        "   1 test: nvcc is not installed. To have it: install nvcc of CUDA 13",
    ]


@pytest.mark.heavy
@pytest.mark.parametrize("is_marked", [False, True])
def test_tests_that_are_heavy_fail_in_the_quick_run_unless_they_are_marked(is_marked: bool, tmp_path: Path) -> None:
    """The guard, proven on tests that do what they must not."""
    mark = "import pytest\n\n@pytest.mark.heavy\ndef test_it" if is_marked else "def test_it"
    for number, source in enumerate(HEAVY.values()):
        (tmp_path / f"test_made{number}.py").write_text(source.replace("def test_it", mark))
    command = [sys.executable, "-m", "pytest", "--quick", "-rf", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), "-c", str(TESTS.parent / "pyproject.toml"), str(tmp_path)]
    environment = {**os.environ, "COLUMNS": "400"}
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, check=False)
    if is_marked:
        assert done.returncode == 5, done.stdout  # nothing was run
        assert "4 deselected" in done.stdout
        return
    assert done.returncode == 1, done.stdout
    failed = {line.partition("::")[0]: line for line in done.stdout.splitlines() if line.startswith("FAILED")}
    assert len(failed) == len(HEAVY), done.stdout
    for line, what in zip((failed[name] for name in sorted(failed)), HEAVY, strict=True):
        assert f"a test of `make check` {what}: mark the test @pytest.mark.heavy" in line

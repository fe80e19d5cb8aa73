"""Every reason for skipping a test says how to have it, and a heavy test without its mark fails in the quick run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.left_out import how_to_have, summary

TESTS = Path(__file__).parents[1]
REASON = re.compile(r"(?:pytest\.skip\(\s*f?|mark\.skipif\([^\n]*?reason=)\"([^\"]+)\"")
HEAVY = {
    "a process": "import subprocess\n\ndef test_it():\n    subprocess.run(['true'])\n",
    "a fork": "import os\n\ndef test_it():\n    os._exit(0) if not os.fork() else None\n",
    "the native library": "import ctypes\n\ndef test_it():\n    ctypes.CDLL('libt5k.so')\n",
    "a library that runs models": "def test_it():\n    import torch\n",
}


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
@pytest.mark.parametrize("what", HEAVY)
@pytest.mark.parametrize("is_marked", [False, True])
def test_a_test_that_is_heavy_fails_in_the_quick_run_unless_it_is_marked(
    what: str, is_marked: bool, tmp_path: Path
) -> None:
    """The guard, proven on tests that do what they must not."""
    mark = "import pytest\n\n@pytest.mark.heavy\ndef test_it" if is_marked else "def test_it"
    (tmp_path / "test_made.py").write_text(HEAVY[what].replace("def test_it", mark))
    command = [sys.executable, "-m", "pytest", "--quick", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(tmp_path), "-c", str(TESTS.parent / "pyproject.toml"), str(tmp_path)]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    if is_marked:
        assert done.returncode == 5, done.stdout  # nothing was run
        assert "1 deselected" in done.stdout
    else:
        assert done.returncode == 1, done.stdout
        assert what in done.stdout or "a process" in done.stdout
        assert "mark the test @pytest.mark.heavy" in done.stdout

"""A function run in its own process: its errors arrive, its memory does not, and it cannot outlive us."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from engines.errors import ModelInvalid, Unavailable
from engines.processes.call_in_child import answer_call, call_in_child
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

HERE = "tests.engines.processes.test_call_in_child"
SLOW = "tests.engines.processes.slow_import"


def refuse(message: str) -> None:
    raise Unavailable(message)


def crash(message: str) -> None:
    raise ZeroDivisionError(message)


def accept(message: str) -> None:
    assert message == "fine"


def test_success_returns() -> None:
    call_in_child(HERE, "accept", ["fine"])


def test_an_engine_error_arrives_as_itself() -> None:
    with pytest.raises(Unavailable, match=r"^no such thing, 'quoted'$"):
        call_in_child(HERE, "refuse", ["no such thing, 'quoted'"])


def test_any_other_end_tells_its_last_lines() -> None:
    with pytest.raises(ModelInvalid, match=r"ended with code 1: .*ZeroDivisionError: by nothing"):
        call_in_child(HERE, "crash", ["by nothing"])


def test_the_child_of_a_killed_process_ends_while_it_still_imports(tmp_path: Path) -> None:
    """The module called never ends its import; it writes its process id first."""
    written = tmp_path / "pid"
    program = f"from engines.processes.call_in_child import call_in_child; call_in_child({SLOW!r}, 'nothing', [])"
    with subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, "SLOW_IMPORT_PID": str(written)}
    ) as caller:
        child = psutil.Process(int(eventually(lambda: written.is_file() and written.read_text(), "a process id")))
        caller.kill()
    child.wait(timeout=30.0)


if __name__ == "__main__":
    answer_call(accept, refuse, crash)

"""The lock on a machine: one at a time, seen by others, gone with its holder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.places.machine_lock import holder, machine_lock


def test_a_lock_is_seen_while_it_is_held_and_not_after(tmp_path: Path) -> None:
    assert holder("m1", tmp_path) == ""
    with machine_lock("m1", tmp_path):
        assert holder("m1", tmp_path) == str(os.getpid())
        assert holder("m2", tmp_path) == ""
    assert holder("m1", tmp_path) == ""


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        waits.set()
        with machine_lock("m1", tmp_path):
            order.append("second")

    with machine_lock("m1", tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        waits.wait()
        thread.join(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_another_users_file_is_locked_though_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "dyno-machine-m1.lock").touch()
    opened = os.open

    def as_another_user(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", as_another_user)
    with machine_lock("m1", tmp_path):
        assert holder("m1", tmp_path) == "unknown"


@pytest.mark.heavy
def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from harness.places.machine_lock import machine_lock\n"
        "with machine_lock('m1', pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert holder("m1", tmp_path) == str(child.pid)
        child.send_signal(signal.SIGKILL)
        child.wait()
        with machine_lock("m1", tmp_path):
            assert holder("m1", tmp_path) == str(os.getpid())

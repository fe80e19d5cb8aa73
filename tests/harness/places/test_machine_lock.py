"""The lock on a machine: one at a time, seen by others, gone with its holder."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness.places.answers import locked
from harness.places.machine_lock import holder, machine_lock
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from tests.harness.places.contract import a_measure
from tests.waiting import eventually


def somebody_waits_for(machine_id: str, folder: Path) -> bool:
    """Whether a process waits at the machine's gate."""
    gate = folder / f"dyno-machine-{machine_id}.gate"
    if not gate.exists():
        return False
    with gate.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_lock_is_seen_while_it_is_held_and_not_after(tmp_path: Path) -> None:
    assert holder("m1", tmp_path) == ""
    with machine_lock("m1", folder=tmp_path):
        assert holder("m1", tmp_path) == str(os.getpid())
        assert holder("m2", tmp_path) == ""
    assert holder("m1", tmp_path) == ""


def test_who_looks_for_a_holder_leaves_no_file(tmp_path: Path) -> None:
    assert holder("m1.1of2", tmp_path) == ""
    assert list(tmp_path.iterdir()) == []


def test_every_user_may_read_the_files_whatever_the_umask_of_who_made_them(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        with machine_lock("m1", folder=tmp_path):
            pass
    finally:
        os.umask(before)
    assert {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {
        "dyno-machine-m1.lock": 0o644,
        "dyno-machine-m1.gate": 0o644,
    }


def test_a_wait_for_the_machine_leaves_less_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.yaml").write_text("name: s\nspace: [{engine: fake}]\n")
    asked = a_measure(resolve(load_scenario(tmp_path / "s.yaml"), tmp_path / "s.yaml"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for left_s, waited_s in ((1000.0, 0.5), (0.1, 0.1)):
        with ExitStack() as other:
            other.enter_context(machine_lock("m1"))
            threading.Timer(0.5, other.close).start()
            with locked("m1", replace(asked, left_s=left_s)) as attempt:
                assert 0 <= attempt.left_s <= left_s - waited_s


def test_the_second_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        waits.set()
        with machine_lock("m1", folder=tmp_path):
            order.append("second")

    with machine_lock("m1", folder=tmp_path):
        thread = threading.Thread(target=second)
        thread.start()
        waits.wait()
        thread.join(0.5)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_another_users_file_is_locked_though_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dyno-machine-m1.lock", "dyno-machine-m1.gate"):
        (tmp_path / name).touch()
    opened = os.open

    def as_another_user(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise PermissionError
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", as_another_user)
    with machine_lock("m1", folder=tmp_path):
        assert holder("m1", tmp_path) == "unknown"


@pytest.mark.parametrize(
    ("first", "second", "search", "is_beside"),
    [
        ("m1.1of2", "m1.2of2", "s", True),
        ("m1.1of2", "m1.2of2", "other", False),
        ("m1.1of2", "m1.1of2", "s", False),
        ("m1.1of2", "m1.1of2", "other", False),
        ("m1.1of2", "m1", "s", False),
        ("m1", "m1.2of2", "s", False),
        ("m1.1of4", "m1.2of2", "s", False),
        ("m1.1of2", "m10", "other", True),
        ("m1.1of2", "m10.1of4", "other", True),
    ],
)
def test_only_parts_of_one_split_measure_beside_each_other_for_one_search(
    tmp_path: Path, first: str, second: str, search: str, is_beside: bool
) -> None:
    taken = threading.Event()

    def other() -> None:
        with machine_lock(second, search, tmp_path):
            taken.set()

    for name in (first, second):
        with machine_lock(name, "s", tmp_path):  # their files are there from now on
            pass
    with machine_lock(first, "s", tmp_path):
        is_far = second.startswith("m10")
        assert holder(second, tmp_path) == ("" if is_far else str(os.getpid())), "as a new search would find it"
        thread = threading.Thread(target=other)
        thread.start()
        assert taken.wait(30 if is_beside else 0.5) == is_beside
    thread.join()
    assert taken.is_set(), "it waited for the first to end"


def test_two_searches_that_split_a_machine_alike_take_turns(tmp_path: Path) -> None:
    order: list[str] = []

    def trial(part: str, search: str) -> None:
        with machine_lock(part, search, tmp_path):
            order.append(search)

    threads = [threading.Thread(target=trial, args=each) for each in (("m1.1of2", "second"), ("m1.2of2", "first"))]
    with machine_lock("m1.1of2", "first", tmp_path):
        threads[0].start()
        eventually(lambda: somebody_waits_for("m1", tmp_path), "the second search at the gate")
        threads[1].start()
        threads[1].join(0.5)
        assert order == [], "the first one's next trial comes after it, or it would never have its turn"
    for thread in threads:
        thread.join()
    assert order == ["second", "first"]


def test_the_files_of_a_search_that_has_ended_are_removed_by_the_next(tmp_path: Path) -> None:
    for search in ("first", "second"):
        with machine_lock("m1.1of2", search, tmp_path):
            pass
    assert {each.name for each in tmp_path.glob("*.lock")} == {"dyno-machine-m1.1of2-second.lock"}


@pytest.mark.heavy
def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from harness.places.machine_lock import machine_lock\n"
        "with machine_lock('m1', folder=pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert holder("m1", tmp_path) == str(child.pid)
        child.send_signal(signal.SIGKILL)
        child.wait()
        with machine_lock("m1", folder=tmp_path):
            assert holder("m1", tmp_path) == str(os.getpid())

"""Temporary folders with an owner: kept while it lives, removed after it however it died, and only ours."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from engines.processes.temp_folders import fresh_path, hold, owned_folder, sweep

ROOT = Path(__file__).parents[3]
OWNER = """
import sys, time
from engines.processes.temp_folders import owned_folder
with owned_folder("load") as folder:
    (folder / "raw").write_text("x")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.mark.heavy
def test_a_folder_is_kept_while_its_owner_lives_and_swept_after_its_kill(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        assert folder.parent == tmp_path
        assert sweep(tmp_path) == []
        assert (folder / "raw").exists()
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert sweep(tmp_path) == [folder]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.heavy
def test_the_lock_outlives_its_maker_in_a_process_that_inherited_it(tmp_path: Path) -> None:
    """As with a server: its folder is in use while any of its processes lives, whatever became of dyno."""
    folder = tmp_path / "dyno-1-server-00000000"
    held = hold(folder)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(held,)) as heir:
        os.close(held)
        assert sweep(tmp_path) == []
        assert heir.stdin is not None
        heir.stdin.close()
        heir.wait()
    assert sweep(tmp_path) == [folder]


def test_only_unheld_folders_of_our_name_and_user_are_removed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    (temporary / "dyno-1-server-00000001").symlink_to(elsewhere)
    (temporary / "dyno-1-server-00000002").write_text("a file")
    (temporary / "dyno-123-0a0b0c0d").mkdir()  # the name that versions without locks gave
    (temporary / "dyno-truth-abc").mkdir()
    open_to_all = temporary / "dyno-1-server-00000003"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    before = sorted(temporary.iterdir())
    assert sweep(temporary) == []
    assert sorted(temporary.iterdir()) == before
    assert (elsewhere / "precious").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
def test_folders_of_other_users_stay_even_for_root(tmp_path: Path) -> None:
    folder = tmp_path / "dyno-1-server-00000004"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65534, 65534)
    assert sweep(tmp_path) == []
    os.chown(folder, 0, 0)
    assert sweep(tmp_path) == [folder]


def test_a_folder_swept_between_its_making_and_its_locking_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "dyno-1-server-00000005"
    open_folder, was_swept = os.open, []

    def slow_open(path: Path, flags: int) -> int:
        descriptor = open_folder(path, flags)
        if not was_swept:
            was_swept.append(True)
            folder.rmdir()
        return descriptor

    monkeypatch.setattr(os, "open", slow_open)
    held = hold(folder)
    monkeypatch.undo()
    assert was_swept
    assert sweep(tmp_path) == []
    assert folder.is_dir()
    os.close(held)


def test_an_owned_folder_goes_with_its_context_and_names_its_process() -> None:
    with owned_folder("load") as folder:
        assert folder.is_dir()
        assert folder.name.startswith(f"dyno-{os.getpid()}-load-")
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not folder.exists()
    assert not fresh_path("load").exists()

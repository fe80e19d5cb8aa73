"""A cached folder is whole or absent, and built once however many ask."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from engines.errors import ModelInvalid, Unavailable
from engines.models.cache import build_once, check_unchanged, folder_digest, model_digest


def test_one_build_however_many_ask_at_once(tmp_path: Path) -> None:
    calls: list[Path] = []
    gate = threading.Barrier(4)

    def build(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("x")

    def ask() -> None:
        gate.wait()
        build_once(tmp_path / "made", build)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(calls) == 1
    assert (tmp_path / "made" / "file").read_text() == "x"


def test_a_failed_build_leaves_nothing_and_may_be_tried_again(tmp_path: Path) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        build_once(tmp_path / "made", fails)
    assert [path.name for path in tmp_path.iterdir()] == [".made.lock"]

    build_once(tmp_path / "made", lambda folder: None)
    assert (tmp_path / "made").is_dir()


def test_leftovers_of_a_killed_build_are_cleared(tmp_path: Path) -> None:
    (tmp_path / ".made.partial").mkdir()
    (tmp_path / ".made.partial" / "stale").write_text("x")

    build_once(tmp_path / "made", lambda folder: None)

    assert not any((tmp_path / "made").iterdir())


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    def fills(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Unavailable, match=r"No space left on device; free space there or point DYNO_CACHE"):
        build_once(tmp_path / "made", fills)
    assert not (tmp_path / "made").exists()


def test_the_digest_follows_content_and_ignores_other_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    before = model_digest(tmp_path)

    (tmp_path / "README.md").write_text("new")
    assert model_digest(tmp_path) == before
    assert folder_digest(tmp_path) != before
    check_unchanged(tmp_path, before)

    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ModelInvalid, match="changed while they were converted"):
        check_unchanged(tmp_path, before)

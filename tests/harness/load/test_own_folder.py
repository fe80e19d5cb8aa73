"""Temporary folders of killed owners are removed, and no others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.load.own_folder import own_folder, remove_orphans

OWNER = """
import sys, time
from harness.load.own_folder import own_folder
with own_folder("dyno-probe-") as folder:
    (folder / "raw").write_text("rows")
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_the_folder_of_a_killed_owner_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=env) as owner:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        assert folder.parent == tmp_path
        remove_orphans("dyno-probe-")
        assert (folder / "raw").exists(), "its owner lives"
        owner.kill()
    assert folder.exists(), "nobody removed it yet"
    with own_folder("dyno-probe-") as mine:
        assert [each for each in tmp_path.iterdir()] == [mine]
    assert not list(tmp_path.iterdir())


def test_what_has_no_owner_file_or_is_a_link_or_has_another_name_stays(tmp_path: Path) -> None:
    other = tmp_path / "dyno-other-1"
    for folder in (tmp_path / "dyno-probe-1", other):
        folder.mkdir()
    (other / "owner").touch()
    (tmp_path / "dyno-probe-link").symlink_to(other)
    remove_orphans("dyno-probe-")
    assert len(list(tmp_path.iterdir())) == 3
    assert (other / "owner").exists()

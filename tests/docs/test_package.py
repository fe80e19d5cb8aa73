"""What the package index shows of this project: version, licence, the two names of the command."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_newest_entry_of_the_changelog_is_the_version() -> None:
    entries = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert entries[0] == PROJECT["version"]


def test_both_console_scripts_are_one_command() -> None:
    assert set(PROJECT["scripts"]) == {"dyno", "dynamometer"}
    assert len(set(PROJECT["scripts"].values())) == 1


def test_the_licence_file_is_the_one_that_is_declared() -> None:
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License" in (ROOT / PROJECT["license-files"][0]).read_text(encoding="utf-8")

"""Docs are tests: the help page is what the commands say, and README names only things that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli.main import VERBS

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", "build", "local", "node_modules", ".pytest_cache"} & set(path.relative_to(ROOT).parts)
)


@pytest.mark.heavy
def test_the_help_page_is_what_the_commands_say() -> None:
    written = (ROOT / "harness" / "cli" / "HELP.md").read_text()
    # In a process of its own: click caches a verb's help option, and other tests run verbs without their group.
    command = [sys.executable, "-m", "harness.cli.help_page"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert written == shown, "run: python -m harness.cli.help_page > harness/cli/HELP.md"


def test_every_dyno_verb_in_the_documents_exists() -> None:
    used = {
        (path.name, verb)
        for path in DOCUMENTS
        if path.name not in ("DECISIONS.md", "CHANGELOG.md")
        for verb in re.findall(r"^\s*(?:\$ )?dyno ([a-z-]+)", path.read_text(), re.M)
    }
    assert used
    assert not {(name, verb) for name, verb in used if verb not in VERBS}


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
    used = set(re.findall(r"(?:\$ |`)make ([a-z][a-z-]+)", (ROOT / "README.md").read_text()))
    assert used >= {"quickstart", "test"}
    assert used <= targets


def test_every_relative_link_points_at_a_file() -> None:
    broken = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in DOCUMENTS
        for link in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", path.read_text())
        if not (path.parent / link).exists()
    ]
    assert not broken

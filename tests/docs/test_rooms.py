"""The documents about the tree name what is there: every room of a root, and no path that has gone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    *(f"{root}/README.md" for root in ("engines", "harness")),
)


@pytest.mark.parametrize("root", ["engines", "harness"])
def test_the_readme_of_a_root_names_each_room_and_each_file_beside_them(root: str) -> None:
    readme = (ROOT / root / "README.md").read_text(encoding="utf-8")
    rooms = {f"{path.parent.name}/" for path in (ROOT / root).glob("*/__init__.py")}
    files = {path.name for path in (ROOT / root).glob("[a-z]*.py")}
    assert rooms
    assert not {name for name in rooms | files if not re.search(rf"(?<![\w.]){re.escape(name)}", readme)}


@pytest.mark.parametrize("root", ["engines", "harness"])
def test_the_readme_of_a_root_names_each_room_inside_a_room(root: str) -> None:
    readme = (ROOT / root / "README.md").read_text(encoding="utf-8")
    inner = {f"{path.parent.name}/" for path in (ROOT / root).glob("*/*/**/__init__.py")}
    assert inner
    assert not {name for name in inner if not re.search(rf"(?<![\w.]){re.escape(name)}", readme)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_path_that_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:engines|harness|kernels|scenarios|tests|results/published)/[\w./-]+)`", text))
    assert not {path for path in named if not (ROOT / path).exists()}


def test_the_data_flow_names_every_room_that_a_trial_passes() -> None:
    rows = re.findall(r"^\| \w+ \| (.+?) \|", (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8"), re.M)
    named = {name for row in rows for name in re.findall(r"`harness/(\w+)`", row)}
    beside = {"load", "quality", "cost", "deploy"}
    """Rooms that the table names without a path, or that no trial passes."""
    assert named | beside == {path.parent.name for path in (ROOT / "harness").glob("*/__init__.py")}

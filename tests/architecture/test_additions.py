"""The stored patches apply to this tree and touch as many files as they promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architecture.additions import ADDITIONS, Addition


@pytest.mark.heavy
@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda addition: addition.name)
def test_a_stored_patch_applies_and_touches_so_many_files(addition: Addition, tmp_path: Path) -> None:
    addition.patched_tree(tmp_path / "tree")

"""The converted-model cache of the tests: $DYNO_CACHE, else .dyno-cache in the repository (ignored by git)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_for_tests() -> None:
    os.environ.setdefault("DYNO_CACHE", str(Path(__file__).parents[2] / ".dyno-cache"))

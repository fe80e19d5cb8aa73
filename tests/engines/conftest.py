"""The converted-model cache of the tests: $DYNO_TEST_CACHE, else .dyno-cache in the repository (ignored by git)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="session")
def _cache_for_tests() -> Iterator[None]:
    default = str(Path(__file__).parents[2] / ".dyno-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNO_CACHE", os.environ.get("DYNO_TEST_CACHE") or default)
        yield

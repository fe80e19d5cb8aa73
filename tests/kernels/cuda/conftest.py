"""The simulator, built once per session."""

from __future__ import annotations

import pytest

from tests.kernels.cuda.sim import Sim, build


@pytest.fixture(scope="session")
def sim() -> Sim:
    return Sim(build())

"""One interpreter per compiler, built once per session."""

from __future__ import annotations

import pytest

from tests.kernels.cuda.sim import Sim
from tests.kernels.cuda.sim import build as build_sim
from tests.kernels.ptx import sources
from tests.kernels.ptx.interpreter import PtxMachine, build, private_copy


@pytest.fixture(scope="session")
def sim() -> Sim:
    return Sim(build_sim())


@pytest.fixture(scope="session", params=["nvcc", "nvrtc"])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PtxMachine:
    """The interpreter holding every kernel of kernels/ops, as one compiler wrote it."""
    reason = sources.missing(request.param)
    if reason:
        pytest.skip(reason)
    library = private_copy(tmp_path_factory.mktemp(request.param))
    return PtxMachine(library, sources.ptx(request.param))


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> PtxMachine:
    """An interpreter for modules that a test writes itself."""
    build()
    return PtxMachine(private_copy(tmp_path_factory.mktemp("ptx")), ".version 8.0\n.target sm_80\n.address_size 64\n")

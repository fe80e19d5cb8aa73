"""The simulator and tiny checkpoints of the family, once per session; the devices that whole engines run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.build import ensure_library
from tests.kernels.cuda.gpu import missing
from tests.kernels.cuda.sim import Sim, build

REASON = missing()


@pytest.fixture(scope="session")
def sim() -> Sim:
    return Sim(build())


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """(Hugging Face's model, its folder) of a family member."""
    from tests.engines.t5 import checkpoints as ck

    root = tmp_path_factory.mktemp("family")
    ck.torch.set_num_threads(1)

    def get(name: str) -> tuple[Any, Path]:
        member = next(m for m in ck.FAMILY if m.name == name)
        model = ck.build(member)
        return model, ck.save(model, root / name, member)

    return get


@pytest.fixture(
    params=[
        "cuda-sim",
        pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(bool(REASON), reason=REASON)]),
    ]
)
def device(request: pytest.FixtureRequest, sim: Sim) -> str:
    """Where the engine runs; the simulator is built, and lies where the engine looks for it."""
    ensure_library()
    return str(request.param)

"""The library built once per session, and the tiny family on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def pytest_configure(config: pytest.Config) -> None:
    """Tests run beside each other on few cores: torch must not start a thread per core in each."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _library() -> None:
    from engines.t5 import native

    if not native.library_path().is_file():
        build = ROOT / "build" / "native"
        subprocess.run(  # a build tool of the environment, found on PATH
            ["cmake", "-S", str(ROOT / "kernels"), "-B", str(build), "-DT5K_INPLACE=ON"], check=True, stdout=sys.stderr
        )
        subprocess.run(["cmake", "--build", str(build), "-j", "2"], check=True, stdout=sys.stderr)


@pytest.fixture(scope="session")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """name -> (Hugging Face model, its folder); built on first use."""
    from tests.engines.t5 import checkpoints

    root, made = tmp_path_factory.mktemp("family"), dict[str, tuple[Any, Path]]()
    checkpoints.torch.set_num_threads(1)

    def get(name: str) -> tuple[Any, Path]:
        if name not in made:
            member = next(m for m in checkpoints.FAMILY if m.name == name)
            model = checkpoints.build(member)
            made[name] = model, checkpoints.save(model, root / name, member)
        return made[name]

    return get


@pytest.fixture
def load(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """engines.t5.load whose engines are closed when the test ends."""
    from engines import t5

    opened: list[Any] = []

    def do(path: Path, **options: Any) -> Any:
        opened.append(t5.load(path, **({"threads": 2} | options)))
        return opened[-1]

    yield do
    for engine in opened:
        engine.close()

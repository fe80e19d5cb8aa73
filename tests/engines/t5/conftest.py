"""The library built once per session, and the tiny family on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kernels.build import ensure_library


@pytest.fixture(scope="session", autouse=True)
def _library() -> None:
    ensure_library()


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

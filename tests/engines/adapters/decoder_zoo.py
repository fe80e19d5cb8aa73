"""Tiny decoder-only folders and an engine's backends on them, each made once for a module of tests."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from engines.api import Backend
from tests.engines.models.decoder_folders import write_decoder
from tests.engines.models.t5_folders import loaded

Variants = Mapping[str, tuple[str, Mapping[str, Any]]]
"""Name -> family, and fields of its config that differ."""


class Zoo:
    """Folders by family or variant, and backends of one engine."""

    def __init__(self, engine: str, variants: Variants, root: Path) -> None:
        self._engine, self._variants, self._root = engine, variants, root
        self._backends: dict[tuple[Path, str], Backend] = {}

    def folder(self, name: str) -> Path:
        """The folder of a family or variant."""
        path = self._root / name.replace(" ", "-")
        if path.is_dir():
            return path
        model_type, changes = self._variants.get(name, (name, {}))
        return write_decoder(path, model_type, **changes)

    def backend(self, folder: Path, dtype: str = "fp32") -> Backend:
        """The engine, loaded."""
        key = (folder, dtype)
        if key not in self._backends:
            self._backends[key] = loaded(self._engine, folder, dtype)
        return self._backends[key]

    def close(self) -> None:
        """End every backend."""
        for backend in self._backends.values():
            backend.close()


@contextmanager
def opened_zoo(engine: str, converting: ModuleType, variants: Variants, root: Path) -> Iterator[Zoo]:
    """A zoo whose conversions, of the module `converting`, run in this process: a child would load torch for each."""

    def here(module: str, function: str, arguments: list[str]) -> None:
        getattr(importlib.import_module(module), function)(*arguments)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny matrices: a second thread only spins
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "call_in_child", here)
        patch.setenv("DYNO_CACHE", str(root / "cache"))
        zoo = Zoo(engine, variants, root)
        yield zoo
        zoo.close()
    torch.set_num_threads(threads)

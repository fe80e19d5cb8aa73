"""The training scripts as modules: they are run by path, so tests import them from their folder."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ASSETS = Path(__file__).parents[2] / "scenarios" / "assets"


@pytest.fixture
def training_script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a script of scenarios/assets/train by name; its folder is on the path for this test only."""
    monkeypatch.syspath_prepend(str(ASSETS / "train"))
    for name in [path.stem for path in (ASSETS / "train").glob("*.py")]:
        monkeypatch.delitem(sys.modules, name, raising=False)  # `evaluate` is also a package on PyPI
    return importlib.import_module

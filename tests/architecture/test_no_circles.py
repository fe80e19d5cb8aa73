"""No two files of the product import each other, not even in a roundabout way or inside a function."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.parsed import parsed

ROOT = Path(__file__).parents[2]


def _modules(package: str) -> dict[str, Path]:
    """Dotted name -> file, of every file of the package."""
    found = {}
    for path in sorted((ROOT / package).rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = path
    return found


def _imported(source: str, known: set[str]) -> Iterator[str]:
    """The modules among `known` that `source` imports: at its top, inside functions, or for type checkers only."""
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                name = inner if inner in known else node.module
                if name in known and name not in ("engines", "harness"):
                    yield name


def _circle(files: dict[str, str]) -> list[str]:
    """Modules that import each other in a ring; empty when there are none."""
    graph = {name: set(_imported(source, set(files))) - {name} for name, source in files.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


@pytest.mark.parametrize("package", ["engines", "harness"])
def test_no_file_imports_itself_in_a_roundabout_way(package: str) -> None:
    assert not _circle({name: path.read_text() for name, path in _modules(package).items()})


@pytest.mark.parametrize("statement", ["import b", "def f():\n    from b import x", "if TYPE_CHECKING:\n    import b"])
def test_a_circle_is_found_wherever_its_imports_stand(statement: str) -> None:
    assert _circle({"a": statement, "b": "import c", "c": "from a import x"})
    assert not _circle({"a": statement, "b": "import c", "c": ""})


def test_only_two_files_import_by_a_name_put_together_at_run_time() -> None:
    """The engines' table of names, and the commands that are imported when they are called."""
    by_name = [
        name
        for package in ("engines", "harness")
        for name, path in _modules(package).items()
        if re.search(r"\b(import_module|__import__|runpy)\b", path.read_text())
    ]
    assert sorted(by_name) == ["engines.launching", "harness.cli.main"]

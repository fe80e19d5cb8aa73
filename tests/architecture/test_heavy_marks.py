"""A test that names a library which runs models is marked heavy, so that `make check` stays quick; CI ends in time."""

import ast
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import conftest
from tests.quick import MODEL_LIBRARIES, TESTS, is_heavy_place


def _libraries(node: ast.AST) -> set[str]:
    """The libraries in MODEL_LIBRARIES that `node` imports, also by `pytest.importorskip`."""
    named: set[str] = set()
    for part in ast.walk(node):
        match part:
            case ast.Import(names=names):
                named |= {name.name for name in names}
            case ast.ImportFrom(module=str(module)):
                named.add(module)
            case ast.Call(func=ast.Attribute(attr="importorskip"), args=[ast.Constant(value=str(module)), *_]):
                named.add(module)
    return {name.partition(".")[0] for name in named} & MODEL_LIBRARIES


def _unmarked(path: Path) -> Iterator[str]:
    """The tests of a file that name such a library without the mark, as `file::test`."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        is_test = isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name.lower().startswith("test")
        if is_test and _libraries(node) and "heavy" not in "".join(map(ast.unparse, node.decorator_list)):
            yield f"{path.relative_to(TESTS.parent)}::{node.name}"


def test_tests_that_name_a_model_library_are_marked_heavy() -> None:
    files = [path for path in TESTS.rglob("test_*.py") if not is_heavy_place(path)]
    assert files
    assert [name for path in files for name in _unmarked(path)] == []


def test_no_heavy_test_begins_once_the_time_of_ci_is_up(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    conftest.pytest_runtest_setup(request.node)  # no limit unless CI sets one
    monkeypatch.setattr(conftest, "HEAVY_UNTIL", time.time() - 1)
    conftest.pytest_runtest_setup(request.node)  # quick, so it runs all the same
    request.node.add_marker("heavy")
    with pytest.raises(pytest.skip.Exception, match="the time that CI gives heavy tests is up"):
        conftest.pytest_runtest_setup(request.node)

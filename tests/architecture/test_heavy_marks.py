"""A test that names a library which runs models is marked heavy, so that `make check` stays quick and green."""

import ast
from collections.abc import Iterator
from pathlib import Path

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

"""The size budget of house style 4: a tripwire for reading again. Exemptions stand here, each with its reason."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.parsed import parsed

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_PARAMETERS = 6
MAX_WITH_KEYWORDS = 8
"""Parameters where those beyond MAX_PARAMETERS can only be given by name."""
MAX_ROOM_FILES = 9
"""Files of a room inside a room, its __init__ not counted."""

EXEMPT: dict[str, str] = {
    "engines/t5/engine.py:load": "the promised Python interface: one call with keyword options",
    "engines/t5/pack_rows.py:pack_rows": "one C call's arguments, in its order",
    "harness/measure/summarize.py:summarize": "everything a summary is made from, by keyword; no other call has it all",
    "engines/t5/packing_plan.py:_planned": "the row of a table, spelled at each place that adds one",
}
"""'path' or 'path:function' -> why it may be longer."""


def _sources() -> list[Path]:
    return sorted([*(ROOT / "harness").rglob("*.py"), *(ROOT / "engines").rglob("*.py")])


def _functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = parsed(path.read_text())
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_files_and_functions_stay_within_the_size_budget() -> None:
    over = []
    for path in _sources():
        name = str(path.relative_to(ROOT))
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE_LINES and name not in EXEMPT:
            over.append(f"{name}: {lines} lines (at most {MAX_FILE_LINES})")
        for function in _functions(path):
            key = f"{name}:{function.name}"
            length = (function.end_lineno or function.lineno) - function.lineno + 1
            if length > MAX_FUNCTION_LINES and key not in EXEMPT:
                over.append(f"{key}: {length} lines (at most {MAX_FUNCTION_LINES})")
            is_command = any("command" in ast.unparse(decorator) for decorator in function.decorator_list)
            plain = [each for each in function.args.args if each.arg not in ("self", "cls")]
            count = len(plain) + len(function.args.kwonlyargs)
            is_over = len(plain) > MAX_PARAMETERS or count > MAX_WITH_KEYWORDS
            if is_over and not is_command and key not in EXEMPT:
                over.append(f"{key}: {count} parameters (at most {MAX_PARAMETERS}, {MAX_WITH_KEYWORDS} by keyword)")
    assert not over, "\n".join(over)


def test_a_room_inside_a_room_can_be_seen_at_a_glance() -> None:
    rooms = {path.parent for root in ("harness", "engines") for path in (ROOT / root).glob("*/*/**/__init__.py")}
    sizes = {str(room.relative_to(ROOT)): len(list(room.glob("*.py"))) - 1 for room in rooms}
    assert "engines/models/gguf" in sizes
    assert not {room: size for room, size in sizes.items() if size > MAX_ROOM_FILES}


def test_exemptions_name_things_that_exist() -> None:
    known = set()
    for path in _sources():
        name = str(path.relative_to(ROOT))
        known.add(name)
        known.update(f"{name}:{function.name}" for function in _functions(path))
    assert not set(EXEMPT) - known


def test_every_file_says_what_it_is_in_its_first_line() -> None:
    silent = [str(p.relative_to(ROOT)) for p in _sources() if not ast.get_docstring(parsed(p.read_text()))]
    assert not silent


def test_kernels_is_not_a_python_package() -> None:
    found = list((ROOT / "kernels").rglob("__init__.py"))
    assert not found, "it would shadow the package `kernels` that transformers looks for"

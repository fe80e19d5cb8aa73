"""The axes are listed in one place: no other file names them one by one, and none writes their keys."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

from engines.setting import AXES, Setting
from tests.parsed import parsed

ROOT = Path(__file__).parents[2]
NAMES = {axis.name for axis in AXES}
KEYS = {axis.key for axis in AXES} | {"minWorkers"}
MAY_LIST_NAMES = {
    "engines/setting.py": "the table",
    "harness/report/content/result_table.py": "the columns of the published table",
    "engines/presets.py": "blocks as scenarios write them",
    "engines/spec_check.py": "the one judge of what an engine can do",
    "engines/serving_properties/read.py": "what DJL reads in its own way: devices, workers, batches",
}
MAY_NAME_KEYS = {
    "engines/setting.py": "the table",
    "engines/serving_properties/": "reads and writes them",
    "harness/properties/": "checks and migrates files of every container",
    "engines/foreign_servers/java_servers/multi_model_server.py": "parameters of the servers' registration call",
}


def _literals(path: Path) -> set[str]:
    """The string literals of a file."""
    return {
        node.value
        for node in ast.walk(parsed(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@cache
def _sources() -> dict[str, set[str]]:
    files = [path for root in ("engines", "harness") for path in sorted((ROOT / root).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): _literals(path) for path in files}


def test_every_field_of_a_setting_is_a_row_of_the_table() -> None:
    assert [*Setting().axes()] == [name for name in Setting().values() if name != "options"]
    assert sorted(NAMES) == sorted(Setting().axes())
    assert len(KEYS) == len(AXES) + 1


def test_no_other_file_lists_the_axes() -> None:
    listing = {path for path, words in _sources().items() if len(words & NAMES) > 3}
    assert listing == set(MAY_LIST_NAMES), "read engines.setting.AXES instead"


def test_no_other_file_writes_the_keys_of_serving_properties() -> None:
    only_keys = KEYS - NAMES
    writing = {path for path, words in _sources().items() if words & only_keys}
    stray = {path for path in writing if not path.startswith(tuple(MAY_NAME_KEYS))}
    assert stray == set(), "use engines.serving_properties.write.property_values instead"

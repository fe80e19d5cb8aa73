"""The table of what each version reads (harness/properties/read_by_version.toml), made from the facts beside this file.

    python -m tests.harness.properties.upstream.table

A test compares the committed table with what this makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.harness.properties.upstream.extract import FACTS, sort_key

TABLE = Path(__file__).parents[4] / "harness" / "properties" / "read_by_version.toml"
_HEAD = """\
# Generated from tests/harness/properties/upstream/facts by tests/harness/properties/upstream/table.py; not for editing.
#
# Which modules, variables and keys each djl-serving release has, and which handlers hand every further option on. Each
# name has its periods: `since` and `until` are the first and last version, both inclusive; absent means the oldest
# (0.19.0) or the newest (0.36.0, LMI 27) of the release branches.
"""
Facts = Mapping[str, Any]
Release = tuple[int, ...]


def load_facts() -> dict[Release, Facts]:
    """Release -> the facts of its branch, oldest first."""
    read = [json.loads(path.read_text(encoding="utf-8")) for path in FACTS.glob("*.json")]
    return dict(sorted((sort_key(facts["branch"]), facts) for facts in read))


def make_table(releases: Mapping[Release, Facts]) -> str:
    """The text of read_by_version.toml."""
    lines = [_HEAD.rstrip()]
    for title, rows in (
        ("modules", {release: dict.fromkeys(facts["modules"], "") for release, facts in releases.items()}),
        ("passes_on", {release: dict.fromkeys(_handing_on(facts), "") for release, facts in releases.items()}),
        ("variables", {release: dict.fromkeys(facts["variables"], "") for release, facts in releases.items()}),
        *((f"keys.{handler}", _keys(releases, handler)) for handler in _handlers(releases)),
    ):
        lines += ["", f"[{title}]", *_rows(rows)]
    return "\n".join(lines) + "\n"


def _handlers(releases: Mapping[Release, Facts]) -> list[str]:
    return sorted({reader["handler"] for facts in releases.values() for reader in facts["readers"]})


def _handing_on(facts: Facts) -> list[str]:
    return sorted({reader["handler"] for reader in facts["readers"] if reader.get("passes_on")})


def _keys(releases: Mapping[Release, Facts], handler: str) -> dict[Release, dict[str, str]]:
    """Release -> key -> annotation, of every reader of that handler."""
    found: dict[Release, dict[str, str]] = {}
    for release, facts in releases.items():
        keys: dict[str, str] = {}
        for reader in facts["readers"]:
            if reader["handler"] == handler:
                keys |= {key: kind or keys.get(key, "") for key, kind in reader["keys"].items()}
        if "rolling_batch" in keys:
            keys["rolling_batch"] = ""  # its values have a table of their own in keys.toml
        found[release] = keys
    return found


def _rows(by_release: Mapping[Release, Mapping[str, str]]) -> Iterator[str]:
    """One line a name: its periods, each a run of releases that have it with the same type and choices."""
    order = list(by_release)
    for name in sorted({name for row in by_release.values() for name in row}):
        runs = groupby(order, key=lambda release: _kind(by_release[release].get(name)))
        periods = [_period(kind, list(run), order) for kind, run in runs if kind is not None]
        key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
        yield f"{key} = [{', '.join(periods)}]"


def _period(kind: str, releases: list[Release], order: list[Release]) -> str:
    first, last = releases[0], releases[-1]
    parts = [kind] if kind else []
    parts += [f'since = "{_written(first, order, is_last=False)}"'] if first != order[0] else []
    parts += [f'until = "{_written(last, order, is_last=True)}"'] if last != order[-1] else []
    return f"{{ {', '.join(parts)} }}" if parts else "{}"


def _written(release: Release, order: list[Release], *, is_last: bool) -> str:
    """'0.36.0', or '0.36.0-lmi19' where only a part of that version's LMI releases is meant."""
    version = ".".join(str(part) for part in release[:3])
    same = [each for each in order if each[:3] == release[:3]]
    return version if release == same[-1 if is_last else 0] else f"{version}-lmi{release[3]}"


def _kind(annotation: str | None) -> str | None:
    """The annotation as the table writes it; '' where it says nothing of the value, None where there is none."""
    if annotation is None:
        return None
    values = annotation.removeprefix("one of ")
    if values != annotation:
        return f'type = "enum", choices = {json.dumps(values.split(", "))}'
    return f'type = "{annotation}"' if annotation in ("int", "float", "bool") else ""


if __name__ == "__main__":
    TABLE.write_text(make_table(load_facts()), encoding="utf-8")
    print(f"wrote {TABLE}")

"""The keys of a serving.properties file: which handler of which container version reads them, and what they take.

Versions come from read_by_version.toml, which is generated from djl-serving's release branches; types, ranges and words
come from keys.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from engines.setting import AXES, Axis
from harness.properties.containers import Container, Version, is_between, parse_version, read_by_version, table

COMMON_SETTINGS_SINCE = (0, 25, 0)
"""From here one class of djl-serving checks the common options for all handlers; before, each read its own."""
FIRST_IN_IMAGE = {"fastertransformer": "0.21.0"}
"""Handlers that AWS's image had one release before djl-serving's branch of that name (a notebook of AWS uses it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRule:
    """One key as one handler reads it in a period. `since` and `until` are inclusive versions; () means no bound.

    `if_low` and `if_unreadable` state what the server does with a value below `low`, or of another type, that it takes
    all the same. `is_java` marks what the server's Java side reads.
    """

    key: str
    handler: str
    type: str
    since: Version = ()
    until: Version = ()
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    takes_any_case: bool = False
    unit: str = ""
    if_low: str = ""
    if_unreadable: str = ""
    is_java: bool = False
    replacement: str = ""
    retired: str = ""
    is_never: bool = False
    deprecated_since: Version | None = None
    default: str = ""

    def is_in(self, container: Container) -> bool:
        """Whether that container reads this key so."""
        return not self.is_never and is_between(container.release, self.since, self.until)


def key_rules(container: Container) -> dict[str, tuple[KeyRule, ...]]:
    """Full key (with 'option.') -> its rules, one per handler that reads it and period; other versions' included."""
    return _own_rules(container.name.removeprefix("dynamometer-")) if container.is_own else _djl_rules()


def hands_on(container: Container, handler: str) -> bool:
    """Whether that handler passes every option that it does not know on to its backend."""
    return not container.is_own and _is_in(container, read_by_version()["passes_on"].get(handler, []))


def reads_variable(container: Container, name: str) -> bool:
    """Whether the container's server or entry script reads that environment variable."""
    return _is_in(container, read_by_version()["variables"].get(name, []))


def _is_in(container: Container, periods: list[dict[str, str]]) -> bool:
    return any(
        is_between(container.release, parse_version(each.get("since", "")), parse_version(each.get("until", "")))
        for each in periods
    )


@cache
def _djl_rules() -> dict[str, tuple[KeyRule, ...]]:
    read, notes = read_by_version()["keys"], table()["keys"]
    rules: dict[str, tuple[KeyRule, ...]] = {}
    for handler in (*notes, *(name for name in read if name not in notes)):
        noted, known = notes.get(handler, {}), read.get(handler, {})
        common = {} if handler == "server" else notes["python"]
        for key in (*known, *(name for name in noted if name not in known)):
            full = key if handler == "server" else f"option.{key}"
            periods = _periods(known.get(key, []), noted.get(key), common.get(key, {}), handler)
            rules[full] = (*rules.get(full, ()), *(_rule(full, handler, row) for row in periods))
    return rules


def _periods(
    read: list[dict[str, Any]], note: Mapping[str, Any] | None, common: Mapping[str, Any], handler: str
) -> list[dict[str, Any]]:
    """The rows of one key of one handler: its note over each period, or else the common one where the handler shares
    the common settings; enumerations of the period win.

    A note with `handed_on` names an option of the backend, which the handler takes as long as it hands options on.
    """
    rows = []
    for period in read:
        until = parse_version(period.get("until", ""))
        shared = common if not until or until >= COMMON_SETTINGS_SINCE else {}
        rows.append({**period, **(shared if note is None else note), **(period if "choices" in period else {})})
        if handler in FIRST_IN_IMAGE and rows[-1].get("since") == "0.22.1":
            rows[-1]["since"] = FIRST_IN_IMAGE[handler]
    if note and note.get("handed_on"):
        own = {key: value for key, value in note.items() if key in ("since", "until")}
        rows += [{**note, **period, **own} for period in read_by_version()["passes_on"][handler]]
    return rows or [dict(note or {})]


@cache
def _own_rules(version: str) -> dict[str, tuple[KeyRule, ...]]:
    tables = table()["dynamometer"][version]
    axes = {axis.key: (_axis_rule(axis),) for axis in AXES}
    server = {key: (_rule(key, "server", row),) for key, row in tables["server"].items()}
    options: dict[str, tuple[KeyRule, ...]] = {}
    for handler in [name for name in tables if name != "server"]:
        for key, row in tables[handler].items():
            full = f"option.{key}"
            options[full] = (*options.get(full, ()), _rule(full, handler, row))
    return {**axes, **server, **options}


def _axis_rule(axis: Axis) -> KeyRule:
    handler = "option" if axis.key.startswith("option.") else "server"
    return _rule(axis.key, handler, {"type": "str"} if axis.is_word else {"type": "int", "min": axis.low})


def _rule(key: str, handler: str, row: Mapping[str, Any]) -> KeyRule:
    deprecated: Version | None = () if row.get("is_deprecated") else None
    if "is_deprecated_since" in row:
        deprecated = parse_version(row["is_deprecated_since"])
    return KeyRule(
        key=key,
        handler=handler,
        type=row.get("type", "str"),
        since=parse_version(row.get("since", "")),
        until=parse_version(row.get("until", "")),
        low=row.get("min"),
        high=row.get("max"),
        choices=tuple(row.get("choices", ())),
        takes_any_case=row.get("any_case", False),
        unit=row.get("unit", ""),
        if_low=row.get("if_low", ""),
        if_unreadable=row.get("if_unreadable", ""),
        is_java=row.get("java", handler == "server"),
        replacement=row.get("replacement", ""),
        retired=row.get("retired", ""),
        is_never=row.get("never", False),
        deprecated_since=deprecated,
        default=row.get("default", ""),
    )

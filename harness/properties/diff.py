"""Differences between two serving.properties files, or between what two container versions understand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.properties.containers import Container, image_tag, named_values, python_version
from harness.properties.key_rules import KeyRule, key_rules

TABLES = ("engines", "rolling_batch", "handlers")
_KEY_OF = {"engines": "engine", "rolling_batch": "option.rolling_batch", "handlers": "option.entryPoint"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One key. `before` or `after` is None where that side does not have it; `who` is the handler that reads it."""

    key: str
    before: str | None
    after: str | None
    who: str = ""


def file_differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[Difference, ...]:
    """Keys whose values differ, in the order of the first file, then of the second."""
    keys = dict.fromkeys([*before, *after])
    return tuple(
        Difference(key=key, before=before.get(key), after=after.get(key))
        for key in keys
        if before.get(key) != after.get(key)
    )


def container_differences(before: Container, after: Container) -> tuple[Difference, ...]:
    """Image, Python, engines, rolling batch kinds, handlers, and keys (type, range, default) that differ."""
    found = [
        Difference(key="image", before=image_tag(before) or None, after=image_tag(after) or None),
        Difference(key="python", before=_version(before), after=_version(after)),
    ]
    for table in TABLES:
        for name, row in named_values(table).items():
            sides = ["accepted" if not c.is_own and row.is_in(c) else None for c in (before, after)]
            found.append(Difference(key=f"{_KEY_OF[table]}={name}", before=sides[0], after=sides[1]))
    found += _key_differences(before, after)
    return tuple(one for one in found if one.before != one.after)


def rule_text(rule: KeyRule) -> str:
    """'int >= 1, default 1000': what a key takes."""
    parts = [rule.type if rule.type != "enum" else " | ".join(rule.choices)]
    if rule.low is not None and rule.high is not None:
        parts.append(f"{rule.low:g} to {rule.high:g}")
    elif rule.low is not None:
        parts.append(f">= {rule.low:g}")
    text = " ".join(parts) + (f" {rule.unit}" if rule.unit else "")
    return f"{text}, default {rule.default}" if rule.default else text


def known_keys(container: Container) -> dict[tuple[str, str], KeyRule]:
    """(key, handler) -> rule, of what that container reads."""
    return {
        (key, rule.handler): rule
        for key, rules in key_rules(container).items()
        for rule in rules
        if container.is_own or rule.is_in(container)
    }


def _key_differences(before: Container, after: Container) -> list[Difference]:
    one, two = known_keys(before), known_keys(after)
    return [
        Difference(
            key=key,
            before=rule_text(one[key, who]) if (key, who) in one else None,
            after=rule_text(two[key, who]) if (key, who) in two else None,
            who=who,
        )
        for key, who in dict.fromkeys([*one, *two])
    ]


def _version(container: Container) -> str | None:
    version = () if container.is_own else python_version(container)
    return ".".join(map(str, version)) or None

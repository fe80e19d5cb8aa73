"""Lint for single values in serving.properties: valid for the key, engine and handler of this container version."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from engines.nearest import did_you_mean
from harness.properties.containers import Container, NamedValue, format_version, named_values
from harness.properties.key_rules import COMMON_SETTINGS_SINCE, KeyRule
from harness.properties.lint.readers import OWN_SCRIPT
from harness.properties.lint.records import BRANCHING_KEYS, Finding, LintInput, relevant_rules

_TABLE_OF = {"engine": "engines", "option.rolling_batch": "rolling_batch", "option.entryPoint": "handlers"}

_TEMPLATE = re.compile(r"\{\{[^{}]*\}\}|\{%.*?%\}|\$\{\w+\}|^\{\w+\}$|^<[^<>]*>$")
"""What is left of Jinja's, the shell's or Python's templates, or of a place to fill in."""
_TEMPLATES_ARE_VALUES = "option.chat_template"

_DEVICE = re.compile(r"-1|\d+|(gpu|nc|cpu)\d*")
_JAVA_WHOLE = re.compile(r"[+-]?\d+")
_JAVA_LIMIT = 2**31
_BLANKS = " \t\f"
_PYTHON_BOOLEANS = ("true", "false", "yes", "no", "on", "off", "y", "n", "t", "f", "1", "0")
"""What pydantic reads as a boolean, from the first version whose settings it checks."""


def branch_findings(given: LintInput) -> Iterator[Finding]:
    """engine, option.rolling_batch and option.entryPoint: values that come and go with container versions."""
    if given.container.is_own:
        yield from _own_entry_point(given)
        return
    for key in BRANCHING_KEYS:
        value = given.values.get(key, "").strip()
        if not value:
            continue
        rows = named_values(_TABLE_OF[key])
        if key == "option.entryPoint" and not value.startswith("djl_python."):
            continue
        if value in rows:
            if not rows[value].is_in(given.container):
                yield given.error(key, _gone(given, key, rows[value]))
        elif not _TEMPLATE.search(value):
            yield given.error(key, _unknown_value(key, value, tuple(rows)))


def _own_entry_point(given: LintInput) -> Iterator[Finding]:
    value = given.values.get("option.entryPoint")
    if value is None:
        yield given.error("option.entryPoint", "missing: name the engine, e.g. option.entryPoint=engines.transformers")
    elif value != "djl_python.huggingface" and not re.fullmatch(r"engines\.[a-z][a-z0-9_]*", value.strip()):
        yield given.error("option.entryPoint", f"expected engines.<name> or djl_python.huggingface, got {value!r}")


def _gone(given: LintInput, key: str, row: NamedValue) -> str:
    version = given.container.version
    why = f" ({row.retired})" if row.retired else ""
    if row.until and version > row.until:
        return f"{key}={row.name} is retired: last container {format_version(row.until)}{why}"
    if row.since and version < row.since:
        early = f" ({row.early})" if row.early else ""
        return f"{key}={row.name} is not known yet: first container {format_version(row.since)}{early}"
    return f"{key}={row.name} needs the {' or '.join(row.images)} image, not {given.container.name}"


def _unknown_value(key: str, value: str, known: tuple[str, ...]) -> str:
    alike = [each for each in known if each.lower() == value.replace(" ", "").lower()]
    hint = did_you_mean(value, known) or did_you_mean("".join(alike[:1]), alike) or f"; known: {', '.join(known)}"
    return f"unknown {key} {value!r}{hint}"


def value_findings(given: LintInput) -> Iterator[Finding]:
    """Type and range of every known key's value, blanks at its ends aside (the syntax rules cover those)."""
    for key, value in given.values.items():
        left = _TEMPLATE.search(value) if key != _TEMPLATES_ARE_VALUES else None
        if left:
            yield given.error(
                key, f"{left[0]} is a template that nobody has filled in: the server takes it as it stands"
            )
            continue
        rules = relevant_rules(given, key)
        alive = [rule for rule in rules if given.container.is_own or rule.is_in(given.container)]
        problems = [_problem(rule, value.strip(_BLANKS), given.container) for rule in alive]
        if not (problems and all(problems)):
            continue
        taken = _taken(alive[0], value) if not given.container.is_own else ""
        is_java = alive[0].is_java and alive[0].type != "bool"
        if taken:
            yield given.warning(key, f"{problems[0]}: {taken}")
        elif is_java or OWN_SCRIPT not in given.handlers:
            yield given.error(key, problems[0])
        else:
            yield given.warning(key, problems[0])


def _taken(rule: KeyRule, value: str) -> str:
    """What the server does with a value that does not fit and that it takes all the same; '' where it does not."""
    is_readable = _whole_number(rule, value.strip(_BLANKS), is_own=False) is not None
    return rule.if_low if is_readable else rule.if_unreadable


def _problem(rule: KeyRule, value: str, container: Container) -> str:
    """'' when `value` fits `rule`."""
    if not value:
        return ""
    if rule.type in ("int", "float"):
        return _number_problem(rule, value, is_own=container.is_own)
    if rule.type == "int_or_max":
        return "" if value == "max" else _number_problem(rule, value, is_own=container.is_own)
    if rule.type == "bool":
        is_pydantic = not (rule.is_java or container.is_own) and container.version >= COMMON_SETTINGS_SINCE
        words = _PYTHON_BOOLEANS if is_pydantic else ("true", "false")
        return "" if value.lower() in words else f"expected true or false, got {value!r}"
    if rule.type == "enum":
        word = value.lower() if rule.takes_any_case else value
        return "" if word in rule.choices else _choice_problem(rule, value)
    if rule.type == "int_list":
        fits = all(re.fullmatch(r"\d+", part.strip()) for part in value.split(","))
        return "" if fits else f"expected whole numbers separated by commas, got {value!r}"
    if rule.type == "device_list":
        fits = value == "*" or all(_DEVICE.fullmatch(part) for part in re.split(r"[;+]", value))
        return "" if fits else f"expected devices separated by ';' such as 0;1, gpu0;gpu1, -1 (CPU) or *, got {value!r}"
    if rule.type == "json":
        return _json_problem(value)
    return ""


def _choice_problem(rule: KeyRule, value: str) -> str:
    return f"expected one of {', '.join(rule.choices)}, got {value!r}{did_you_mean(value, rule.choices)}"


def _number_problem(rule: KeyRule, value: str, *, is_own: bool) -> str:
    unit = f" {rule.unit}" if rule.unit else ""
    kind = "a whole number" if rule.type.startswith("int") else "a number"
    bounds = " and ".join(
        part
        for part in (
            f">= {rule.low:g}" if rule.low is not None else "",
            f"<= {rule.high:g}" if rule.high is not None else "",
        )
        if part
    )
    wanted = f"{kind}{unit} {bounds}".rstrip() + (" or max" if rule.type == "int_or_max" else "")
    try:
        number = float(value) if rule.type == "float" else _whole_number(rule, value, is_own=is_own)
    except ValueError:
        number = None
    if number is None:
        limit = f" up to {_JAVA_LIMIT - 1}" if value.strip("+-").isdigit() else ""
        return f"expected {wanted}{limit}, got {value!r}"
    fits = (rule.low is None or number >= rule.low) and (rule.high is None or number <= rule.high)
    return "" if fits else f"expected {wanted}, got {value}"  # "not a number" fits no range


def _whole_number(rule: KeyRule, value: str, *, is_own: bool) -> int | None:
    """The number as its reader takes it, Java's parseInt or Python's int; None where that refuses it."""
    is_java = rule.is_java and not is_own
    if is_java and not _JAVA_WHOLE.fullmatch(value):
        return None
    try:
        number = int(value)
    except ValueError:
        return None
    return None if is_java and not -_JAVA_LIMIT <= number < _JAVA_LIMIT else number


def _json_problem(value: str) -> str:
    try:
        json.loads(value)
    except (ValueError, RecursionError) as error:
        return f"expected JSON, got {value!r} ({error})"
    return ""

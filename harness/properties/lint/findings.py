"""Lint findings for a serving.properties file and one container version, line by line.

The container reports none of these: its validators ignore unknown `option.*` keys, and java.util.Properties reads
trailing blanks, inline comments and backslashes as part of the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from engines.nearest import did_you_mean
from engines.serving_properties.java_text import PropertiesSyntaxError, PropertyLine, parse_lines
from harness.properties.containers import (
    Container,
    KeyRule,
    format_version,
    key_rules,
    named_values,
    parse_container,
)
from harness.properties.lint.combinations import combination_findings
from harness.properties.lint.records import OWN_SCRIPT, Finding, LintInput, ModelFacts, relevant_rules
from harness.properties.lint.values import branch_findings, value_findings

PASSES_THROUGH_SINCE = (0, 32, 0)
"""From here the vLLM handlers hand every further option.* to vLLM's EngineArgs (upstream change of 2025-01-31)."""

_T5_NAME = re.compile(r"(^|[/_.\s-])(flan-?)?(u?m?t5|byt5|ul2)(?![a-z])")


def lint(
    text: str, container: str, model: ModelFacts | None = None, script: str = "", requirements: str = ""
) -> list[Finding]:
    """Findings in line order, errors first within a line; empty when the file is clean. An option that `script` (the
    model.py beside the file) names counts as known; `requirements` is the requirements.txt beside it. Raises UsageError
    on an unknown container."""
    target = parse_container(container)
    try:
        entries = parse_lines(text)
    except PropertiesSyntaxError as error:
        return [Finding(line=error.line, key="", severity="error", message=f"Java refuses the file: {error}")]
    given = replace(lint_input(target, model or ModelFacts(), entries), script=script, requirements=requirements)
    findings = [
        *syntax_findings(text, entries),
        *branch_findings(given),
        *key_findings(given),
        *value_findings(given),
        *combination_findings(given),
    ]
    return sorted(dict.fromkeys(findings), key=lambda finding: (finding.line, finding.severity, finding.key))


def lint_input(target: Container, model: ModelFacts, entries: tuple[PropertyLine, ...]) -> LintInput:
    """The parsed file with what is known of its model and handlers."""
    values = {entry.key: entry.value for entry in entries}
    lines = {entry.key: entry.line for entry in entries}
    place = f"{values.get('option.model_id', '')} {values.get('option.s3url', '')}".lower()
    if not model.family and _T5_NAME.search(place):
        model = ModelFacts(family="t5", heads=model.heads)
    return LintInput(
        container=target,
        model=model,
        entries=entries,
        values=values,
        lines=lines,
        handlers=_handlers(target, values),
    )


def _handlers(target: Container, values: Mapping[str, str]) -> frozenset[str]:
    """Which handlers may read the file's option.* keys; empty when that is unknown (then any handler may)."""
    if target.is_own:
        entry = values.get("option.entryPoint", "")
        engine = "transformers" if entry == "djl_python.huggingface" else entry.removeprefix("engines.")
        return frozenset({"option", engine})
    by_rolling = {"vllm": "vllm", "lmi-dist": "lmi-dist", "scheduler": "scheduler", "trtllm": "tensorrt_llm"}
    by_engine = {"DeepSpeed": "deepspeed", "FasterTransformer": "fastertransformer", "OnnxRuntime": "onnxruntime"}
    entry = values.get("option.entryPoint", "").strip()
    found = {by_rolling.get(values.get("option.rolling_batch", "").strip(), "")}
    found.add(by_engine.get(values.get("engine", "").strip(), ""))
    if entry in named_values("handlers"):
        found.add(named_values("handlers")[entry].handler)
    elif entry.startswith("djl_python.lmi_vllm"):
        found.add("vllm")
    elif entry.startswith("djl_python.lmi_trtllm"):
        found.add("tensorrt_llm")
    elif entry:
        found.add(OWN_SCRIPT)
    found.discard("")
    return frozenset(found | {"python"}) if found else frozenset()


def syntax_findings(text: str, entries: tuple[PropertyLine, ...]) -> Iterator[Finding]:
    """Where Java reads something else than the author most likely meant."""
    first_line: dict[str, int] = {}
    for entry in entries:
        if entry.key in first_line:
            yield _error(entry, f"{entry.key} was already set in line {first_line[entry.key]}: Java keeps the last one")
        first_line.setdefault(entry.key, entry.line)
        yield from _blank_findings(entry)
        yield from _comment_findings(entry)
        yield from _escape_findings(entry)
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if not line.isascii() and line.lstrip(" \t\f")[:1] not in ("#", "!"):
            yield Finding(
                line=number,
                key="",
                severity="warning",
                message="characters beyond ASCII: Java may read the bytes as ISO-8859-1; write them as \\uXXXX",
            )


def _blank_findings(entry: PropertyLine) -> Iterator[Finding]:
    shown = repr(entry.value)
    if entry.value != entry.value.rstrip() and not entry.source.rstrip().endswith("\\u0020"):
        yield _error(entry, f"trailing blanks belong to the value: Java reads {shown}; delete them")
    if " " in entry.key:
        yield _error(entry, f"the key holds a blank: Java reads the key as {entry.key!r}")
    if not re.match(r"[^=:]*(?<!\\)[=:]", entry.source) and entry.value:
        yield _error(
            entry, f"no '=' sign: Java ends the key at the first blank and reads {entry.key!r} with value {shown}"
        )
    elif re.match(r"(?:[^=:\\\s]|\\.)+[ \t\f]+[^=: \t\f]", entry.source):
        yield _error(entry, f"a blank inside the key ends it: Java reads {entry.key!r} with value {shown}")
    if not entry.value:
        yield Finding(line=entry.line, key=entry.key, severity="warning", message="the value is empty")


def _comment_findings(entry: PropertyLine) -> Iterator[Finding]:
    match = re.search(r"\s[#!]", entry.value)
    if match:
        meant = entry.value[: match.start()].rstrip()
        yield _error(
            entry,
            f"there are no inline comments: Java reads {entry.value!r}; put the comment on its own line and write "
            f"{entry.key}={meant}",
        )


def _escape_findings(entry: PropertyLine) -> Iterator[Finding]:
    for match in re.finditer(r"\\(.)", entry.source):
        char = match.group(1)
        if char in "tnrf" and re.search(r"\\[A-Za-z]", entry.source.replace(f"\\{char}", "", 1)):
            yield _error(entry, f"backslash is an escape: Java reads {entry.value!r}; write \\\\ or /")
            return
        if char.isalnum() and char not in "tnrfu":
            yield _error(
                entry, f"Java drops the backslash before {char!r} and reads {entry.value!r}; write \\\\ or use /"
            )
            return
        if char in "tf" and re.match(r"[A-Za-z]:\\", entry.source.partition("=")[2].strip()):
            yield _error(
                entry, f"\\{char} is a control character here: Java reads {entry.value!r}; write \\\\ or use /"
            )
            return


def key_findings(given: LintInput) -> Iterator[Finding]:
    """Keys that this version does not know, no longer knows, or does not know yet."""
    rules = key_rules(given.container)
    for key in given.values:
        if key not in rules:
            yield from _unknown_key(given, key, tuple(rules))
        else:
            yield from _known_key(given, key, relevant_rules(given, key))


def _unknown_key(given: LintInput, key: str, known: tuple[str, ...]) -> Iterator[Finding]:
    hint = _key_hint(given, key, known)
    where = f"in {given.container.name}"
    if key.startswith("option.") and OWN_SCRIPT in given.handlers:
        if f'"{key.removeprefix("option.")}"' in given.script:
            return
        yield given.warning(key, f"unknown key {where}: only your own script can read it{hint}")
        return
    is_vllm = "vllm" in given.handlers and given.container.version >= PASSES_THROUGH_SINCE
    if key.startswith("option.") and is_vllm and not hint:
        yield given.warning(key, "not in our table: handed on to vLLM's EngineArgs unchecked")
        return
    effect = "it would be ignored without a word" if key.startswith("option.") else "the server does not read it"
    if given.container.is_own:
        effect = "the server refuses it"
    yield given.error(key, f"unknown key {where}; {effect}{hint}")


def _key_hint(given: LintInput, key: str, known: tuple[str, ...]) -> str:
    folded = {name.lower().replace("_", "").replace("-", ""): name for name in known}
    plain = key.lower().replace("_", "").replace("-", "").replace(" ", "")
    for candidate in (plain, f"option.{plain}", plain.removeprefix("option.")):
        if candidate in folded:
            return f"; did you mean {folded[candidate]!r}?"
    readable = [name for name in known if any(rule.is_in(given.container.version) for rule in _rules(given, name))]
    return did_you_mean(key, readable, cutoff=0.8)


def _rules(given: LintInput, key: str) -> tuple[KeyRule, ...]:
    return key_rules(given.container)[key]


def _known_key(given: LintInput, key: str, rules: tuple[KeyRule, ...]) -> Iterator[Finding]:
    if given.container.is_own:
        yield from _known_to_own(given, key, rules)
        return
    if not rules:
        owners = ", ".join(sorted({rule.handler for rule in _rules(given, key)}))
        readers = ", ".join(sorted(given.handlers - {"python", "option"}))
        yield given.warning(key, f"read by the {owners} handler only, not by {readers}: no effect")
        return
    version = given.container.version
    alive = [rule for rule in rules if rule.is_in(version)]
    if not alive:
        yield _out_of_range(given, key, rules)
        return
    rule = alive[0]
    if rule.deprecated_since is not None and version >= rule.deprecated_since:
        yield given.warning(key, rule.retired or f"deprecated; write {rule.replacement}")


def _known_to_own(given: LintInput, key: str, rules: tuple[KeyRule, ...]) -> Iterator[Finding]:
    owners = sorted({rule.handler for rule in _rules(given, key)})
    if owners == ["ignored"]:
        yield given.warning(key, "accepted for DJL's sake; changes nothing in our server")
    elif not rules:
        engine = given.values.get("option.entryPoint", "").removeprefix("engines.")
        yield given.error(key, f"an option of engine {' or '.join(owners)}, not of {engine}: the engine refuses it")


def _out_of_range(given: LintInput, key: str, rules: tuple[KeyRule, ...]) -> Finding:
    version = given.container.version
    instead = next((f"; write {rule.replacement} instead" for rule in rules if rule.replacement), "")
    if any(rule.is_never for rule in rules):
        return given.error(key, f"no version reads {key} ({rules[0].retired}){instead}")
    newest = max(rules, key=lambda rule: rule.until)
    if newest.until and version > newest.until:
        why = f" ({newest.retired})" if newest.retired else ""
        return given.error(key, f"retired: last read by {format_version(newest.until)}{why}{instead}")
    oldest = min(rules, key=lambda rule: rule.since)
    return given.error(key, f"not known yet: first read by {format_version(oldest.since)}{instead}")


def _error(entry: PropertyLine, message: str) -> Finding:
    return Finding(line=entry.line, key=entry.key, severity="error", message=message)

"""Lint findings for a serving.properties file and one container version, line by line.

The container reports none of these: its validators ignore unknown `option.*` keys, and java.util.Properties reads
trailing blanks, inline comments and backslashes as part of the value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from engines.serving_properties.java_text import PropertiesSyntaxError, PropertyLine, parse_lines
from harness.properties.containers import Container, parse_container
from harness.properties.lint.combinations import combination_findings
from harness.properties.lint.keys import key_findings
from harness.properties.lint.place import place_findings
from harness.properties.lint.readers import readers
from harness.properties.lint.records import Finding, LintInput, ModelFacts, Place
from harness.properties.lint.values import branch_findings, value_findings

CONVERTER_STRIPS_SINCE = (0, 26, 0)
_T5_NAME = re.compile(r"(^|[/_.\s-])(flan-?)?(u?m?t5|byt5|ul2)(?![a-z])")


def lint(
    text: str,
    container: str,
    model: ModelFacts | None = None,
    script: str = "",
    requirements: str = "",
    place: Place | None = None,
) -> list[Finding]:
    """Findings in line order, errors first within a line; empty when the file is clean. An option that `script` (the
    model.py beside the file) names counts as known; `requirements` is the requirements.txt beside it. What depends
    on the machine is an error only where `place` is given. Raises UsageError on an unknown container."""
    target = parse_container(container)
    try:
        entries = parse_lines(text)
    except PropertiesSyntaxError as error:
        return [Finding(line=error.line, key="", severity="error", message=f"Java refuses the file: {error}")]
    given = lint_input(target, model or ModelFacts(), entries, script)
    given = replace(given, requirements=requirements, place=place)
    findings = [
        *syntax_findings(text, entries),
        *_converter_findings(given),
        *branch_findings(given),
        *key_findings(given),
        *value_findings(given),
        *combination_findings(given),
        *place_findings(given),
    ]
    return sorted(dict.fromkeys(findings), key=lambda finding: (finding.line, finding.severity, finding.key))


def lint_input(target: Container, model: ModelFacts, entries: tuple[PropertyLine, ...], script: str = "") -> LintInput:
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
        handlers=readers(target, values, has_script=bool(script)),
        script=script,
    )


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


def _converter_findings(given: LintInput) -> Iterator[Finding]:
    """Blanks around '=': TensorRT-LLM's converter reads the file by a separate parser, which kept them until 0.26."""
    if given.container.kind != "tensorrtllm" or given.container.version >= CONVERTER_STRIPS_SINCE:
        return
    spaced = [entry for entry in given.entries if re.match(r"[^=]*\s=|[^=]*=\s", entry.source)]
    if spaced:
        lines = ", ".join(str(entry.line) for entry in spaced)
        yield _error(
            spaced[0],
            f"blanks around '=' (lines {lines}): this image's converter keeps them in key and value; delete them",
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


def _error(entry: PropertyLine, message: str) -> Finding:
    return Finding(line=entry.line, key=entry.key, severity="error", message=message)

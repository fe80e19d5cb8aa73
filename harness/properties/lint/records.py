"""Records of the lint: a remark on a serving.properties file, and the parsed file that a check reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from engines.serving_properties.java_text import PropertyLine
from harness.properties.containers import Container
from harness.properties.key_rules import KeyRule, key_rules

Severity = Literal["error", "hint", "warning"]

BRANCHING_KEYS = ("engine", "option.entryPoint", "option.rolling_batch")
"""Keys whose values state which handler reads the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One remark. `line` counts from 1 (0: the whole file); an error means the container will not do as written, a hint
    that it does something which the file does not name."""

    line: int
    key: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What is known of the model beside the file: 't5' or another family, and its attention heads."""

    family: str = ""
    heads: int | None = None


def model_facts(folder: Path) -> ModelFacts:
    """The description of the model in `folder`'s config.json; nothing known where there is none or it is damaged."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ModelFacts()
    if not isinstance(config, dict):
        return ModelFacts()
    kind = str(config.get("model_type", ""))
    heads = config.get("num_heads") or config.get("num_attention_heads")
    family = "t5" if kind in ("t5", "mt5", "umt5") else kind
    return ModelFacts(family=family, heads=heads if isinstance(heads, int) else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the file is to be served: the model's folder, and the GPUs and the memory of the machine."""

    folder: Path
    gpus: int
    memory_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LintInput:
    """A parsed file and its target. `values` holds the last of duplicates, `lines` the line it stands on;
    `script` is the author's own handler and `requirements` the requirements.txt beside it, where there are any;
    `place` is None where nothing is known of the machine."""

    container: Container
    model: ModelFacts
    entries: tuple[PropertyLine, ...]
    values: Mapping[str, str]
    lines: Mapping[str, int]
    handlers: frozenset[str] = field(default=frozenset())
    script: str = ""
    requirements: str = ""
    place: Place | None = None

    def error(self, key: str, message: str) -> Finding:
        """An error at the line of `key`."""
        return Finding(line=self.lines.get(key, 0), key=key, severity="error", message=message)

    def hint(self, key: str, message: str) -> Finding:
        """A hint at the line of `key`."""
        return Finding(line=self.lines.get(key, 0), key=key, severity="hint", message=message)

    def warning(self, key: str, message: str) -> Finding:
        """A warning at the line of `key`."""
        return Finding(line=self.lines.get(key, 0), key=key, severity="warning", message=message)


def relevant_rules(given: LintInput, key: str) -> tuple[KeyRule, ...]:
    """The rules of `key` for the handlers that read this file; every rule where that is unknown. Those that this
    version knows come alone where there are any, and a handler's own before the common ones."""
    rules = key_rules(given.container).get(key, ())
    if given.handlers:
        rules = tuple(rule for rule in rules if rule.handler in given.handlers or rule.handler == "server")
    if not given.container.is_own:
        rules = tuple(rule for rule in rules if rule.is_in(given.container)) or rules
    specific = tuple(rule for rule in rules if rule.handler not in ("python", "option", "ignored"))
    return (specific or rules) if given.handlers else rules

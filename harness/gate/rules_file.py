"""Reading a gate's rules file: every mistake at once, each with file:line, field path and what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.errors import ScenarioError
from harness.gate.rules import Budget, Rules, Spread, wrong_way
from harness.measure.metrics import METRICS, metric_row
from harness.scenario.fields import did_you_mean, sentence
from harness.scenario.problems import dotted, explained, line_of, read_text, yaml_problems
from harness.scenario.yaml_nodes import Document, parse

_WORDS = {"dict_type": "'metric: budget' lines", "model_type": "'key: value' lines"}
"""What rules call these, in the place of the scenario's words."""


def load_rules(path: Path | None) -> Rules:
    """The rules in `path`; the defaults without one. Raises ScenarioError, one line per problem."""
    if path is None:
        return Rules()
    document = parse(read_text(path, "rules"))
    if document.problems:
        raise ScenarioError("\n".join(text for _, text in yaml_problems(path, document)))
    if document.value is None:
        raise ScenarioError(
            f"{path}:1: expected rules such as 'metrics:', got an empty file; leave --rules out for the defaults"
        )
    if not isinstance(document.value, dict):
        raise ScenarioError(
            f"{path}:1: expected 'key: value' lines (metrics, false_alarm, ...), got {document.value!r}"
        )
    wrong = _wrong_metrics(path, document)
    try:
        rules = Rules.model_validate(document.value)
    except ValidationError as error:
        wrong += [_problem(path, document, details) for details in error.errors(include_url=False)]
    if wrong:
        raise ScenarioError("\n".join(dict.fromkeys(text for _, text in sorted(wrong))))
    return rules


def _wrong_metrics(path: Path, document: Document) -> list[tuple[int, str]]:
    """Metrics that do not exist and budgets that limit a change for the better, each on its own line (the model's own
    validator names only the first); they are taken out of the document."""
    metrics = document.value.get("metrics")
    if not isinstance(metrics, dict):
        return []
    wrong = []
    for name, budget in list(metrics.items()):
        if (found := _wrong_metric(name, budget)) is not None:
            key, text = found
            place = ("metrics", name, *key)
            line = document.lines.get(place, 1)
            wrong.append((line, f"{path}:{line}: {dotted(place)}{text}"))
            del metrics[name]
    return wrong


def _wrong_metric(name: str, budget: Any) -> tuple[tuple[str, ...], str] | None:
    """(key inside the metric, sentence); None when all is well."""
    row = metric_row(name)
    if row is None:
        return (), sentence("a metric name", name, did_you_mean(name, METRICS) or f"known: {', '.join(METRICS)}")
    wrong = wrong_way(row, budget) if isinstance(budget, dict) else None
    if wrong is None:
        return None
    return (wrong[1],), sentence(wrong[0], wrong[1], f"the goal of {name} is to {row.better}")


def _problem(path: Path, document: Document, details: ErrorDetails) -> tuple[int, str]:
    location = [part for part in details["loc"] if _is_written(document.value, details["loc"], part)]
    if details["type"] == "extra_forbidden":
        location = list(details["loc"])
    line = line_of(document.lines, location)
    known = tuple(_model_at(location[:-1]).model_fields)
    text = explained(details, location[-1] if location else "", known, _WORDS)
    return line, f"{path}:{line}: {dotted(location)}{text}"


def _is_written(raw: Any, location: Sequence[str | int], part: str | int) -> bool:
    for step in location:
        if not isinstance(raw, Mapping) or step not in raw:
            return False
        if step == part:
            return True
        raw = raw[step]
    return False


def _model_at(location: Sequence[str | int]) -> type[BaseModel]:
    if not location:
        return Rules
    return Budget if location[0] == "metrics" else Spread

"""Rules file -> Rules; everything wrong in it at once, each with file:line, field path and what was expected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from harness.errors import ScenarioError
from harness.gate.rules import Budget, Rules, Spread, wrong_way
from harness.measure.metrics import METRICS, metric_row
from harness.scenario.fields import did_you_mean, sentence
from harness.scenario.yaml_nodes import Document, parse

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

_EXPECTED = {
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "dict_type": "'metric: budget' lines",
    "model_type": "'key: value' lines",
    "greater_than": "a number > {gt:g}",
    "greater_than_equal": "a number >= {ge:g}",
    "less_than": "a number < {lt:g}",
    "less_than_equal": "a number <= {le:g}",
    "literal_error": "{expected}",
}
"""pydantic's error type -> what was expected, in the user's words; the types that Rules can raise."""


def load_rules(path: Path | None) -> Rules:
    """The rules in `path`; the defaults without one. Raises ScenarioError, one line per problem."""
    if path is None:
        return Rules()
    document = parse(_read(path))
    if document.problems:
        raise ScenarioError(
            "\n".join(f"{path}:{each.line}: {_dotted(each.path)}{each.text}" for each in document.problems)
        )
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


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        names = [each.name for each in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = get_close_matches(path.name, names, n=1)
        hint = f"did you mean {str(path.parent / near[0])!r}?" if near else "check the path"
        raise ScenarioError(f"{path}: expected a rules file, got nothing there; {hint}") from None
    except OSError as error:
        raise ScenarioError(f"{path}: cannot read the rules: {error.strerror}; check path and permissions") from error
    except UnicodeDecodeError as error:
        raise ScenarioError(f"{path}: expected UTF-8 text: {error.reason}; save the file as UTF-8") from error


def _wrong_metrics(path: Path, document: Document) -> list[tuple[int, str]]:
    """Metrics that do not exist and budgets that limit a change for the better, each on its own line (the model's own
    validator names only the first); they are taken out of the document."""
    metrics = document.value.get("metrics")
    if not isinstance(metrics, dict):
        return []
    wrong = []
    for name, budget in list(metrics.items()):
        if (told := _wrong_metric(name, budget)) is not None:
            key, text = told
            place = ("metrics", name, *key)
            line = document.lines.get(place, 1)
            wrong.append((line, f"{path}:{line}: {_dotted(place)}{text}"))
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
    return (wrong[1],), sentence(wrong[0], wrong[1], f"the goal of {name} is to {row.direction}")


def _problem(path: Path, document: Document, details: ErrorDetails) -> tuple[int, str]:
    location = [part for part in details["loc"] if _is_written(document.value, details["loc"], part)]
    if details["type"] == "extra_forbidden":
        location = list(details["loc"])
    line = next((document.lines[tuple(location[:end])] for end in range(len(location), 0, -1)
                 if tuple(location[:end]) in document.lines), 1)  # fmt: skip
    return line, f"{path}:{line}: {_dotted(location)}{_text(details, location)}"


def _is_written(raw: Any, location: Sequence[str | int], part: str | int) -> bool:
    for step in location:
        if not isinstance(raw, Mapping) or step not in raw:
            return False
        if step == part:
            return True
        raw = raw[step]
    return False


def _text(details: ErrorDetails, location: Sequence[str | int]) -> str:
    kind, got, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "expected":
        return str(context["text"])
    if kind == "extra_forbidden":
        known = tuple(_model_at(location[:-1]).model_fields)
        hint = did_you_mean(location[-1], known) or f"known: {', '.join(known)}"
        return f"expected a known key, got {str(location[-1])!r}; {hint}"
    what = _EXPECTED[kind].format(**context) if kind in _EXPECTED else details["msg"]
    return sentence(what, got, "write it without quotes" if kind == "float_type" and isinstance(got, str) else "")


def _model_at(location: Sequence[str | int]) -> type[BaseModel]:
    if not location:
        return Rules
    return Budget if location[0] == "metrics" else Spread


def _dotted(path: Sequence[str | int]) -> str:
    joined = ".".join(str(part) for part in path)
    return f"{joined}: " if joined else ""

"""Loading a scenario file: every mistake is reported at once, each with file:line and field path."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness.errors import ScenarioError
from harness.scenario.blocks import written_places
from harness.scenario.problems import dotted, explained, line_of, read_text, yaml_problems
from harness.scenario.schema import Scenario
from harness.scenario.yaml_nodes import Document, parse


def load_scenario(path: Path, overrides: Sequence[str] = ()) -> Scenario:
    """The scenario in `path`, `overrides` ('workload.load.users=4', YAML values) applied on top.

    Raises ScenarioError; one line per problem: 'file:line: field.path: expected ..., got ...; hint'.
    """

    document = parse(read_text(path, "scenario"))
    source = _Source(path=path, document=document, overridden={})
    if not document.problems and document.value is None:
        raise ScenarioError(f"{path}:1: expected a scenario, got an empty file; start from scenarios/quickstart.yaml")
    if not document.problems and not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else f"{document.value!r:.400}"
        raise ScenarioError(f"{path}:1: expected 'key: value' lines (name, space, ...), got {kind}")
    if document.value is None:
        raise ScenarioError("\n".join(text for _, text in yaml_problems(path, document)))
    for override in overrides:
        _override(source, override)
    wrong = yaml_problems(path, document)
    try:
        scenario = Scenario.model_validate(document.value)
    except ValidationError as error:
        wrong += [_problem(source, details) for details in error.errors(include_url=False)]
    if wrong:
        raise ScenarioError("\n".join(dict.fromkeys(text for _, text in sorted(wrong))))
    return scenario


@dataclass(slots=True, kw_only=True)
class _Source:
    """Where each field of the raw document came from."""

    path: Path
    document: Document
    overridden: dict[tuple[str | int, ...], str]

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the field, or of its nearest enclosing one that is in the file."""
        return line_of(self.document.lines, path)

    def origin(self, path: Sequence[str | int]) -> str:
        """'file:line' of the field; '--set ...' where that set it or something around it."""
        prefixes = (tuple(path[:end]) for end in range(len(path), -1, -1))
        override = next((self.overridden[prefix] for prefix in prefixes if prefix in self.overridden), None)
        return f"{self.path}:{self.line(path)}" if override is None else f"--set {override}"


def _override(source: _Source, override: str) -> None:

    dotted, equals, text = override.partition("=")
    if not equals or not all(dotted.split(".")):
        raise ScenarioError(f"--set {override}: expected PATH=VALUE, got {override!r}; write workload.load.users=4")
    parsed = parse(text)
    if parsed.problems:
        raise ScenarioError(f"--set {override}: {parsed.problems[0].text}")
    path = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
    inner = source.document.value
    for depth, part in enumerate(path[:-1]):
        inner = _step(inner, part, path[: depth + 1], override)
    _assign(inner, path[-1], parsed.value, override)
    source.overridden[path] = override


def _step(inner: Any, part: str | int, path: tuple[str | int, ...], override: str) -> Any:
    """The container one step further down; a missing mapping is made."""
    place: Any = _index(inner, part, override) if isinstance(inner, list) else part
    below = inner[place] if isinstance(inner, list) else inner.get(place)
    if below is None:
        below = inner[place] = {}
    if not isinstance(below, dict | list):
        raise ScenarioError(f"--set {override}: expected a mapping or list at {dotted(path)[:-2]}, got {below!r}")
    return below


def _assign(inner: Any, part: str | int, value: Any, override: str) -> None:
    if isinstance(inner, list):
        inner[_index(inner, part, override)] = value
    else:
        inner[str(part)] = value


def _index(items: list[Any], part: str | int, override: str) -> int:
    if isinstance(part, int) and part < len(items):
        return part
    raise ScenarioError(f"--set {override}: expected an index 0..{len(items) - 1}, got {part!r}")


def _problem(source: _Source, details: ErrorDetails) -> tuple[int, str]:
    """One pydantic error as (line, 'file:line: field.path: expected ..., got ...; hint')."""
    path = _path_in(source.document.value, details)
    text = explained(details, path[-1] if path else "", _fields_around(path, source.document.value))
    return source.line(path), f"{source.origin(path)}: {dotted(path)}{text}"


def _path_in(raw: Any, details: ErrorDetails) -> list[str | int]:
    """pydantic's location without the parts that are not in the file (union tags, items of a scalar axis)."""
    path: list[str | int] = []
    for part in as_written(raw, details["loc"]):
        if _holds(raw, part):
            raw = raw[part]
            path.append(part)
    if details["type"] == "missing":
        path.append(details["loc"][-1])
    return path


def as_written(raw: Any, location: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """`location` of a scenario in the file's own blocks, of which one may name several engines; as it is where the file
    has no such block."""
    if location[:1] != ("space",) or len(location) == 1:
        return location
    places = written_places(raw.get("space") or ())
    if int(location[1]) >= len(places):
        return location
    index, place = places[int(location[1])]
    field = location[2:]
    return ("space", index, *field, place) if field == ("engine",) and place is not None else ("space", index, *field)


def _holds(raw: Any, part: str | int) -> bool:
    if isinstance(raw, list):
        return isinstance(part, int) and part < len(raw)
    return isinstance(raw, dict) and part in raw


def _fields_around(path: Sequence[str | int], raw: Any) -> tuple[str, ...]:
    """The keys that are known where the last part of `path` stands, in the raw document `raw`."""

    model: Any = Scenario
    models = [model]
    for part in path[:-1]:
        raw = raw[part]
        if part in model.model_fields:
            models = list(_models_in(model.model_fields[part].annotation))
        written = raw if isinstance(raw, dict) else {}
        right = written.keys() - {path[-1]}  # the variant that refused a key does not know it
        of_kind = next((each for each in models if _has_kind(each, written.get("kind"))), None)
        model = of_kind or max(models, key=lambda each: len(right & each.model_fields.keys()), default=model)
    return tuple(model.model_fields)


def _has_kind(model: Any, kind: object) -> bool:
    """Whether this variant of a union is the one that is written with `kind`."""

    field = model.model_fields.get("kind")
    return field is not None and kind in get_args(field.annotation)


def _models_in(annotation: Any) -> Iterator[Any]:

    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for each in get_args(annotation):
        yield from _models_in(each)

"""djl_python as far as a handler uses it: Input and Output."""

from __future__ import annotations

import json
from typing import Any


class _Pairs:
    def __init__(self, keys: list[str]) -> None:
        self.keys = keys

    def key_at(self, index: int) -> str:
        return self.keys[index]


class Input:
    """A batch of JSON bodies and the folder's option.* properties."""

    def __init__(self, bodies: list[Any], properties: dict[str, str]) -> None:
        self._bodies, self._properties = bodies, properties

    def get_properties(self) -> dict[str, str]:
        return self._properties

    def is_empty(self) -> bool:
        return not self._bodies

    def get_batches(self) -> list[Input]:
        return [Input([body], self._properties) for body in self._bodies]

    def get_as_json(self) -> Any:
        return self._bodies[0]

    def get_content(self) -> _Pairs:
        return _Pairs([f"batch_{index:03d}_data" for index in range(len(self._bodies))])


class Output:
    """What the handler added, by key, and the status of the whole."""

    def __init__(self) -> None:
        self.code = 200
        self.answers: dict[str, Any] = {}

    def add_as_json(self, value: Any, key: str) -> None:
        self.answers[key] = json.loads(json.dumps(value))

    def error(self, error: str, code: int = 424, message: str = "") -> Output:
        self.code = code
        self.answers = {"error": {"code": code, "message": message, "error": error}}
        return self

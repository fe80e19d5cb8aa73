"""djl_python as far as a handler uses it: Input and Output."""

from __future__ import annotations

import json
from typing import Any


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

    def get_as_bytes(self) -> bytes:
        return json.dumps(self._bodies[0]).encode()


class Output:
    """What the handler added, by key, and the status of the whole."""

    def __init__(self) -> None:
        self.code = 200
        self.properties: dict[str, str] = {}
        self.answers: dict[str, Any] = {}

    def add_property(self, key: str, value: str) -> Output:
        self.properties[key] = value
        return self

    def add(self, value: bytes, batch_index: int | None = None) -> Output:
        self.answers["" if batch_index is None else f"batch_{batch_index}."] = json.loads(value)
        return self

    def error(self, error: str, code: int = 424, message: str = "") -> Output:
        self.code = code
        self.answers = {"error": {"code": code, "message": message, "error": error}}
        return self

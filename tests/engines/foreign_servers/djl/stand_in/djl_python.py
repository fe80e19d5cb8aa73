"""djl_python as far as a handler uses it: Input and Output, as in 0.36."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

Pairs = list[tuple[str | None, bytes]]


class Input:
    """Properties, and the content entries of each request of the batch."""

    def __init__(self, requests: list[Pairs], properties: dict[str, str]) -> None:
        self._requests, self._properties = requests, properties

    def get_properties(self) -> dict[str, str]:
        return self._properties

    def is_empty(self) -> bool:
        return not self._requests

    def get_batches(self) -> list[Input]:
        return [Input([request], self._properties) for request in self._requests]

    def get_as_bytes(self) -> bytes:
        content = dict(reversed(self._requests[0]))
        return content.get("data", self._requests[0][0][1])

    def get_as_json(self) -> Any:
        return json.loads(self.get_as_bytes())


class Output:
    """What the handler added, by key, and the status of the whole."""

    def __init__(self, code: int = 200, message: str = "OK") -> None:
        self.code = code
        self.message = message
        self.properties: dict[str, str] = {}
        self.content: Pairs = []
        self.stream: Iterator[Any] | None = None

    def add_property(self, key: str, value: str) -> Output:
        self.properties[key] = value
        return self

    def add(self, value: bytes, key: str | None = None, batch_index: int | None = None) -> Output:
        self.content.append((key if batch_index is None else f"batch_{batch_index}.{key or ''}", value))
        return self

    def add_as_json(self, value: Any, key: str | None = None, batch_index: int | None = None) -> Output:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=2, separators=(",", ":"))
        return self.add(text.encode(), key, batch_index)

    def add_stream_content(self, stream: Iterator[Any], output_formatter: Any = None) -> Output:
        self.stream = (value if output_formatter is None else output_formatter(value) for value in stream)
        return self

    def error(self, error: str, code: int = 424, message: str = "invoke handler failure") -> Output:
        self.code, self.message = code, message
        self.add_property("content-type", "application/json")
        return self.add_as_json({"code": code, "message": message, "error": error})

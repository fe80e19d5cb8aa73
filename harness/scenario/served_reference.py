"""A reference that somebody serves (`quality.reference`): the server whose answers are the measure of quality."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from engines.setting import OptionValue
from harness.scenario.fields import Strict, Word


class ServedReference(Strict):
    """Where the reference answers, in which protocol; it is asked in that protocol's own form, never by a template."""

    url: Annotated[str, Field(pattern=r"^https?://[^/\s]", description="its address, such as http://127.0.0.1:8000/v1")]
    protocol: Literal["djl", "openai", "openai-chat"] = "djl"
    model_name: Annotated[Word, Field(description="the model's name there")] = "model"
    api_key_env: Annotated[
        Word | None, Field(description="environment variable that holds its API key, which is never stored")
    ] = None

    def options(self) -> dict[str, OptionValue]:
        """The options of an attached server."""
        return {name: value for name, value in self.model_dump().items() if value is not None}

    @property
    def source(self) -> str:
        """Who gave the answers."""
        return f"{self.model_name} at {self.url}"

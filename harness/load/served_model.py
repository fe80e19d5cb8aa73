"""Facts about the served model for the load generator: its tokenizer, and prompts it rightly leaves unanswered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """`folder`: the model's own, None where the harness does not know what a server serves. `empty_ids`: prompts to
    which the reference's answer, or the one given in the prompts file, is empty."""

    folder: Path | None = None
    empty_ids: frozenset[str] = frozenset()

    def input_tokens(self, text: str) -> int | None:
        """Tokens of a prompt, with those that the tokenizer adds; None without a tokenizer."""
        return self._count(text, with_added=True)

    def output_tokens(self, text: str) -> int | None:
        """Tokens of what was generated, without an end token; None without a tokenizer."""
        return self._count(text, with_added=False)

    def _count(self, text: str, *, with_added: bool) -> int | None:
        """The same prompts and answers come again and again, so each is counted once."""
        if self._tokenizer is None:
            return None
        if (text, with_added) not in self._known:
            self._known[text, with_added] = len(self._tokenizer.encode(text, add_special_tokens=with_added).ids)
        return self._known[text, with_added]

    @cached_property
    def _known(self) -> dict[tuple[str, bool], int]:
        return {}

    @cached_property
    def _tokenizer(self) -> Any:
        path = self.folder / "tokenizer.json" if self.folder is not None else None
        if path is None or not path.is_file():
            return None
        from tokenizers import Tokenizer

        return Tokenizer.from_file(str(path))


UNKNOWN = ServedModel()
"""A server of which nothing more is known than its address."""


def empty_ids(answers: Mapping[str, str]) -> frozenset[str]:
    """The prompts whose answer holds nothing."""
    return frozenset(prompt_id for prompt_id, text in answers.items() if not text.strip())

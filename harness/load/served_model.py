"""Facts about the served model for the load generator: its tokenizer, and prompts it rightly leaves unanswered."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.records import Prompt

AskReference = Callable[[Sequence[Prompt]], Mapping[str, str]]
"""Prompts -> the reference's answers by prompt id."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """`folder`: the model's own, None where the harness does not know what a server serves. `empty_ids`: prompts to
    which the reference's answer is empty, among the `answered_ids` that it was asked; `ask_reference` asks it more."""

    folder: Path | None = None
    empty_ids: frozenset[str] = frozenset()
    answered_ids: frozenset[str] = frozenset()
    ask_reference: AskReference | None = None

    def after_asking(self, prompts: Sequence[Prompt]) -> ServedModel:
        """This model, once the reference has been asked about `prompts`; itself where nobody can be asked."""
        if self.ask_reference is None or not prompts:
            return self
        empty = empty_ids(self.ask_reference(prompts))
        asked = frozenset(prompt.prompt_id for prompt in prompts)
        return replace(self, empty_ids=self.empty_ids | empty, answered_ids=self.answered_ids | asked)

    def input_tokens(self, prompt: Prompt) -> int | None:
        """Tokens of a prompt, with those that the tokenizer adds to a text that no template wrote; None without a
        tokenizer."""
        return self._count(prompt.model_text, with_added=prompt.rendered is None)

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

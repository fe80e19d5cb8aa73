"""Token counts of texts as the served model reads them: by its own tokenizer, inside its chat template."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from zlib import crc32

from engines.models.tokenizer import FAST_FILE, load_fast
from harness.load.corpus.spans import Around

_BEFORE = "the"
"""Words are counted behind this one: a word in the middle of a text has other tokens than one that begins it."""


class TextCounts:
    """Counts by the tokenizer.json of the model in `folder`, with what it adds to a text; `around` is what a chat
    template adds instead. Without a tokenizer every word counts as one token. Counting raises ModelInvalid for
    a damaged one."""

    def __init__(self, folder: Path | None, around: Around | None = None) -> None:
        self._folder = folder
        self._around = around

    @cached_property
    def _tokenizer(self) -> Any:
        path = self._folder / FAST_FILE if self._folder is not None else None
        return load_fast(path) if path is not None and path.is_file() else None

    @property
    def is_by_words(self) -> bool:
        """There is no tokenizer to count with."""
        return self._tokenizer is None

    def of_words(self, words: Sequence[str]) -> list[tuple[int, ...]]:
        """The token ids of each word in the middle of a text; its checksum without a tokenizer."""
        if self._tokenizer is None:
            return [(crc32(word.encode()),) for word in words]
        different = list(dict.fromkeys(words))
        before = tuple(self._tokenizer.encode(_BEFORE, add_special_tokens=False).ids)
        behind = self._tokenizer.encode_batch([f"{_BEFORE} {word}" for word in different], add_special_tokens=False)
        alone = self._tokenizer.encode_batch(different, add_special_tokens=False)
        found = {
            word: tuple(both.ids[len(before) :]) if tuple(both.ids[: len(before)]) == before else tuple(one.ids)
            for word, both, one in zip(different, behind, alone, strict=True)
        }
        return [found[word] for word in words]

    def of_texts(self, texts: Sequence[str]) -> list[int]:
        """The tokens of each text, with those of the chat template or those that the tokenizer adds."""
        before, behind = self._around or ("", "")
        if self._tokenizer is None:
            return [len(f"{before}{text}{behind}".split()) for text in texts]
        whole = [f"{before}{text}{behind}" for text in texts] if self._around else list(texts)
        encoded = self._tokenizer.encode_batch(whole, add_special_tokens=self._around is None)
        return [len(one.ids) for one in encoded]

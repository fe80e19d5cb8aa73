"""The tokenizer of one model folder: text to token ids and back, without loading transformers where possible."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid, Unavailable
from engines.models.checkpoint.special_ids import special_ids
from engines.models.folder import TOKENIZER_FILES, is_byte_tokenizer

FAST_FILE = "tokenizer.json"
"""The file that a tokenizer is read from without transformers."""


class Tokenizer:
    """One model folder's tokenizer. Not thread-safe by promise; encode and decode keep no state between calls."""

    def __init__(self, implementation: Any, *, closing: Sequence[int], is_fast: bool) -> None:
        self._implementation = implementation
        self._closing = closing
        self._is_fast = is_fast

    @classmethod
    def load(cls, model_dir: Path) -> Tokenizer:
        """The folder's tokenizer. Raises ModelInvalid when its files are missing or damaged, Unavailable when only
        transformers could read them and it is not installed."""
        special = special_ids(model_dir)
        closing = () if special.is_decoder else special.eos
        fast = model_dir / FAST_FILE
        if fast.is_file():
            return cls(load_fast(fast), closing=closing, is_fast=True)
        return cls(_load_slow(model_dir), closing=closing, is_fast=False)

    @property
    def is_closed(self) -> bool:
        """Whether texts are closed by an end token: an encoder's are."""
        return bool(self._closing)

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of `text`: closed by eos exactly once for an encoder (one of several, else the first); for a
        decoder-only model with what the tokenizer itself adds (often bos), and no eos of ours."""
        if self._is_fast:
            ids = tuple(self._implementation.encode(text).ids)
        else:
            ids = tuple(self._implementation(text).input_ids)
        if not self._closing or (ids and ids[-1] in self._closing):
            return ids
        return (*ids, self._closing[0])

    def encode_rendered(self, text: str) -> tuple[int, ...]:
        """Token ids of a chat template's text, which names its own special tokens: none are added."""
        if self._is_fast:
            return tuple(self._implementation.encode(text, add_special_tokens=False).ids)
        return tuple(self._implementation(text, add_special_tokens=False).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out; an id the tokenizer does not know (a spare vocabulary row) is
        skipped."""
        text: str = self._implementation.decode(list(ids), skip_special_tokens=True)
        return text


def load_fast(path: Path) -> Any:
    """The tokenizers.Tokenizer in a tokenizer.json, which cuts and pads nothing. Raises ModelInvalid."""
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for any malformed file
        raise ModelInvalid(
            f"{path}: not a readable tokenizer ({error}); copy the file again from its source"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _load_slow(model_dir: Path) -> Any:
    if not any((model_dir / name).is_file() for name in TOKENIZER_FILES) and not is_byte_tokenizer(model_dir):
        raise ModelInvalid(
            f"{model_dir}: no tokenizer; expected one of {', '.join(TOKENIZER_FILES)}; copy it from the model's source"
        )
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise Unavailable(
            f"{model_dir} has no tokenizer.json and its tokenizer needs transformers to read it: "
            "pip install 'dynamometer[transformers]'"
        ) from error
    try:
        return AutoTokenizer.from_pretrained(str(model_dir), local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelInvalid(f"{model_dir}: transformers cannot read its tokenizer: {reason}") from error

"""A comparison of a foreign server's tokenizer with the model folder's, over 200 texts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

from engines.errors import ModelInvalid
from engines.models.tokenizer import Tokenizer

COUNT = 200
_PIECES = (
    "the quick brown fox", "It's", "we'll", "don't", "HELLO", "e.g.", "naïve café", "Straße", "0", "7", "42", "2026",
    "1,306,346", "3.14159", "00:59:60", "1/2", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "。",
    "你好，世界", "日本語のテキスト", "한국어 문장", "Привет, мир", "مرحبا", "नमस्ते", "ไทย", "😀",
    "e\u0301", "\u200b", "\u00a0",
    "\U0001f469\u200d\U0001f469\u200d\U0001f466", "\U0001f3f3\ufe0f\u200d\U0001f308", "def f(x):\n    return x ** 2\n",
    "for (int i = 0; i < n; ++i) {", "a[i] != b[j]", "</p>", '{"k": [1, 2]}', "https://example.org/a?b=c#d",
    "user@example.org", "$9.99", "50%", "#!/bin/sh", "--no-mmap", "____", "...", "!?", "``",
)  # fmt: skip


def texts() -> tuple[str, ...]:
    """Words, digits, blanks, scripts, emoji and code, alone and mixed; the same in every process."""
    rng = random.Random(17)
    mixed = ("".join(rng.choices(_PIECES, k=rng.randint(2, 6))) for _ in range(COUNT - len(_PIECES)))
    return (*_PIECES, *mixed)


def check_tokens(model_dir: Path, encode: Callable[[str], Sequence[int]], server: str) -> None:
    """Nothing, if `encode`, the server's own, gives the folder's ids for every text; else raises ModelInvalid."""
    tokenizer = Tokenizer.load(model_dir)
    for text in texts():
        expected, got = tuple(tokenizer.encode(text)), tuple(encode(text))
        if expected != got:
            raise ModelInvalid(
                f"{model_dir}: {server} splits {text!r} into tokens {list(got)}, the folder's tokenizer into "
                f"{list(expected)}: it would be asked something else; serve it with another engine"
            )

"""SentencePiece's kind of tokenizer in a GGUF file (llama.cpp's model 'llama') as a tokenizer.json.

llama.cpp joins, of all neighbours whose joint text is a token, those of the highest score first. The same is a BPE
whose merges are every way to make a token of two others, ordered by the token's score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

MODEL = "llama"
"""What a GGUF file calls it."""
_BLANK = "\u2581"
_UNKNOWN, _BYTE = 2, 6
"""llama.cpp's token types."""


def parts(stated: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any] | None:
    """Normalizer, decoder and model for the key-value pairs `stated` below tokenizer.ggml; None for a file that gives
    its tokens no scores, or does not name a token for every byte."""
    scores, types = stated.get("scores") or (), stated.get("token_type") or ()
    bytes_named = {token for token, kind in zip(tokens, types, strict=False) if kind == _BYTE}
    if len(scores) != len(tokens) or len(types) != len(tokens) or len(bytes_named) != 256:
        return None
    has_prefix = bool(stated.get("add_space_prefix", True))
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == _UNKNOWN), None)
    to_blank = {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}
    to_space = {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "}
    prefix = [{"type": "Prepend", "prepend": _BLANK}] if has_prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if has_prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*prefix, to_blank]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [to_space, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "model": {
            "type": "BPE",
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [list(pair) for pair in _merges(tokens, scores)],
        },
    }


def _merges(tokens: Sequence[str], scores: Sequence[float]) -> Iterator[tuple[str, str]]:
    """Every way to make a token of two, tokens of the highest score first."""
    known = set(tokens)
    for number in sorted(range(len(tokens)), key=lambda number: -scores[number]):
        token = tokens[number]
        for cut in range(1, len(token)):
            if token[:cut] in known and token[cut:] in known:
                yield token[:cut], token[cut:]

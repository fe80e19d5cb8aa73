"""SentencePiece's kind of tokenizer, in a GGUF file (llama.cpp's model 'llama') and as a tokenizer.json.

llama.cpp joins, of all neighbours whose joint text is a token, those of the highest score first. The same is a BPE
whose merges are every way to make a token of two others, ordered by the token's score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid

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


_NEVER_JOINED = -1e6
"""The score of a token that nothing is joined to."""


def scores_of(tokens: Sequence[str], merges: Sequence[Sequence[str]]) -> tuple[float, ...]:
    """A score for each token: the earlier a merge makes it, the higher."""
    first: dict[str, float] = {}
    for place, pair in enumerate(merges):
        first.setdefault("".join(pair), -1.0 - place)
    return tuple(first.get(token, _NEVER_JOINED) for token in tokens)


def types_of(tokens: Sequence[str], types: Sequence[int], unknown: str | None) -> tuple[int, ...]:
    """llama.cpp's types of the tokens: the unknown one and those of bytes named too."""
    names = {f"<0x{byte:02X}>": _BYTE for byte in range(256)} | ({unknown: _UNKNOWN} if unknown else {})
    return tuple(names.get(token, kind) for token, kind in zip(tokens, types, strict=True))


def has_prefix(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether a tokenizer.json puts a blank before a text. Raises ModelInvalid where it does more to a text than that
    and writing blanks as SentencePiece does."""
    normalizer, before = content.get("normalizer") or {}, content.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers") or ([normalizer] if normalizer else [])
    prepends = [step for step in steps if step.get("type") == "Prepend" and step.get("prepend") == _BLANK]
    blanks = [step for step in steps if step.get("type") == "Replace" and step.get("content") == _BLANK]
    is_meta = (
        before.get("type") == "Metaspace" and before.get("replacement") == _BLANK and not before.get("split", True)
    )
    is_idle = before.get("type") in (None, "Split") and before.get("pattern", {}).get("String", " ") == " "
    if len(prepends) + len(blanks) < len(steps) or not (is_meta or (blanks and is_idle)):
        raise ModelInvalid(f"{path}: it changes or splits a text otherwise than SentencePiece's do in llama.cpp")
    scheme = before.get("prepend_scheme", "always") if is_meta else "never"
    if scheme == "first":
        raise ModelInvalid(
            f"{path}: it puts a blank before the first word alone, llama.cpp after each special token too; name a GGUF "
            "file of the model, or another engine"
        )
    return bool(prepends) or scheme == "always"

"""A folder's tokenizer.json in GGUF's words and back: tokens, their kinds, merges, how text is split before merging."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import ModelInvalid
from engines.models.gguf import sentencepiece

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5
"""llama.cpp's token types."""
ENDS_BY_TEXT = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>",
    "<EOT>", "_<EOT>", "<|end_of_text|>", "<end_of_utterance>",
)  # fmt: skip
"""Tokens that llama.cpp ends an answer at for their text alone."""

_GPT2_REGEX = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
_END = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_BEGIN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_LLAMA3_REGEX = _BEGIN + r"\p{N}{1,3}" + _END
_QWEN2_REGEX = _BEGIN + r"\p{N}" + _END
_TEKKEN_REGEX = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BY_SPLIT: Mapping[tuple[str, ...], str] = {
    ("gpt2",): "gpt-2",
    ("digits", "gpt2"): "smollm",
    (_GPT2_REGEX,): "gpt-2",
    (_LLAMA3_REGEX,): "llama-bpe",
    (_QWEN2_REGEX,): "qwen2",
    (_TEKKEN_REGEX,): "tekken",
}
"""The steps that split a text, in tokenizer.json's words, -> llama.cpp's name of the same (its `pre`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GgufTokenizer:
    """What a GGUF file states of a tokenizer. `bos` is the id that goes before every text, None where none does. Byte
    level BPE has `merges` and `pre`; SentencePiece's (`model`) `scores` and, where a text begins with one, a blank."""

    tokens: tuple[str, ...]
    types: tuple[int, ...]
    bos: int | None
    model: str = "gpt2"
    merges: tuple[str, ...] = ()
    pre: str = "default"
    scores: tuple[float, ...] = ()
    has_prefix: bool = False


def gguf_tokenizer(model_dir: Path, rows: int) -> GgufTokenizer:
    """The folder's tokenizer for a model with `rows` vocabulary rows. Raises ModelInvalid for one that llama.cpp has no
    equal of; whether it splits every text alike is for its own server to prove (see tokenizer_check.py)."""
    path = model_dir / "tokenizer.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        model = content["model"]
        vocabulary = {str(token): int(number) for token, number in model["vocab"].items()}
        merges = tuple(tuple(each.split(" ") if isinstance(each, str) else each) for each in model["merges"])
    except FileNotFoundError as error:
        raise ModelInvalid(f"{model_dir}: no tokenizer.json, which a GGUF file is written from") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelInvalid(
            f"{path}: llama.cpp takes byte-level BPE or SentencePiece's, and this tokenizer is neither"
        ) from error
    added = {int(each["id"]): each for each in content.get("added_tokens") or ()}
    tokens = {number: token for token, number in vocabulary.items()}
    tokens |= {number: str(each["content"]) for number, each in added.items()}
    if not tokens or max(tokens) >= rows:
        raise ModelInvalid(f"{path}: token id {max(tokens, default=0)} is outside the model's {rows} vocabulary rows")
    written = tuple(tokens.get(number, f"[PAD{number}]") for number in range(rows))
    types = tuple(_type(number, tokens, added) for number in range(rows))
    bos = _bos(path, content)
    if not model.get("byte_fallback"):
        joined = tuple(" ".join(pair) for pair in merges)
        return GgufTokenizer(tokens=written, types=types, bos=bos, merges=joined, pre=_pre(path, content))
    return GgufTokenizer(
        tokens=written,
        types=sentencepiece.types_of(written, types, model.get("unk_token")),
        bos=bos,
        model=sentencepiece.MODEL,
        scores=sentencepiece.scores_of(written, merges),
        has_prefix=sentencepiece.has_prefix(path, content),
    )


def ends_by_text(model_dir: Path) -> dict[int, str]:
    """Id -> text of the folder's tokens at which llama.cpp ends an answer whatever the configuration states."""
    content = json.loads((model_dir / "tokenizer.json").read_text(encoding="utf-8"))
    added = content.get("added_tokens") or ()
    return {int(each["id"]): str(each["content"]) for each in added if each["content"] in ENDS_BY_TEXT}


def _type(number: int, tokens: Mapping[int, str], added: Mapping[int, Mapping[str, Any]]) -> int:
    if number not in tokens:
        return UNUSED
    if number not in added:
        return NORMAL
    return CONTROL if added[number].get("special") else USER_DEFINED


def _pre(path: Path, content: Mapping[str, Any]) -> str:
    """llama.cpp's name of how the text is split."""
    if content.get("normalizer") not in (None, {"type": "NFC"}):
        raise ModelInvalid(f"{path}: its normalizer changes the text before it is split, and llama.cpp's does not")
    steps = tuple(_steps(content.get("pre_tokenizer") or {}))
    name = _BY_SPLIT.get(steps)
    if name is None:
        raise ModelInvalid(
            f"{path}: it splits text by {', '.join(steps) or 'nothing'}; known to llama.cpp and us: "
            f"{', '.join(dict.fromkeys(_BY_SPLIT.values()))}"
        )
    return name


def _steps(step: Mapping[str, Any]) -> list[str]:
    """Each step of a pre-tokenizer: 'gpt2', 'digits', a regular expression, or its type where it is something else."""
    kind = str(step.get("type", ""))
    if kind == "Sequence":
        return [name for each in step["pretokenizers"] for name in _steps(each)]
    if kind == "ByteLevel":
        is_plain = not step.get("add_prefix_space", True)
        if not is_plain:
            return ["ByteLevel with add_prefix_space"]
        return ["gpt2"] if step.get("use_regex", True) else []
    if kind == "Digits" and step.get("individual_digits"):
        return ["digits"]
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return [str(step["pattern"].get("Regex", kind))]
    return [kind] if kind else []


def _bos(path: Path, content: Mapping[str, Any]) -> int | None:
    """The id that the post-processor puts before a text; found by encoding nothing."""
    import tokenizers

    ids = tokenizers.Tokenizer.from_str(json.dumps(content)).encode("").ids
    if len(ids) > 1:
        raise ModelInvalid(f"{path}: it adds {len(ids)} tokens to a text, and llama.cpp's adds one, before it")
    return ids[0] if ids else None


_SPLIT_OF: Mapping[str, tuple[str, ...]] = {name: steps for steps, name in reversed(list(_BY_SPLIT.items()))}
_WHOLE_WORDS_FIRST = ("llama-bpe", "tekken")
"""Splits with which llama.cpp takes a word that is a token whole, whatever the merges would make of it."""


def tokenizer_json(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """tokenizer.json for what a GGUF file's key-value pairs state, SentencePiece's or byte-level BPE; None for another
    kind, or one that splits text in a way that is not known here."""
    stated = {key.removeprefix("tokenizer.ggml."): value for key, value in values.items()}
    tokens = stated.get("tokens") or ()
    is_pieces = stated.get("model") == sentencepiece.MODEL
    known = is_pieces or stated.get("model") == "gpt2"
    parts_of = sentencepiece.parts if is_pieces else _byte_level
    if not known or not tokens or (parts := parts_of(stated, tokens)) is None:
        return None
    types = stated.get("token_type") or [NORMAL] * len(tokens)
    kinds = (CONTROL, USER_DEFINED, UNKNOWN) if is_pieces else (CONTROL, USER_DEFINED)
    used = enumerate(zip(tokens, types, strict=False))
    default = is_pieces or str(stated.get("pre", "")) in _WHOLE_WORDS_FIRST
    return {
        "version": "1.0",
        "added_tokens": [_added(number, token, kind) for number, (token, kind) in used if kind in kinds],
        "post_processor": _before_text(stated, tokens, default=default),
        **parts,
    }


def _byte_level(stated: Mapping[str, Any], tokens: Sequence[str]) -> dict[str, Any] | None:
    """What differs from kind to kind, for byte-level BPE; None where its split is not known here."""
    pre = str(stated.get("pre", ""))
    if pre not in _SPLIT_OF:
        return None
    types = stated.get("token_type") or [NORMAL] * len(tokens)
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_step(name) for name in _splits(pre)]},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {
                token: number for number, (token, kind) in enumerate(zip(tokens, types, strict=False)) if kind != UNUSED
            },
            "merges": list(stated.get("merges") or ()),
            "ignore_merges": pre in _WHOLE_WORDS_FIRST,
        },
    }


def _splits(pre: str) -> tuple[str, ...]:
    """The steps of a split, the last of which turns text into bytes."""
    steps = _SPLIT_OF[pre]
    return steps if steps[-1] == "gpt2" else (*steps, "bytes")


def _step(name: str) -> dict[str, Any]:
    if name in ("gpt2", "bytes"):
        return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": name == "gpt2"}
    if name == "digits":
        return {"type": "Digits", "individual_digits": True}
    return {"type": "Split", "pattern": {"Regex": name}, "behavior": "Isolated", "invert": False}


def _added(number: int, token: str, kind: int) -> dict[str, Any]:
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": number, "content": token, **plain, "special": kind != USER_DEFINED}


def _before_text(stated: Mapping[str, Any], tokens: Sequence[str], *, default: bool) -> dict[str, Any] | None:
    bos = stated.get("bos_token_id")
    if bos is None or not stated.get("add_bos_token", default):
        return None
    token, text = {"SpecialToken": {"id": tokens[bos], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    other = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [token, text],
        "pair": [token, text, token, other],
        "special_tokens": {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}},
    }

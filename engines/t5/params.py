"""Generation parameters of the T5 engine, with Hugging Face's names and defaults, checked before native code runs."""

from __future__ import annotations

import ctypes as c
import functools
import math
import operator
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from engines.t5 import native

EarlyStopping = bool | Literal["never"]

FLOAT_MOST = 3.4028234663852886e38
"""The largest finite fp32."""

_EARLY: dict[object, int] = {False: 0, True: 1, "never": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """How one request is generated. temperature, top_k and top_p act only with do_sample (as in Hugging Face).

    `seed` None draws one from the system. `bad_words_ids` and `stop_sequences` are id lists; a stop sequence is part
    of the output, like eos. `return_logprobs` adds log P(token) in nats under the unprocessed distribution.
    `ignore_eos` treats eos as an ordinary token (fixed-length runs). `repetition_penalty` and `no_repeat_ngram_size`
    see the decoder's start token, as in Hugging Face.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    early_stopping: EarlyStopping = False
    length_penalty: float = 1.0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    bad_words_ids: Sequence[Sequence[int]] = ()
    stop_sequences: Sequence[Sequence[int]] = ()
    seed: int | None = None
    return_logprobs: bool = False
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        """Check types, so that the library sees numbers only. Raises ValueError naming the field."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in ("int", "bool", "float") and not _is_a(value, str(field.type)):
                raise ValueError(f"{field.name}: expected {field.type}, got {value!r}")
            if field.type == "float" and FLOAT_MOST < abs(value) < math.inf:  # the library judges infinity and NaN
                raise ValueError(f"{field.name}: expected a number of 32 bits, got {value!r}")
        if not isinstance(self.early_stopping, (bool, str)) or self.early_stopping not in _EARLY:
            raise ValueError(f"early_stopping: expected False, True or 'never', got {self.early_stopping!r}")
        if self.seed is not None and (not _is_a(self.seed, "int") or self.seed < 0):
            raise ValueError(f"seed: expected None or an int from 0 on, got {self.seed!r}")

    def to_native(self) -> native.Params:
        """The C record; arrays it points to live as long as it does."""
        bad, bad_ends = _flattened("bad_words_ids", self.bad_words_ids)
        stop, stop_ends = _flattened("stop_sequences", self.stop_sequences)
        seed = secrets.randbits(64) if self.seed is None else self.seed & (2**64 - 1)
        record = native.Params(
            max_new_tokens=_int32("max_new_tokens", self.max_new_tokens),
            min_new_tokens=_int32("min_new_tokens", self.min_new_tokens),
            num_beams=_int32("num_beams", self.num_beams),
            num_return_sequences=_int32("num_return_sequences", self.num_return_sequences),
            early_stopping=_EARLY[self.early_stopping],
            do_sample=self.do_sample,
            top_k=_int32("top_k", self.top_k),
            no_repeat_ngram_size=_int32("no_repeat_ngram_size", self.no_repeat_ngram_size),
            return_logprobs=self.return_logprobs,
            ignore_eos=self.ignore_eos,
            length_penalty=self.length_penalty,
            temperature=self.temperature,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            seed=seed,
            bad_words=len(bad_ends),
            stop_sequences=len(stop_ends),
        )
        pointer = c.POINTER(c.c_int32)
        record.bad_word_ids, record.bad_word_ends = c.cast(bad, pointer), c.cast(bad_ends, pointer)
        record.stop_ids, record.stop_ends = c.cast(stop, pointer), c.cast(stop_ends, pointer)
        record.keep_alive = (bad, bad_ends, stop, stop_ends)
        return record


def native_record(params: Params) -> native.Params:
    """`params.to_native()`, made once for equal parameters where no seed is drawn; to be read only."""
    if params.do_sample and params.seed is None:
        return params.to_native()
    try:
        return _shared_record(params)
    except TypeError:  # lists of ids, which may change
        return params.to_native()


@functools.lru_cache(maxsize=256)
def _shared_record(params: Params) -> native.Params:
    return params.to_native()


def id_array(name: str, ids: Sequence[int]) -> Any:
    """Token ids as a C array. Raises ValueError as `checked_ids`."""
    values = checked_ids(name, ids)
    return (c.c_int32 * len(values))(*values)


def checked_ids(name: str, ids: Sequence[int]) -> list[int]:
    """Token ids as plain ints. Raises ValueError naming the first index that is not an int of 32 bits."""
    try:
        values = [*ids]
    except TypeError:
        raise ValueError(f"{name}: expected a list of ids, got {ids!r}") from None
    if isinstance(ids, (bytes, bytearray)):
        raise ValueError(f"{name}: expected a list of ids, got {ids!r}")
    is_plain = {*map(type, values)} <= {int} and -(2**31) <= min(values, default=0) <= max(values, default=0) < 2**31
    if not is_plain:  # the usual list of ints costs no call per id
        values = [_id(name, index, value) for index, value in enumerate(values)]
    return values


def _id(name: str, index: int, value: Any) -> int:
    """The id as an int; not a bool (Python's, NumPy's or torch's), a rounded float or an array of one element."""
    kind = str(getattr(value, "dtype", type(value).__name__))
    try:
        number = operator.index(value)
    except (TypeError, ValueError):
        number = None
    if number is None or "bool" in kind or getattr(value, "shape", ()) != () or not -(2**31) <= number < 2**31:
        raise ValueError(f"{name}: id at index {index}: expected an int, got {_shown(value)}")
    return number


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _is_a(value: object, kind: str) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    number = int if kind == "int" else (int, float)
    return isinstance(value, number) and not isinstance(value, bool)


def _int32(name: str, value: int) -> int:
    if not -(2**31) <= value < 2**31:
        raise ValueError(f"{name}: expected an int of 32 bits, got {value!r}")
    return value


def _flattened(name: str, lists: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    flat: list[int] = []
    ends: list[int] = []
    try:
        each = [*lists]
    except TypeError:
        raise ValueError(f"{name}: expected a list of id lists, got {lists!r}") from None
    for index, ids in enumerate(each):
        flat += id_array(f"{name}[{index}]", ids)
        ends.append(len(flat))
    return (c.c_int32 * len(flat))(*flat), (c.c_int32 * len(ends))(*ends)

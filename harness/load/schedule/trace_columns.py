"""Column names of a recorded trace: which one holds the times, which the lengths, and the unit of the times.

Names are compared in lower case, their words joined by '_': 'Request tokens', 'requestTokens' and ' request_tokens '
are one name. A unit is taken from the name (`timestamp_ms`), from the columns of a published format, or from the size
of the first time (seconds since 1970 or finer); where none of them decides, it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from harness.errors import ScenarioError

Unit = Literal["s", "ms", "us", "ns"]

SECONDS: Mapping[Unit, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Unit -> seconds."""

_TIMES = frozenset(
    ("timestamp", "time", "ts", "arrival", "arrival_time", "arrival_timestamp", "arrived_at", "request_time",
     "request_timestamp", "start_time", "created_time", "sent_at", "offset")
)  # fmt: skip
_UNIT_WORDS: Mapping[str, Unit] = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("ms", "msec", "millis", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("us", "usec", "micros", "microsecond", "microseconds"), "us"),
    **dict.fromkeys(("ns", "nsec", "nanos", "nanosecond", "nanoseconds"), "ns"),
}
_INPUT = frozenset(("input", "prompt", "context", "request", "prefill", "in"))
_OUTPUT = frozenset(("output", "completion", "response", "generated", "generation", "decode", "out"))
_MEASURES = frozenset(("length", "len", "tokens", "token", "toks"))
"""Words that make a column a length in tokens."""
_OTHER_MEASURES = frozenset(("size", "chars", "characters", "words", "bytes"))
"""Words that make a length of an input or output, in a measure that may not be tokens."""
_FILLING = frozenset(("num", "n", "number", "of", "count", "counts", "seq", "sequence"))
_WHOLE_NAMES: Mapping[str, Literal["input", "output"]] = {
    "isl": "input", "osl": "output", "prompt_size": "input", "token_size": "output",
}  # fmt: skip
"""AIPerf's, and Splitwise's."""

HASH_IDS = "hash_ids"
"""Mooncake's: equal ids are equal blocks of tokens."""

KNOWN_TIMES = "timestamp_s, timestamp_ms, timestamp, arrival_time or arrived_at"
KNOWN_LENGTHS = "input_length, prompt_tokens, ContextTokens; output_length, completion_tokens, GeneratedTokens"

_SESSIONS = frozenset(
    ("session", "session_id", "conversation", "conversation_id", "chat_id", "dialog_id", "dialogue_id")
)
"""Columns that name the conversation of which a row is a turn; BurstGPT's is 'Session ID'."""

Role = Literal["time", "input", "output", "total", "length", "blocks", "session", "other"]
"""'total': input and output together. 'length': some length that cannot be placed. 'blocks': ids of the blocks of an
input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """What a column's name means. `unit` is the one in the name of a time, None where it names none."""

    role: Role
    unit: Unit | None = None


@cache
def column_of(name: str) -> Column:
    """What the column called `name` holds."""
    key = key_of(name)
    words = key.split("_")
    if key in _TIMES:
        return Column(role="time")
    if "_".join(words[:-1]) in _TIMES and words[-1] in _UNIT_WORDS:
        return Column(role="time", unit=_UNIT_WORDS[words[-1]])
    if key in _SESSIONS:
        return Column(role="session")
    if key == HASH_IDS:
        return Column(role="blocks")
    if key in _WHOLE_NAMES:
        return Column(role=_WHOLE_NAMES[key])
    if not _MEASURES.intersection(words):
        is_odd = _OTHER_MEASURES.intersection(words) and (_INPUT | _OUTPUT).intersection(words)
        return Column(role="length" if is_odd else "other")
    bare = [word for word in words if word not in _FILLING]
    rest = [word for word in bare if word not in _MEASURES]
    is_plain = len(bare) == 2
    if is_plain and rest and rest[0] in _INPUT:
        return Column(role="input")
    if is_plain and rest and rest[0] in _OUTPUT:
        return Column(role="output")
    return Column(role="total" if is_plain and rest == ["total"] else "length")


def key_of(name: str) -> str:
    """The name in lower case, its words joined by '_'."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+", name)
    return "_".join(words).lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """The columns of one header or line: all names, that of the time, of the lengths and of the ids of blocks (None:
    there is none)."""

    names: tuple[str, ...]
    time: str
    input: str | None
    output: str | None
    blocks: str | None
    session: str | None


def columns_of(names: Collection[str], where: str) -> Columns:
    """What each of `names` holds. Raises ScenarioError: no time, two columns for one thing, or a length that cannot be
    placed, which would else be dropped."""
    if odd := [name for name in names if not name.isprintable()]:
        raise ScenarioError(f"{where}: expected column names of printable characters, got {_listed(odd)}; rename them")
    roles: dict[Role, list[str]] = {}
    for name in names:
        roles.setdefault(column_of(name).role, []).append(name)
    for role, what in (
        ("time", "time"),
        ("input", "input length"),
        ("output", "output length"),
        ("session", "conversation"),
    ):
        if len(found := roles.get(role, [])) > 1:  # type: ignore[call-overload]
            raise ScenarioError(f"{where}: expected one column of the {what}, got {_listed(found)}; keep one of them")
    if "time" not in roles:
        raise ScenarioError(
            f"{where}: expected a column of times such as {KNOWN_TIMES}, got {_listed(names)}; name the column of the "
            "times"
        )
    unplaced = roles.get("length", [])
    if not ("input" in roles and "output" in roles):
        unplaced = unplaced + roles.get("total", [])
    if unplaced:
        raise ScenarioError(
            f"{where}: expected known names for lengths in tokens ({KNOWN_LENGTHS}), got {_listed(unplaced)}; rename "
            "it, or remove it if it is not a length"
        )
    return Columns(
        names=tuple(names),
        time=roles["time"][0],
        input=next(iter(roles.get("input", [])), None),
        output=next(iter(roles.get("output", [])), None),
        blocks=next(iter(roles.get("blocks", [])), None),
        session=next(iter(roles.get("session", [])), None),
    )


def _listed(names: Iterable[str]) -> str:
    shown = [repr(name[:40]) for name in names]
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "") or "none"


_MOONCAKE = frozenset(("timestamp", "input_length", "output_length", HASH_IDS))
_FORMATS: tuple[tuple[str, frozenset[str], Unit], ...] = (
    ("BurstGPT", frozenset(("timestamp", "model", "request_tokens", "response_tokens", "log_type")), "s"),
    ("Vidur", frozenset(("arrived_at", "num_prefill_tokens", "num_decode_tokens")), "s"),
    ("Splitwise", frozenset(("arrival_timestamp", "prompt_size", "token_size")), "s"),
)
"""Published formats by the columns that all of their files have, and the unit of their times."""
_SINCE_1970: Mapping[Unit, tuple[float, float]] = {
    unit: (1e9 / seconds, 4e9 / seconds) for unit, seconds in SECONDS.items()
}
"""Times of the years 2001 to 2096 in each unit; times counted from the trace's own origin are seldom so large."""


def unit_of(names: Collection[str], first: float, *, is_json: bool, is_whole: bool) -> tuple[Unit, str] | None:
    """(unit, the evidence for it) of times in a column that names none; None: nothing decides. `first` is the first
    time, `is_whole` whether all are whole numbers."""
    keys = {key_of(name) for name in names}
    if (is_json or HASH_IDS in keys) and {"timestamp"} < keys <= _MOONCAKE and is_whole:
        return "ms", "Mooncake's columns"
    for name, needed, unit in _FORMATS:
        if needed <= keys:
            return unit, f"{name}'s columns"
    for unit, (low, high) in _SINCE_1970.items():
        if low <= first < high:
            return unit, f"the first is {first:.0f}, counted from 1970"
    return None

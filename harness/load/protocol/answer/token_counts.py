"""Token counts of a request: which sources are trusted (headers, usage, chunks) and in which order.

1. The headers x-dyno-tokens and x-dyno-input-tokens, which this project's own server writes: counts of the request.
2. The server's own count in the body: OpenAI's `usage` (completion_tokens, prompt_tokens), DJL's `details`
   (generated_tokens, input_tokens). Both are totals so far. A stream may repeat them in every chunk, growing, so the
   largest one is the total and nothing is summed, except over the prompts of one request. Reasoning and tool calls are
   in completion_tokens; reasoning that is counted and never sent (completion_tokens_details) is kept apart.
3. The protocol's promise: a DJL stream has one line per token, so its lines count where nothing else does. The chunks
   of OpenAI's streams promise nothing: one may hold several tokens, and a token may have none.
4. The served model's own tokenizer, over all that was generated, where the harness knows that model. Text that is
   tokenized again may differ by a few tokens, and the end token is not in it; the metric's note reports it.
5. Nothing: the count is absent, and no number is made from it.

A count that is no whole number from 0 to 2**31 is none, nor is a 0 where there was a text: some servers fill it in so.
A server usually counts the end token and never sends it, so a count is no number of arrivals; harness/measure/tokens.py
states how times per token allow for that.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

CountedBy = Literal["", "server", "tokenizer"]
"""Sources 1 to 3 are 'server', 4 is 'tokenizer', 5 is ''."""

_LARGEST = 2**31
_CACHED = ("prompt_cache_hit_tokens", "cached_tokens")


def count(value: Any) -> int | None:
    """A token count, or None where the value is none."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _LARGEST
    return value if is_count else None


def ids_of(value: Any) -> tuple[int, ...] | None:
    """Token ids, or None where the value is no list of them."""
    if not isinstance(value, list) or any(count(each) is None for each in value):
        return None
    return tuple(int(each) for each in value)


def count_in_header(text: str) -> int | None:
    """A token count of an answer's header."""
    return count(int(text)) if text.isascii() and text.isdigit() and len(text) <= 10 else None


def total(counts: Iterable[int | None]) -> int | None:
    """The sum over the prompts of a request; None where one of them has none."""
    known = list(counts)
    return sum(each for each in known if each is not None) if known and None not in known else None


class Usage:
    """Totals of a request by the `usage` of an answer, or of the frames of a stream; None where there is none.

    `hidden` are reasoning tokens among `generated`, by completion_tokens_details; `cached` are prompt tokens that came
    from a prefix cache, by prompt_tokens_details, DeepSeek's prompt_cache_hit_tokens or SGLang's cached_tokens."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self.generated: int | None = None
        self.hidden = 0
        self.cached: int | None = None

    def take(self, value: Any) -> int | None:
        """Take in a body or a frame; the tokens generated so far, if this one has them. Some servers write the usage
        into the choice that ends; SGLang's own protocol calls it meta_info."""
        choices = value.get("choices") if isinstance(value, dict) else None
        holders = [value, *(choices if isinstance(choices, list) else ())]
        found = (each.get(name) for each in holders if isinstance(each, dict) for name in ("usage", "meta_info"))
        usage = next((each for each in found if isinstance(each, dict)), {})
        hidden = _detail(usage, "completion_tokens_details", "reasoning_tokens")
        so_far = count(usage.get("completion_tokens"))
        self.asked = _largest(self.asked, count(usage.get("prompt_tokens")))
        self.generated = _largest(self.generated, so_far)
        self.hidden = max(self.hidden, hidden or 0)
        for cached in (_detail(usage, "prompt_tokens_details", "cached_tokens"), *map(usage.get, _CACHED)):
            self.cached = _largest(self.cached, count(cached))
        return so_far


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    return count(details.get(name)) if isinstance(details, dict) else None


def _largest(first: int | None, second: int | None) -> int | None:
    return max((each for each in (first, second) if each is not None), default=None)

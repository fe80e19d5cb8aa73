"""Text that grows token by token, and what one answer says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from engines.api import TokenEvent
from engines.server.answers import Answer, GrowingText


class ByteCodec:
    """Every byte a token, as ByT5 has it: a character may take four tokens."""

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(text.encode())

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")


class PieceCodec:
    """Pieces with a leading-blank mark, whose first blank vanishes, as SentencePiece has it."""

    PIECES = ("\u2581the", "\u2581cat", "s", ".", "\u2581")

    def encode(self, text: str) -> tuple[int, ...]:
        return (0,)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.PIECES[token] for token in ids).replace("\u2581", " ").removeprefix(" ")


@pytest.mark.parametrize("text", ["plain", "é", "a😀b", "日本語", "x\u0301"])
def test_pieces_of_split_characters_join_to_the_text(text: str) -> None:
    growing = GrowingText(ByteCodec())
    pieces = [growing.grow(token) for token in text.encode()]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces)


def test_a_word_keeps_the_blank_before_it() -> None:
    growing = GrowingText(PieceCodec())
    assert [growing.grow(token) for token in (0, 1, 2, 3, 0)] == ["the", " cat", "s", ".", " the"]


def job(**changes: Any) -> dict[str, Any]:
    return {"id": 5, "text": "hi", "params": {}, "wants_stream": False, "wants_details": False, **changes}


def test_a_plain_answer_carries_no_token_lists() -> None:
    answer = Answer(job(), ByteCodec())
    assert answer.take(TokenEvent(index=0, token_id=111, logprob=-1.0)) == []
    assert answer.take(TokenEvent(index=0, token_id=107, logprob=-2.0, finish="length")) == []
    assert answer.done_message() == {
        "kind": "done", "job": 5, "text": "ok", "input_tokens": 2, "generated_tokens": 2, "finish_reason": "length",
    }  # fmt: skip


def test_details_tell_when_a_score_is_not_finite() -> None:
    answer = Answer(job(wants_details=True), ByteCodec())
    answer.take(TokenEvent(index=0, token_id=111, logprob=float("nan")))
    answer.take(TokenEvent(index=0, token_id=107, logprob=-2.0, finish="eos"))
    message = answer.done_message()
    assert (message["logprobs"], message["nonfinite"], message["tokens"]) == ([None, -2.0], True, [111, 107])


def test_scores_that_nobody_asked_for_are_null_not_false() -> None:
    answer = Answer(job(wants_details=True), ByteCodec())
    answer.take(TokenEvent(index=0, token_id=111, finish="eos"))
    message = answer.done_message()
    assert (message["logprobs"], message["nonfinite"]) == (None, None)


def test_a_backend_that_stops_early_or_goes_on_too_long_is_an_error() -> None:
    answer = Answer(job(), ByteCodec())
    with pytest.raises(RuntimeError, match="before every request"):
        answer.done_message()
    answer.take(TokenEvent(index=0, token_id=None, finish="cancelled"))
    with pytest.raises(RuntimeError, match="had finished"):
        answer.take(TokenEvent(index=0, token_id=1))

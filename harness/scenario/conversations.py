"""Conversations in a scenario (`workload.conversations`): each question of a row is sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from harness.scenario.fields import AtLeastOne, Strict, expected, one_of
from harness.scenario.load_kinds import ClosedLoad, Load, MaxRateLoad, TraceLoad

HISTORIES = ("recorded", "own", "server")


class Conversations(Strict):
    """Conversations of the prompts file whose questions are sent one after the other, each behind the answer before."""

    history: Annotated[
        Annotated[Literal["recorded", "own", "server"], BeforeValidator(one_of("a history", HISTORIES))],
        Field(
            description="the answers before a question: the file's (equal requests for all), the server's own, or "
            "those that the server keeps (protocol openai-responses)"
        ),
    ] = "recorded"
    at_once: Annotated[
        AtLeastOne | None,
        Field(description="conversations in progress beside an open loop; each gets every at_once-th request"),
    ] = None
    think_time_s: Annotated[
        float, Field(ge=0.0, description="from an answer to the next turn beside an open loop, at least")
    ] = 0.0


def check_conversations(conversations: Conversations | None, load: Load, *, is_chat: bool, has_lengths: bool) -> None:
    """Refuses conversations beside what has no turns."""
    if conversations is None:
        return
    if not is_chat:
        raise expected("chat: true beside conversations", False, "their turns are messages")
    if isinstance(load, TraceLoad):
        raise expected("another load.kind beside conversations", load.kind, "a trace names its own by session_id")
    if isinstance(load, MaxRateLoad):
        raise expected("another load.kind beside conversations", load.kind, "turns that wait lower the rate of a probe")
    if not isinstance(load, ClosedLoad) and conversations.at_once is None:
        raise expected("conversations.at_once beside an open loop", None, "how many are in progress at a time")
    if isinstance(load, ClosedLoad) and (conversations.at_once is not None or conversations.think_time_s):
        raise expected(
            "neither at_once nor think_time_s in conversations beside load.kind closed",
            conversations.model_dump(exclude_defaults=True),
            "they are its users and load.think_time_s",
        )
    if has_lengths:
        raise expected(
            "no lengths.input beside conversations, whose turns have their own", "both", "remove one of them"
        )

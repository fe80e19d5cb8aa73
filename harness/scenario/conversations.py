"""Conversations in a scenario (`workload.conversations`): each question of a row is sent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from harness.scenario.fields import Strict, expected, one_of
from harness.scenario.load_kinds import ClosedLoad, Load

HISTORIES = ("recorded", "own")


class Conversations(Strict):
    """Users who each take a conversation of the prompts file and send its questions one after the other."""

    history: Annotated[
        Annotated[Literal["recorded", "own"], BeforeValidator(one_of("a history", HISTORIES))],
        Field(
            description="the answers sent before a question: the file's (equal requests for all) or the server's own"
        ),
    ] = "recorded"


def check_conversations(conversations: Conversations | None, load: Load, *, is_chat: bool, has_lengths: bool) -> None:
    """Refuses conversations beside what has no turns."""
    if conversations is None:
        return
    if not is_chat:
        raise expected("chat: true beside conversations", False, "their turns are messages")
    if not isinstance(load, ClosedLoad):
        raise expected("load.kind: closed beside conversations", load.kind, "a trace names its own by session_id")
    if has_lengths:
        raise expected(
            "no lengths.input beside conversations, whose turns have their own", "both", "remove one of them"
        )

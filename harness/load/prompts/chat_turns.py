"""The turns of a conversation in a prompts file: what is sent of them, and what is refused."""

from __future__ import annotations

from typing import Any

from harness.errors import ScenarioError
from harness.records import Message

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""OpenAI's and ShareGPT's words -> the role that is sent."""


def asked_turns(given: Any, keys: tuple[str, str], where: str) -> tuple[tuple[Message, ...], bool]:
    """The turns up to the last question, and whether answers behind it are left out. `keys` are those of a turn's role
    and text; `where` begins each message. Raises ScenarioError."""
    if not isinstance(given, list) or not given:
        raise ScenarioError(f"{where}: expected a list of messages, got {given!r:.80}")
    turns = [_turn(turn, keys, f"{where}.{number}") for number, turn in enumerate(given)]
    questions = [number for number, (role, _) in enumerate(turns) if role == "user"]
    if not questions:
        raise ScenarioError(f"{where}: expected a message of the user, which is what asks; got none")
    asked = turns[: questions[-1] + 1]
    if not asked[-1][1].strip():
        raise ScenarioError(f"{where}.{questions[-1]}.{keys[1]}: the last question must be a non-empty string")
    return tuple(asked), len(asked) < len(turns)


def _turn(turn: Any, keys: tuple[str, str], where: str) -> Message:
    if not isinstance(turn, dict):
        raise ScenarioError(f"{where}: expected an object with {keys[0]!r} and {keys[1]!r}, got {turn!r:.80}")
    role, text = (turn.get(key) for key in keys)
    if not isinstance(role, str) or role not in ROLES:
        raise ScenarioError(
            f"{where}.{keys[0]}: expected system, user or assistant, got {role!r:.60}; other turns cannot be sent: "
            "take the conversation out, or rename the role"
        )
    if not isinstance(text, str):
        raise ScenarioError(f"{where}.{keys[1]}: expected text, got {text!r:.80}")
    return ROLES[role], text

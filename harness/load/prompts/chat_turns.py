"""The turns of a conversation in a prompts file: what is sent of them, and what is refused.

Tool calls and the answers of tools are sent as the file has them (OpenAI's form); nothing is called.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.errors import ScenarioError
from harness.records import Message

ROLES = {"system": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant"}
"""OpenAI's and ShareGPT's words -> the role that is sent."""


_FOR_TOOLS = ("tool_calls", "tool_call_id", "name")
"""Further fields of a message that are sent."""


def asked_turns(given: Any, keys: tuple[str, str], where: str) -> tuple[tuple[Message, ...], tuple[str, ...], bool]:
    """The turns up to the last message that asks, a user's or a tool's answer; the same in JSON as they are sent where
    tools are in them, else (); and whether answers behind them are left out. `keys` are those of a turn's role and
    text; `where` begins each message. Raises ScenarioError."""
    if not isinstance(given, list) or not given:
        raise ScenarioError(f"{where}: expected a list of messages, got {given!r:.80}")
    turns = [_turn(turn, keys, f"{where}.{number}") for number, turn in enumerate(given)]
    questions = [number for number, (role, _) in enumerate(turns) if role in ("user", "tool")]
    if not any(role == "user" for role, _ in turns):
        raise ScenarioError(f"{where}: expected a message of the user, which is what asks; got none")
    asked = turns[: questions[-1] + 1]
    if not asked[-1][1].strip():
        raise ScenarioError(f"{where}.{questions[-1]}.{keys[1]}: the last question must be a non-empty string")
    has_tools = any(name in turn for turn in given[: len(asked)] for name in _FOR_TOOLS[:2])
    texts = tuple(_as_sent(turn) for turn in given[: len(asked)]) if has_tools else ()
    return tuple(asked), texts, len(asked) < len(turns)


def _as_sent(turn: Mapping[str, Any]) -> str:
    fields = {"role": turn["role"], "content": turn.get("content")}
    return json.dumps(fields | {name: turn[name] for name in _FOR_TOOLS if name in turn}, ensure_ascii=False)


def _turn(turn: Any, keys: tuple[str, str], where: str) -> Message:
    if not isinstance(turn, dict):
        raise ScenarioError(f"{where}: expected an object with {keys[0]!r} and {keys[1]!r}, got {turn!r:.80}")
    role, text = (turn.get(key) for key in keys)
    if not isinstance(role, str) or not (role in ROLES or (role == "tool" and "tool_call_id" in turn)):
        raise ScenarioError(
            f"{where}.{keys[0]}: expected system, user, assistant, or tool with a tool_call_id, got {role!r:.60}; "
            "other turns cannot be sent: take the conversation out, or rename the role"
        )
    if role == "assistant" and "tool_calls" in turn:
        _check_calls(turn["tool_calls"], f"{where}.tool_calls")
        text = "" if text is None else text
    if not isinstance(text, str):
        raise ScenarioError(f"{where}.{keys[1]}: expected text, got {text!r:.80}")
    return ROLES.get(role, role), text


def _check_calls(calls: Any, where: str) -> None:
    """Raises ScenarioError for what is no list of calls of functions."""
    if not isinstance(calls, list) or not calls:
        raise ScenarioError(f"{where}: expected a list of calls, got {calls!r:.80}")
    for number, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not all(
            isinstance(function.get(key), str) for key in ("name", "arguments")
        ):
            raise ScenarioError(
                f'{where}.{number}: expected {{"id", "type", "function": {{"name", "arguments"}}}}, both texts, '
                f"got {call!r:.80}"
            )

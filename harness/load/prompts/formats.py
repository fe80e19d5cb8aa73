"""The prompts of other tools' files: which field of a row is the prompt, its id, task and reference."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from harness.errors import ScenarioError

Row = Mapping[str, Any]

OURS = ("id", "task", "prompt", "reference")
_HUMAN = ("human", "user")


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """Rows that hold the column `key`. `read` gives a row in our own fields; `uses` are the columns that it reads. In a
    chat `turns` gives a row's whole conversation, under the keys `turn_keys`, and the format is called `chat_name`."""

    name: str
    key: str
    uses: tuple[str, ...]
    read: Callable[[Row], Row]
    turns: Callable[[Row], Any] | None = None
    turn_keys: tuple[str, str] = ("role", "content")
    chat_name: str = ""

    def called(self, is_chat: bool) -> str:
        """What is read of its rows."""
        return (is_chat and self.chat_name) or self.name


def format_of(row: Any, where: str) -> PromptFormat:
    """The format of a row. Raises ScenarioError: no object, or none of the columns that hold a prompt, or a column of
    our own misspelt."""
    if not isinstance(row, dict):
        raise ScenarioError(f'{where}: expected an object with "prompt", got {type(row).__name__}')
    found = next((each for each in FORMATS if each.key in row), None)
    if found is None:
        got = ", ".join(map(repr, list(row)[:6])) or "nothing"
        raise ScenarioError(f'{where}: expected "prompt", or {_KEYS}, got {got:.200}')
    for name in row:
        near = difflib.get_close_matches(name, found.uses, 1, cutoff=0.75)
        if name not in found.uses and near and near[0] not in row:
            raise ScenarioError(f"{where}: unknown field {name!r:.60}; did you mean {near[0]!r}?")
    return found


def _plain(row: Row) -> Row:
    return {name: row[name] for name in OURS if name in row}


def _conversation(row: Row) -> Row:
    """ShareGPT's: the first question of a conversation."""
    turns = row["conversations"]
    texts = [turn.get("value") for turn in turns if isinstance(turn, dict) and turn.get("from") in _HUMAN] \
        if isinstance(turns, list) else []  # fmt: skip
    return _with_id(row, prompt=texts[0] if texts else None)


def _messages(row: Row) -> Row:
    """OpenAI's: the system's text and the first question."""
    turns = row["messages"]
    found: dict[Any, Any] = {}
    for turn in turns if isinstance(turns, list) else []:
        if isinstance(turn, dict) and isinstance(turn.get("role"), str):
            found.setdefault(turn["role"], turn.get("content"))
    return _with_id(row, prompt=_joined(found.get("system"), found["user"]) if "user" in found else None)


def _turns(row: Row) -> Row:
    """MT-bench's: the first of the turns."""
    turns = row["turns"]
    fields = {"prompt": turns[0] if isinstance(turns, list) and turns else None}
    if "question_id" in row:
        fields["id"] = row["question_id"]
    if "category" in row:
        fields["task"] = row["category"]
    return fields


def _instruction(row: Row) -> Row:
    return _with_id(row, prompt=_joined(row["instruction"], row.get("input")))


def _question(row: Row) -> Row:
    return _with_id(row, prompt=_joined(row.get("system_prompt"), row["question"]))


def _question_turns(row: Row) -> Any:
    system = row.get("system_prompt")
    first = [] if system is None or system == "" else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": row["question"]}]


def _text(row: Row) -> Row:
    return _with_id(row, prompt=row["text"])


def _joined(first: Any, second: Any) -> Any:
    """Both texts with an empty line between; what is no text stays as it is, and is refused as a prompt."""
    if second is None or second == "":
        return first
    if first is None or first == "":
        return second
    return f"{first}\n\n{second}" if isinstance(first, str) and isinstance(second, str) else [first, second]


def _with_id(row: Row, **fields: Any) -> Row:
    return fields | ({"id": row["id"]} if "id" in row else {})


FORMATS = (
    PromptFormat("prompts", "prompt", OURS, _plain),
    PromptFormat(
        "ShareGPT's first turns", "conversations", ("id", "conversations"), _conversation,
        itemgetter("conversations"), ("from", "value"), "ShareGPT's conversations",
    ),
    PromptFormat(
        "OpenAI messages' first turns", "messages", ("id", "messages"), _messages,
        itemgetter("messages"), chat_name="OpenAI messages",
    ),
    PromptFormat("MT-bench's first turns", "turns", ("question_id", "category", "turns"), _turns),
    PromptFormat("Alpaca's instructions", "instruction", ("id", "instruction", "input"), _instruction),
    PromptFormat(
        "OpenOrca's questions", "question", ("id", "system_prompt", "question"), _question, _question_turns
    ),
    PromptFormat("AIPerf's texts", "text", ("id", "text"), _text),
)  # fmt: skip
"""In the order in which a row's columns are looked for. Answers of other tools' files are free text that nothing here
could be compared with, so none is a reference."""

_KEYS = ", ".join(f'"{each.key}" ({each.name.split(chr(39))[0]})' for each in FORMATS[1:])

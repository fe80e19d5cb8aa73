"""The prompts file, and the seeded schedule in which prompts become requests."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import ScenarioError
from harness.load.prompts.chat_turns import asked_turns
from harness.load.prompts.formats import FORMATS, PromptFormat, format_of
from harness.load.user_rows import CsvTable, Problems, array_items, json_lines, parquet_rows, read_utf8
from harness.records import Prompt

_LARGEST_ID = 10**18
"""Beyond it a number is no id that somebody gave."""


@dataclass(frozen=True, slots=True)
class PromptsFile:
    """`prompts` of a file, the names of its `formats` other than our own, and the columns that were not read. `cut` is
    how many conversations have answers behind their last question, which are not sent."""

    prompts: tuple[Prompt, ...]
    formats: tuple[str, ...]
    unused: tuple[str, ...]
    cut: int = 0


def read_prompts(path: Path, *, is_chat: bool = False) -> tuple[Prompt, ...]:
    """The prompts of a file, see `read_prompts_file`."""
    return read_prompts_file(path, is_chat=is_chat).prompts


def read_prompts_file(path: Path, *, is_chat: bool = False) -> PromptsFile:
    """The prompts of JSON lines, a JSON array, .csv, .parquet, or .txt (one prompt in each line), in one of
    formats.FORMATS: ours are {"id","task","prompt","reference"}. Blank lines are skipped. In a chat the turns of
    a conversation are kept, up to the last question; else its first question is the prompt.

    `id` and `task` may be absent (then the line number and 'default'), `reference` may be null.
    Raises ScenarioError, 'file:line: ...' for each broken line or repeated id, or an unreadable or empty file.
    """
    problems = Problems(path)
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    formats: dict[str, None] = {}
    unused: dict[str, None] = {}
    cut = 0
    for number, row in _rows(path, problems):
        with problems:
            where = f"{path}:{number}"
            form = format_of(row, where)
            prompt, is_cut = _prompt_in(row, form, where, number, is_chat=is_chat)
            cut += is_cut
            if prompt.prompt_id in seen:
                raise ScenarioError(
                    f"{where}: id {prompt.prompt_id!r:.60} was already used on line {seen[prompt.prompt_id]}; "
                    "every prompt needs a different id"
                )
            seen[prompt.prompt_id] = number
            prompts.append(prompt)
            formats.setdefault(form.called(is_chat))
            unused.update(dict.fromkeys(name for name in row if name not in form.uses))
    problems.raise_if_any()
    if not prompts:
        raise ScenarioError(
            f'{path}: expected at least one line {{"id", "task", "prompt", "reference"}}, the file is empty'
        )
    formats.pop(FORMATS[0].name, None)
    return PromptsFile(tuple(prompts), tuple(formats), tuple(unused), cut)


def _rows(path: Path, problems: Problems) -> Iterator[tuple[int, Any]]:
    """(line, row) of each row of the file; of a Parquet file its number, from 1."""
    if path.suffix == ".parquet":
        yield from parquet_rows(path, "prompts file")
        return
    text = read_utf8(path, "prompts file", "name a JSON lines file")
    if path.suffix == ".csv":
        for number, row in CsvTable(path, text, problems).rows():
            yield number, {name: cell for name, cell in row.items() if cell}
    elif path.suffix == ".txt":
        lines = enumerate(text.split("\n"), start=1)
        yield from ((number, {"prompt": line.rstrip("\r")}) for number, line in lines if line.strip())
    elif text.lstrip().startswith("["):
        yield from array_items(path, text, problems)
    else:
        yield from json_lines(path, text, problems)


def _prompt_in(row: Any, form: PromptFormat, where: str, number: int, *, is_chat: bool) -> tuple[Prompt, bool]:
    """The prompt of a row, and whether answers behind its last question are left out."""
    if not is_chat or form.turns is None:
        return _prompt_of(form.read(row), where, number), False
    turns, given, is_cut = asked_turns(form.turns(row), form.turn_keys, f"{where}: {form.key}")
    fields = {**form.read(row), "prompt": "\n\n".join(text for _, text in turns if text or not given)}
    return replace(_prompt_of(fields, where, number), messages=turns, given=given), is_cut


def _prompt_of(fields: Mapping[str, Any], where: str, number: int) -> Prompt:
    text = fields.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise ScenarioError(f'{where}: "prompt" must be a non-empty string, got {text!r:.80}')
    reference = fields.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise ScenarioError(f'{where}: "reference" must be a string or null, got {reference!r:.80}')
    prompt_id, task = fields.get("id", f"line-{number}"), fields.get("task", "default")
    if isinstance(prompt_id, int) and not isinstance(prompt_id, bool):
        prompt_id = f"{prompt_id:d}" if abs(prompt_id) < _LARGEST_ID else prompt_id
    if not isinstance(prompt_id, str) or not isinstance(task, str) or not prompt_id or not task:
        raise ScenarioError(
            f'{where}: "id" and "task" must be non-empty strings, got {prompt_id!r:.80} and {task!r:.80}'
        )
    for name, value in (("id", prompt_id), ("task", task), ("prompt", text), ("reference", reference or "")):
        if half := next((char for char in value if "\ud800" <= char <= "\udfff"), ""):
            raise ScenarioError(
                f'{where}: "{name}" must be text that UTF-8 can carry, got half a character, {half!r}; remove it'
            )
    return Prompt(prompt_id=prompt_id, task=task, text=text, reference=reference)


class RequestOrder:
    """Which prompts request number `seq` carries: a pure function of (prompts, seed, seq).

    Measured requests walk the whole list in a fresh seeded shuffle each round, so after a full round every prompt has
    been sent equally often. Warm-up requests have their own order, which begins with the longest prompt, so that
    the largest input shape has been seen before anything is measured.
    """

    def __init__(self, prompts: Sequence[Prompt], inputs_per_request: int, seed: int) -> None:
        self._prompts = tuple(prompts)
        self._inputs = inputs_per_request
        self._seed = seed
        self._rounds: dict[tuple[str, int], list[Prompt]] = {}

    def measured(self, seq: int) -> tuple[Prompt, ...]:
        """The prompts of measured request `seq`, from 0."""
        return self._slice("measured", seq)

    def warmup(self, seq: int) -> tuple[Prompt, ...]:
        """The prompts of warm-up request `seq`, from 0."""
        return self._slice("warmup", seq)

    def _slice(self, stream: str, seq: int) -> tuple[Prompt, ...]:
        begin = seq * self._inputs
        return tuple(self._at(stream, place) for place in range(begin, begin + self._inputs))

    def _at(self, stream: str, place: int) -> Prompt:
        number, offset = divmod(place, len(self._prompts))
        shuffled = self._rounds.get((stream, number))
        if shuffled is None:
            shuffled = list(self._prompts)
            random.Random(f"{stream}:{self._seed}:{number}").shuffle(shuffled)
            if stream == "warmup":
                longest = max(shuffled, key=lambda prompt: len(prompt.model_text))
                shuffled.remove(longest)
                shuffled.insert(0, longest)
            self._rounds[stream, number] = shuffled
        return shuffled[offset]

"""The prompts file, and the seeded schedule in which prompts become requests."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import ScenarioError
from harness.load.schedule.json_lines import Problems, json_lines, read_utf8
from harness.records import Prompt

_FIELDS = frozenset({"id", "task", "prompt", "reference"})


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a JSON lines file {"id","task","prompt","reference"}; blank lines are skipped.

    `id` and `task` may be absent (then the line number and 'default'), `reference` may be null.
    Raises ScenarioError, 'file:line: ...' for each broken line or repeated id, or an unreadable or empty file.
    """
    text = read_utf8(path, "prompts file", "name a JSON lines file")
    problems = Problems(path)
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    for number, fields in json_lines(path, text, problems):
        with problems:
            prompt = _prompt_of(fields, f"{path}:{number}", number)
            if prompt.prompt_id in seen:
                raise ScenarioError(
                    f"{path}:{number}: id {prompt.prompt_id!r:.60} was already used on line {seen[prompt.prompt_id]}; "
                    "every prompt needs a different id"
                )
            seen[prompt.prompt_id] = number
            prompts.append(prompt)
    problems.raise_if_any()
    if not prompts:
        raise ScenarioError(
            f'{path}: expected at least one line {{"id", "task", "prompt", "reference"}}, the file is empty'
        )
    return tuple(prompts)


def _prompt_of(fields: Any, where: str, number: int) -> Prompt:
    if not isinstance(fields, dict):
        raise ScenarioError(f'{where}: expected an object with "prompt", got {type(fields).__name__}')
    unknown = sorted(set(fields) - _FIELDS)
    if unknown:
        raise ScenarioError(f"{where}: unknown field {unknown[0]!r:.60}; known are id, task, prompt, reference")
    text = fields.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise ScenarioError(f'{where}: "prompt" must be a non-empty string, got {text!r:.80}')
    reference = fields.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise ScenarioError(f'{where}: "reference" must be a string or null, got {reference!r:.80}')
    prompt_id, task = fields.get("id", f"line-{number}"), fields.get("task", "default")
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
                longest = max(shuffled, key=lambda prompt: len(prompt.text))
                shuffled.remove(longest)
                shuffled.insert(0, longest)
            self._rounds[stream, number] = shuffled
        return shuffled[offset]

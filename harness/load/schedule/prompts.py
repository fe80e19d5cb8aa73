"""The prompts file, and the seeded schedule in which prompts become requests."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.errors import ScenarioError
from harness.records import Prompt

_FIELDS = frozenset({"id", "task", "prompt", "reference"})


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a JSON lines file {"id","task","prompt","reference"}; blank lines are skipped.

    `id` and `task` may be absent (then the line number and 'default'), `reference` may be null.
    Raises ScenarioError, 'file:line: ...', on a broken line, a repeated id, an unreadable or empty file.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ScenarioError(
            f"{path}: the prompts file cannot be read ({error.strerror}); name a JSON lines file"
        ) from error
    prompts: list[Prompt] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        prompt = _prompt_of_line(line, f"{path}:{number}", number)
        if prompt.prompt_id in seen:
            raise ScenarioError(
                f"{path}:{number}: id {prompt.prompt_id!r} was already used on line {seen[prompt.prompt_id]}; "
                "every prompt needs an id of its own"
            )
        seen[prompt.prompt_id] = number
        prompts.append(prompt)
    if not prompts:
        raise ScenarioError(
            f'{path}: expected at least one line {{"id", "task", "prompt", "reference"}}, the file is empty'
        )
    return tuple(prompts)


def _prompt_of_line(line: bytes, where: str, number: int) -> Prompt:
    try:
        fields: Any = json.loads(line.decode("utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise ScenarioError(
            f"{where}: not a line of JSON ({error}); expected one object per line, cut or correct this line"
        ) from error
    if not isinstance(fields, dict):
        raise ScenarioError(f'{where}: expected an object with "prompt", got {type(fields).__name__}')
    unknown = sorted(set(fields) - _FIELDS)
    if unknown:
        raise ScenarioError(f"{where}: unknown field {unknown[0]!r}; known are id, task, prompt, reference")
    text = fields.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise ScenarioError(f'{where}: "prompt" must be a non-empty string, got {text!r}')
    reference = fields.get("reference")
    if reference is not None and not isinstance(reference, str):
        raise ScenarioError(f'{where}: "reference" must be a string or null, got {reference!r}')
    prompt_id, task = fields.get("id", f"line-{number}"), fields.get("task", "default")
    if not isinstance(prompt_id, str) or not isinstance(task, str) or not prompt_id or not task:
        raise ScenarioError(f'{where}: "id" and "task" must be non-empty strings, got {prompt_id!r} and {task!r}')
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

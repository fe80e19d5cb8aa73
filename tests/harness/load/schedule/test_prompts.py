"""The prompts file and the order of requests."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.load.plan import share_of
from harness.load.schedule.prompts import RequestOrder, read_prompts
from harness.records import Prompt

GOOD = {"id": "a", "task": "date", "prompt": "date: 1", "reference": "one"}


def _file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_prompts_are_read_with_and_without_optional_fields(tmp_path: Path) -> None:
    path = _file(tmp_path, json.dumps(GOOD), "", json.dumps({"prompt": "bare"}))
    assert read_prompts(path) == (
        Prompt(prompt_id="a", task="date", text="date: 1", reference="one"),
        Prompt(prompt_id="line-3", task="default", text="bare", reference=None),
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "b", "prompt": ', "not a line of JSON"),
        ('"text"', "expected an object"),
        ('{"id": "b", "prompt": ""}', '"prompt" must be a non-empty string'),
        ('{"id": "b", "text": "x"}', "unknown field 'text'"),
        ('{"id": "a", "prompt": "x"}', "id 'a' was already used on line 1"),
        ('{"id": 3, "prompt": "x"}', '"id" and "task" must be non-empty strings'),
        ('{"id": "b", "prompt": "x", "reference": 3}', '"reference" must be a string or null'),
        ('{"id": "b", "id": "c", "prompt": "x"}', "the key 'id' stands twice"),
        ('{"prompt": "a \\ud800 b"}', '"prompt" must be text that UTF-8 can carry, got half a character'),
        ("[" * 100_000, "it is nested too deeply"),
        ("\udcff", "expected UTF-8 text, got byte 0xff"),
    ],
)
def test_a_broken_line_is_named_by_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(ScenarioError) as error:
        read_prompts(path)
    assert str(error.value).startswith(f"{path}:2: ")
    assert message in str(error.value)


def test_an_empty_or_missing_file_is_a_scenario_error(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match="the file is empty"):
        read_prompts(_file(tmp_path, ""))
    with pytest.raises(ScenarioError, match="cannot be read"):
        read_prompts(tmp_path / "absent.jsonl")


def _prompts(n: int) -> tuple[Prompt, ...]:
    return tuple(Prompt(prompt_id=f"p{at}", task="t", text="x" * (at + 1), reference=None) for at in range(n))


def test_every_prompt_is_sent_equally_often_and_in_the_same_order_with_the_same_seed() -> None:
    order = RequestOrder(_prompts(10), 3, seed=1)
    sent = [prompt.prompt_id for seq in range(10) for prompt in order.measured(seq)]
    assert set(Counter(sent).values()) == {3}
    assert order.measured(4) == RequestOrder(_prompts(10), 3, seed=1).measured(4)
    assert sent != [prompt.prompt_id for seq in range(10) for prompt in RequestOrder(_prompts(10), 3, 2).measured(seq)]


def test_the_warm_up_begins_with_the_longest_prompt() -> None:
    order = RequestOrder(_prompts(10), 1, seed=0)
    assert order.warmup(0)[0].prompt_id == "p9"
    assert {order.warmup(seq)[0].prompt_id for seq in range(10)} == {f"p{at}" for at in range(10)}


def test_shares_sum_to_the_whole() -> None:
    assert [share_of(10, part, 3) for part in range(3)] == [4, 3, 3]

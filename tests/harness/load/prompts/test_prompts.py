"""The prompts file and the order of requests."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from harness.errors import ScenarioError
from harness.load.plan import share_of
from harness.load.prompts.lengths import SentPrompts
from harness.load.prompts.prompts_file import RequestOrder, read_prompts, read_prompts_file
from harness.records import Prompt
from tests.harness.load.plans import plan_of

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
        ('{"id": "b", "promt": "x"}', 'expected "prompt", or "conversations" (ShareGPT)'),
        ('{"id": "b", "prompt": "x", "referense": "y"}', "unknown field 'referense'; did you mean 'reference'?"),
        ('{"conversations": [{"from": "gpt", "value": "Hi"}]}', '"prompt" must be a non-empty string, got None'),
        ('{"messages": "hi"}', '"prompt" must be a non-empty string, got None'),
        ('{"instruction": ["a"], "input": "b"}', '"prompt" must be a non-empty string, got [['),
        ('{"id": "a", "prompt": "x"}', "id 'a' was already used on line 1"),
        ('{"id": true, "prompt": "x"}', '"id" and "task" must be non-empty strings'),
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


def test_a_later_load_of_a_launch_sends_the_next_prompts_of_the_order() -> None:
    first, second = SentPrompts(plan_of("http://x")), SentPrompts(plan_of("http://x", sent_before=4))
    assert [second.measured(seq) for seq in range(6)] == [first.measured(seq) for seq in range(4, 10)]
    assert second.warmup(0) == first.warmup(0)
    cut = plan_of("http://x", corpus="a b c d", cuts=(((0, 1),), ((2, 5),)), sent_before=4)
    texts = [SentPrompts(cut).measured(seq)[0] for seq in range(2)]
    assert [(each.prompt_id, each.text) for each in texts] == [("corpus-4", "a"), ("corpus-5", "b c")]


def test_the_warm_up_begins_with_the_longest_prompt() -> None:
    order = RequestOrder(_prompts(10), 1, seed=0)
    assert order.warmup(0)[0].prompt_id == "p9"
    assert {order.warmup(seq)[0].prompt_id for seq in range(10)} == {f"p{at}" for at in range(10)}


def test_shares_sum_to_the_whole() -> None:
    assert [share_of(10, part, 3) for part in range(3)] == [4, 3, 3]


ROWS: list[tuple[dict[str, Any], tuple[str, str, str]]] = [
    ({"id": 81, "prompt": "a b c"}, ("81", "default", "a b c")),
    ({"prompt": "a", "category": "writing", "output_tokens": 10}, ("line-1", "default", "a")),
    (
        {"id": "a1", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
        ("a1", "default", "Hi"),
    ),
    (
        {"messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi?"}]},
        ("line-1", "default", "Be brief\n\nHi?"),
    ),
    ({"question_id": 7, "category": "math", "turns": ["1 + 1?", "2 + 2?"]}, ("7", "math", "1 + 1?")),
    ({"instruction": "Say hi", "input": "", "output": "hi"}, ("line-1", "default", "Say hi")),
    ({"instruction": "Add", "input": "1, 2", "output": "3"}, ("line-1", "default", "Add\n\n1, 2")),
    ({"id": "q", "system_prompt": "Be brief", "question": "Hi?", "response": "x"}, ("q", "default", "Be brief\n\nHi?")),
    ({"text": "What is AI?"}, ("line-1", "default", "What is AI?")),
]


@pytest.mark.parametrize(
    ("row", "expected"), ROWS, ids=lambda value: next(iter(value)) if isinstance(value, dict) else ""
)
@pytest.mark.parametrize("form", ["lines", "array", "parquet"])
def test_files_of_other_tools_are_read(
    tmp_path: Path, row: dict[str, Any], expected: tuple[str, str, str], form: str
) -> None:
    if form == "parquet":
        path = tmp_path / "prompts.parquet"
        parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    else:
        path = tmp_path / "prompts.json"
        path.write_text("\ufeff" + json.dumps(row if form == "lines" else [row], indent=None if form == "lines" else 1))
    (prompt,) = read_prompts(path)
    number = "2" if form == "array" else "1"
    assert (prompt.prompt_id, prompt.task, prompt.text) == (
        expected[0].replace("line-1", f"line-{number}"),
        *expected[1:],
    )
    assert prompt.reference is None


def test_csv_and_plain_text_are_read(tmp_path: Path) -> None:
    table, text = tmp_path / "p.csv", tmp_path / "p.txt"
    table.write_text('id,prompt,reference,extra\na,"one, two",x,1\n\nb,"three\nlines",,2\n')
    text.write_text("first prompt\r\n\n[second]\n")
    read = read_prompts_file(table)
    assert [(each.prompt_id, each.text, each.reference) for each in read.prompts] == [
        ("a", "one, two", "x"), ("b", "three\nlines", None),
    ]  # fmt: skip
    assert read.unused == ("extra",)
    assert [(each.prompt_id, each.text) for each in read_prompts(text)] == [
        ("line-1", "first prompt"), ("line-3", "[second]"),
    ]  # fmt: skip


def test_a_damaged_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(ScenarioError, match="cannot be read as Parquet"):
        read_prompts(path)


def test_other_formats_and_unread_columns_are_named(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"text": "a", "session": 1}\n{"question": "b", "response": "c"}\n')
    read = read_prompts_file(path)
    assert read.formats == ("AIPerf's texts", "OpenOrca's questions")
    assert read.unused == ("session", "response")

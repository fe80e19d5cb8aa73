"""Whatever a trace or a prompts file holds, reading it gives its values or the documented error: mutated valid files.

`DYNO_FUZZ_EXAMPLES` sets the number of examples of each test (200 by default).
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness.errors import ScenarioError
from harness.load.prompts.prompts_file import RequestOrder, read_prompts
from harness.load.schedule.request_times import UNBOUNDED, trace_schedule
from harness.load.schedule.trace import MAX_LENGTH, read_trace
from tests.harness.mutations import FUZZ, as_cell, check_sentence, placed, torn, values

# Traces

TRACES: list[list[dict[str, Any]]] = [
    [{"timestamp_s": 0, "input_length": 100, "output_length": 20}, {"timestamp_s": 0.5, "input_length": 300}],
    [{"timestamp": 0, "input_length": 655, "output_length": 52, "hash_ids": [46, 47]},
     {"timestamp": 27, "input_length": 6}],
    [{"timestamp_s": 0, "prompt_tokens": 100, "completion_tokens": 5}, {"timestamp_s": 1, "prompt_tokens": 100}],
    [{"timestamp_s": 0, "input_len": 100, "output_len": 20}, {"timestamp_s": 1, "input_len": 120, "output_len": 30}],
    [{"Timestamp": 5, "Model": "ChatGPT", "Request tokens": 472, "Response tokens": 18, "Total tokens": 490,
      "Log Type": "Conversation log"}, {"Timestamp": 45, "Model": "GPT-4", "Request tokens": 7, "Response tokens": 0}],
    [{"arrived_at": 0.0, "num_prefill_tokens": 591, "num_decode_tokens": 140}, {"arrived_at": 0.125}],
    [{"TIMESTAMP": "2023-11-16 18:15:46.6805900", "ContextTokens": 374, "GeneratedTokens": 44},
     {"TIMESTAMP": "2023-11-16T18:15:50Z", "ContextTokens": 300, "GeneratedTokens": 0}],
    [{"timestamp": 1700000000000, "text_input": "a\u2028b", "output_length": 5}],
    [{"timestamp_ms": "5", "input_length": "7"}, {"timestamp_ms": 5.5, "output_length": None}],
]  # fmt: skip


ODD_CELLS = [-1, "-1", float("nan"), "inf", 1e308, 10**400, True, "", " ", None, "1_0", "x", 0, 1.5, 2**40,
             "2023-11-16", "1960-01-01", "2023-11-16T18:15:50.123456789+01:00", [1], {}, "y" * 3000]  # fmt: skip


@st.composite
def _odd_cells(draw: st.DrawFn) -> list[dict[str, Any]]:
    """A seed with values in it that are no times or lengths, or only just."""
    rows = [dict(row) for row in draw(st.sampled_from(TRACES))]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        row[draw(st.sampled_from(sorted(row)))] = draw(st.sampled_from(ODD_CELLS))
    return rows


@st.composite
def _traces(draw: st.DrawFn) -> bytes:
    rows = draw(st.one_of(values(TRACES), _odd_cells()))
    form = draw(st.sampled_from(["lines", "array", "csv"]))
    ascii_only = draw(st.booleans())
    if form == "csv" and isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        out = io.StringIO()
        table = csv.writer(
            out, delimiter=draw(st.sampled_from([",", ",", ";"])), lineterminator=draw(st.sampled_from(["\n", "\r\n"]))
        )
        table.writerow(draw(st.sampled_from(["", " "])) + name for name in names)
        table.writerows([as_cell(row.get(name)) for name in names] for row in rows)
        return out.getvalue().encode("utf-8", "surrogatepass")
    if form == "array":
        text = json.dumps(rows, indent=draw(st.sampled_from([None, 1])), ensure_ascii=ascii_only)
    else:
        text = "\n".join(
            json.dumps(row, ensure_ascii=ascii_only) for row in (rows if isinstance(rows, list) else [rows])
        )
    return text.encode("utf-8", "surrogatepass")


@FUZZ
@given(
    data=torn(_traces()), unit=st.sampled_from([None, None, None, "s", "ms", "us", "ns"]),
    speed=st.sampled_from([1.0, 1e-300, 1e300, 0.5]), most_s=st.sampled_from([10.0, 1e-9, 1e300]),
)  # fmt: skip
@example(data=b"[" * 200_000, unit=None, speed=1.0, most_s=1.0)
@example(data='{"timestamp\u2028_s": 0}\n{"timestamp_s": 0.5}'.encode(), unit=None, speed=1.0, most_s=1.0)
@example(data=b'{"timestamp_s":' * 100_000, unit=None, speed=1.0, most_s=1.0)
@example(data=b'{"timestamp_s":' + b"1" * 5000 + b"}", unit=None, speed=1.0, most_s=1.0)
@example(data=b"timestamp_s,x\n0," + b"y" * 200_000, unit=None, speed=1.0, most_s=1.0)
@example(data=b'{"timestamp_s": -1}', unit=None, speed=1.0, most_s=1.0)
@example(data=b'{"timestamp_s": 1}\n{"timestamp_s": 0}', unit=None, speed=1.0, most_s=1.0)
@example(data=b'{"timestamp_s": 0, "x": "\xff"}', unit=None, speed=1.0, most_s=1.0)
@example(data=b'{"timestamp_s": 0}\n{"timestamp_s": 1e9}', unit=None, speed=1e-290, most_s=1e300)
@example(data=b'{"timestamp_s": 0, "output_length": 1e12}', unit=None, speed=1.0, most_s=1.0)
@example(data=b'timestamp_s,"x\n0,1\rb', unit=None, speed=1.0, most_s=1.0)
def test_a_mutated_trace_is_read_or_refused(data: bytes, unit: Any, speed: float, most_s: float) -> None:
    path = placed(data)
    try:
        trace = read_trace(path, unit)
    except ScenarioError as error:
        check_sentence(str(error), path)
        return
    data.decode("utf-8")  # else it had to be refused
    times = [row.at_s for row in trace.rows]
    assert times == sorted(times)
    assert all(math.isfinite(at_s) and at_s >= 0 for at_s in times)
    lengths = [length for row in trace.rows for length in (row.input_length, row.output_length)]
    assert all(length is None or 1 <= length <= MAX_LENGTH for length in lengths)
    try:
        schedule = trace_schedule(trace, speed, most_s)
    except ScenarioError:
        return
    assert list(schedule.offsets_ns) == sorted(schedule.offsets_ns)
    assert 0 < schedule.duration_s < math.inf
    assert schedule.offsets_ns[-1] < UNBOUNDED
    assert 1 <= schedule.peak_rps <= len(schedule.offsets_ns)


# Prompts

PROMPTS: list[list[Any]] = [
    [{"id": "a", "task": "t", "prompt": "x y", "reference": "r"}, {"prompt": "b", "reference": None}],
    [{"prompt": "What is the capital of India?", "output_tokens": 10}],
    [[{"id": "a1", "conversations": [{"from": "human", "value": "Hi"}]}]],
    [{"instruction": "Say hi", "input": "", "output": "hi"}, {"text": "What is AI?", "session": 1}],
    [{"question_id": 7, "category": "math", "turns": ["1 + 1?"]}, {"system_prompt": "Be brief", "question": "Hi?"}],
    [{"messages": [{"role": "user", "content": "hi"}]}, {"id": 81, "prompt": "a b c"}],
    [{"prompt": "\u2028 a\u200b"}, {"id": "\U0001f600", "prompt": "é"}],
    [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}],
    [{"prompt": "x", "reference": 7}],
    [{"task": "", "prompt": "x"}],
    [{"prompt": " \u00a0"}],
    [{"prompt": ["y" * 2000]}],
    [{"prompt": "a\ud800"}, {"id": "\udfff", "prompt": "b"}],
]


@st.composite
def _prompts(draw: st.DrawFn) -> bytes:
    rows = draw(values(PROMPTS))
    end = draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    text = end.join(
        json.dumps(row, ensure_ascii=draw(st.booleans())) for row in (rows if isinstance(rows, list) else [rows])
    )
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode("utf-8", "surrogatepass")


def _with_every_seed(test: Callable[..., None]) -> Callable[..., None]:
    for rows in PROMPTS:
        test = example(data="\n".join(map(json.dumps, rows)).encode(), inputs=1, seed=0)(test)
    return test


@_with_every_seed
@FUZZ
@given(data=torn(_prompts()), inputs=st.integers(1, 3), seed=st.integers(0, 3))
@example(data=b"[" * 200_000, inputs=1, seed=0)
@example(data=b'{"prompt": "\xff"}', inputs=1, seed=0)
@example(data=b'{"prompt": "\\ud800"}', inputs=1, seed=0)
@example(data=b"", inputs=1, seed=0)
def test_mutated_prompts_are_read_or_refused(data: bytes, inputs: int, seed: int) -> None:
    path = placed(data)
    try:
        prompts = read_prompts(path)
    except ScenarioError as error:
        check_sentence(str(error), path)
        return
    data.decode("utf-8")  # else they had to be refused
    assert prompts
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert prompt.text.strip()
        assert prompt.prompt_id
        assert prompt.task
        "".join((prompt.prompt_id, prompt.task, prompt.text, prompt.reference or "")).encode("utf-8")
    order = RequestOrder(prompts, inputs, seed)
    sent = Counter(each for seq in range(len(prompts)) for each in order.measured(seq))
    assert sent == dict.fromkeys(prompts, inputs)
    assert len(order.warmup(0)[0].text) == max(len(prompt.text) for prompt in prompts)


@pytest.mark.parametrize("rows", TRACES)
def test_the_seeds_of_traces_are_read(rows: list[dict[str, Any]]) -> None:
    assert read_trace(placed("\n".join(map(json.dumps, rows)).encode())).rows

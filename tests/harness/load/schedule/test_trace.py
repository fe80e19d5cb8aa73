"""Traces in every accepted form, and every way in which one can be bad, with its line."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import ScenarioError
from harness.load.schedule.arrivals import schedule_of
from harness.load.schedule.request_times import Schedule
from harness.load.schedule.trace import read_trace
from harness.load.schedule.trace_columns import column_of
from harness.load.schedule.trace_facts import trace_facts
from harness.scenario.load_kinds import TraceLoad


def _file(folder: Path, text: str, name: str = "trace.jsonl") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def _schedule(path: Path, speed: float = 1.0, max_duration_s: float = 100.0) -> Schedule:
    load = TraceLoad(kind="trace", path=str(path), speed=speed)
    return schedule_of(load, requests=1, max_duration_s=max_duration_s, seed=0, trace_path=path)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"timestamp_s": 5, "input_length": 7}\n\n{"timestamp_s": 5.25, "output_length": 3}\n', "seconds.jsonl"),
        ('{"timestamp_ms": 5000, "input_length": 7}\n{"timestamp_ms": 5250, "output_length": 3}\n', "ms.jsonl"),
        (
            '{"timestamp": 0, "input_length": 7, "hash_ids": [1]}\n{"timestamp": 250, "output_length": 3}\n',
            "moon.jsonl",
        ),
        ("timestamp_s,input_length,output_length\n5,7,\n5.25,,3\n", "seconds.csv"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,7,\n2023-11-16 18:15:46.9305900,,3\n",
            "azure.csv",
        ),
    ],
)
def test_every_accepted_form_gives_the_same_schedule(tmp_path: Path, text: str, name: str) -> None:
    schedule = _schedule(_file(tmp_path, text, name))
    assert schedule.offsets_ns[0] == 0
    assert schedule.offsets_ns[1] == pytest.approx(250_000_000, abs=1_000)
    assert schedule.input_lengths == (7, None)
    assert schedule.output_lengths == (None, 3)


def test_speed_divides_the_times_and_the_duration_cuts_the_trace(tmp_path: Path) -> None:
    path = _file(tmp_path, "".join(f'{{"timestamp_s": {t}}}\n' for t in range(10)))
    fast = _schedule(path, speed=2.0)
    assert fast.offsets_ns == tuple(range(0, 5_000_000_000, 500_000_000))
    assert fast.input_lengths == fast.output_lengths == ()
    assert len(_schedule(path, max_duration_s=3.5).offsets_ns) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r'{f}: expected at least one arrival {{"timestamp_s": ...}}, the trace is empty'),
        ("timestamp_s\n", r'{f}: expected at least one arrival {{"timestamp_s": ...}}, the trace is empty'),
        (
            '{"timestamp_s": 2}\n{"timestamp_s": 1}\n',
            "{f}:2: expected times in rising order, got 1 s after 2 s; sort the trace by time",
        ),
        ('{"timestamp_s": -1}\n', "{f}:1: expected timestamp_s as a number >= 0, got -1"),
        ('{"timestamp_s": "soon"}\n', "{f}:1: expected timestamp_s as a number >= 0, got 'soon'"),
        (
            '{"timestamp_s": 0, "input_length": 0}\n',
            '{f}: expected at least one arrival {{"timestamp_s": ...}}, all its 1 rows ask for 0 tokens',
        ),
        (
            '{"timestamp_s": 0, "output_length": 1e12}\n',
            "{f}:1: expected output_length as a whole number from 0 to 1,000,000, got 1000000000000.0",
        ),
        (
            '{"when": 0}\n',
            "{f}:1: expected a column of times such as timestamp_s, timestamp_ms, timestamp, arrival_time or "
            "arrived_at, got 'when'; name the column of the times",
        ),
        ('{"timestamp_s": 0}\n[1]\n', "{f}:2: expected an object with a time, got list"),
        ("timestamp_s,input_length\n0,1\n1\n", "{f}:3: expected 2 columns, got 1"),
        (
            "timestamp_s,input_length,timestamp_s\n0,1,0\n",
            "{f}:1: expected every column once, got 'timestamp_s' again; rename one of them",
        ),
        (
            "when,length\n0,1\n",
            "{f}:1: expected a column of times such as timestamp_s, timestamp_ms, timestamp, arrival_time or "
            "arrived_at, got 'when', 'length'; name the column of the times",
        ),
        (
            "timestamp_s, max_tokens\n0, 5\n",
            "{f}:1: expected known names for lengths in tokens (input_length, prompt_tokens, ContextTokens; "
            "output_length, completion_tokens, GeneratedTokens), got 'max_tokens'; rename it, "
            "or remove it if it is not a length",
        ),
        (
            "timestamp_s,input_length,prompt_tokens\n0,1,2\n",
            "{f}:1: expected one column of the input length, got 'input_length', 'prompt_tokens'; keep one of them",
        ),
        (
            '{"timestamp_s": 0}\n{"timestamp_s": 0, "x": 1\n{"timestamp_s": true}\n',
            "{f}:2: not a line of JSON (Expecting ',' delimiter, column 26); expected one object per line, cut or "
            "correct this line\n{f}:3: expected timestamp_s as a number >= 0, got True",
        ),
        (
            '[{"timestamp_s": 0},\n\n {"timestamp_s": "x"},\n {"timestamp_s": 1} 7]',
            "{f}:3: expected timestamp_s as a number >= 0, got 'x'\n"
            "{f}:4: not a line of JSON (expected ',' or ']' after an item of the array); expected one object per line, "
            "cut or correct this line",
        ),
        (
            '{"timestamp_s": 0, "input_length": 4, "input_length": 5}\n',
            "{f}:1: not a line of JSON (the key 'input_length' stands twice); expected one object per line, cut or "
            "correct this line",
        ),
        (
            '{"timestamp_s": 0}\n{"timestamp_ms": 5}\n',
            "{f}:2: expected times as on line 1 (timestamp_s), got timestamp_ms = 5; write all times alike",
        ),
        (
            "timestamp_s\n1e300\n",
            "{f}:2: expected a time before the year 5138, got 1e+300 in timestamp_s; correct it, or "
            "workload.load.time_unit",
        ),
        (
            "timestamp,input_length\n0,1\n7200,1\n",
            "{f}:2: expected a unit for the times in timestamp: 2 arrivals over 7200 would be 2 hours in s and 7.2 s "
            "in ms; set workload.load.time_unit to s, ms, us or ns, or name the column timestamp_s or timestamp_ms",
        ),
        (  # Mooncake's columns, and no whole milliseconds: other tools' documents have such traces in seconds
            '{"timestamp": 0.2, "input_length": 5, "hash_ids": [0]}\n{"timestamp": 0.6, "input_length": 5}\n',
            "{f}:1: expected a unit for the times in timestamp: 2 arrivals over 0.4 would be 0.4 s in s and 0.0004 s "
            "in ms; set workload.load.time_unit to s, ms, us or ns, or name the column timestamp_s or timestamp_ms",
        ),
    ],
)
def test_a_bad_trace_is_refused_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(ScenarioError) as caught:
        read_trace(path)
    assert str(caught.value) == message.format(f=path)


def test_a_line_that_is_no_json_and_a_file_that_is_not_there(tmp_path: Path) -> None:
    path = _file(tmp_path, '{"timestamp_s": 0}\n{"timestamp_s": 1')
    with pytest.raises(ScenarioError, match=r":2: not a line of JSON"):
        read_trace(path)
    with pytest.raises(ScenarioError, match=r"the trace cannot be read \(No such file"):
        read_trace(tmp_path / "none.jsonl")


@pytest.mark.parametrize(
    ("name", "role", "unit"),
    [
        ("timestamp", "time", None), ("TIMESTAMP", "time", None), ("arrival time (ms)", "time", "ms"),
        ("timestampMs", "time", "ms"), ("arrived_at", "time", None), ("ts_ns", "time", "ns"),
        ("start-time [sec]", "time", "s"), ("elapsed time", "other", None),
        ("input_length", "input", None), ("prompt_len", "input", None), ("PromptTokens", "input", None),
        ("num_prefill_tokens", "input", None), ("input_sequence_length", "input", None), ("ISL", "input", None),
        ("Request tokens", "input", None), ("n_prompt_tokens", "input", None), ("prompt_size", "input", None),
        ("output_len", "output", None), ("completion_tokens", "output", None), ("GeneratedTokens", "output", None),
        ("response_token_count", "output", None), ("tokens_out", "output", None), ("osl", "output", None),
        ("Total tokens", "total", None), ("max_tokens", "length", None), ("cached_tokens", "length", None),
        ("tokens", "length", None), ("prompt_chars", "length", None), ("output_size", "length", None),
        ("Model", "other", None), ("hash_ids", "blocks", None), ("batch_size", "other", None), ("", "other", None),
    ],
)  # fmt: skip
def test_usual_names_of_columns_are_known_and_unknown_lengths_are_seen(name: str, role: str, unit: str | None) -> None:
    assert (column_of(name).role, column_of(name).unit) == (role, unit)


@pytest.mark.parametrize(
    ("text", "second_s", "times"),
    [
        ("timestamp_s, input_length\n0, 100\n2, 300\n", 2.0, "s (timestamp_s)"),
        ("Arrival Time (us)\n0\n2000000\n", 2.0, "us (Arrival Time (us))"),
        (
            "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,GPT,4,1,5,API\n7,GPT,4,1,5,API\n",
            2.0,
            "s (BurstGPT's columns)",
        ),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0.5,5,1\n2.5,5,1\n", 2.0, "s (Vidur's columns)"),
        ("arrival_timestamp,prompt_size,token_size\n0,5,1\n2,5,1\n", 2.0, "s (Splitwise's columns)"),
        (
            '[{"timestamp": 0, "input_length": 5},\n{"timestamp": 27, "output_length": 5}]',
            0.027,
            "ms (Mooncake's columns)",
        ),
        ("timestamp\n1700000000\n1700000002\n", 2.0, "s (the first is 1700000000, counted from 1970)"),
        ("timestamp\n1700000000000\n1700000002000\n", 2.0, "ms (the first is 1700000000000, counted from 1970)"),
        ("timestamp\n2023-11-16 18:15:46Z\n2023-11-16 18:15:48Z\n", 2.0, "dates"),
        ("timestamp\n0\n0\n", 0.0, "all at once"),
        ("timestamp_s;input_length\n0;100\n2;300\n", 2.0, "s (timestamp_s)"),
        ("\ntimestamp_ms\tinput_length\n0\t100\n2000\t300\n", 2.0, "ms (timestamp_ms)"),
        ('{"timestamp_s": 0, "text": "a\u2028b"}\n{"timestamp_s": 2}\n', 2.0, "s (timestamp_s)"),
    ],
)
def test_the_unit_of_times_is_decided_by_evidence(tmp_path: Path, text: str, second_s: float, times: str) -> None:
    trace = read_trace(_file(tmp_path, text))
    assert trace.rows[1].at_s - trace.rows[0].at_s == pytest.approx(second_s)
    assert trace.times == times


def test_the_scenario_s_own_unit_counts_but_never_against_the_file(tmp_path: Path) -> None:
    bare = _file(tmp_path, '{"timestamp": 0.5}\n{"timestamp": 7.5}\n')
    assert [row.at_s for row in read_trace(bare, "ms").rows] == pytest.approx([0.0005, 0.0075])
    mooncake = _file(tmp_path, '{"timestamp": 0, "input_length": 1}\n{"timestamp": 3, "input_length": 1}\n')
    assert read_trace(mooncake, "s").rows[1].at_s == 3
    for text in ('{"timestamp_ms": 1}\n', '{"timestamp": "2023-11-16 18:15:46"}\n'):
        with pytest.raises(ScenarioError, match=r"workload\.load\.time_unit.*remove time_unit"):
            read_trace(_file(tmp_path, text), "s")


def test_the_facts_of_a_trace_say_what_is_sent_and_what_is_not(tmp_path: Path) -> None:
    text = "timestamp_s,model,Input Tokens,Output Tokens\n0,a,100,20\n1,a,0,20\n2,a,300,\n4,a,100,40\n50,a,9,9\n"
    load = TraceLoad(kind="trace", path="t.csv", speed=2.0)
    facts = trace_facts(load, _file(tmp_path, text, "t.csv"), 10.0)
    assert list(facts.lines()) == [
        "t.csv: 3 requests (of 4 in the trace, which takes longer) in 10.0 s at 2 times its speed: 0.3 requests/s, "
        "1 in the busiest second; times: s (timestamp_s)",
        "input lengths: 100 to 300 tokens, median 100; output lengths: 20 to 40 tokens, median 30 in 2 of 3 requests",
        "skipped: 1 rows that ask for 0 tokens",
        "not replayed: model",
    ]
    assert facts.as_dict()["input_length"] == {"requests": 3, "min": 100, "median": 100, "max": 300}
    bare = trace_facts(load, _file(tmp_path, "timestamp_s\n5\n5\n"), 10.0)
    assert list(bare.lines()) == [
        "trace.jsonl: 2 requests at once; times: s (timestamp_s)",
        "lengths: none in the trace; each prompt is sent at its own, with max_new_tokens for all",
    ]
    assert bare.as_dict()["output_length"] is None


def _parquet(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "trace.parquet"
    names = dict.fromkeys(name for row in rows for name in row)
    pq.write_table(pa.table({name: [row.get(name) for row in rows] for name in names}), path)
    return path


@pytest.mark.parametrize(
    ("rows", "second_s", "times"),
    [
        (
            [{"timestamp_ms": 100, "input_length": 7}, {"timestamp_ms": 350, "output_length": 3}],
            0.25,
            "ms (timestamp_ms)",
        ),
        (
            [
                {"TIMESTAMP": datetime(2023, 11, 16, 18, 15, 46, 680590), "ContextTokens": 7},
                {"TIMESTAMP": datetime(2023, 11, 16, 18, 15, 46, 930590), "GeneratedTokens": 3},
            ],
            0.25,
            "dates",
        ),
        (
            [
                {"timestamp": 0, "input_length": 7, "hash_ids": [4]},
                {"timestamp": 250, "output_length": 3},
            ],
            0.25,
            "ms (Mooncake's columns)",
        ),
        (
            [
                {"Timestamp": 5, "Model": "m", "Request tokens": 7, "Log Type": "API", "Response tokens": 9},
                {"Timestamp": 8, "Model": "m", "Response tokens": 3, "Log Type": "API"},
            ],
            3.0,
            "s (BurstGPT's columns)",
        ),
    ],
)
def test_a_parquet_trace_is_read_by_its_columns(
    tmp_path: Path, rows: list[dict[str, object]], second_s: float, times: str
) -> None:
    trace = read_trace(_parquet(tmp_path, *rows))
    first, second = trace.rows
    assert second.at_s - first.at_s == pytest.approx(second_s)
    assert (first.input_length, second.input_length, second.output_length) == (7, None, 3)
    assert first.blocks == ((4,) if "hash_ids" in rows[0] else ())
    assert trace.times == times


def test_a_parquet_trace_has_its_turns_and_columns_that_are_not_replayed(tmp_path: Path) -> None:
    row = {"timestamp_s": 0.5, "session_id": 3, "user": "u"}
    trace = read_trace(_parquet(tmp_path, row, row | {"timestamp_s": 1.5, "session_id": None}))
    assert [each.session for each in trace.rows] == ["3", ""]
    assert trace.unused == ("user",)


def test_the_unit_of_a_parquet_trace_is_asked_for_where_nothing_names_it(tmp_path: Path) -> None:
    path = _parquet(tmp_path, {"timestamp": 0, "input_length": 5}, {"timestamp": 9, "input_length": 5})
    with pytest.raises(
        ScenarioError, match=r"trace\.parquet:1: expected a unit for the times .*; set workload\.load\."
    ):
        read_trace(path)
    assert read_trace(path, "ms").rows[1].at_s == pytest.approx(0.009)


def test_every_broken_row_of_a_parquet_trace_is_named(tmp_path: Path) -> None:
    good = {"timestamp_s": 1.0, "input_length": 5.0}
    path = _parquet(tmp_path, good, good | {"timestamp_s": None}, good | {"input_length": 2.5}, good)
    with pytest.raises(ScenarioError) as caught:
        read_trace(path)
    second, third = str(caught.value).splitlines()
    assert second.startswith(f"{path}:2: expected a column of times such as timestamp_s")
    assert third == f"{path}:3: expected input_length as a whole number from 0 to 1,000,000, got 2.5"
    path.write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(ScenarioError, match="the trace cannot be read as Parquet"):
        read_trace(path)

"""Traces in every accepted form, and every way in which one can be bad, with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.load.schedule.arrivals import Schedule, schedule_of
from harness.load.schedule.trace import read_trace
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
            "{f}:1: expected input_length as a whole number from 1 to 1,000,000, got 0",
        ),
        (
            '{"timestamp_s": 0, "output_length": 1e12}\n',
            "{f}:1: expected output_length as a whole number from 1 to 1,000,000, got 1000000000000.0",
        ),
        (
            '{"when": 0}\n',
            "{f}:1: expected a time in one of timestamp_s, timestamp_ms, timestamp, TIMESTAMP, got 'when'",
        ),
        ('{"timestamp_s": 0}\n[1]\n', "{f}:2: expected an object with a time, got list"),
        ("timestamp_s,input_length\n0,1\n1\n", "{f}:3: expected 2 columns, got 1"),
        (
            "timestamp_s,input_length,timestamp_s\n0,1,0\n",
            "{f}:1: expected every column once, got 'timestamp_s' again; rename one of them",
        ),
        (
            "when,length\n0,1\n",
            "{f}:1: expected a header with one of timestamp_s, timestamp_ms, timestamp, TIMESTAMP, got 'when, length'; "
            "name the column of the times",
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

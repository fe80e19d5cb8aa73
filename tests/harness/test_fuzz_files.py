"""Whatever a user's file holds, reading it gives its values or the documented error: mutated traces, prompts, scenarios
and serving.properties.

`DYNO_FUZZ_EXAMPLES` sets the number of examples of each test (200 by default).
"""

from __future__ import annotations

import csv
import io
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engines.errors import SpecInvalid
from engines.serving_properties.java_text import PropertiesSyntaxError, format_properties, parse_properties
from engines.serving_properties.read import read_serving
from harness.errors import ScenarioError, UsageError
from harness.load.schedule.prompts import read_prompts
from harness.load.schedule.request_times import trace_schedule
from harness.load.schedule.trace import MAX_LENGTH, read_trace
from harness.properties.environment_variables import parse_environment
from harness.properties.lint.findings import lint
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve, resolved_from_dict
from harness.scenario.yaml_nodes import parse, write
from tests.harness.mutations import FUZZ, torn, values

PLACE = Path(tempfile.mkdtemp(prefix="dyno-fuzz-"))


def _placed(data: bytes) -> Path:
    """`data` in a file; one test writes it at a time."""
    path = PLACE / "input.txt"
    path.write_bytes(data)
    return path


def _check_sentence(message: str, path: Path | str) -> None:
    """A refusal can be printed, is no longer than a screen, and each of its lines begins with the file."""
    message.encode("utf-8")
    assert all(line.startswith(str(path)) and len(line) < 1000 for line in message.splitlines())


def _check_line(line: int, text: str) -> None:
    """A line of the text."""
    assert 1 <= line <= len(text) + 1


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


@st.composite
def _traces(draw: st.DrawFn) -> bytes:
    rows = draw(values(TRACES))
    form = draw(st.sampled_from(["lines", "array", "csv"]))
    ascii_only = draw(st.booleans())
    if form == "csv" and isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        out = io.StringIO()
        table = csv.writer(
            out, delimiter=draw(st.sampled_from([",", ",", ";"])), lineterminator=draw(st.sampled_from(["\n", "\r\n"]))
        )
        table.writerow(draw(st.sampled_from(["", " "])) + name for name in names)
        table.writerows([_cell(row.get(name)) for name in names] for row in rows)
        return out.getvalue().encode("utf-8", "surrogatepass")
    if form == "array":
        text = json.dumps(rows, indent=draw(st.sampled_from([None, 1])), ensure_ascii=ascii_only)
    else:
        text = "\n".join(
            json.dumps(row, ensure_ascii=ascii_only) for row in (rows if isinstance(rows, list) else [rows])
        )
    return text.encode("utf-8", "surrogatepass")


def _cell(value: Any) -> str:
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)


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
@example(data=b'timestamp_s,"x\n0,1\rb', unit=None, speed=1.0, most_s=1.0)
def test_a_mutated_trace_is_read_or_refused(data: bytes, unit: Any, speed: float, most_s: float) -> None:
    path = _placed(data)
    try:
        trace = read_trace(path, unit)
    except ScenarioError as error:
        _check_sentence(str(error), path)
        return
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
    assert 1 <= schedule.peak_rps <= len(schedule.offsets_ns)


# Prompts

PROMPTS: list[list[Any]] = [
    [{"id": "a", "task": "t", "prompt": "x y", "reference": "r"}, {"prompt": "b", "reference": None}],
    [{"prompt": "What is the capital of India?", "output_tokens": 10}],
    [[{"id": "a1", "conversations": [{"from": "human", "value": "Hi"}]}]],
    [{"instruction": "Say hi", "input": "", "output": "hi"}],
    [{"messages": [{"role": "user", "content": "hi"}]}, {"id": 81, "prompt": "a b c"}],
    [{"prompt": "\u2028 a\u200b"}, {"id": "\U0001f600", "prompt": "é"}],
]


@st.composite
def _prompts(draw: st.DrawFn) -> bytes:
    rows = draw(values(PROMPTS))
    end = draw(st.sampled_from(["\n", "\r\n", "\n\n"]))
    text = end.join(
        json.dumps(row, ensure_ascii=draw(st.booleans())) for row in (rows if isinstance(rows, list) else [rows])
    )
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode("utf-8", "surrogatepass")


@FUZZ
@given(data=torn(_prompts()))
@example(data=b"[" * 200_000)
@example(data=b'{"prompt": "\\ud800"}')
def test_mutated_prompts_are_read_or_refused(data: bytes) -> None:
    path = _placed(data)
    try:
        prompts = read_prompts(path)
    except ScenarioError as error:
        _check_sentence(str(error), path)
        return
    assert prompts
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts)
    for prompt in prompts:
        assert prompt.text.strip()
        "".join((prompt.prompt_id, prompt.task, prompt.text, prompt.reference or "")).encode("utf-8")


# Scenarios

SCENARIOS: list[dict[str, Any]] = [
    {"name": "bug", "workload": {"prompts": "p.jsonl", "stream": True, "parameters": {"max_new_tokens": 8},
     "load": {"kind": "closed", "users": 2}, "requests": 40, "max_duration_s": 15,
     "request_timeout_s": 10, "warmup_requests": 2},
     "quality": {"prompts": 1}, "search": {"trials": 1, "confirm": {"finalists": 0}},
     "space": [{"engine": "attach", "options": {"url": "http://127.0.0.1:1/v1", "protocol": "openai-chat",
     "model_name": "m"}}]},
    {"name": "t", "workload": {"load": {"kind": "trace", "path": "t.csv", "speed": 2, "time_unit": "ms"}},
     "space": [{"engine": "fake"}]},
    {"name": "r", "workload": {"load": {"kind": "max_rate", "low_rps": 1, "high_rps": 9,
     "slo": {"latency_p99_ms": {"max": 5}}}},
     "space": [{"engine": ["t5", "fake"], "dtype": ["fp32", "int8"], "workers": [1, 2]}],
     "constraints": {"quality": "any", "error_frac": {"max": 0}},
     "objectives": [{"metric": "max_rate_rps", "goal": "maximize"}]},
    {"name": "s", "model": {"shape": "flan-t5-base", "seed": 1}, "cost": {"usd_per_hour": 1.5},
     "recommend": {"container": "x-1"},
     "workload": {"template": {"body": '{"q": "{prompt}"}', "answer": "a.0"}, "slo": {"latency_ms": 5},
     "load": {"kind": "stages", "stages": [{"rate_rps": 1, "duration_s": 2}]}}, "space": [{"engine": "attach"}]},
]  # fmt: skip


@st.composite
def _scenarios(draw: st.DrawFn) -> bytes:
    value = draw(values(SCENARIOS))
    if draw(st.booleans()):
        text = json.dumps(value, indent=draw(st.sampled_from([None, 1])), ensure_ascii=draw(st.booleans()))
    else:
        text = write(json.loads(json.dumps(value)))
    return text.encode("utf-8", "surrogatepass")


@FUZZ
@given(data=torn(_scenarios()))
@example(data=b"a: " * 50_000)
@example(data=b"name: s\nworkload: " + b"x" * 5000)
@example(data=b"x" * 5000)
@example(data=b"[" * 5_000)
@example(data=b"name: s\nspace: [{engine: fake, workers: " + b"9" * 4400 + b"}]")
@example(data=b"name: s\nspace: [{engine: fake}]\nworkload: {requests: 1e400, load: {users: .nan}}")
def test_a_mutated_scenario_is_read_or_refused(data: bytes) -> None:
    path = _placed(data)
    try:
        scenario = load_scenario(path)
    except ScenarioError as error:
        _check_sentence(str(error), path)
        return
    resolved = resolve(scenario, path)
    assert resolved_from_dict(json.loads(json.dumps(resolved.as_dict()))).scenario == scenario


@FUZZ
@given(text=st.one_of(st.text(max_size=60), torn(_scenarios()).map(lambda data: data.decode("utf-8", "replace"))))
def test_any_yaml_text_is_a_value_or_a_problem_with_a_line(text: str) -> None:
    document = parse(text)
    assert all(1 <= problem.line <= text.count("\n") + text.count("\r") + 2 for problem in document.problems)


# serving.properties

PROPERTIES: list[dict[str, str]] = [
    {"engine": "Python", "option.model_id": "x/y", "option.dtype": "fp16", "option.enable_streaming": "True"},
    {"engine": "MPI", "option.model_id": "x/falcon", "option.tensor_parallel_degree": "4",
     "option.rolling_batch": "lmi-dist"},
    {"engine": "Python", "option.entryPoint": "djl_python.huggingface", "option.model_id": "a/flan-t5",
     "option.device_map": "auto", "batch_size": "4", "max_batch_delay": "5", "minWorkers": "1", "maxWorkers": "2"},
    {"engine": "Python", "option.s3url": "{{s3url}}", "option.tensor_parallel_degree": "2", "load_on_devices": "*"},
    {"engine": "DynamometerT5", "option.dtype": "int8", "option.threads": "2", "job_queue_size": "10",
     "retry_threshold": "0"},
    {"engine": "Python", "option.kv_transfer_config": '{"kv_connector": "x"}', "option.rolling_batch": "vllm"},
]  # fmt: skip
CONTAINERS = ("dynamometer-0.1", "0.23.0", "0.27.0-deepspeed", "0.25.0-tensorrtllm", "0.27.0-neuronx", "0.36.0-lmi18")


def _lines(value: Any, blanks: str) -> str:
    """The mutated keys and values as lines: whatever is no text is written as JSON."""
    pairs: Sequence[tuple[Any, Any]] = list(value.items()) if isinstance(value, dict) else [("x", value)]
    return "\n".join(f"{key}{blanks}={blanks}{_cell(each)}" for key, each in pairs)


@FUZZ
@given(
    data=torn(
        st.one_of(
            st.tuples(values(PROPERTIES), st.sampled_from(["", " ", "\t"])).map(lambda pair: _lines(*pair)),
            st.sampled_from(PROPERTIES).map(format_properties),
        ).map(lambda text: text.encode("utf-8", "surrogatepass"))
    ),
    container=st.sampled_from(CONTAINERS),
)
@example(data=b"\\u12", container=CONTAINERS[0])
@example(data=b"batch_size=" + b"9" * 5000, container=CONTAINERS[0])
@example(data=b"batch_size=\xb2", container=CONTAINERS[0])
def test_mutated_properties_are_read_or_refused(data: bytes, container: str) -> None:
    text = data.decode("latin-1")
    try:
        given_values = parse_properties(text)
    except PropertiesSyntaxError as error:
        _check_line(error.line, text)
    else:
        assert parse_properties(format_properties(given_values)) == given_values
    for finding in lint(text, container):
        assert finding.message
    try:
        serving = read_serving(text, Path("model"))
    except SpecInvalid as error:
        str(error).encode("utf-8", "surrogatepass")
        return
    assert serving.spec.batch_size >= 1
    assert serving.spec.workers >= 1


ENVIRONMENTS = [
    {"SERVING_MIN_WORKERS": "1", "OPTION_MODEL_ID": "x/y", "SERVING_FAIL_FAST": "true", "HF_MODEL_ID": "x"},
    {"OPTION_ENTRYPOINT": "djl_python.huggingface", "SERVING_LOAD_MODELS": "test::Python=/opt/ml/model"},
]


@FUZZ
@given(
    data=torn(
        st.tuples(values(ENVIRONMENTS), st.booleans()).map(
            lambda pair: (json.dumps(pair[0]) if pair[1] else _lines(pair[0], "")).encode("utf-8", "surrogatepass")
        )
    )
)
@example(data=b'"' + b"x" * 5000)
def test_a_mutated_environment_is_read_or_refused(data: bytes) -> None:
    try:
        variables = parse_environment(data.decode("utf-8", "replace"), "env.json")
    except UsageError as error:
        _check_sentence(str(error), "env.json")
        return
    assert all(isinstance(each, str) for pair in variables.items() for each in pair)


@pytest.mark.parametrize("rows", TRACES)
def test_the_seeds_of_traces_are_read(rows: list[dict[str, Any]]) -> None:
    assert read_trace(_placed("\n".join(map(json.dumps, rows)).encode())).rows

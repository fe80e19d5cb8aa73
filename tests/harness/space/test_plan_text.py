"""The lines of a plan that say what will be sent."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.api import Availability, Capabilities
from harness.records import Candidate
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.scenario.schema import Scenario
from harness.space.candidates import SpacePlan, plan_space
from harness.space.memory_text import memory_lines
from harness.space.plan_text import expectation, facts_of, plan_dict, plan_lines

NOTHING = SpacePlan(blocks=(), candidates=(), pruned=(), warnings=())


def _lines(tmp_path: Path, texts: list[str], load: str, engine: str = "fake", more: str = "") -> dict[str, str]:
    prompts = "".join(json.dumps({"prompt": text}) + "\n" for text in texts)
    (tmp_path / "p.jsonl").write_text(prompts)
    path = tmp_path / "s.yaml"
    path.write_text(
        f"name: s\nspace: [{{engine: {engine}}}]\nworkload: {{prompts: p.jsonl, requests: 6, load: {load}}}\n{more}"
    )
    resolved = resolve(load_scenario(path), path)
    lines = list(plan_lines(resolved, NOTHING, ()))
    assert plan_dict(resolved, NOTHING, ())["trace"] == (facts.as_dict() if (facts := facts_of(resolved)) else None)
    return {line[:11].strip(): line[11:] for line in lines}


@pytest.mark.parametrize(
    ("texts", "load", "said"),
    [
        (["a", "b"], "{users: 2}", "2 prompts, each sent up to 3 times in a load"),
        (["a", "b"], "{kind: constant, rate_rps: 2}", "2 prompts, each sent about 3 times in a load"),
        (["a", "b"], "{users: 2}, inputs_per_request: 500", "2 prompts, each sent up to 1,500 times in a load"),
        (["a", "a", "b"], "{users: 2}", "3 prompts, 2 of them different, each sent up to 3 times in a load"),
        (list("abcdef"), "{users: 2}", "6 prompts, none sent twice in a load"),
    ],
)
def test_how_often_a_prompt_is_sent_stands_in_the_plan(tmp_path: Path, texts: list[str], load: str, said: str) -> None:
    assert _lines(tmp_path, texts, load)["prompts"] == f"{tmp_path / 'p.jsonl'}: {said}"


@pytest.mark.parametrize(
    ("prompts", "often"), [(6, "each sent up to 2 times in a launch"), (12, "none sent twice in a")]
)
def test_all_levels_of_a_sweep_send_the_prompts_that_the_plan_counts(tmp_path: Path, prompts: int, often: str) -> None:
    more = "objectives: [{metric: throughput_rps, goal: maximize}]\n"
    lines = _lines(tmp_path, [f"a{number}" for number in range(prompts)], "{users: [1, 2]}", more=more)
    assert f"{prompts} prompts, {often}" in lines["prompts"]
    assert lines["prompts"].endswith("in a launch")


def test_a_trace_s_own_time_and_requests_are_what_the_plan_counts(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("timestamp_s,input_len\n0,5\n4,6\n")
    lines = _lines(tmp_path, ["a"], "{kind: trace, path: t.csv}")
    assert lines["trace"] == (
        "t.csv: 2 requests in 4.0 s: 0.5 requests/s, 1 in the busiest second; times: s (timestamp_s)\n"
        "           input lengths: 5 to 6 tokens, median 5.5; output lengths: none, max_new_tokens for all"
    )
    path = tmp_path / "s.yaml"
    resolved = resolve(load_scenario(path), path)
    assert (
        expectation(resolved.scenario, 1, facts_of(resolved)).trial_s == expectation(resolved.scenario, 1).trial_s - 11
    )


@pytest.mark.parametrize(
    ("goal", "shown"),
    [
        (
            "{metric: latency_mean_ms, goal: minimize}",
            "a trial ends early once it is surely worse in latency_mean_ms than ",
        ),
        (
            "{metric: latency_max_ms, goal: minimize}",
            "no trial: a race needs latency_p50_ms, latency_mean_ms, latency_p90_ms, latency_p95_ms, latency_p99_ms or "
            "throughput_rps as the objective (here: latency_max_ms)",
        ),
    ],
)
def test_the_plan_says_what_is_raced_or_why_nothing_is(tmp_path: Path, goal: str, shown: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\nspace: [{{engine: fake}}]\nobjectives: [{goal}]\n")
    resolved = resolve(load_scenario(path), path)
    one = replace(NOTHING, candidates=(Candidate(block=0, engine="fake"),))
    (line,) = [line for line in plan_lines(resolved, one, ()) if line.startswith("racing ")]
    assert line[11:].startswith(shown)
    assert plan_dict(resolved, one, ())["racing"] == line[11:]


def test_an_attached_server_s_model_is_not_said_to_be_the_bundled_one(tmp_path: Path) -> None:
    attached = "attach, options: {url: 'http://127.0.0.1:1'}"
    assert _lines(tmp_path, ["a"], "{users: 1}", attached)["model"] == "what the attached server serves; not known here"
    assert _lines(tmp_path, ["a"], "{users: 1}")["model"].endswith("flan-t5-bench")


@pytest.mark.parametrize(
    ("block", "rows"),
    [
        ({"engine": "llamacpp", "rolling_batch": "auto"}, 32),
        ({"engine": "llamacpp", "rolling_batch": "auto", "options": {"n_parallel": [1, 4]}}, 4),
        ({"engine": "openvino", "rolling_batch": "auto", "options": {"max_slots": 6}}, 6),
        ({"engine": "vllm", "rolling_batch": "auto", "options": {"max_num_seqs": [8, 64]}}, 64),
        ({"engine": "ctranslate2", "batch_size": [1, 8]}, 8),
    ],
)
def test_memory_is_that_of_the_most_requests_at_once_in_each_engines_words(block: dict[str, Any], rows: int) -> None:
    fields = {"name": "s", "model": {"shape": "llama-3.1-8b"}, "space": [block], "workload": {"load": {"users": 100}}}
    of = Scenario.model_validate(fields)
    (line,) = list(memory_lines(resolve(of, Path("s.yaml")), NOTHING))[1:]
    assert f"({rows} rows x" in line


def test_memory_fits_only_where_the_plan_has_not_ruled_it_out() -> None:
    two = [{"engine": "ctranslate2", "dtype": ["fp32", "bf16"]}, {"engine": "ctranslate2", "batch_size": [1]}]
    of = Scenario.model_validate({"name": "s", "model": {"shape": "gpt2"}, "space": [*two, {"engine": "vllm"}]})
    resolved = resolve(of, Path("s.yaml"))
    able = Capabilities(effective_dtypes={"fp32": "fp32"})
    plan = plan_space(resolved, lambda name, *_: able if name == "ctranslate2" else Availability(is_available=False))
    kept, gone, missing = list(memory_lines(resolved, plan))[1:]  # the second block is the first one's again
    assert kept.startswith("ctranslate2 fp32")
    assert kept.endswith(": fits")
    assert gone.startswith("ctranslate2 bf16")
    assert gone.endswith(": would fit; ruled out below")
    assert missing.startswith("vllm fp32")
    assert missing.endswith(": would fit; ruled out below")

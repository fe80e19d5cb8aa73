"""A finalist is driven to the largest shape once: what it survives is noted, what ends a worker rules it out."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engines.api import Dialect, Endpoint
from harness.load.schedule.arrivals import schedule_of
from harness.records import Candidate, Trial
from harness.scenario.load import load_scenario
from harness.scenario.load_kinds import TraceLoad
from harness.scenario.resolve import BUNDLED_DECODER, resolve
from harness.scenario.schema import Scenario
from harness.space.chat import token_counts
from harness.store.run_folder import create_run
from harness.trial.bench import Bench
from harness.trial.inputs import read_inputs
from harness.trial.largest_shape import LongestInputs, drive_largest
from harness.trial.progress import Lines
from harness.trial.reference import Reference
from harness.trial.request_texts import RequestTexts
from tests.harness.load.odd_server import Odd, odd_server
from tests.harness.load.plans import PROMPTS, plan_of
from tests.harness.trial.test_ask_prompts import Running

SCENARIO = """\
name: s
space: [{engine: fake}]
quality: {prompts: 1}
workload: {prompts: p.jsonl, requests: 4, warmup_requests: 0, load: {kind: closed, users: 3}}
"""


def _longest(folder: Path, workload: dict[str, Any], count: int) -> LongestInputs:
    """Of a load with these lengths, of prompts of a few characters."""
    scenario = Scenario.model_validate({"name": "s", "space": [{"engine": "fake"}], "workload": workload})
    resolved = resolve(scenario, folder / "s.yaml")
    texts, load = RequestTexts(read_inputs(resolved)), scenario.workload.load
    path = resolved.trace_path
    schedule = schedule_of(load, requests=9, max_duration_s=9, seed=0, trace_path=path) if isinstance(load, TraceLoad) \
        else None  # fmt: skip
    return texts.longest(plan_of("http://h", parameters={"max_new_tokens": 4}), BUNDLED_DECODER, count, schedule)


def test_inputs_of_a_length_are_driven_at_that_length_each_with_another_text(tmp_path: Path) -> None:
    found = _longest(tmp_path, {"lengths": {"input": 60, "output": 7}}, 5)
    assert (found.tokens, found.output_tokens) == (60, 7)
    assert len({prompt.text[:40] for prompt in found.prompts}) == 5
    assert all(abs(n - 60) <= 1 for n in token_counts(found.prompts, BUNDLED_DECODER))
    ranges = {"input": {"min": 20, "max": 60}, "output": {"min": 2, "max": 7}}
    assert _longest(tmp_path, {"lengths": ranges}, 5).tokens == 60
    assert _longest(tmp_path, {"lengths": ranges}, 5).output_tokens == 7


def test_the_longest_input_and_answer_of_a_trace_meet(tmp_path: Path) -> None:
    rows = ((0.0, 20, 3), (0.1, 90, 2), (0.2, 30, 8))
    lines = (json.dumps({"time_s": at, "input_length": n, "output_length": m}) for at, n, m in rows)
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    found = _longest(tmp_path, {"load": {"kind": "trace", "path": "t.jsonl"}}, 3)
    assert (found.tokens, found.output_tokens) == (90, 8)
    assert all(abs(n - 90) <= 1 for n in token_counts(found.prompts, BUNDLED_DECODER))


def test_a_short_corpus_gives_one_text_many_times_and_none_the_longest_prompt(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text(" ".join(f"word{n}" for n in range(30)))
    found = _longest(tmp_path, {"lengths": {"input": 20}, "corpus": "c.txt"}, 200)
    assert (len(found.prompts), len({prompt.text for prompt in found.prompts})) == (200, 1)
    found = _longest(tmp_path, {"lengths": {"output": 9}}, 2)
    assert (found.tokens, found.output_tokens) == (None, 9)
    assert found.prompts[0] == max(PROMPTS, key=lambda prompt: len(prompt.text))


def _trial(folder: Path, order: int) -> Trial:
    """Of a server whose worker dies of the longest of 40 prompts, which the load does not happen to draw."""
    path = folder / "s.yaml"
    path.write_text(SCENARIO)
    prompts = [{"id": f"p{number}", "prompt": f"say {number}"} for number in range(39)]
    prompts.append({"id": "long", "prompt": "a much longer prompt that goes on to boom"})
    (folder / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    resolved = resolve(load_scenario(path), path)
    new_run = partial(create_run, resolved, folder / "results", "")
    known = Reference(answers={}, source="")
    with Bench.open(resolved, new_run, progress=Lines(lambda line: None), reference=known) as bench:
        candidate = Candidate(block=0, engine="fake", batch_size=2, options={"crash_on": "boom"})
        return bench.run(candidate, 1, order=order)


def test_a_server_without_a_word_for_a_minimum_is_driven_as_far_as_it_answers(tmp_path: Path) -> None:
    lengths: list[int] = []

    def answer(odd: Odd, body: dict[str, Any]) -> None:
        assert "min_tokens" not in body
        lengths.append(body["max_tokens"])
        odd.answer(json.dumps({"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}).encode())

    workload = {"load": {"kind": "closed", "users": 2}, "parameters": {"max_new_tokens": 9}}
    scenario = {"name": "s", "space": [{"engine": "attach"}], "workload": workload}
    inputs = read_inputs(resolve(Scenario.model_validate(scenario), tmp_path / "s.yaml"))
    longest = LongestInputs(prompts=PROMPTS[:1] * 8, tokens=None, output_tokens=9)
    with odd_server(answer) as url:
        endpoint = Endpoint(url=url, protocol="openai-chat", dialect=Dialect(exact_tokens="none"))
        candidate, progress = Candidate(block=0, engine="attach"), Lines(lambda line: None)
        driven = drive_largest(Running(endpoint), inputs, candidate, progress, lambda count: longest)
    assert driven == ("largest shape (8 at once, 6 characters, up to 9 tokens): answered", False)
    assert lengths == [9] * 8


@pytest.mark.heavy
def test_a_finalist_that_dies_of_the_largest_shape_is_not_feasible(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "again").mkdir()
    searched = _trial(tmp_path / "first", order=0)
    assert searched.is_feasible, "the search did not drive it there"
    assert "largest shape" not in searched.phase_s
    finalist = _trial(tmp_path / "again", order=1)
    assert not finalist.is_feasible
    assert finalist.outcome == "ok", "the server itself lives, and starts its worker again"
    assert finalist.violations[0].startswith("largest shape (3 at once, 41 characters, 80 tokens) ended ")
    assert "3 of 3 failed, first HTTP 500" in finalist.violations[0]

"""Conversations of a trace: which turn follows which, who sends it, and what its text begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.load.corpus.spans import text_of
from harness.load.plan import NO_TURN, firsts_of, most_turns, next_turns
from harness.load.schedule.request_times import follows_of
from harness.load.schedule.trace import read_trace
from harness.load.schedule.trace_facts import trace_facts
from harness.scenario.load_kinds import TraceLoad
from harness.scenario.resolve import BUNDLED_DECODER, resolve
from harness.scenario.schema import Scenario
from harness.trial.inputs import read_inputs
from harness.trial.request_texts import RequestTexts
from tests.harness.load.plans import plan_of

BURST_GPT = """Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type
5,7,1,ChatGPT,100,10,110,Conversation log
6,8,1,ChatGPT,50,10,60,Conversation log
9,7,1,ChatGPT,160,10,170,Conversation log
12,,1,ChatGPT,40,10,50,API log
15,7,1,ChatGPT,300,10,310,Conversation log
16,8,1,ChatGPT,60,10,70,Conversation log
"""
FOLLOWS = (NO_TURN, NO_TURN, 0, NO_TURN, 2, 1)


def _trace(folder: Path) -> Path:
    path = folder / "burst.csv"
    path.write_text(BURST_GPT)
    return path


def test_the_turns_of_a_trace_follow_each_other(tmp_path: Path) -> None:
    facts = trace_facts(TraceLoad(kind="trace", path="burst.csv"), _trace(tmp_path), 60)
    assert facts.schedule.follows == FOLLOWS
    assert "conversations: 3, in which 3 turns wait for the answer before them" in list(facts.lines())
    assert facts.unlimited_hit_frac == (100 + 160 + 50) / 710
    assert "Session ID" not in facts.trace.unused
    assert follows_of(["a", "", "b", ""]) == ()


def test_a_process_sends_whole_conversations(tmp_path: Path) -> None:
    plan = plan_of("http://h", offsets_ns=tuple(range(6)), follows=FOLLOWS, processes=2)
    assert [list(firsts_of(plan, part)) for part in (0, 1)] == [[0, 3], [1]]
    assert next_turns(plan) == {0: 2, 2: 4, 1: 5}
    assert most_turns(plan) == 3
    assert most_turns(plan_of("http://h")) == 1


def test_the_turns_of_a_conversation_begin_alike_and_others_differently(tmp_path: Path) -> None:
    load = {"kind": "trace", "path": str(_trace(tmp_path))}
    scenario = Scenario.model_validate({"name": "s", "space": [{"engine": "fake"}], "workload": {"load": load}})
    texts = RequestTexts(read_inputs(resolve(scenario, tmp_path / "s.yaml")))
    plan = plan_of("http://h", follows=FOLLOWS, input_lengths=(100, 50, 160, 40, 300, 60))
    filled = texts.filled(plan, BUNDLED_DECODER)
    found = [text_of(filled.corpus, cut) for cut in filled.cuts]
    begins = [text[:60] for text in found]
    assert begins[0] == begins[2] == begins[4]
    assert begins[1] == begins[5]
    warm = [text_of(filled.corpus, cut)[:60] for cut in filled.warmup_cuts]
    assert len({*begins, *warm}) == 3 + plan.warmup_requests


def test_a_further_load_of_a_launch_gets_other_texts_and_the_next_launch_the_same(tmp_path: Path) -> None:
    workload = {"lengths": {"input": 50}, "load": {"kind": "closed", "users": [1, 2]}}
    scenario = {"name": "s", "space": [{"engine": "fake"}], "workload": workload}
    objective = {"metric": "throughput_rps", "goal": "maximize"}
    resolved = resolve(Scenario.model_validate({**scenario, "objectives": [objective]}), tmp_path / "s.yaml")
    texts, plan = RequestTexts(read_inputs(resolved)), plan_of("http://h", requests=30)

    def begins() -> set[tuple[int, int]]:
        filled = texts.filled(plan, None)
        return {cut[0] for cut in (*filled.cuts, *filled.warmup_cuts)}

    first, second = begins(), begins()
    assert len(first) == len(second) == 30 + plan.warmup_requests
    assert not first & second
    texts.begin_at(0)
    assert begins() == first


@pytest.mark.parametrize("value", ["[1]", "true"])
def test_a_conversation_that_is_no_name_is_refused(tmp_path: Path, value: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"timestamp_s": 1, "session_id": {value}}}\n')
    with pytest.raises(ScenarioError, match=r"t\.jsonl:1: expected session_id as a text or a whole number"):
        read_trace(path)

"""Conversations of a prompts file in a closed loop: every question is sent, in its order, by one user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.models.chat_template import ChatTemplate
from harness.load.plan import NO_TURN
from harness.scenario.resolve import BUNDLED_DECODER, resolve
from harness.scenario.schema import Scenario
from harness.space.chat import conversations_of, prompts_of
from harness.trial.inputs import TrialInputs, read_inputs
from harness.trial.request_texts import RequestTexts
from tests.harness.load.odd_server import Odd, odd_server
from tests.harness.load.plans import measured_of, plan_of, run_load

ROWS = [
    {
        "id": f"c{number}",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": f"first {number}"},
            {"role": "assistant", "content": f"answer {number}"},
            {"role": "user", "content": f"second {number}"},
            {"role": "assistant", "content": "the end"},
        ],
    }
    for number in range(4)
] + [{"id": "alone", "prompt": "one question"}]


def _inputs(folder: Path, **workload: Any) -> TrialInputs:
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    fields = {"prompts": "chats.jsonl", "chat": True, "conversations": {}} | workload
    scenario = {"name": "s", "space": [{"engine": "attach"}], "workload": fields}
    return read_inputs(resolve(Scenario.model_validate(scenario), folder / "s.yaml"))


def test_each_question_is_a_turn_with_the_recorded_history(tmp_path: Path) -> None:
    first, *_, alone = _inputs(tmp_path).conversations
    assert [turn.prompt_id for turn in first] == ["c0#1", "c0#2"]
    assert [len(turn.messages) for turn in first] == [2, 4]
    assert first[1].messages[2:] == (("assistant", "answer 0"), ("user", "second 0"))
    assert [turn.turns for turn in alone] == [(("user", "one question"),)]


def test_turns_are_rendered_by_the_template_of_a_known_model(tmp_path: Path) -> None:
    inputs = _inputs(tmp_path)
    resolved = resolve(inputs.scenario, tmp_path / "s.yaml")
    (_, second), *_ = conversations_of(resolved, BUNDLED_DECODER, prompts_of(resolved, None))
    messages = [{"role": role, "content": content} for role, content in second.messages]
    assert second.rendered == ChatTemplate.load(BUNDLED_DECODER).render(messages)


def test_a_plan_holds_whole_conversations_until_it_has_its_requests(tmp_path: Path) -> None:
    texts = RequestTexts(_inputs(tmp_path, lengths={"output": 3}))
    plan = texts.filled(plan_of("http://h", requests=14, seed=3), None)
    assert len(plan.turns) == len(plan.follows) == len(plan.output_lengths) == 14
    for seq, before in enumerate(plan.follows):
        conversation, number = plan.turns[seq].prompt_id.partition("#")[::2]
        assert (before == NO_TURN) == (number == "1")
        assert before == NO_TURN or plan.turns[before].prompt_id == f"{conversation}#1"
    assert {turn.prompt_id for turn in plan.turns[:9]} == {f"c{n}#{k}" for n in range(4) for k in (1, 2)} | {"alone#1"}
    assert texts.filled(plan_of("http://h", requests=14, seed=3), None) == plan
    assert texts.filled(plan_of("http://h", requests=14, seed=4), None).turns != plan.turns
    assert 0.2 < (plan.unlimited_hit_frac or 0) < 0.9


@pytest.mark.heavy
@pytest.mark.parametrize("processes", [1, 2])
def test_a_user_sends_the_turns_of_a_conversation_in_order_after_a_think_time(tmp_path: Path, processes: int) -> None:
    def answer(odd: Odd, body: dict[str, Any]) -> None:
        choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
        usage = {"prompt_tokens": len(body["messages"]), "completion_tokens": 1}
        odd.answer(json.dumps({"choices": [choice], "usage": usage}).encode())

    with odd_server(answer) as url:
        plan = plan_of(url, protocol="openai-chat", requests=18, users=3, think_time_s=0.05, processes=processes)
        plan = RequestTexts(_inputs(tmp_path)).filled(plan, None)
        records = {record.seq: record for record in measured_of(run_load(plan, tmp_path))}
    assert sorted(records) == list(range(18))
    for seq, before in enumerate(plan.follows):
        assert records[seq].prompt_ids == (plan.turns[seq].prompt_id,)
        assert records[seq].input_tokens == len(plan.turns[seq].turns)
        if before != NO_TURN:
            assert records[seq].user == records[before].user
            assert records[seq].intended_ns >= records[before].done_ns + 50_000_000


@pytest.mark.parametrize(
    ("workload", "problem"),
    [
        ({"chat": False}, "expected chat: true beside conversations"),
        ({"load": {"kind": "poisson", "rate_rps": 1.0}}, "load.kind: closed beside conversations, got 'poisson'"),
        ({"lengths": {"input": 9}}, "expected no lengths.input beside conversations"),
        (
            {"conversations": {"history": "own"}},
            "a history: one of recorded, got 'own'; the answers of the server itself",
        ),
    ],
)
def test_conversations_without_turns_of_their_kind_are_refused(
    tmp_path: Path, workload: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        _inputs(tmp_path, **workload)

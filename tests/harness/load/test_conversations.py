"""Conversations of a prompts file in a closed loop: every question is sent, in its order, by one user."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from engines.api import Endpoint
from engines.models.chat_template import ChatTemplate, special_tokens
from engines.models.checkpoint.kind import template_text
from harness.errors import ScenarioError
from harness.load.plan import NO_TURN, LoadPlan, OwnHistory
from harness.load.prompts.own_history import OwnTurns, with_answers
from harness.records import Kept
from harness.scenario.resolve import BUNDLED_DECODER, resolve
from harness.scenario.schema import Scenario
from harness.space.chat import conversations_of, prompts_of
from harness.trial.endpoint_form import chat_facts
from harness.trial.inputs import TrialInputs, read_inputs
from harness.trial.request_texts import RequestTexts
from harness.wording import chat_text
from tests.harness.load.odd_server import Odd, odd_server
from tests.harness.load.plans import measured_of, plan_of, run_load
from tests.harness.trial.planned import planned

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


def _inputs(folder: Path, *, is_written: bool = True, **workload: Any) -> TrialInputs:
    if is_written:
        (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    fields = {"prompts": "chats.jsonl", "chat": True, "conversations": {}} | workload
    objective = {"metric": "throughput_rps", "goal": "maximize"}
    scenario = {"name": "s", "space": [{"engine": "attach"}], "workload": fields, "objectives": [objective]}
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


@pytest.mark.parametrize(
    ("load", "settings"),
    [
        ({"kind": "closed", "users": [1, 2, 3]}, {}),
        ({"kind": "closed", "users": [1, 2, 3]}, {"history": "own"}),
        ({"kind": "constant", "rate_rps": [5.0, 10.0, 20.0], "processes": 1}, {"at_once": 4}),
    ],
)
def test_each_load_of_a_launch_begins_other_conversations_and_each_launch_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, load: dict[str, Any], settings: dict[str, Any]
) -> None:
    inputs = _inputs(tmp_path, load=load, conversations=settings, requests=9)
    chats = tuple(
        tuple(replace(turn, prompt_id=f"{number}{turn.prompt_id}") for turn in turns)
        for number in range(4)
        for turns in inputs.conversations
    )
    inputs = replace(inputs, conversations=chats)
    plans = planned(inputs, monkeypatch)
    begun = [[turn.prompt_id.split("#")[0] for turn in plan.turns if turn.prompt_id.endswith("#1")] for plan in plans]
    assert len(plans) == 3
    assert all(len(plan.turns) == 9 for plan in plans)
    assert len({name for names in begun for name in names}) == sum(map(len, begun))
    assert [plan.turns for plan in planned(inputs, monkeypatch)] == [plan.turns for plan in plans]


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


def _counting(odd: Odd, body: dict[str, Any]) -> None:
    """Answers with the question and how many messages came before; fails every question that begins with 'first 2'."""
    *before, question = [message["content"] for message in body["messages"]]
    if question == "first 2":
        odd.answer(b"no", 500)
        return
    choice = {"index": 0, "message": {"content": f"{question}: {before[-1]}|{len(before)}"}, "finish_reason": "stop"}
    odd.answer(json.dumps({"choices": [choice], "usage": {"completion_tokens": 1}}).encode())


@pytest.mark.heavy
def test_in_an_open_loop_a_turn_waits_for_its_time_and_for_the_answer_before_it(tmp_path: Path) -> None:
    def answer(odd: Odd, body: dict[str, Any]) -> None:
        time.sleep(0.15 if body["messages"][-1]["content"] == "first 2" else 0.01)
        choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
        odd.answer(json.dumps({"choices": [choice], "usage": {"completion_tokens": 1}}).encode())

    settings = {"at_once": 3, "think_time_s": 0.05}
    inputs = _inputs(tmp_path, load={"kind": "constant", "rate_rps": 25.0}, conversations=settings)
    offsets = tuple(range(0, 30 * 40_000_000, 40_000_000))
    with odd_server(answer) as url:
        plan = plan_of(url, protocol="openai-chat", offsets_ns=offsets, window_s=1.2, processes=2)
        plan = RequestTexts(inputs).filled(plan, None)
        result = run_load(plan, tmp_path)
    assert [before for before in plan.follows if before != NO_TURN]
    assert all(before in (NO_TURN, seq - 3) for seq, before in enumerate(plan.follows))
    records = {record.seq: record for record in measured_of(result)}
    assert sorted(records) == list(range(30))
    slipped = 0
    for seq, before in enumerate(plan.follows):
        assert records[seq].prompt_ids == (plan.turns[seq].prompt_id,)
        if before != NO_TURN:
            assert plan.turns[before].prompt_id.split("#")[0] == plan.turns[seq].prompt_id.split("#")[0]
            planned_ns = records[seq].planned_ns
            assert planned_ns == result.begin_ns + offsets[seq]
            assert records[seq].intended_ns == max(planned_ns, records[before].done_ns + 50_000_000)
            is_slow = plan.turns[before].prompt_id == "c2#1"
            slipped += records[seq].intended_ns > planned_ns
            assert not is_slow or records[seq].intended_ns >= planned_ns + 60_000_000
    assert slipped


@pytest.mark.heavy
@pytest.mark.parametrize("processes", [1, 2])
def test_own_answers_are_the_history_and_the_file_s_stays_where_a_turn_failed(tmp_path: Path, processes: int) -> None:
    with odd_server(_counting) as url:
        plan = plan_of(url, protocol="openai-chat", requests=18, users=3, processes=processes)
        plan = RequestTexts(_inputs(tmp_path, conversations={"history": "own"})).filled(plan, None)
        assert plan.own_history == OwnHistory()
        result = run_load(plan, tmp_path)
    failed = 0
    for record in measured_of(result):
        conversation, number = record.prompt_ids[0].split("#")
        if number == "1" or conversation == "alone":
            continue
        which = conversation[1:]
        failed += which == "2"
        answer = "answer 2" if which == "2" else f"first {which}: be brief|1"
        assert result.outputs[f"{record.seq}.0"] == f"second {which}: {answer}|3"
    assert failed
    assert 0.2 < (result.known_input_frac or 0) < 0.9


def test_own_answers_reach_a_known_model_s_template_and_the_file_s_first_messages_stay(tmp_path: Path) -> None:
    form = OwnHistory(template=template_text(BUNDLED_DECODER), special_tokens=special_tokens(BUNDLED_DECODER))
    plan = plan_of("http://h", requests=9)
    plan = RequestTexts(replace(_inputs(tmp_path), own_history=form)).filled(plan, None)
    assert LoadPlan.from_json(plan.to_json()).own_history == form
    seq = next(seq for seq, turn in enumerate(plan.turns) if turn.prompt_id == "c1#2")
    turns = OwnTurns(plan)
    assert turns.turn(seq).messages == plan.turns[seq].messages, "not answered yet"
    turns.keep_answer(plan.follows[seq], "mine")
    turn = turns.turn(seq)
    assert turn.messages == (("system", "be brief"), ("user", "first 1"), ("assistant", "mine"), ("user", "second 1"))
    messages = [{"role": role, "content": content} for role, content in turn.messages]
    assert turn.rendered == ChatTemplate.load(BUNDLED_DECODER).render(messages)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (["x", "y"], "s u1 x u2 y u3"),
        ([None, "y"], "s u1 a1 b1 u2 y u3"),
        (["", None], "s u1  u2 u3"),
    ],
)
def test_each_question_but_the_last_gets_one_own_answer(own: list[str | None], expected: str) -> None:
    roles = {"s": "system", "u": "user", "a": "assistant", "b": "assistant"}
    messages = [(roles[word[0]], word) for word in ("s", "u1", "a1", "b1", "u2", "u3")]
    assert " ".join(content for _, content in with_answers(messages, own)) == expected


def test_what_a_server_keeps_is_all_up_to_its_last_answer(tmp_path: Path) -> None:
    plan = RequestTexts(_inputs(tmp_path, conversations={"history": "server"})).filled(plan_of("u", requests=9), None)
    assert LoadPlan.from_json(plan.to_json()).own_history == OwnHistory(is_kept=True)
    seq = next(seq for seq, turn in enumerate(plan.turns) if turn.prompt_id == "c1#2")
    turns = OwnTurns(plan)
    assert turns.turn(plan.follows[seq]).kept == Kept()
    assert turns.turn(seq).kept == Kept(), "the first question failed: all is sent"
    turns.keep_answer(plan.follows[seq], "mine", "r1")
    turn = turns.turn(seq)
    assert turn.kept == Kept(response_id="r1", messages=3)
    assert turn.messages[3:] == (("user", "second 1"),)
    assert [content for _, content in turn.messages[:3]] == ["be brief", "first 1", "mine"]


def test_a_tool_s_answer_is_a_turn_rendered_with_its_call_and_only_recorded(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": None, "tool_calls": [call, call]},
        *({"role": "tool", "tool_call_id": "c1", "content": str(n)} for n in range(2)),
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "thanks"},
    ]
    resolved = resolve(_inputs(tmp_path).scenario, tmp_path / "s.yaml")
    (tmp_path / "chats.jsonl").write_text(json.dumps({"id": "c", "messages": messages}) + "\n")
    (found,) = conversations_of(resolved, None, prompts_of(resolved, None))
    assert [turn.sent_messages for turn in found] == [messages[:1], messages[:4], messages]
    template = (
        "{% for m in messages %}{% for c in m.tool_calls %}{{ c.function.arguments.a + 1 }},{% endfor %}{% endfor %}"
    )
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED_DECODER, folder)
    (folder / "chat_template.jinja").write_text(template)
    ((one, two, _),) = conversations_of(resolved, folder, prompts_of(resolved, folder))
    assert (one.rendered, two.rendered) == ("", "2,2,")
    for history in ("own", "server"):
        what = rf"expected recorded beside tool calls.*got '{history}' and 'c' of"
        with pytest.raises(ScenarioError, match=what):
            _inputs(tmp_path, conversations={"history": history}, is_written=False)


@pytest.mark.parametrize(("history", "protocol"), [("own", "openai-chat"), ("server", "openai-responses")])
def test_own_history_is_not_raced_and_is_said(tmp_path: Path, history: str, protocol: str) -> None:
    scenario = _inputs(tmp_path, conversations={"history": history}).scenario
    assert scenario.why_not_raced == (
        "history: recorded, since own answers make each candidate's requests its own", f"history: {history}"
    )  # fmt: skip
    facts = chat_facts(Endpoint(url="http://h", protocol=protocol), scenario.workload, ())
    assert facts is not None
    assert chat_text(facts).endswith("requests differ between candidates, which are compared unpaired")


@pytest.mark.parametrize(
    ("workload", "problem"),
    [
        ({"chat": False}, "expected chat: true beside conversations"),
        (
            {"load": {"kind": "poisson", "rate_rps": 1.0}},
            "expected conversations.at_once beside an open loop, got null",
        ),
        (
            {"load": {"kind": "trace", "path": "t"}},
            "another load.kind beside conversations, got 'trace'; a trace names",
        ),
        (
            {"conversations": {"at_once": 2}},
            "neither at_once nor think_time_s in conversations beside load.kind closed",
        ),
        ({"lengths": {"input": 9}}, "expected no lengths.input beside conversations"),
        (
            {"conversations": {"history": "owm"}},
            "one of recorded, own, server, got 'owm'; did you mean 'own'",
        ),
    ],
)
def test_conversations_without_turns_of_their_kind_are_refused(
    tmp_path: Path, workload: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        _inputs(tmp_path, **workload)

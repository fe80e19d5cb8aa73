"""Conversations against a server with a known law: what turns carry, when they are due, what a stall costs.

In the closed loop and in the open one with so many at once, and with each history: the file's, the server's own, and
the one that the server keeps by id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.load.driver import LoadResult
from harness.load.plan import NO_TURN, LoadPlan
from harness.measure.summarize import summarize
from harness.records import RequestRecord, TrialSummary
from harness.scenario.resolve import resolve
from harness.scenario.schema import Scenario
from harness.trial.inputs import read_inputs
from harness.trial.request_texts import RequestTexts
from harness.units import NS_PER_MS
from tests.harness.load.odd_server import odd_server
from tests.harness.load.plans import measured_of, plan_of, run_load
from tests.harness.measure.records import use
from tests.truth.conversation_law import ConversationLaw, Law, Row

pytestmark = pytest.mark.heavy

CONVERSATIONS, TURNS = 4, 3
AT_ONCE = 2
"""Users of the closed loop, conversations in progress of the open one."""
THINK_MS, SERVICE_MS = 400, 450.0
GAP_MS = 700
"""Between the times of two turns of one conversation in the open loop: less than an answer and a think time."""
STALL_MS, QUICK_MS = 2_000.0, 50.0
NEAR = 0.1
"""Of the truth: quiet cores are 1 % off, two test processes on them 2 %. A think time or a slip taken for a part of an
answer, or left out, is a third and more."""
CASES = [
    ("own", "closed", False),
    ("own", "constant", True),
    ("server", "closed", True),
    ("server", "constant", False),
    ("recorded", "constant", False),
]
"""(history, kind of load, whether answers are streamed)."""


def question(conversation: int, turn: int) -> str:
    return f"c{conversation} asks {turn}"


def slow(question: str) -> float:
    return SERVICE_MS


@dataclass(kw_only=True)
class Ran:
    """One load. `rows` are the server's, by request number; a request that failed has none."""

    plan: LoadPlan
    result: LoadResult
    summary: TrialSummary
    rows: Mapping[int, Row]
    served: Mapping[str, Row]

    @property
    def records(self) -> dict[int, RequestRecord]:
        return {record.seq: record for record in measured_of(self.result)}

    @property
    def later(self) -> list[tuple[int, int]]:
        """(a turn, the one before it in its conversation)."""
        return [(seq, before) for seq, before in enumerate(self.plan.follows) if before != NO_TURN]

    def true_slip_ms(self, seq: int, before: int) -> float:
        """How far a turn is due behind its time, by when the server wrote the answer before it."""
        planned_ns = self.records[seq].planned_ns
        assert planned_ns is not None
        return max(0.0, (self.rows[before].wrote_ns - planned_ns) / NS_PER_MS + THINK_MS)

    def at(self, conversation: int, turn: int) -> int:
        """The request that asks this question."""
        prompt_id = f"c{conversation}#{turn + 1}"
        return next(seq for seq, prompt in enumerate(self.plan.turns) if prompt.prompt_id == prompt_id)


def _run(folder: Path, law: Law, history: str, kind: str, *, is_streamed: bool = False, processes: int = 1) -> Ran:
    rows = [_conversation(number) for number in range(CONVERSATIONS)]
    (folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    count, is_open = CONVERSATIONS * TURNS, kind != "closed"
    settings: dict[str, Any] = {"history": history}
    load: dict[str, Any] = {"kind": "closed", "users": AT_ONCE}
    fields: dict[str, Any] = {"users": AT_ONCE, "think_time_s": THINK_MS / 1e3}
    if is_open:
        settings |= {"at_once": AT_ONCE, "think_time_s": THINK_MS / 1e3}
        load = {"kind": kind, "rate_rps": AT_ONCE / GAP_MS * 1e3}
        offsets = tuple(seq * GAP_MS // AT_ONCE * NS_PER_MS for seq in range(count))
        fields = {"offsets_ns": offsets, "window_s": count * GAP_MS / AT_ONCE / 1e3}
    workload = {"prompts": "chats.jsonl", "chat": True, "conversations": settings, "load": load}
    scenario = Scenario.model_validate({"name": "s", "space": [{"engine": "attach"}], "workload": workload})
    server = ConversationLaw(law=law)
    with odd_server(server) as url:
        protocol = "openai-responses" if history == "server" else "openai-chat"
        plan = plan_of(
            url, protocol=protocol, requests=count, stream=is_streamed, processes=processes, warmup_requests=2, **fields
        )
        plan = RequestTexts(read_inputs(resolve(scenario, folder / "s.yaml"))).filled(plan, None)
        result = run_load(plan, folder)
    summary = summarize(
        result.records, result.begin_ns, result.end_ns, use(), load_s=1.0, is_open_loop=is_open,
        asked_rps=result.open_loop.asked_rps if result.open_loop else None,
    )  # fmt: skip
    answered = {seq: result.outputs.get(f"{seq}.0", "") for seq in range(count)}
    by_seq = {seq: server.rows[name] for seq, name in answered.items() if name}
    return Ran(plan=plan, result=result, summary=summary, rows=by_seq, served=server.rows)


def _conversation(number: int) -> dict[str, Any]:
    messages = [{"role": "system", "content": f"be c{number}"}]
    for turn in range(TURNS):
        messages.append({"role": "user", "content": question(number, turn)})
        messages.append({"role": "assistant", "content": f"file c{number} {turn}"})
    return {"id": f"c{number}", "messages": messages}


def _median_off(measured: list[float], truth: list[float]) -> float:
    """Median of how far they are from the truth, as a share of it."""
    return float(np.median(np.abs(np.array(measured) / np.array(truth) - 1)))


@pytest.mark.parametrize(("history", "kind", "is_streamed"), CASES)
def test_turns_carry_the_answers_before_them_and_wait_for_them(
    tmp_path: Path, history: str, kind: str, is_streamed: bool
) -> None:
    ran = _run(tmp_path, slow, history, kind, is_streamed=is_streamed)
    records = ran.records
    assert sorted(ran.rows) == sorted(records) == list(range(CONVERSATIONS * TURNS))
    assert len(ran.later) == CONVERSATIONS * (TURNS - 1)
    for seq, row in ran.rows.items():
        conversation, turn = (int(part) for part in ran.plan.turns[seq].prompt_id.removeprefix("c").split("#"))
        expected = [("system", f"be c{conversation}")]
        for earlier in range(turn - 1):
            answer = ran.rows[ran.at(conversation, earlier)].name
            expected.append(("user", question(conversation, earlier)))
            expected.append(("assistant", f"file c{conversation} {earlier}" if history == "recorded" else answer))
        expected.append(("user", question(conversation, turn - 1)))
        assert row.read == tuple(expected)
        assert records[seq].input_tokens == sum(len(text.split()) for _, text in expected)
    latencies = [records[seq].latency_ns / NS_PER_MS for seq in ran.rows]
    assert min(latencies) >= SERVICE_MS
    assert _median_off(latencies, [SERVICE_MS] * len(latencies)) < NEAR
    pauses = [(ran.rows[seq].came_ns - ran.rows[before].wrote_ns) / NS_PER_MS for seq, before in ran.later]
    assert min(pauses) > THINK_MS - 1
    assert _median_off(pauses, [THINK_MS] * len(pauses)) < NEAR, "a turn comes a think time after the answer before it"
    if kind == "closed":
        assert all(records[seq].user == records[before].user for seq, before in ran.later)
        return
    slips = [_slip_ms(records[seq]) for seq, _ in ran.later]
    assert _median_off(slips, [ran.true_slip_ms(seq, before) for seq, before in ran.later]) < NEAR
    behind = SERVICE_MS + THINK_MS - GAP_MS
    assert min(slips) >= behind - 1
    assert max(slips) >= (TURNS - 1) * behind - 1, "what a turn is late by is carried on"
    assert ran.summary.metrics["slip_late_frac"].value == 1


def _slip_ms(record: RequestRecord) -> float:
    assert record.planned_ns is not None
    return (record.intended_ns - record.planned_ns) / NS_PER_MS


@pytest.mark.parametrize("kind", ["closed", "constant"])
def test_a_kept_conversation_goes_on_from_its_last_answer_and_from_no_other_s(tmp_path: Path, kind: str) -> None:
    ran = _run(tmp_path, lambda question: QUICK_MS, "server", kind, processes=2)
    ids = {seq: row.name for seq, row in ran.rows.items()}
    previous = {seq: row.previous for seq, row in ran.rows.items()}
    assert previous == {seq: None if before == NO_TURN else ids[before] for seq, before in enumerate(ran.plan.follows)}
    used = [name for name in previous.values() if name is not None]
    assert len(used) == len(set(used)) == len(ran.later)
    for row in ran.rows.values():
        assert row.is_stored
        assert [role for role, _ in row.sent] == ["user"], "what the server keeps is not sent again"
    others = set(ran.served) - set(ids.values())
    assert others, "the warm-up"
    assert not any(ran.served[name].is_stored or ran.served[name].previous for name in others)


@pytest.mark.parametrize("history", ["own", "server"])
def test_a_stall_in_the_second_turn_is_slip_of_the_third(tmp_path: Path, history: str) -> None:
    ran = _run(
        tmp_path, lambda asked: STALL_MS if asked == question(2, 1) else QUICK_MS, history, "constant", is_streamed=True
    )
    slips = {seq: _slip_ms(ran.records[seq]) for seq, _ in ran.later}
    first, (stalled, third) = STALL_MS + THINK_MS - GAP_MS, (ran.at(2, 1), ran.at(2, 2))
    assert slips[third] == pytest.approx(ran.true_slip_ms(third, stalled), rel=NEAR)
    assert slips.pop(third) == pytest.approx(first, rel=0.1, abs=0)
    assert set(slips.values()) == {0.0}, "other conversations are not held up"
    assert ran.summary.metrics["slip_p99_ms"].value > 0.9 * first
    assert ran.summary.metrics["slip_late_frac"].value == pytest.approx(1 / len(ran.later))


@pytest.mark.parametrize("history", ["own", "server"])
def test_behind_a_turn_that_failed_the_file_s_answer_stands_and_the_conversation_goes_on(
    tmp_path: Path, history: str
) -> None:
    failing = {question(1, 1), question(3, 0)}
    ran = _run(tmp_path, lambda asked: -1.0 if asked in failing else QUICK_MS, history, "closed")
    failed = {ran.at(1, 1), ran.at(3, 0)}
    outcomes = {seq: record.outcome for seq, record in ran.records.items()}
    assert outcomes == {seq: "server_error" if seq in failed else "ok" for seq in range(CONVERSATIONS * TURNS)}
    first, third = ran.rows[ran.at(1, 0)], ran.rows[ran.at(1, 2)]
    middle = (("user", question(1, 1)), ("assistant", "file c1 1"))
    begun = (("system", "be c1"), ("user", question(1, 0)), ("assistant", first.name))
    assert third.read == (*begun, *middle, ("user", question(1, 2)))
    second, last = ran.rows[ran.at(3, 1)], ran.rows[ran.at(3, 2)]
    other = (("system", "be c3"), ("user", question(3, 0)), ("assistant", "file c3 0"), ("user", question(3, 1)))
    assert second.read == other
    assert last.read == (*other, ("assistant", second.name), ("user", question(3, 2)))
    if history == "server":
        assert (third.previous, second.previous, last.previous) == (first.name, None, second.name)
        assert third.sent == (*middle, ("user", question(1, 2)))

"""The open loop with real load processes: the schedule is kept, a stall is not forgiven, bounds hold and are told."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from engines.api import Dialect
from harness.errors import EnvironmentFault
from harness.load.ceiling.measure import UNCHECKED_RPS, Ceilings
from harness.load.driver import LoadState, drive
from harness.load.plan import LoadPlan
from harness.load.prompts.lengths import of_length, shaped, token_rates
from harness.load.prompts.prompts_file import read_prompts
from harness.load.schedule.arrivals import schedule_of
from harness.scenario.load_kinds import ConstantLoad, Open, PoissonLoad
from harness.scenario.resolve import BUNDLED_MODEL, BUNDLED_PROMPTS
from tests.harness.load.odd_server import Odd, echo, odd_server
from tests.harness.load.plans import PROMPTS, measured_of, plan_of, run_load


def _plan(url: str, load: Open, duration_s: float, **fields: Any) -> LoadPlan:
    schedule = schedule_of(load, requests=10**6, max_duration_s=duration_s, seed=5)
    values: dict[str, Any] = {
        "users": 1,
        "requests": 1,
        "max_duration_s": duration_s,
        "request_timeout_s": 20.0,
        "offsets_ns": schedule.offsets_ns,
        "window_s": schedule.duration_s,
        "max_in_flight": load.max_in_flight,
    }
    return plan_of(url, **{**values, **fields})


@pytest.mark.heavy
@pytest.mark.parametrize("processes", [1, 2])
def test_every_request_leaves_once_at_its_own_time(tmp_path: Path, processes: int) -> None:
    load = PoissonLoad(kind="poisson", rate_rps=100.0)
    states: list[LoadState] = []
    with odd_server(echo) as url:
        plan = _plan(url, load, 1.5, processes=processes)
        result = drive(plan, tmp_path, should_stop=lambda: None, on_progress=lambda done: None, on_state=states.append)
    measured = measured_of(result)
    assert [record.seq for record in measured] == list(range(len(plan.offsets_ns)))
    assert [record.intended_ns - result.begin_ns for record in measured] == list(plan.offsets_ns)
    assert {record.outcome for record in result.records} == {"ok"}
    assert all(record.sent_ns >= record.intended_ns for record in measured)
    assert np.median([record.sent_ns - record.intended_ns for record in measured]) < 20e6
    facts = result.open_loop
    assert facts is not None
    assert (facts.planned, facts.sent, facts.waited) == (len(measured), len(measured), 0)
    assert facts.asked_rps == pytest.approx(len(measured) / 1.5)
    assert len(result.client_busy_s) == result.processes == processes
    assert states[-1].done == len(measured)
    assert len([record for record in result.records if record.is_warmup]) == 4
    assert any(record.connect_ns is not None and record.connect_ns > 0 for record in result.records)


@pytest.mark.heavy
def test_a_stall_is_counted_against_every_request_that_was_due_in_it(tmp_path: Path) -> None:
    """The server freezes for one second at 50 requests/s: the 50 requests due in it wait 1 s, 0.98 s, ... A closed
    loop would have sent few of them and shown a handful of long ones."""
    frozen_ns: list[int] = []

    def freeze(odd: Odd, body: dict[str, Any]) -> None:
        if not frozen_ns and body["inputs"] == "text 7":
            frozen_ns.extend((time.monotonic_ns(), time.monotonic_ns() + 10**9))
        if frozen_ns and (left_ns := frozen_ns[1] - time.monotonic_ns()) > 0:
            time.sleep(left_ns / 1e9)
        echo(odd, body)

    with odd_server(freeze) as url:
        plan = _plan(url, ConstantLoad(kind="constant", rate_rps=50.0), 3.0, warmup_requests=0)
        result = run_load(plan, tmp_path)
    records = measured_of(result)
    assert len(records) == 150
    begin_ns, end_ns = frozen_ns
    due_in_it = [record for record in records if begin_ns <= record.intended_ns < end_ns]
    assert len(due_in_it) == 50
    for record in due_in_it:
        assert record.latency_ns >= end_ns - record.intended_ns, "the wait begins when it was due"
    sent_in_it = [record for record in due_in_it if record.sent_ns < end_ns]
    assert len(sent_in_it) > 25, "a closed loop would have waited for the first of them"


@pytest.mark.heavy
def test_requests_in_flight_never_exceed_the_bound_and_waiting_is_told_and_counted(tmp_path: Path) -> None:
    lock = threading.Lock()
    now = [0, 0]

    def slow(odd: Odd, body: dict[str, Any]) -> None:
        with lock:
            now[0] += 1
            now[1] = max(now)
        time.sleep(0.2)
        with lock:
            now[0] -= 1
        echo(odd, body)

    with odd_server(slow) as url:
        load = ConstantLoad(kind="constant", rate_rps=50.0, max_in_flight=3)
        result = run_load(_plan(url, load, 1.0, warmup_requests=0), tmp_path)
    measured = measured_of(result)
    assert len(measured) == 50
    assert now[1] <= 3
    assert result.open_loop is not None
    assert result.open_loop.peak_in_flight == 3
    assert result.open_loop.waited >= 30
    assert max(record.latency_ns for record in measured) > 1.5e9, "waiting for the bound counts from the intended send"


@pytest.mark.heavy
def test_a_request_that_could_not_be_sent_in_time_has_timed_out(tmp_path: Path) -> None:
    def stuck(odd: Odd, body: dict[str, Any]) -> None:
        time.sleep(3.0)
        odd.close_connection = True

    with odd_server(stuck) as url:
        load = ConstantLoad(kind="constant", rate_rps=10.0, max_in_flight=2)
        result = run_load(_plan(url, load, 1.0, warmup_requests=0, request_timeout_s=0.5), tmp_path)
    measured = measured_of(result)
    assert len(measured) == 10
    assert {record.outcome for record in measured} == {"timed_out"}
    assert result.open_loop is not None
    assert 2 <= result.open_loop.sent < 10
    assert any("not sent within 0.5 s" in record.error for record in measured)


@pytest.mark.heavy
def test_nobody_listening_is_an_outcome_of_every_request(tmp_path: Path) -> None:
    with odd_server(echo) as url:
        pass
    load = ConstantLoad(kind="constant", rate_rps=50.0)
    result = run_load(_plan(url, load, 0.4, warmup_requests=0), tmp_path)
    assert [record.outcome for record in measured_of(result)] == ["connection_failed"] * 20


@pytest.mark.heavy
def test_a_trace_sets_the_lengths_of_each_request(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def note(odd: Odd, body: dict[str, Any]) -> None:
        seen.append((len(body["inputs"].split()), body["parameters"]["max_new_tokens"]))
        echo(odd, body)

    with odd_server(note) as url:
        load = ConstantLoad(kind="constant", rate_rps=20.0)
        plan = _plan(
            url, load, 0.2, warmup_requests=0, input_lengths=(6, 2, 1, None), output_lengths=(9, None, 3, 8),
            tokens_per_word={prompt.prompt_id: 2.0 for prompt in PROMPTS},
        )  # fmt: skip
        run_load(plan, tmp_path)
    assert sorted(seen) == [(1, 3), (1, 4), (2, 8), (3, 9)]


@pytest.mark.heavy
def test_a_closed_loop_sends_the_texts_that_the_plan_cuts_from_its_corpus(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def note(odd: Odd, body: dict[str, Any]) -> None:
        seen.append((body["inputs"], body["parameters"]["max_new_tokens"]))
        echo(odd, body)

    with odd_server(note) as url:
        result = run_load(
            plan_of(
                url, users=1, requests=3, warmup_requests=1, input_lengths=(2, None, 1), output_lengths=(5,) * 3,
                corpus="a b c d", cuts=(((0, 1), (6, 7)), (), ((2, 5),)), warmup_cuts=(((4, 7),),), around=("<", ">"),
            ),
            tmp_path,
        )  # fmt: skip
    assert [text for text, _ in seen[:2]] == ["<c d>", "<a d>"]
    assert seen[2][0].startswith("text ")
    assert seen[3] == ("<b c>", 5)
    assert [record.prompt_ids for record in measured_of(result)][::2] == [("corpus-0",), ("corpus-2",)]
    assert [record.asked_input_tokens for record in measured_of(result)] == [2, None, 1]


def test_a_server_without_a_word_for_a_minimum_is_asked_for_the_most_alone() -> None:
    load = ConstantLoad(kind="constant", rate_rps=1.0)
    plan = _plan("http://h", load, 1.0, output_lengths=(6,), dialect=Dialect(exact_tokens="none"))
    assert shaped(plan, 0, PROMPTS[:1])[1] == {"max_new_tokens": 6}


def test_a_text_is_cut_or_repeated_to_its_words() -> None:
    assert of_length("a b c", 2) == "a b"
    assert of_length("a b c", 7) == "a b c a b c a"
    assert of_length("a  b", 2) == "a  b"
    assert of_length("a b", 0.2) == "a"


def test_asked_lengths_are_met_for_every_kind_of_prompt() -> None:
    """Words of the bundled tasks have 1.3 to 5 tokens: one rate for all gave a request up to 4.8 times too many."""
    tokenizer = Tokenizer.from_file(str(BUNDLED_MODEL / "tokenizer.json"))
    prompts = read_prompts(BUNDLED_PROMPTS)
    rates, end_tokens = token_rates(prompts, BUNDLED_MODEL)
    assert end_tokens == 1
    load = ConstantLoad(kind="constant", rate_rps=1.0)
    asked = 60
    plan = _plan("http://h", load, 1.0, input_lengths=(asked,) * len(prompts), tokens_per_word=rates, end_tokens=1)
    by_task: dict[str, list[int]] = {}
    for seq, prompt in enumerate(prompts):
        (cut,), _ = shaped(plan, seq, (prompt,))
        by_task.setdefault(prompt.task, []).append(len(tokenizer.encode(cut.text).ids))
    assert len(by_task) == 4
    for task, counts in by_task.items():
        assert abs(sum(counts) / len(counts) / asked - 1) < 0.05, (task, counts[:5])
        assert max(counts) < 1.5 * asked


def test_a_model_without_a_tokenizer_counts_words(tmp_path: Path) -> None:
    assert token_rates(PROMPTS, tmp_path) == ({}, 0)


def test_several_prompts_share_a_request_s_lengths() -> None:
    load = ConstantLoad(kind="constant", rate_rps=1.0)
    plan = _plan("http://h", load, 1.0, input_lengths=(8,), output_lengths=(6,))
    prompts, parameters = shaped(plan, 0, PROMPTS[:2])
    assert [len(prompt.text.split()) for prompt in prompts] == [4, 4]
    assert parameters == {"max_new_tokens": 3, "min_new_tokens": 3}


def test_processes_follow_from_the_ceiling_and_an_unreachable_rate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.load.ceiling.measure.measured_rps", lambda: 2000.0)
    monkeypatch.setattr("harness.load.ceiling.measure.os.sched_getaffinity", lambda pid: {0, 1, 2, 3})
    ceilings = Ceilings()
    assert [ceilings.processes_for(rate) for rate in (10.0, UNCHECKED_RPS, 900.0, 1500.0, 4000.0)] == [1, 1, 1, 2, 4]
    assert ceilings.processes_for(1e6, is_capped=True) == 4
    with pytest.raises(
        EnvironmentFault, match=r"10,000 requests in its busiest second; one load process reaches 2,000"
    ):
        ceilings.processes_for(10_000.0)


@pytest.mark.heavy
def test_the_client_s_own_ceiling_is_measured(tmp_path: Path) -> None:
    assert Ceilings().rps() > 300, "hundreds per second even on a busy machine"

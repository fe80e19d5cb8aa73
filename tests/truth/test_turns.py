"""Turns of conversations under an open loop: each waits for the answer before it, and a stall is seen in later ones."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.load.driver import LoadResult
from harness.load.plan import NO_TURN, LoadPlan
from harness.measure.summarize import summarize
from harness.records import RequestRecord, TrialSummary
from harness.units import NS_PER_MS, NS_PER_S
from tests.harness.load.odd_server import Odd, odd_server
from tests.harness.load.plans import measured_of, plan_of, run_load
from tests.harness.measure.records import use

CONVERSATIONS = 6
TURNS = 4
GAP_MS = 500
"""Between the turns of a conversation in the trace."""
THINK_MS = 100
SERVICE_MS = 50.0
STALL_MS = 2_000.0


class Turns:
    """Answers after `law(conversation, turn)` milliseconds, and notes when each turn came."""

    def __init__(self, law: Callable[[int, int], float]) -> None:
        self._law = law
        self.came_ns: dict[int, int] = {}
        self._lock = threading.Lock()

    def answer(self, odd: Odd, body: dict[str, Any]) -> None:
        """The text of a request is its number."""
        came_ns = time.monotonic_ns()
        seq = int(body["inputs"].removeprefix("s")) if body["inputs"].startswith("s") else None
        if seq is not None:
            with self._lock:
                self.came_ns[seq] = came_ns
            time.sleep(self._law(seq % CONVERSATIONS, seq // CONVERSATIONS) / 1e3)
        odd.answer(json.dumps([{"generated_text": "x"}]).encode(), x_dyno_tokens="1")


def _run(law: Callable[[int, int], float], folder: Path, processes: int) -> tuple[Turns, LoadResult, TrialSummary]:
    server = Turns(law)
    offsets = tuple(
        (turn * GAP_MS + conversation * 20) * NS_PER_MS
        for turn in range(TURNS)
        for conversation in range(CONVERSATIONS)
    )
    numbers = range(TURNS * CONVERSATIONS)
    corpus = " ".join(f"s{seq}" for seq in numbers)
    begins = [corpus.index(f"s{seq}") for seq in numbers]
    with odd_server(server.answer) as url:
        plan: LoadPlan = plan_of(
            url,
            offsets_ns=offsets,
            follows=tuple(seq - CONVERSATIONS if seq >= CONVERSATIONS else NO_TURN for seq in numbers),
            window_s=offsets[-1] / NS_PER_S,
            think_time_s=THINK_MS / 1e3,
            corpus=corpus,
            cuts=tuple(((begin, begin + len(f"s{seq}")),) for seq, begin in zip(numbers, begins, strict=True)),
            processes=processes,
        )
        result = run_load(plan, folder)
    summary = summarize(
        result.records, result.begin_ns, result.end_ns, use(), load_s=1.0, is_open_loop=True,
        asked_rps=result.open_loop.asked_rps if result.open_loop else None,
    )  # fmt: skip
    return server, result, summary


def _by_seq(result: LoadResult) -> dict[int, RequestRecord]:
    return {record.seq: record for record in measured_of(result)}


@pytest.mark.parametrize("processes", [1, 2])
def test_turns_of_a_fast_server_keep_the_times_of_the_trace(tmp_path: Path, processes: int) -> None:
    _, result, summary = _run(lambda conversation, turn: SERVICE_MS, tmp_path, processes)
    records = _by_seq(result)
    assert sorted(records) == list(range(TURNS * CONVERSATIONS))
    assert summary.metrics["slip_p50_ms"].value == summary.metrics["slip_p99_ms"].value == 0
    assert summary.metrics["slip_late_frac"].value == 0
    assert summary.metrics["slip_p50_ms"].n == (TURNS - 1) * CONVERSATIONS
    assert "late_turns" not in summary.distrust_kinds
    waits = [record.sent_ns - record.intended_ns for record in records.values()]
    assert float(np.median(waits)) < 5 * NS_PER_MS


def test_a_turn_is_due_a_think_time_after_the_answer_before_it_where_that_is_later(tmp_path: Path) -> None:
    """Every answer takes 600 ms, the trace's gap is 500 ms: each later turn is 200 ms later behind its time."""
    server, result, summary = _run(lambda conversation, turn: 600.0, tmp_path, 1)
    records = _by_seq(result)
    for seq, record in records.items():
        turn = seq // CONVERSATIONS
        if turn == 0:
            assert record.planned_ns is None
            continue
        before = records[seq - CONVERSATIONS]
        assert record.planned_ns is not None
        assert record.intended_ns == max(record.planned_ns, before.done_ns + THINK_MS * NS_PER_MS)
        pause_ms = (server.came_ns[seq] - before.done_ns) / NS_PER_MS
        assert pause_ms == pytest.approx(THINK_MS, rel=0.02, abs=25), "at the server, on a machine that may be busy"
        slip_ms = (record.intended_ns - record.planned_ns) / NS_PER_MS
        assert slip_ms == pytest.approx(200 * turn, rel=0.02, abs=60)
    latencies = [record.latency_ns / NS_PER_MS for record in records.values()]
    assert float(np.median(latencies)) == pytest.approx(600, rel=0.02, abs=10)
    assert summary.metrics["slip_late_frac"].value == 1
    assert "late_turns" in summary.distrust_kinds


def test_a_stall_in_the_second_turn_is_seen_as_slip_of_the_later_ones(tmp_path: Path) -> None:
    def law(conversation: int, turn: int) -> float:
        return STALL_MS if (conversation, turn) == (2, 1) else SERVICE_MS

    _, result, summary = _run(law, tmp_path, 1)
    records = _by_seq(result)
    slips = {
        (seq % CONVERSATIONS, seq // CONVERSATIONS): (record.intended_ns - record.planned_ns) / NS_PER_MS
        for seq, record in records.items()
        if record.planned_ns is not None
    }
    first = STALL_MS + THINK_MS - GAP_MS
    assert slips.pop((2, 2)) == pytest.approx(first, rel=0.02, abs=25)
    assert slips.pop((2, 3)) == pytest.approx(first + SERVICE_MS + THINK_MS - GAP_MS, rel=0.02, abs=40)
    assert set(slips.values()) == {0.0}, "other conversations are not held up"
    assert summary.metrics["slip_p99_ms"].value == pytest.approx(first, rel=0.05)
    assert summary.metrics["slip_late_frac"].value == pytest.approx(2 / ((TURNS - 1) * CONVERSATIONS))
    (why,) = [doubt.sentence for doubt in summary.doubts if doubt.kind == "late_turns"]
    assert why.startswith("the engine kept ")
    assert "2 of 18 turns were due later than there" in why


def test_a_turn_follows_one_that_failed(tmp_path: Path) -> None:
    def law(conversation: int, turn: int) -> float:
        if (conversation, turn) == (0, 1):
            raise ConnectionResetError
        return SERVICE_MS

    _, result, _ = _run(law, tmp_path, 1)
    records = _by_seq(result)
    assert records[CONVERSATIONS].outcome != "ok"
    assert records[2 * CONVERSATIONS].outcome == "ok"
    assert len(records) == TURNS * CONVERSATIONS

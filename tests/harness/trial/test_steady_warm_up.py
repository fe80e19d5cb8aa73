"""A server whose times drift at first is warmed up until they are steady, and no longer than it may."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from engines.api import EngineFacts, RunningEngine
from harness.load.driver import LoadResult
from harness.load.plan import LoadPlan
from harness.load.served_model import UNKNOWN
from harness.records import RequestRecord
from harness.scenario.load_kinds import ClosedLoad, ConstantLoad, Load
from harness.trial import steady_warm_up as module
from harness.trial.progress import Lines
from harness.trial.steady_warm_up import MOST_S, steady_warm_up

PLAN = LoadPlan(
    endpoint_url="http://127.0.0.1:1/", protocol="djl", model_name="m", prompts=(), inputs_per_request=1,
    parameters={}, users=4, think_time_s=0.0, warmup_requests=16, requests=200, max_duration_s=15.0,
    request_timeout_s=60.0, stream=False, seed=0,
)  # fmt: skip


class _Engine:
    """Runs, and says whether it is slow to warm."""

    def __init__(self, *, is_slow: bool) -> None:
        self.facts = EngineFacts(effective_dtype="fp32", versions={}, load_s=0.0, is_slow_to_warm=is_slow)

    def failure(self) -> None:
        return None


class _Server:
    """In place of a load: latencies by `law` of how many requests came before, on a clock that they move."""

    def __init__(self, law: Callable[[int], float]) -> None:
        self.law, self.sent, self.now_s, self.plans = law, 0, 0.0, list[LoadPlan]()
        self.noise = np.random.default_rng(3)

    def drive(self, plan: LoadPlan, workdir: Path, **rest: Any) -> LoadResult:
        self.plans.append(plan)
        begin_s, records = self.now_s, []
        for seq in range(plan.requests):
            if self.now_s - begin_s >= plan.max_duration_s:
                break
            latency_s = self.law(self.sent) / 1e3 * float(self.noise.lognormal(0.0, 0.02))
            records.append(_record(seq, self.now_s, latency_s))
            self.sent, self.now_s = self.sent + 1, self.now_s + latency_s / plan.users
        return LoadResult(records=tuple(records), outputs={}, begin_ns=0, end_ns=1, client_cpu_s=0.0)


def _record(seq: int, at_s: float, latency_s: float) -> RequestRecord:
    sent_ns = int(at_s * 1e9)
    return RequestRecord(
        seq=seq, user=0, prompt_ids=(), intended_ns=sent_ns, sent_ns=sent_ns, first_token_ns=None,
        done_ns=sent_ns + int(latency_s * 1e9), outcome="ok", status_code=200, input_tokens=None, output_tokens=None,
        output_ids=(), is_warmup=False,
    )  # fmt: skip


def _warmed(
    monkeypatch: pytest.MonkeyPatch,
    law: Callable[[int], float],
    load: Load | None = None,
    plan: LoadPlan = PLAN,
    *,
    is_slow: bool = True,
) -> tuple[tuple[str, ...], _Server]:
    server = _Server(law)
    monkeypatch.setattr(module, "drive", server.drive)
    engine = cast(RunningEngine, _Engine(is_slow=is_slow))
    progress = Lines(lambda line: None)
    asked = load or ClosedLoad()
    return steady_warm_up(
        plan, engine, Path("/x"), progress, asked, hosts=None, model=UNKNOWN, now_s=lambda: server.now_s
    ), server


def _compiling(sent: int) -> float:
    """A virtual machine: 40 ms at first, 10 ms once what runs has been compiled."""
    return 10.0 + 30.0 * float(np.exp(-sent / 150))


def test_an_engine_that_does_not_drift_is_not_kept_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, server = _warmed(monkeypatch, _compiling, is_slow=False)
    assert (notes, server.plans) == ((), [])


def test_rounds_grow_until_one_is_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, server = _warmed(monkeypatch, _compiling)
    counts = [plan.requests for plan in server.plans]
    assert counts == [120 * 2 ** max(0, number - 1) for number in range(len(counts))]
    assert len(counts) >= 3, "the drift was seen"
    assert _compiling(server.sent - counts[-1]) < 1.15 * _compiling(server.sent), "the last round hardly drifts"
    assert notes == (
        f"warm-up lasted until latencies were steady: {server.sent} requests in {len(counts)} round(s), "
        f"{server.now_s:.1f} s",
    )
    assert {(plan.users, plan.warmup_requests) for plan in server.plans} == {(4, 0)}


def test_a_steady_server_takes_one_round_of_a_quarter_of_the_measured_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    _, server = _warmed(monkeypatch, lambda sent: 10.0, plan=_with(requests=2000))
    assert [plan.requests for plan in server.plans] == [500]


def test_no_round_has_more_requests_than_have_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    _, server = _warmed(monkeypatch, _compiling, plan=_with(requests=150, input_lengths=(8,) * 150))
    assert [plan.requests for plan in server.plans][:3] == [120, 120, 150]


def test_a_server_that_never_becomes_steady_is_measured_after_the_longest_warm_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes, server = _warmed(monkeypatch, lambda sent: 50.0 + 0.1 * sent)
    assert MOST_S <= server.now_s < MOST_S + 2.0
    assert notes[0].startswith("warm-up lasted 60 s without becoming steady: ")


def test_a_slow_server_has_too_few_requests_to_be_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, server = _warmed(monkeypatch, lambda sent: 5000.0)
    assert MOST_S <= server.now_s < MOST_S + 15.0
    assert re.match(r"warm-up lasted 60 s with too few requests to judge by: (48|49|50) requests", notes[0])


def test_a_load_that_is_measured_by_time_is_warmed_up_by_a_share_of_that_time(monkeypatch: pytest.MonkeyPatch) -> None:
    notes, server = _warmed(monkeypatch, lambda sent: 20.0, plan=_with(requests=20_000, max_duration_s=5.0))
    assert [plan.max_duration_s for plan in server.plans] == [1.25]
    assert "until latencies were steady: 2" in notes[0]


def test_a_schedule_is_warmed_up_by_its_first_users(monkeypatch: pytest.MonkeyPatch) -> None:
    load = ConstantLoad(kind="constant", rate_rps=5.0, max_in_flight=6)
    _, server = _warmed(monkeypatch, lambda sent: 10.0, load, _with(users=1))
    assert server.plans[0].users == 6
    notes, server = _warmed(monkeypatch, lambda sent: 10.0, plan=_with(locustfile="mine.py"))
    assert (len(notes), server.plans) == (1, [])
    assert "a locustfile decides the load" in notes[0]


def _with(**changes: Any) -> LoadPlan:
    return replace(PLAN, **changes)

"""A programmed server: slots, a KV cache and a queue by known rules, in simulated time, with its metrics page.

A request needs KV tokens for its prompt and for each token it has written. It is admitted, first come first served,
when a slot and the cache for its prompt are free. When the cache is full, the youngest request loses its place and
waits again, as in vLLM. A request beyond the queue's capacity is refused.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from engines.metrics_page import VLLM
from harness.measure.engine_metrics.read import read_metrics
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape
from harness.records import RequestRecord
from tests.harness.measure.records import request

STEP_S = 0.02
REFUSED_PAUSE_S = 0.5
"""A refused user of a closed loop asks again after it."""
NS = 1_000_000_000
PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="m"}} {running}.0
vllm:num_requests_waiting{{engine="0",model_name="m"}} {waiting}.0
vllm:kv_cache_usage_perc{{engine="0",model_name="m"}} {kv}
# TYPE vllm:num_preemptions_total counter
vllm:num_preemptions_total{{engine="0",model_name="m"}} {preemptions:e}
vllm:request_success_total{{engine="0",finished_reason="length",model_name="m"}} {served}.0
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The server (a token a step for each request that runs), and its load: `users` of a closed loop, or `rate_rps`."""

    slots: int
    kv_tokens: int
    queue: int = 1_000_000
    prompt_tokens: int = 100
    answer_tokens: int = 50
    users: int = 0
    rate_rps: float = 0.0
    duration_s: float = 20.0


@dataclass(slots=True, eq=False)
class Sequence:
    """One request on its way."""

    user: int
    sent_s: float
    wanted: int
    written: int = 0


@dataclass(slots=True)
class ProgrammedServer:
    """One run of a program."""

    program: Program
    chance: random.Random
    running: list[Sequence] = field(default_factory=list)
    waiting: list[Sequence] = field(default_factory=list)
    records: list[RequestRecord] = field(default_factory=list)
    scrapes: list[Scrape] = field(default_factory=list)
    due: list[tuple[float, int]] = field(default_factory=list)
    preemptions: int = 0

    def run(self) -> tuple[EngineMetrics, tuple[RequestRecord, ...], tuple[int, int]]:
        """What the server published, the requests, and the window."""
        program, next_s, step = self.program, 0.0, 0
        self.due = [(0.0, user) for user in range(program.users)]
        while (now_s := step * STEP_S) < program.duration_s:
            for at_s, user in [one for one in self.due if one[0] <= now_s]:
                self.due.remove((at_s, user))
                self._send(user, at_s)
            while program.rate_rps and next_s <= now_s:
                self._send(0, next_s)
                next_s += self.chance.expovariate(program.rate_rps)
            self._compute(now_s)
            if step % round(1 / STEP_S) == 0:
                self._publish(now_s)
            step += 1
        window = (0, int(program.duration_s * NS))
        return EngineMetrics(scrapes=tuple(self.scrapes)), tuple(self.records), window

    @property
    def _used(self) -> int:
        return sum(self.program.prompt_tokens + one.written for one in self.running)

    def _send(self, user: int, at_s: float) -> None:
        wanted = max(1, round(self.program.answer_tokens * self.chance.uniform(0.7, 1.3)))
        sequence = Sequence(user, at_s, wanted)
        if len(self.waiting) >= self.program.queue:
            self._end(sequence, at_s + 0.001, "rejected")
        else:
            self.waiting.append(sequence)

    def _compute(self, now_s: float) -> None:
        program = self.program
        while self.waiting and len(self.running) < program.slots:
            needed = program.prompt_tokens + self.waiting[0].written
            if self._used + needed + len(self.running) > program.kv_tokens:
                break
            self.running.append(self.waiting.pop(0))
        while self._used + len(self.running) > program.kv_tokens:
            self.waiting.insert(0, self.running.pop())
            self.preemptions += 1
        for sequence in list(self.running):
            sequence.written += 1
            if sequence.written >= sequence.wanted:
                self.running.remove(sequence)
                self._end(sequence, now_s + STEP_S, "ok")

    def _end(self, sequence: Sequence, at_s: float, outcome: str) -> None:
        latency_ms = 1e3 * (at_s - sequence.sent_s)
        seq = len(self.records)
        of = {"user": sequence.user, "outcome": outcome, "output_tokens": sequence.written}
        self.records.append(request(seq, 1e3 * sequence.sent_s, latency_ms, **of))
        if self.program.users:
            self.due.append((at_s + (REFUSED_PAUSE_S if outcome == "rejected" else 0.0), sequence.user))

    def _publish(self, now_s: float) -> None:
        page = PAGE.format(
            running=len(self.running),
            waiting=len(self.waiting),
            kv=self._used / self.program.kv_tokens,
            preemptions=self.preemptions,
            served=sum(record.outcome == "ok" for record in self.records),
        )
        values = read_metrics(page.encode(), VLLM)
        self.scrapes.append(Scrape(at_ns=int(now_s * NS), took_ns=2_000_000, values=values))

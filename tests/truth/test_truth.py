"""A law goes in, the same law must come out: the real load processes against a server that logs its own true times.

The bounds hold on a loaded 2-core machine; how small the error is on a quiet one is a matter for the benches.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from harness.load.driver import LoadResult, drive
from harness.load.plan import LoadPlan
from harness.measure.machine.sampler import ResourceSampler
from harness.measure.summarize import summarize
from harness.records import Prompt, TrialSummary

WARMUP = 10
PROMPTS = tuple(Prompt(prompt_id=f"p{n}", task="t", text=f"text {n}", reference=None) for n in range(20))


@dataclass(slots=True)
class TruthServer:
    """The server's address and process; after it ended, [N, 3] times in ns: receipt, first write, last write."""

    url: str
    pid: int
    log: npt.NDArray[np.int64]

    def true_ms(self) -> npt.NDArray[np.float64]:
        """Service time of every measured request, in order of arrival."""
        return (self.log[WARMUP:, 2] - self.log[WARMUP:, 0]) / 1e6

    def true_first_ms(self) -> npt.NDArray[np.float64]:
        """Time to the first write of every measured request."""
        return (self.log[WARMUP:, 1] - self.log[WARMUP:, 0]) / 1e6


@contextmanager
def truth_server(law: str, folder: Path) -> Iterator[TruthServer]:
    """The server of `server.py`, running inside the context; its log is filled in when the context ends."""
    log = folder / "truth.log"
    argv = [sys.executable, str(Path(__file__).with_name("server.py")), law, "1", str(log), str(WARMUP)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        server = TruthServer(
            url=f"http://127.0.0.1:{int(process.stdout.readline())}", pid=process.pid, log=np.zeros((0, 3), np.int64)
        )
        try:
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    server.log = np.loadtxt(log, dtype=np.int64, ndmin=2)


def _measure(law: str, folder: Path, users: int, requests: int) -> tuple[LoadResult, TrialSummary, TruthServer]:
    with truth_server(law, folder) as server:
        plan = LoadPlan(
            endpoint_url=server.url,
            protocol="djl",
            model_name="m",
            prompts=PROMPTS,
            inputs_per_request=1,
            parameters={},
            users=users,
            think_time_s=0.0,
            warmup_requests=WARMUP,
            requests=requests,
            max_duration_s=60.0,
            request_timeout_s=30.0,
            stream=law.startswith("tokens:"),
            seed=0,
        )
        with ResourceSampler(lambda: (server.pid,)) as sampler:
            result = drive(plan, folder, should_stop=lambda: None, on_progress=lambda done: None)
    use = sampler.use(result.begin_ns, result.end_ns, result.client_cpu_s)
    summary = summarize(result.records, result.begin_ns, result.end_ns, use, load_s=0.0)
    return result, summary, server


def _right_or_distrusted(errors: Callable[[Path], tuple[list[str], TrialSummary]], folder: Path) -> None:
    """What the tool promises: the numbers are right, or they come with a reason to distrust them.

    A disturbed machine only ever adds time, so one try of three without an error proves that the generator adds none.
    If all three fail, the summary must have said that other processes took more than half of the machine.
    """
    for attempt in range(3):
        (folder / str(attempt)).mkdir()
        found, summary = errors(folder / str(attempt))
        if not found:
            return
    other_frac = summary.metrics["cpu_frac_other"].value
    is_distrusted = "other_cpu" in summary.distrust_kinds
    assert is_distrusted, f"in each of three tries; in the last one: {'; '.join(found)}"
    assert other_frac > 0.5, f"others used {other_frac:.0%}, and yet: {'; '.join(found)}"


@pytest.mark.parametrize("law", ["constant:20", "lognormal:20:0.6"])
def test_the_law_comes_back(law: str, tmp_path: Path) -> None:
    def errors(folder: Path) -> tuple[list[str], TrialSummary]:
        _, summary, server = _measure(law, folder, users=4, requests=200)
        assert len(server.true_ms()) == 200
        assert summary.metrics["error_frac"].value == 0.0
        found = []
        for name, q, allowed_ms in (("latency_p50_ms", 0.5, 5.0), ("latency_p90_ms", 0.9, 12.0)):
            metric, truth_ms = summary.metrics[name], float(np.quantile(server.true_ms(), q))
            assert metric.value >= truth_ms - 0.001
            if metric.value > truth_ms + allowed_ms:
                found.append(f"{name} is {metric.value - truth_ms:.2f} ms too long")
            if metric.low is None or metric.high is None:  # other work makes samples depend on each other: fewer count
                found.append(f"{name} has no interval on both sides: {metric.note}")
            elif not metric.low - allowed_ms <= truth_ms <= metric.high:
                found.append(f"{name}: the truth {truth_ms:.2f} is outside [{metric.low:.2f}, {metric.high:.2f}]")
        return found, summary

    _right_or_distrusted(errors, tmp_path)


def test_no_latency_is_shorter_than_the_truth(tmp_path: Path) -> None:
    result, _, server = _measure("lognormal:10:0.6", tmp_path, users=3, requests=150)
    seen = np.sort([record.latency_ns for record in result.records if not record.is_warmup]) / 1e6
    assert np.all(seen >= np.sort(server.true_ms()) - 0.001)


def test_throughput_agrees_with_what_the_server_counted(tmp_path: Path) -> None:
    def errors(folder: Path) -> tuple[list[str], TrialSummary]:
        result, summary, server = _measure("constant:20", folder, users=4, requests=240)
        written = np.sort(server.log[WARMUP:, 2])
        served_rps = (len(written) - 4) / ((written[-5] - result.begin_ns) / 1e9)
        rate = summary.metrics["throughput_rps"].value
        assert rate <= 4 / 0.020
        is_right = abs(rate / served_rps - 1) <= 0.05
        return [] if is_right else [f"{rate:.1f} requests/s, the server wrote {served_rps:.1f}"], summary

    _right_or_distrusted(errors, tmp_path)


def test_a_stall_is_seen_by_every_user_it_held(tmp_path: Path) -> None:
    """A closed loop sends nothing more while it waits: each of 4 users sees the 1 s stall once, so the maximum tells
    and p50 does not. That is what a closed loop can know (omission is avoided only by an open loop)."""
    result, summary, server = _measure("stall:10:0.5:1.0", tmp_path, users=4, requests=300)
    long_ns = [record.latency_ns for record in result.records if not record.is_warmup and record.latency_ns > 500e6]
    assert len(long_ns) == 4
    true_max = float(server.true_ms().max())
    assert summary.metrics["latency_max_ms"].value == pytest.approx(true_max, abs=100.0)
    assert summary.metrics["latency_p50_ms"].value < 100.0


def test_the_first_token_and_the_gaps_between_tokens_come_back(tmp_path: Path) -> None:
    def errors(folder: Path) -> tuple[list[str], TrialSummary]:
        result, summary, server = _measure("tokens:40:10:8", folder, users=2, requests=60)
        measured = [record for record in result.records if not record.is_warmup]
        assert {len(record.token_ns) for record in measured} == {8}
        first_ms = summary.metrics["ttft_p50_ms"].value - float(np.median(server.true_first_ms()))
        assert first_ms >= -0.001
        spans_ms = np.median([(record.token_ns[-1] - record.token_ns[0]) / 1e6 for record in measured])
        span_ms = float(spans_ms - np.median(server.true_ms() - server.true_first_ms()) * 7 / 8)
        found = [f"first token {first_ms:.2f} ms too late"] if first_ms > 5.0 else []
        found += [f"seven gaps together off by {span_ms:.2f} ms"] if abs(span_ms) > 8.0 else []
        return found, summary

    _right_or_distrusted(errors, tmp_path)

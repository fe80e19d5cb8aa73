"""The bench of the truth tests: a C server with a programmed law, a probe of the machine, and the real load generator.

The server logs when each request arrived and when it was answered: that is the truth. The probe sleeps a millisecond
again and again while the load runs and logs how late it woke: what the machine, not the generator, adds to a latency.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engines.processes.temp_folders import fresh_path, hold
from harness.load.driver import LoadResult, drive
from harness.load.plan import LoadPlan
from harness.measure.machine.sampler import ResourceSampler, ResourceUse
from harness.measure.summarize import summarize
from harness.records import Prompt, RequestRecord, TrialSummary
from harness.units import NS_PER_MS, NS_PER_S

WARMUP = 8
TRIES = 3
QUIET_MS = 0.5
"""99.9th percentile of the probe's lateness (its worst few wake-ups of a run) on a machine whose cores are free."""
PROMPTS = tuple(Prompt(prompt_id=f"p{n}", task="t", text=f"text {n}", reference=None) for n in range(20))


@dataclass(frozen=True, kw_only=True)
class Law:
    """Delays (ms) by order of arrival, statuses (200 for all if empty), a stall (from, to in s after the first measured
    request), `workers` that serve one request at a time (0: any number); for streams tokens, their gap and chunks."""

    delays_ms: Sequence[float]
    statuses: Sequence[int] = ()
    stall_s: tuple[float, float] = (0.0, 0.0)
    workers: int = 0
    tokens: int = 0
    each_ms: float = 0.0
    chunk: int = 1

    def write(self, path: Path) -> None:
        """As the server reads it; warm-up requests are answered like the first one."""
        stall = " ".join(str(int(at * NS_PER_S)) for at in self.stall_s)
        lines = [f"{stall} {self.workers} {self.tokens} {int(self.each_ms * NS_PER_MS)} {self.chunk}"]
        statuses = self.statuses or [200] * len(self.delays_ms)
        rows = [(self.delays_ms[0], 200)] * WARMUP + list(zip(self.delays_ms, statuses, strict=True))
        lines += [f"{int(delay_ms * NS_PER_MS)} {status}" for delay_ms, status in rows]
        path.write_text("\n".join(lines) + "\n")


@dataclass(kw_only=True)
class Measured:
    """One run: what the tool says, what the server logged ([N, 3] ns: receipt, first and last write), and the probe."""

    result: LoadResult
    summary: TrialSummary
    use: ResourceUse
    log: npt.NDArray[np.int64]
    late_ms: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))

    @property
    def records(self) -> list[RequestRecord]:
        """Measured requests by intended send."""
        return [record for record in self.result.records if not record.is_warmup]

    def true_ms(self, column: int = 2) -> npt.NDArray[np.float64]:
        """From receipt to the last (2) or first (1) write, of measured requests in order of arrival."""
        return (self.log[WARMUP:, column] - self.log[WARMUP:, 0]) / NS_PER_MS

    def value(self, name: str) -> float:
        """A metric's value."""
        return self.summary.metrics[name].value


@cache
def binary() -> Path:
    """The compiled server and probe."""
    if shutil.which("gcc") is None:
        pytest.skip("no gcc to compile the truth server with")
    folder = fresh_path("truth")
    hold(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    built = folder / "law_server"
    source = Path(__file__).with_name("law_server.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(built), str(source)], check=True)
    return built


@contextmanager
def _running(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([str(binary()), *arguments], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def measure(
    law: Law,
    folder: Path,
    *,
    offsets_s: Sequence[float] = (),
    users: int = 8,
    slo: dict[str, float] | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Measured:
    """Load the law: in an open loop at `offsets_s`, else in a closed one with `users` until every delay is used up.
    `on_progress` is called with the requests done while the load runs."""
    law.write(folder / "law.txt")
    log, late = folder / "server.log", folder / "probe.log"
    with _running("serve", str(folder / "law.txt"), str(log), str(WARMUP)) as server, _running("probe", str(late)):
        assert server.stdout is not None
        plan = _plan(f"http://127.0.0.1:{int(server.stdout.readline())}", law, offsets_s, users)
        with ResourceSampler(lambda: (server.pid,)) as sampler:
            result = drive(plan, folder, should_stop=lambda: None, on_progress=on_progress)
    use = sampler.use(result.begin_ns, result.end_ns, result.client_cpu_s, result.processes)
    asked = result.open_loop.asked_rps if result.open_loop else None
    summary = summarize(
        result.records,
        result.begin_ns,
        result.end_ns,
        use,
        load_s=0.0,
        slo=slo,
        asked_rps=asked,
        is_open_loop=bool(offsets_s),
    )
    return Measured(
        result=result,
        summary=summary,
        use=use,
        log=np.loadtxt(log, dtype=np.int64, ndmin=2),
        late_ms=np.loadtxt(late, ndmin=1) / NS_PER_MS,
    )


def _plan(url: str, law: Law, offsets_s: Sequence[float], users: int) -> LoadPlan:
    gap_s = offsets_s[-1] / (len(offsets_s) - 1) if offsets_s else 0.0
    return LoadPlan(
        endpoint_url=url,
        protocol="djl",
        model_name="m",
        prompts=PROMPTS,
        inputs_per_request=1,
        parameters={},
        users=users,
        think_time_s=0.0,
        warmup_requests=WARMUP,
        requests=len(law.delays_ms),
        max_duration_s=60.0,
        request_timeout_s=30.0,
        stream=law.tokens > 0,
        seed=0,
        offsets_ns=tuple(int(offset_s * NS_PER_S) for offset_s in offsets_s),
        window_s=offsets_s[-1] + gap_s if offsets_s else 0.0,
    )


def even(rate_rps: float, n: int) -> list[float]:
    """`n` offsets (s) at an even rate."""
    return [k / rate_rps for k in range(n)]


def must_hold(check: Callable[[Path, float], tuple[list[str], Measured]], folder: Path) -> None:
    """`check(folder, allowed_ms)` gives what is wrong beyond `allowed_ms` of extra latency, and the run.

    The generator must be right on a quiet machine. When the probe, which does nothing but sleep, was itself woken late
    (other tests on the same cores), there are two more tries; the last one is granted what the probe measured as the
    machine's own lateness, and nothing else. Wrong on a quiet machine is wrong at once.
    """
    granted_ms = 0.0
    for attempt in range(TRIES):
        (folder / str(attempt)).mkdir()
        found, run = check(folder / str(attempt), granted_ms)
        if not found:
            return
        late_ms = float(np.quantile(run.late_ms, 0.999))
        assert late_ms > QUIET_MS, f"on a quiet machine (probe p99.9 {late_ms:.2f} ms late): {'; '.join(found)}"
        granted_ms = 0.0 if attempt < TRIES - 2 else 2 * late_ms
    raise AssertionError(f"in each of {TRIES} tries; in the last, with {granted_ms:.1f} ms granted: {'; '.join(found)}")

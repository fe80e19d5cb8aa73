"""Drives one load: starts the load processes, opens the measured window for all at once, reads their records back.

Locust lives in those processes only; this file never imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO

from harness.errors import EnvironmentFault, MeasurementInvalid
from harness.load.bodies import address_of
from harness.load.fired import read_fired, records_of
from harness.load.plan import BAD_LOCUSTFILE_STATUS, DISK_FULL_STATUS, NOBODY, START_USERS, LoadPlan
from harness.load.prompts import RequestOrder
from harness.load.raw import read_raw, record_of
from harness.records import RequestRecord
from harness.store.disk import disk_faults
from harness.units import NS_PER_S

POLL_S = 0.1
START_TIMEOUT_S = 180.0
"""For interpreter start and Locust's import (1 s on an idle core); a starved machine may take much longer."""
GO_DELAY_NS = 100_000_000
"""The window opens this long after the signal is sent, so that every process has it in time on a loaded machine too."""
GRACE_S = 30.0
"""Beyond max_duration_s plus one request timeout, a load process is considered hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoopFacts:
    """What the schedule asked for and what became of it.

    `asked_rps`: mean rate of the schedule over its `window_s`. `planned` requests were scheduled, `sent` ones left.
    `waited` found `max_in_flight` outstanding when they were due; `peak_in_flight` sums the processes' peaks.
    """

    asked_rps: float
    window_s: float
    planned: int
    sent: int
    max_in_flight: int
    peak_in_flight: int
    waited: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadState:
    """Now: measured requests done, and outstanding; seconds since the window opened. `asked`: due by now, 0 closed."""

    done: int
    in_flight: int
    asked: int
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadResult:
    """What came back. The measured window opens at `begin_ns` for all users and ends with the last measured answer,
    `end_ns`. `records` are sorted by intended send and hold the warm-up too, flagged.
    `outputs`: output id -> text, measured requests only. `client_cpu_s`: CPU of the load processes in the window.
    `stopped` is the reason when `should_stop` ended the load early; what was measured until then is kept.
    `client_busy_s`: CPU of each load process in the window. `open_loop`: facts of the schedule; None in a closed loop.
    `doubts`: what the load processes themselves say against the numbers.
    """

    records: tuple[RequestRecord, ...]
    outputs: Mapping[str, str]
    begin_ns: int
    end_ns: int
    client_cpu_s: float
    stopped: str = ""
    client_busy_s: tuple[float, ...] = ()
    open_loop: OpenLoopFacts | None = None
    doubts: tuple[str, ...] = ()

    @property
    def processes(self) -> int:
        """How many load processes there were."""
        return max(1, len(self.client_busy_s))


def drive(
    plan: LoadPlan,
    workdir: Path,
    *,
    should_stop: Callable[[], str | None],
    on_progress: Callable[[int], None],
    on_state: Callable[[LoadState], None] | None = None,
) -> LoadResult:
    """Run the plan and return its records; `on_progress` gets the number of measured requests done, `on_state` more.

    Files go to `workdir`/load. The load processes are ended whatever happens. Raises MeasurementInvalid when one of
    them crashed or hung, or nothing could be measured; EnvironmentFault when the disk is full; UsageError when the
    endpoint address cannot be used.
    """
    address_of(plan.endpoint_url, plan.protocol)
    users = min(plan.max_in_flight, len(plan.offsets_ns)) if plan.is_open_loop else plan.users
    plan = replace(plan, processes=max(1, min(plan.processes, users)))  # a process without a user has no work
    folder = workdir / "load"
    with disk_faults(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        plan.write(folder / "plan.json")
    with LoadProcesses(plan, folder) as processes:
        watch = _Watch(
            processes=processes, plan=plan, should_stop=should_stop, on_progress=on_progress, on_state=on_state
        )
        begin_ns, stopped = watch.run()
    result = _collect(plan, folder, begin_ns, processes, stopped)
    for leftover in (*folder.glob("raw-*.jsonl"), *folder.glob("tickets-*"), folder / "plan.json"):
        leftover.unlink(missing_ok=True)
    return result


class LoadProcesses:
    """The load processes, each leader of its own process group; leaving the context kills what still runs."""

    def __init__(self, plan: LoadPlan, folder: Path) -> None:
        self.count = plan.processes
        self._folder = folder
        self._children: list[subprocess.Popen[bytes]] = []
        self._selector = selectors.DefaultSelector()
        self._buffers: dict[int, bytes] = {}
        self.warm: set[int] = set()
        self.ended: set[int] = set()
        self.done: dict[int, int] = {}
        self.busy_s: dict[int, float] = {}
        self.pools: dict[int, tuple[int, int, int]] = {}
        self.doubts: list[str] = []

    def __enter__(self) -> LoadProcesses:
        try:
            for part in range(self.count):
                self._start(part)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            if child.poll() is None:  # a reaped child's group number may already be somebody else's
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        self._selector.close()

    def _start(self, part: int) -> None:
        argv = [sys.executable, "-P", "-m", "harness.load.locustfile"]  # -P: nothing of the working folder is imported
        argv += [str(self._folder / "plan.json"), str(self._folder), str(part), str(os.getpid())]
        with self._log(part).open("wb") as log:
            child = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=child_env(), process_group=0
            )
        self._children.append(child)
        assert child.stdout is not None
        self._selector.register(child.stdout, selectors.EVENT_READ, part)

    def _log(self, part: int) -> Path:
        return self._folder / f"process-{part}.log"

    def go(self, begin_ns: int) -> None:
        """Open the measured window at `begin_ns` in every process."""
        for child in self._children:
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # a dead process is reported by `check`
                child.stdin.write(f"go {begin_ns}\n".encode())
                child.stdin.flush()

    def listen(self, wait_s: float) -> None:
        """Take in what the processes said, for at most `wait_s`."""
        for key, _ in self._selector.select(wait_s):
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
            part = int(key.data)
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                self._selector.unregister(pipe)
                continue
            *lines, rest = (self._buffers.get(part, b"") + data).split(b"\n")
            self._buffers[part] = rest
            for line in lines:
                self._hear(part, line.decode("ascii", "replace"))

    def _hear(self, part: int, line: str) -> None:
        word, _, value = line.partition(" ")
        if word == "warm":
            self.warm.add(part)
        elif word == "done":
            self.done[part] = int(value)
        elif word == "end":
            self.ended.add(part)
            self.busy_s[part] = float(value)
        elif word == "pool":
            in_flight, peak, waited = (int(number) for number in value.split())
            self.pools[part] = (in_flight, peak, waited)
        elif word == "doubt":
            self.doubts.append(json.loads(value))

    def check(self) -> None:
        """Raise MeasurementInvalid when a process ended before its work was done."""
        for part, child in enumerate(self._children):
            code = child.poll()
            if code is not None and part not in self.ended:
                self.listen(0)  # its last words may still be in the pipe
                if code == DISK_FULL_STATUS:
                    raise EnvironmentFault(
                        f"{self._folder}: the disk filled up while load process {part} wrote its records; free some "
                        "space and run the same command again"
                    )
                if code == BAD_LOCUSTFILE_STATUS:
                    raise MeasurementInvalid(self._last_words(part, 1))
                if part not in self.ended:
                    raise MeasurementInvalid(
                        f"load process {part} ended early with exit status {code}; nothing measured by it can be "
                        f"trusted. Its last words: {self._last_words(part)}"
                    )

    def _last_words(self, part: int, count: int = 5) -> str:
        lines = self._log(part).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(lines[-count:]) or f"none (see {self._log(part)})"


@dataclass(slots=True, kw_only=True)
class _Watch:
    """Listens to the processes, the engine and the clock until the load is over."""

    processes: LoadProcesses
    plan: LoadPlan
    should_stop: Callable[[], str | None]
    on_progress: Callable[[int], None]
    on_state: Callable[[LoadState], None] | None
    begin_ns: int = 0

    def run(self) -> tuple[int, str]:
        """(when the window opened, why it was stopped early or '')."""
        count, plan = self.processes.count, self.plan
        users = min(plan.max_in_flight, count * START_USERS) if plan.is_open_loop else plan.users
        warmup_s = START_TIMEOUT_S + plan.warmup_requests * plan.request_timeout_s / users
        warmup_s += users / plan.spawn_per_s if plan.spawn_per_s else 0.0
        for reason in self._until(lambda: len(self.processes.warm) == count, warmup_s, "warm-up"):
            return time.monotonic_ns(), reason
        self.begin_ns = time.monotonic_ns() + GO_DELAY_NS
        self.processes.go(self.begin_ns)
        for reason in self._until(lambda: len(self.processes.ended) == count, self._load_s(), "load"):
            return self.begin_ns, reason
        self._tell()
        return self.begin_ns, ""

    def _load_s(self) -> float:
        plan = self.plan
        if plan.is_open_loop:  # the last request may wait one timeout to be sent, and one for its answer
            return plan.offsets_ns[-1] / NS_PER_S + 2 * plan.request_timeout_s + GRACE_S
        return plan.max_duration_s + plan.think_time_s + plan.request_timeout_s + GRACE_S

    def _tell(self) -> int:
        """Tell what is done; returns it."""
        done = sum(self.processes.done.values())
        self.on_progress(done)
        if self.on_state is not None and self.begin_ns:
            elapsed_ns = max(0, time.monotonic_ns() - self.begin_ns)
            self.on_state(
                LoadState(
                    done=done,
                    in_flight=sum(pool[0] for pool in self.processes.pools.values()),
                    asked=bisect_right(self.plan.offsets_ns, elapsed_ns),
                    elapsed_s=elapsed_ns / NS_PER_S,
                )
            )
        return done

    def _until(self, is_over: Callable[[], bool], limit_s: float, phase: str) -> Iterator[str]:
        """Yields the reason, once, when the engine says stop; ends silently when `is_over`."""
        deadline_ns = time.monotonic_ns() + int(limit_s * NS_PER_S)
        told = -1
        while not is_over():
            self.processes.listen(POLL_S)
            done = sum(self.processes.done.values())
            if done != told:
                told = self._tell()
            if (reason := self.should_stop()) is not None:
                yield reason
                return
            self.processes.check()
            if time.monotonic_ns() > deadline_ns:
                raise MeasurementInvalid(
                    f"load: the {phase} did not end within {limit_s:.0f} s, after {done} measured requests; the load "
                    "process hangs or the machine is starved. Look at load/process-*.log in the trial's log folder"
                )


def _collect(plan: LoadPlan, folder: Path, begin_ns: int, processes: LoadProcesses, stopped: str) -> LoadResult:
    records, outputs = _read(plan, folder)
    records.sort(key=lambda record: (record.intended_ns, record.seq))
    measured = [record for record in records if not record.is_warmup]
    if not measured and not stopped:
        raise MeasurementInvalid(
            f"load: not one measured request within max_duration_s = {plan.max_duration_s:g}; "
            "raise max_duration_s or lower think_time_s"
        )
    return LoadResult(
        records=tuple(records),
        outputs=outputs,
        begin_ns=begin_ns,
        end_ns=max((record.done_ns for record in measured), default=begin_ns),
        client_cpu_s=sum(processes.busy_s.values()),
        stopped=stopped,
        client_busy_s=tuple(busy_s for _, busy_s in sorted(processes.busy_s.items())),
        open_loop=_facts(plan, measured, processes) if plan.is_open_loop else None,
        doubts=tuple(processes.doubts),
    )


def _read(plan: LoadPlan, folder: Path) -> tuple[list[RequestRecord], dict[str, str]]:
    """Every record that the processes left, and the answers of measured requests by output id."""
    paths = sorted(folder.glob("raw-*.jsonl"))
    if plan.locustfile:
        return records_of([one for path in paths for one in read_fired(path)])
    order = RequestOrder(plan.prompts, plan.inputs_per_request, plan.seed)
    records: list[RequestRecord] = []
    outputs: dict[str, str] = {}
    for path in paths:
        for raw in read_raw(path):
            record, texts = record_of(raw, plan, order)
            records.append(record)
            outputs.update(texts)
    return records, outputs


def _facts(plan: LoadPlan, measured: list[RequestRecord], processes: LoadProcesses) -> OpenLoopFacts:
    window_s = plan.window_s or plan.offsets_ns[-1] / NS_PER_S
    return OpenLoopFacts(
        asked_rps=len(plan.offsets_ns) / window_s if window_s else 0.0,
        window_s=window_s,
        planned=len(plan.offsets_ns),
        sent=sum(record.user != NOBODY for record in measured),
        max_in_flight=plan.max_in_flight,
        peak_in_flight=sum(pool[1] for pool in processes.pools.values()),
        waited=sum(pool[2] for pool in processes.pools.values()),
    )


def child_env() -> dict[str, str]:
    """This environment without Locust's own variables, and with this very package importable from any folder."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LOCUST_")}
    roots = [str(Path(__file__).resolve().parents[2]), env.get("PYTHONPATH", "")]
    return {**env, "PYTHONPATH": os.pathsep.join(root for root in roots if root)}

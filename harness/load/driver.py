"""The driver of one load: starts the load processes, opens the measured window, reads their records back.

Locust lives in those processes only; this file never imports it.
"""

from __future__ import annotations

import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import MeasurementInvalid
from harness.load.client.raw_records import read_raw, shifted
from harness.load.client.request_records import RecordReader
from harness.load.plan import NOBODY, START_USERS, LoadPlan, most_turns
from harness.load.processes import AnyProcesses, LoadProcesses
from harness.load.protocol.request_form import form_of
from harness.load.served_model import UNKNOWN, ServedModel
from harness.load.so_far import Checks, SoFar
from harness.load.user_locustfile.events import read_fired, records_of
from harness.records import Doubt, RequestRecord
from harness.store.disk import disk_faults
from harness.units import NS_PER_S

POLL_S = 0.1
START_TIMEOUT_S = 180.0
"""For interpreter start and Locust's import (1 s on an idle core); a starved machine may take much longer."""
JUDGED_REQUESTS = 20
"""A share of failed requests is judged from so many on: the first answers of a server may fail."""
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
    `outputs`: output id -> text, measured requests only. `client_cpu_s`: CPU of this machine's load processes in the
    window.
    `stopped` is the reason when `should_stop` ended the load early; what was measured until then is kept.
    `client_busy_s`: CPU of each load process in the window. `open_loop`: facts of the schedule; None in a closed loop.
    `doubts`: the load processes' own doubts about the numbers; `notes`: where the load came from. `too_many_errors`: ''
    or the sentence with which the plan's max_error_frac ended the load early. `known_input_frac`: see RecordReader.
    """

    records: tuple[RequestRecord, ...]
    outputs: Mapping[str, str]
    begin_ns: int
    end_ns: int
    client_cpu_s: float
    stopped: str = ""
    client_busy_s: tuple[float, ...] = ()
    open_loop: OpenLoopFacts | None = None
    doubts: tuple[Doubt, ...] = ()
    notes: tuple[str, ...] = ()
    too_many_errors: str = ""
    known_input_frac: float | None = None

    @property
    def processes(self) -> int:
        """How many load processes there were."""
        return max(1, len(self.client_busy_s))


def drive(
    plan: LoadPlan,
    workdir: Path,
    *,
    should_stop: Callable[[], object | None],
    on_progress: Callable[[int], None],
    on_state: Callable[[LoadState], None] | None = None,
    open_processes: OpenProcesses | None = None,
    model: ServedModel = UNKNOWN,
    checks: Checks | None = None,
) -> LoadResult:
    """Run the plan and return its records; `on_progress` gets the number of measured requests done, `on_state` more.
    `model` is what is known of the model behind the endpoint. `checks` judge a load of this host's processes.

    Files go to `workdir`/load; a load that fails leaves what it sent and got there. The load processes are ended
    whatever happens. Raises MeasurementInvalid when one of them crashed or hung, or nothing could be measured;
    EnvironmentFault when the disk is full; UsageError when the endpoint address cannot be used.
    """
    form_of(plan)
    users = min(plan.max_in_flight, len(plan.offsets_ns)) if plan.is_open_loop else plan.users
    plan = replace(plan, processes=max(1, min(plan.processes, users)))  # a process without a user has no work
    folder = workdir / "load"
    with disk_faults(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        plan.write(folder / "plan.json")
    with (open_processes or LoadProcesses)(plan, folder) as processes:
        watch = _Watch(
            processes=processes, plan=plan, should_stop=should_stop, on_progress=on_progress, on_state=on_state,
            checks=checks, so_far=SoFar(folder, plan.processes, plan.think_time_s),
        )  # fmt: skip
        begin_ns, stopped = watch.run()
    result = _collect(plan, folder, begin_ns, processes, stopped, model)
    clear(folder)
    return replace(result, too_many_errors=watch.too_many_errors)


def clear(folder: Path) -> None:
    """Remove what was sent and came back from the folder of a load; the processes' logs stay."""
    for leftover in (*folder.glob("raw-*.jsonl"), *folder.glob("tickets-*"), folder / "plan.json"):
        leftover.unlink(missing_ok=True)


OpenProcesses = Callable[[LoadPlan, Path], AbstractContextManager[AnyProcesses]]


@dataclass(slots=True, kw_only=True)
class _Watch:
    """Listens to the processes, the engine and the clock until the load is over."""

    processes: AnyProcesses
    plan: LoadPlan
    should_stop: Callable[[], object | None]
    on_progress: Callable[[int], None]
    on_state: Callable[[LoadState], None] | None
    checks: Checks | None
    so_far: SoFar
    begin_ns: int = 0
    checked: int = 0
    too_many_errors: str = ""

    def run(self) -> tuple[int, str]:
        """(when the window opened, why it was stopped early or '')."""
        count, plan = self.processes.count, self.plan
        users = min(plan.max_in_flight, count * START_USERS) if plan.is_open_loop else plan.users
        warmup_s = START_TIMEOUT_S + plan.warmup_requests * plan.request_timeout_s / users
        warmup_s += users / plan.spawn_per_s if plan.spawn_per_s else 0.0
        for reason in self._until(lambda: len(self.processes.warm) == count, warmup_s, "warm-up"):
            return time.monotonic_ns(), reason
        delay_ns = self.processes.settle()
        self.begin_ns = time.monotonic_ns() + delay_ns
        self.processes.go(self.begin_ns)
        for reason in self._until(lambda: len(self.processes.ended) == count, self._load_s(), "load"):
            return self.begin_ns, reason
        self._publish()
        self.processes.finish()
        return self.begin_ns, ""

    def _load_s(self) -> float:
        plan = self.plan
        if plan.is_open_loop:  # each turn may wait one timeout to be sent, and one for its answer
            turns_s = most_turns(plan) * (2 * plan.request_timeout_s + plan.think_time_s)
            return plan.offsets_ns[-1] / NS_PER_S + turns_s + GRACE_S
        return plan.max_duration_s + plan.think_time_s + plan.request_timeout_s + GRACE_S

    def _why_too_many(self, done: int) -> str:
        limit, failed = self.plan.max_error_frac, sum(self.processes.failed.values())
        if limit is None or done < JUDGED_REQUESTS or failed <= limit * done:
            return ""
        planned = len(self.plan.offsets_ns) or self.plan.requests
        return (
            f"ended early: {failed} of {done} requests failed ({failed / done:.0%}), more than max_error_frac = "
            f"{limit:g} allows; {planned} were planned"
        )

    def _why_over(self, done: int) -> str:
        """The judgement of the last check that is due, if it was not made before."""
        due = bisect_right(self.checks.after, done) if self.checks is not None and self.begin_ns else 0
        if self.checks is None or due <= self.checked:
            return ""
        self.checked = due
        return self.checks.why_over(due - 1, *self.so_far.read())

    def _publish(self) -> int:
        """Publish what is done; returns it."""
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
        """Yields the reason, once, when the engine asks to stop; ends silently when `is_over`."""
        deadline_ns = time.monotonic_ns() + int(limit_s * NS_PER_S)
        published = -1
        while not is_over():
            self.processes.listen(POLL_S)
            done = sum(self.processes.done.values())
            if done != published:
                published = self._publish()
            self.too_many_errors = self._why_too_many(done) if self.begin_ns else ""
            if reason := self.should_stop() or self.too_many_errors or self._why_over(done):
                yield str(reason)
                return
            self.processes.check()
            if time.monotonic_ns() > deadline_ns:
                raise MeasurementInvalid(
                    f"load: the {phase} did not end within {limit_s:.0f} s, after {done} measured requests; the load "
                    "process hangs or the machine is starved. Look at load/process-*.log in the trial's log folder"
                )


def _collect(
    plan: LoadPlan, folder: Path, begin_ns: int, processes: AnyProcesses, stopped: str, model: ServedModel
) -> LoadResult:
    records, outputs, known_input_frac = _read(plan, folder, processes, model)
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
        client_cpu_s=processes.local_busy_s(),
        stopped=stopped,
        client_busy_s=tuple(busy_s for _, busy_s in sorted(processes.busy_s.items())),
        open_loop=_facts(plan, measured, processes) if plan.is_open_loop else None,
        doubts=(*processes.doubts, *processes.clock_doubts()),
        notes=processes.notes(),
        known_input_frac=known_input_frac,
    )


def _read(
    plan: LoadPlan, folder: Path, processes: AnyProcesses, model: ServedModel
) -> tuple[list[RequestRecord], dict[str, str], float | None]:
    """Every record that the processes left, the answers of measured requests by output id, and what the inputs share
    where the answers decided that."""
    paths = sorted(folder.glob("raw-*.jsonl"))
    if plan.locustfile:
        return *records_of([one for path in paths for one in read_fired(path)]), None
    reader = RecordReader(plan, model)
    read = _read_all(reader, paths, processes)
    if (asked := model.after_asking(tuple(reader.unjudged.values()))) is not model:
        read = _read_all(RecordReader(plan, asked), paths, processes)
    return *read, reader.known_input_frac


def _read_all(
    reader: RecordReader, paths: Sequence[Path], processes: AnyProcesses
) -> tuple[list[RequestRecord], dict[str, str]]:
    records: list[RequestRecord] = []
    outputs: dict[str, str] = {}
    for path in paths:
        shift_ns = processes.shift_ns(int(path.stem.removeprefix("raw-")))
        for raw in read_raw(path):
            record, texts = reader.record_of(shifted(raw, shift_ns))
            records.append(record)
            outputs.update(texts)
    return records, outputs


def _facts(plan: LoadPlan, measured: list[RequestRecord], processes: AnyProcesses) -> OpenLoopFacts:
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

"""CPU and memory of the engine, the harness and everything else while a load runs, from /proc.

A thread samples every 200 ms: CPU seconds of the engine's process tree, of the harness's own (this process, the load
processes, supervisors), and of the whole machine. What remains is 'other', time stolen by a hypervisor included.
Memory is PSS (shared pages counted once, from smaps_rollup) where the kernel lets us read it, else the sum of RSS.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from harness.units import NS_PER_S

INTERVAL_S = 0.2
TREE_INTERVAL_S = 1.0
"""Walking /proc for new children, and reading PSS (the kernel walks every page), costs milliseconds: once a second."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PROC = Path("/proc")

MemoryKind = Literal["PSS", "RSS"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSample:
    """One look at the machine: CPU seconds since some fixed point, engine memory in bytes."""

    at_ns: int
    engine_s: float
    harness_s: float
    busy_s: float
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUse:
    """CPU and memory over a window of `window_s` seconds on `cores` cores; the fractions are of all cores together.

    `peak_memory_bytes` is the largest sample of the whole load, warm-up included: memory does not forget a peak.
    `engine_s` None and no memory: the engine's processes are not on this machine. `harness_s` is dyno itself and its
    children, the load processes (`client_s`) among them.
    """

    window_s: float
    cores: int
    engine_s: float | None
    harness_s: float
    client_s: float
    other_s: float
    peak_memory_bytes: int | None
    memory_kind: MemoryKind
    samples: int
    client_processes: int = 1

    def frac(self, cpu_s: float) -> float:
        """CPU seconds as a share of what the machine had in the window."""
        return cpu_s / (self.window_s * self.cores) if self.window_s > 0 else 0.0


class ResourceSampler:
    """Samples while its context is open. `pids` names the engine's processes; their children are found."""

    def __init__(self, pids: Callable[[], tuple[int, ...]], interval_s: float = INTERVAL_S) -> None:
        self._pids = pids
        self._interval_s = interval_s
        self._engine = _CpuMeter()
        self._harness = _CpuMeter()
        self._tree: frozenset[int] = frozenset()
        self._own: frozenset[int] = frozenset()
        self._tree_at_ns = 0
        self._memory_bytes = 0
        self._memory_kind: MemoryKind = "PSS"
        self._samples: list[ResourceSample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resource-sampler", daemon=True)

    def __enter__(self) -> ResourceSampler:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._tree_at_ns = 0
        self._look()

    def use(self, begin_ns: int, end_ns: int, client_cpu_s: float) -> ResourceUse:
        """What was used between two monotonic times (ns), interpolated between samples; call after the context."""
        first, last = self._at(begin_ns), self._at(end_ns)
        engine_s = last.engine_s - first.engine_s
        harness_s = max(last.harness_s - first.harness_s, client_cpu_s)
        busy_s = last.busy_s - first.busy_s
        peak = max(sample.memory_bytes for sample in self._samples)
        return ResourceUse(
            window_s=max(0, end_ns - begin_ns) / NS_PER_S,
            cores=os.cpu_count() or 1,
            engine_s=engine_s if self._engine.has_seen else None,
            harness_s=harness_s,
            client_s=client_cpu_s,
            other_s=max(0.0, busy_s - engine_s - harness_s),
            peak_memory_bytes=peak if self._engine.has_seen else None,
            memory_kind=self._memory_kind,
            samples=len(self._samples),
        )

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._look()

    def _look(self) -> None:
        now_ns = time.monotonic_ns()
        is_due = now_ns - self._tree_at_ns >= TREE_INTERVAL_S * NS_PER_S
        if is_due:
            self._tree_at_ns = now_ns
            children = _children_of_all()
            self._tree = _tree(self._pids(), children)
            self._own = _tree((os.getpid(),), children) - self._tree
        if is_due or self._memory_kind == "RSS":
            self._memory_bytes = self._read_memory()
        self._samples.append(
            ResourceSample(
                at_ns=now_ns,
                engine_s=self._engine.total_s(self._tree),
                harness_s=self._harness.total_s(self._own),
                busy_s=_busy_s(),
                memory_bytes=self._memory_bytes,
            )
        )

    def _read_memory(self) -> int:
        if self._memory_kind == "PSS":
            sizes = [_pss_bytes(pid) for pid in self._tree]
            if None not in sizes:
                return sum(size for size in sizes if size is not None)
            self._memory_kind = "RSS"
            self._samples = [_without_memory(sample) for sample in self._samples]
        return sum(_rss_bytes(pid) for pid in self._tree)

    def _at(self, at_ns: int) -> ResourceSample:
        """The counters at a moment, linear between the two samples around it, clamped at the ends."""
        before = [sample for sample in self._samples if sample.at_ns <= at_ns]
        after = [sample for sample in self._samples if sample.at_ns > at_ns]
        if not before or not after:
            return before[-1] if before else after[0]
        low, high = before[-1], after[0]
        part = (at_ns - low.at_ns) / (high.at_ns - low.at_ns)
        return ResourceSample(
            at_ns=at_ns,
            engine_s=low.engine_s + part * (high.engine_s - low.engine_s),
            harness_s=low.harness_s + part * (high.harness_s - low.harness_s),
            busy_s=low.busy_s + part * (high.busy_s - low.busy_s),
            memory_bytes=low.memory_bytes,
        )


def _without_memory(sample: ResourceSample) -> ResourceSample:
    return ResourceSample(
        at_ns=sample.at_ns,
        engine_s=sample.engine_s,
        harness_s=sample.harness_s,
        busy_s=sample.busy_s,
        memory_bytes=0,
    )


class _CpuMeter:
    """Sums CPU over a changing set of processes; a process keeps what it used after it has ended.

    A process seen first while metering has all its CPU counted: it was started meanwhile.
    """

    def __init__(self) -> None:
        self._last_s: dict[int, float] = {}
        self._base_s: float | None = None
        self.has_seen = False

    def total_s(self, pids: Iterable[int]) -> float:
        for pid in pids:
            cpu_s = _cpu_s(pid)
            if cpu_s is not None:
                self._last_s[pid] = max(cpu_s, self._last_s.get(pid, 0.0))
                self.has_seen = True
        total_s = sum(self._last_s.values())
        if self._base_s is None:
            self._base_s = total_s
        return total_s - self._base_s


def _cpu_s(pid: int) -> float | None:
    """User and system time of a process, all its threads; None when it is gone."""
    try:
        fields = (_PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S  # utime, stime: proc(5) fields 14 and 15


def _busy_s() -> float:
    """CPU seconds of all cores that were not idle (nor waiting for I/O) since boot; steal counts, guest is in user."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = (
        int(field) for field in (_PROC / "stat").read_bytes().split(b"\n", 1)[0].split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


def _pss_bytes(pid: int) -> int | None:
    """Proportional set size; 0 when the process is gone, None when the kernel refuses."""
    try:
        for line in (_PROC / str(pid) / "smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        # A kernel without smaps_rollup has none for ourselves either.
        return 0 if (_PROC / "self" / "smaps_rollup").exists() else None
    except OSError:
        return None
    return 0


def _rss_bytes(pid: int) -> int:
    try:
        return int((_PROC / str(pid) / "statm").read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def _children_of_all() -> dict[int, list[int]]:
    """Parent pid -> child pids, for every process that can be seen."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir(_PROC):
        if not entry.isdigit():
            continue
        try:
            parent = int((_PROC / entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(entry))
    return children


def _tree(roots: Iterable[int], children: dict[int, list[int]]) -> frozenset[int]:
    found: set[int] = set()
    ahead = list(roots)
    while ahead:
        pid = ahead.pop()
        if pid not in found:
            found.add(pid)
            ahead.extend(children.get(pid, ()))
    return frozenset(found)

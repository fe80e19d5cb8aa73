"""A sampler thread for CPU, memory, GPU and energy of the engine, the harness and the rest while a load runs.

A thread samples every 200 ms: CPU seconds of the engine's process tree, of the harness's own (this process, the load
processes, supervisors), and of the whole machine, through psutil; the GPUs through NVML and the energy counters,
where the machine lets us read them. What remains of the CPU is 'other', time stolen by a hypervisor included.
Memory is PSS (shared pages counted once, from smaps_rollup) where the kernel lets us read it, else the sum of RSS.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Literal

import psutil

from harness.measure.machine.kernel_counters import disturbances, read_counters
from harness.measure.machine.machine_class import part_cpus
from harness.measure.machine.nvml import GpuReading, Gpus
from harness.measure.machine.rapl import CpuEnergy
from harness.records import Doubt
from harness.units import NS_PER_S, mib_from_bytes

INTERVAL_S = 0.2
TREE_INTERVAL_S = 1.0
"""Walking /proc for new children, and reading PSS (the kernel walks every page), costs milliseconds: once a second."""

_PROC = Path("/proc")
_BUSY = (1, 2, 3, 6, 7, 8)
"""Columns of a CPU in /proc/stat: user, nice, system, irq, softirq, steal."""

MemoryKind = Literal["PSS", "RSS"]

TELEMETRY = (
    "t_ns", "cpu_frac_engine", "cpu_frac_client", "cpu_frac_other", "memory_mib",
    "gpu_memory_mib", "gpu_util_frac", "gpu_power_w", "energy_j",
)  # fmt: skip
"""Columns of a telemetry file. `energy_j` counts up from an arbitrary start."""

_NO_GPU = GpuReading(memory_mib=None, util_frac=None, power_w=None, energy_j=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSample:
    """One look at the machine: CPU seconds and joules since some fixed point, engine memory in bytes."""

    at_ns: int
    engine_s: float
    harness_s: float
    busy_s: float
    memory_bytes: int
    gpu: GpuReading | None = None
    energy_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceUse:
    """CPU and memory over a window of `window_s` seconds on `cores` cores; the fractions are of all cores together.

    `peak_memory_bytes` is the largest sample of the whole load, warm-up included: memory does not forget a peak.
    `engine_s` None and no memory: the engine's processes are not on this machine. `harness_s` is dyno itself and its
    children, the load processes (`client_s`) among them. GPU memory is the largest sample of the whole load,
    utilisation and power are means over the window; `energy_j` covers the parts that `energy_of` names. What this
    machine does not let us read is None, with its reason in `unavailable`.
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
    gpu_memory_mib: float | None = None
    gpu_util_frac: float | None = None
    gpu_power_w: float | None = None
    energy_j: float | None = None
    energy_of: str = ""
    unavailable: tuple[str, ...] = ()
    disturbances: tuple[Doubt, ...] = ()

    def frac(self, cpu_s: float) -> float:
        """CPU seconds as a share of what the machine had in the window."""
        return cpu_s / (self.window_s * self.cores) if self.window_s > 0 else 0.0


class ResourceSampler:
    """Samples while its context is open. `pids` names the engine's processes; their children are found."""

    def __init__(
        self, pids: Callable[[], tuple[int, ...]], interval_s: float = INTERVAL_S, gpus: Gpus | None = None
    ) -> None:
        self._pids = pids
        self._interval_s = interval_s
        self._gpus = gpus or Gpus()
        self._cpu_energy = CpuEnergy()
        self._cpus = part_cpus()
        self._cores = len(self._cpus) or os.cpu_count() or 1
        self._engine = _CpuMeter()
        self._harness = _CpuMeter()
        self._tree: frozenset[psutil.Process] = frozenset()
        self._own: frozenset[psutil.Process] = frozenset()
        self._tree_at_ns = 0
        self._memory_bytes = 0
        self._memory_kind: MemoryKind = "PSS"
        self._samples: list[ResourceSample] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="resource-sampler", daemon=True)

    def __enter__(self) -> ResourceSampler:
        self._look()
        self._counters = self._last_counters = read_counters()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._tree_at_ns = 0
        self._look()
        self._last_counters = read_counters()
        self._gpus.__exit__()

    def use(self, begin_ns: int, end_ns: int, client_cpu_s: float, client_processes: int = 1) -> ResourceUse:
        """What was used between two monotonic times (ns), interpolated between samples; call after the context."""
        first, last = self._at(begin_ns), self._at(end_ns)
        inside = [s.gpu for s in self._samples if s.gpu is not None and begin_ns <= s.at_ns <= end_ns]
        engine_s = last.engine_s - first.engine_s
        harness_s = max(last.harness_s - first.harness_s, client_cpu_s)
        busy_s = last.busy_s - first.busy_s
        peak = max(sample.memory_bytes for sample in self._samples)
        return ResourceUse(
            window_s=max(0, end_ns - begin_ns) / NS_PER_S,
            cores=self._cores,
            engine_s=engine_s if self._engine.has_seen else None,
            harness_s=harness_s,
            client_s=client_cpu_s,
            other_s=max(0.0, busy_s - engine_s - harness_s),
            peak_memory_bytes=peak if self._engine.has_seen else None,
            memory_kind=self._memory_kind,
            samples=len(self._samples),
            client_processes=client_processes,
            gpu_memory_mib=_largest(sample.gpu.memory_mib for sample in self._samples if sample.gpu is not None),
            gpu_util_frac=_mean(gpu.util_frac for gpu in inside),
            gpu_power_w=_mean(gpu.power_w for gpu in inside),
            energy_j=None if first.energy_j is None or last.energy_j is None else last.energy_j - first.energy_j,
            energy_of=self._energy_of(),
            unavailable=self._unavailable(),
            disturbances=disturbances(
                self._counters,
                self._last_counters,
                (self._samples[-1].at_ns - self._samples[0].at_ns) / NS_PER_S,
                os.cpu_count() or 1,
            ),
        )

    def use_so_far(self, begin_ns: int, client_processes: int) -> ResourceUse:
        """What was used since a monotonic time (ns), inside the context; all of dyno's CPU counts as the client's."""
        self._last_counters = read_counters()
        last = self._samples[-1]
        return self.use(begin_ns, last.at_ns, last.harness_s - self._at(begin_ns).harness_s, client_processes)

    def telemetry(self) -> dict[str, list[float | None]]:
        """Column -> one value per sampling interval, `t_ns` (monotonic) its end; CPU as shares of all cores.

        Client is dyno with its load processes. Memory is the engine's. None where there is nothing to read.
        """
        cores = self._cores
        rows: dict[str, list[float | None]] = {name: [] for name in TELEMETRY}
        for before, now in pairwise(self._samples):
            available_s = max(1, now.at_ns - before.at_ns) / NS_PER_S * cores
            engine, client, busy = (
                (getattr(now, name) - getattr(before, name)) / available_s
                for name in ("engine_s", "harness_s", "busy_s")
            )
            gpu = now.gpu or _NO_GPU
            is_here = self._engine.has_seen
            values: tuple[float | None, ...] = (
                now.at_ns,
                engine if is_here else None,
                client,
                max(0.0, busy - engine - client),
                mib_from_bytes(now.memory_bytes) if is_here else None,
                gpu.memory_mib,
                gpu.util_frac,
                gpu.power_w,
                now.energy_j,
            )
            for name, value in zip(TELEMETRY, values, strict=True):
                rows[name].append(value)
        return rows

    def _energy_of(self) -> str:
        gpu = self._samples[-1].gpu
        parts = (
            ("CPU packages", not self._cpu_energy.unavailable),
            ("GPUs", gpu is not None and gpu.energy_j is not None),
        )
        return " and ".join(name for name, is_read in parts if is_read)

    def _unavailable(self) -> tuple[str, ...]:
        parts = (("CPU energy", self._cpu_energy.unavailable), ("GPU telemetry", self._gpus.unavailable))
        return tuple(f"{name} unavailable: {reason}" for name, reason in parts if reason)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._look()

    def _look(self) -> None:
        now_ns = time.monotonic_ns()
        is_due = now_ns - self._tree_at_ns >= TREE_INTERVAL_S * NS_PER_S
        if is_due:
            self._tree_at_ns = now_ns
            children = _children_of_all()
            engine = _tree(self._pids(), children)
            self._tree = _processes(engine)
            self._own = _processes(_tree((os.getpid(),), children) - engine)
        if is_due or self._memory_kind == "RSS":
            self._memory_bytes = self._read_memory()
        gpu = self._gpus.read()
        self._samples.append(
            ResourceSample(
                at_ns=now_ns,
                engine_s=self._engine.total_s(self._tree),
                harness_s=self._harness.total_s(self._own),
                busy_s=_busy_s(self._cpus),
                memory_bytes=self._memory_bytes,
                gpu=gpu,
                energy_j=_total(self._cpu_energy.total_j(), None if gpu is None else gpu.energy_j),
            )
        )

    def _read_memory(self) -> int:
        if self._memory_kind == "PSS":
            sizes = [_pss_bytes(process.pid) for process in self._tree]
            if None not in sizes:
                return sum(size for size in sizes if size is not None)
            self._memory_kind = "RSS"
            self._samples = [replace(sample, memory_bytes=0) for sample in self._samples]
        return sum(_rss_bytes(process) for process in self._tree)

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
            energy_j=_between(low.energy_j, high.energy_j, part),
        )


def _between(low: float | None, high: float | None, part: float) -> float | None:
    return None if low is None or high is None else low + part * (high - low)


def _total(*parts: float | None) -> float | None:
    """The sum of what can be read; None when nothing can."""
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


class _CpuMeter:
    """Sums CPU over a changing set of processes; a process keeps what it used after it has ended.

    A process seen first while metering has all its CPU counted: it was started meanwhile.
    """

    def __init__(self) -> None:
        self._last_s: dict[int, float] = {}
        self._base_s: float | None = None
        self.has_seen = False

    def total_s(self, processes: Iterable[psutil.Process]) -> float:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                cpu = process.cpu_times()
                self._last_s[process.pid] = max(cpu.user + cpu.system, self._last_s.get(process.pid, 0.0))
                self.has_seen = True
        total_s = sum(self._last_s.values())
        if self._base_s is None:
            self._base_s = total_s
        return total_s - self._base_s


def _busy_s(cpus: frozenset[int]) -> float:
    """CPU seconds of `cpus` (none: of all) that were not idle (nor waiting for I/O) since boot; steal counts, guest is
    in user."""
    if cpus:
        names = {f"cpu{cpu}" for cpu in cpus}
        rows = (line.split() for line in (_PROC / "stat").read_text(encoding="ascii").splitlines())
        ticks = sum(int(row[column]) for row in rows if row[0] in names for column in _BUSY)
        return ticks / os.sysconf("SC_CLK_TCK")
    cpu = psutil.cpu_times()
    return cpu.user + cpu.nice + cpu.system + cpu.irq + cpu.softirq + cpu.steal


def _pss_bytes(pid: int) -> int | None:
    """Proportional set size; 0 when the process is gone, None when the kernel refuses.

    Read here: psutil's `memory_full_info` takes a fifth longer and falls back to reading every mapping (DECISIONS 52).
    """
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


def _rss_bytes(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:
        return 0


def _processes(pids: Iterable[int]) -> frozenset[psutil.Process]:
    """Those of `pids` that are still there; made once a second, because making one costs as much as a reading."""
    found = set()
    for pid in pids:
        with contextlib.suppress(psutil.Error):
            found.add(psutil.Process(pid))
    return frozenset(found)


def _children_of_all() -> dict[int, list[int]]:
    """Parent pid -> child pids, for every process that can be seen; one scan for both trees (DECISIONS 52)."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir(_PROC)):
        with contextlib.suppress(OSError), open(f"{_PROC}/{entry}/stat", "rb") as stat:  # a Path each: a quarter slower
            parent = int(stat.read().rpartition(b")")[2].split()[1])
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

"""Checks whether this machine is fit for measuring, each with a number, a verdict and advice, for `dyno doctor`.

Files of the kernel are read below `root`, so that a test can be a machine. A check that cannot be made is
'unavailable', which is no verdict.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.measure.machine.kernel_counters import read_counters

Status = Literal["ok", "warn", "unavailable"]

LOAD_FRAC = 0.25
"""Runnable processes per core, over the last minute, before anything of ours runs."""
PROBE_S = 0.5
GAP_MS = 1.0
"""A core that is ours alone is taken away for timer ticks only: under 0.1 ms. A millisecond is somebody else."""
LOST_FRAC = 0.02
MIN_FILES = 4096
"""An open loop may hold a thousand connections, each a descriptor or two."""
MIN_PORTS = 10_000
FAST_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
"""Clock sources that are read without entering the kernel; the others cost a microsecond and more a reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the doctor: what was looked at, what was found (with its unit), and what to do about a warning."""

    name: str
    status: Status
    found: str
    advice: str = ""


def machine_checks(root: Path = Path("/"), probe_s: float = PROBE_S) -> tuple[Check, ...]:
    """Every check, in the order printed. Takes `probe_s` seconds on one core."""
    checks: tuple[Callable[[Path], Check], ...] = (
        _governor, _turbo, _load, _thermal, _swap, _clock, _numa, _quota, _huge_pages, _steal, _files, _ports,
    )  # fmt: skip
    return (*(check(root) for check in checks), _neighbours(probe_s))


def _governor(root: Path) -> Check:
    paths = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
    found = sorted({_text(path) for path in paths} - {""})
    if not found:
        return _unavailable("CPU governor", "not visible (a virtual machine decides outside)")
    advice = "" if found == ["performance"] else "cpupower frequency-set -g performance"
    return _judged("CPU governor", ", ".join(found), advice)


def _turbo(root: Path) -> Check:
    cpu = root / "sys/devices/system/cpu"
    no_turbo, boost = _text(cpu / "intel_pstate/no_turbo"), _text(cpu / "cpufreq/boost")
    if not no_turbo and not boost:
        return _unavailable("turbo", "not visible")
    is_on = no_turbo == "0" or (not no_turbo and boost == "1")
    advice = "clocks follow temperature and neighbours; for comparable runs: echo 1 > .../intel_pstate/no_turbo"
    return _judged("turbo", "on" if is_on else "off", advice if is_on else "")


def _load(root: Path) -> Check:
    text, cores = _text(root / "proc/loadavg").split(), os.cpu_count() or 1
    if not text:
        return _unavailable("load", "no /proc/loadavg")
    load = float(text[0])
    advice = "stop what else runs (top shows it), or wait" if load > LOAD_FRAC * cores else ""
    return _judged("load", f"{load:.2f} runnable over the last minute on {cores} cores", advice)


def _thermal(root: Path) -> Check:
    pattern = "cpu[0-9]*/thermal_throttle/*_throttle_count"
    if not list((root / "sys/devices/system/cpu").glob(pattern)):
        return _unavailable("thermal throttling", "no counters (a virtual machine, or not Intel)")
    events = read_counters(root).thermal_events
    advice = "the CPU has been too hot since boot: cool it, and see whether the number still grows" if events else ""
    return _judged("thermal throttling", f"{events} events since boot", advice)


def _swap(root: Path) -> Check:
    memory = {line.split(":")[0]: line.split()[1] for line in _text(root / "proc/meminfo").splitlines() if ":" in line}
    if "SwapTotal" not in memory:
        return _unavailable("swap", "no /proc/meminfo")
    total, free = int(memory["SwapTotal"]) // 1024, int(memory.get("SwapFree", "0")) // 1024
    advice = "swapoff -a for the time of the run: a paged-out weight costs milliseconds" if total - free > 0 else ""
    return _judged("swap", f"{total - free} of {total} MiB used", advice)


def _clock(root: Path) -> Check:
    source = _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    if not source:
        return _unavailable("clock source", "not visible")
    advice = "" if source in FAST_CLOCKS else f"a slow clock; boot with clocksource={FAST_CLOCKS[0]} if it is stable"
    return _judged("clock source", source, advice)


def _numa(root: Path) -> Check:
    nodes = len(list((root / "sys/devices/system/node").glob("node[0-9]*")))
    if not nodes:
        return _unavailable("NUMA", "not visible")
    advice = "pin an engine to one node (numactl --cpunodebind=0 --membind=0) or its speed depends on chance"
    return _judged("NUMA", f"{nodes} node(s)", advice if nodes > 1 else "")


def _quota(root: Path) -> Check:
    quota, _, period = _text(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if not quota:
        return _unavailable("CPU quota", "no cgroup v2 limit visible")
    if quota == "max" or not period.isdigit():
        return _judged("CPU quota", "none", "")
    advice = "a quota stops every thread for the rest of a period; use cpusets, or a whole machine"
    return _judged("CPU quota", f"{int(quota) / int(period):.2f} cores", advice)


def _huge_pages(root: Path) -> Check:
    text = _text(root / "sys/kernel/mm/transparent_hugepage/enabled")
    chosen = text.partition("[")[2].partition("]")[0]
    if not chosen:
        return _unavailable("transparent huge pages", "not visible")
    advice = "weights in 4 KiB pages read slower: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
    return _judged("transparent huge pages", chosen, advice if chosen == "never" else "")


def _steal(root: Path) -> Check:
    fields = _text(root / "proc/stat").partition("\n")[0].split()[1:9]
    if len(fields) < 8:
        return _unavailable("stolen CPU", "no /proc/stat")
    share = int(fields[7]) / max(1, sum(int(field) for field in fields))
    advice = "the hypervisor runs other machines on these cores; use a dedicated or larger instance"
    return _judged("stolen CPU", f"{share:.2%} of all time since boot", advice if share > 0.01 else "")


def _files(root: Path) -> Check:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    is_low = limit != resource.RLIM_INFINITY and limit < MIN_FILES
    advice = f"ulimit -n {MIN_FILES * 4}: every connection of the load needs a descriptor" if is_low else ""
    return _judged("open files", f"{limit} allowed", advice)


def _ports(root: Path) -> Check:
    ends = _text(root / "proc/sys/net/ipv4/ip_local_port_range").split()
    if len(ends) != 2:
        return _unavailable("ephemeral ports", "not visible")
    count = int(ends[1]) - int(ends[0]) + 1
    advice = "sysctl net.ipv4.ip_local_port_range='15000 65000': connections run out of ports"
    return _judged("ephemeral ports", f"{count} ({ends[0]} to {ends[1]})", advice if count < MIN_PORTS else "")


def _neighbours(probe_s: float) -> Check:
    gaps_ms = [gap_ns / 1e6 for gap_ns in scheduling_gaps_ns(probe_s)]
    lost = sum(gaps_ms) / (probe_s * 1e3) if probe_s > 0 else 0.0
    worst = max(gaps_ms, default=0.0)
    found = f"a spinning thread lost {lost:.1%} of {probe_s:g} s, {worst:.2f} ms at once"
    advice = "something else runs on these cores (or a hypervisor does): latencies below that gap mean little"
    return _judged("noisy neighbours", found, advice if lost > LOST_FRAC or worst > 10 * GAP_MS else "")


def scheduling_gaps_ns(probe_s: float) -> Iterator[int]:
    """Every pause longer than a millisecond of a thread that does nothing but read the clock for `probe_s` seconds."""
    end_ns = time.monotonic_ns() + int(probe_s * 1e9)
    last_ns = time.monotonic_ns()
    while last_ns < end_ns:
        now_ns = time.monotonic_ns()
        if now_ns - last_ns > GAP_MS * 1e6:
            yield now_ns - last_ns
        last_ns = now_ns


def _judged(name: str, found: str, advice: str) -> Check:
    return Check(name=name, status="warn" if advice else "ok", found=found, advice=advice)


def _unavailable(name: str, why: str) -> Check:
    return Check(name=name, status="unavailable", found=why)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""

"""Kernel counters of disturbances during a load: stolen CPU, swapping, throttling.

Counters are read at both ends of the load; the difference becomes doubts. A counter this machine does not have is
no doubt.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.records import Doubt, DoubtKind
from harness.units import BYTES_PER_MIB

STEAL_FRAC = 0.01
"""Share of the machine's CPU time that a hypervisor may take before it is reported."""
THROTTLED_FRAC = 0.01
"""Share of the time a container may be held back by its CPU quota before it is reported."""
SWAPPED_MIB = 1.0
_PAGE_BYTES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Since boot: seconds stolen and throttled, MiB swapped in and out, thermal throttle events of all cores."""

    stolen_s: float = 0.0
    throttled_s: float = 0.0
    swapped_mib: float = 0.0
    thermal_events: int = 0


def read_counters(root: Path = Path("/")) -> Counters:
    """The counters now; what is missing counts as 0 throughout."""
    cpu = _text(root / "proc/stat").split("\n", 1)[0].split()
    quota = _pairs(root / "sys/fs/cgroup/cpu.stat")
    memory = _pairs(root / "proc/vmstat")
    thermal = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle/*_throttle_count")
    return Counters(
        stolen_s=int(cpu[8]) / 100 if len(cpu) > 8 else 0.0,  # USER_HZ is 100 on every Linux of today
        throttled_s=quota.get("throttled_usec", 0) / 1e6,
        swapped_mib=(memory.get("pswpin", 0) + memory.get("pswpout", 0)) * _PAGE_BYTES / BYTES_PER_MIB,
        thermal_events=sum(int(text) for path in thermal if (text := _text(path).strip()).isdigit()),
    )


def disturbances(before: Counters, after: Counters, elapsed_s: float, cores: int) -> tuple[Doubt, ...]:
    """A doubt for each thing that disturbed the machine between the two readings."""
    found: list[tuple[DoubtKind, str]] = []
    stolen = (after.stolen_s - before.stolen_s) / max(1e-9, elapsed_s * cores)
    if stolen > STEAL_FRAC:
        gave = f"the hypervisor gave {stolen:.0%} of the CPU time to other machines (limit {STEAL_FRAC:.0%})"
        found.append(("stolen_cpu", gave))
    throttled_s = after.throttled_s - before.throttled_s
    if throttled_s > THROTTLED_FRAC * elapsed_s:
        held = f"the container's CPU quota held processes back for {throttled_s:.2f} s in {elapsed_s:.1f} s"
        found.append(("cpu_quota", held))
    swapped_mib = after.swapped_mib - before.swapped_mib
    if swapped_mib > SWAPPED_MIB:
        swapped = f"{swapped_mib:.0f} MiB were swapped in or out; the engine may have waited for the disk"
        found.append(("swapping", swapped))
    events = after.thermal_events - before.thermal_events
    if events > 0:
        found.append(("overheated", f"the CPU was slowed down {events} times because it was too hot"))
    return tuple(Doubt(kind=kind, sentence=sentence) for kind, sentence in found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _pairs(path: Path) -> dict[str, int]:
    """'name number' per line."""
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}

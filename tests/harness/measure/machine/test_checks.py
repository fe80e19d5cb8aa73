"""The doctor's checks on machines made of files: each warns about its cause, with advice, and only then."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.measure.machine.checks import Check, machine_checks, scheduling_gaps_ns

GOOD = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "1",
    "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "0",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
    "sys/devices/system/node/node0/meminfo": "",
    "sys/fs/cgroup/cpu.max": "max 100000",
    "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
    "proc/loadavg": "0.00 0.01 0.05 1/200 1234",
    "proc/meminfo": "MemTotal: 16000000 kB\nSwapTotal: 2048000 kB\nSwapFree: 2048000 kB",
    "proc/stat": "cpu  500 0 100 9000 5 0 2 0 0 0",
    "proc/sys/net/ipv4/ip_local_port_range": "32768\t60999",
}


def _checks(folder: Path, **changed: str) -> dict[str, Check]:
    for name, text in {**GOOD, **changed}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
    return {check.name: check for check in machine_checks(folder, probe_s=0.0)}


def test_a_good_machine_has_no_warning(tmp_path: Path) -> None:
    checks = _checks(tmp_path)
    assert [check for check in checks.values() if check.status == "warn"] == []
    assert not [check for check in checks.values() if check.status == "ok" and check.advice]


@pytest.mark.parametrize(
    ("name", "file", "text", "found"),
    [
        ("CPU governor", "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "powersave", "powersave"),
        ("turbo", "sys/devices/system/cpu/intel_pstate/no_turbo", "0", "on"),
        ("load", "proc/loadavg", "900.5 1 1 1/2 3", "900.50 runnable"),
        ("thermal throttling", "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "7", "7 events"),
        ("swap", "proc/meminfo", "SwapTotal: 2048000 kB\nSwapFree: 1024000 kB", "1000 of 2000 MiB used"),
        ("clock source", "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet", "hpet"),
        ("NUMA", "sys/devices/system/node/node1/meminfo", "", "2 node(s)"),
        ("CPU quota", "sys/fs/cgroup/cpu.max", "150000 100000", "1.50 cores"),
        ("transparent huge pages", "sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]", "never"),
        ("stolen CPU", "proc/stat", "cpu  500 0 100 9000 5 0 2 900 0 0", "8.57% of all time"),
        ("ephemeral ports", "proc/sys/net/ipv4/ip_local_port_range", "60000 60999", "1000 (60000 to 60999)"),
    ],
)
def test_each_fault_is_a_warning_with_its_number_and_advice(
    name: str, file: str, text: str, found: str, tmp_path: Path
) -> None:
    checks = _checks(tmp_path, **{file: text})
    assert [check.name for check in checks.values() if check.status == "warn"] == [name]
    assert found in checks[name].found
    assert checks[name].advice


def test_what_cannot_be_seen_is_unavailable_and_no_verdict(tmp_path: Path) -> None:
    checks = {check.name: check for check in machine_checks(tmp_path, probe_s=0.0)}
    assert {check.status for name, check in checks.items() if name not in ("open files", "noisy neighbours")} == {
        "unavailable"
    }
    assert all(check.found for check in checks.values())


def test_the_probe_sees_gaps_of_a_millisecond_and_more() -> None:
    assert all(1e6 < gap_ns < 60e9 for gap_ns in scheduling_gaps_ns(0.05))

"""What the kernel counted becomes a sentence, and a quiet machine none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.measure.machine.kernel_counters import Counters, disturbances, read_counters

QUIET = Counters()


@pytest.mark.parametrize(
    ("after", "kind", "message"),
    [
        (replace(QUIET, stolen_s=1.0), "stolen_cpu", "gave 5% of the CPU time to other machines"),
        (replace(QUIET, throttled_s=0.5), "cpu_quota", "CPU quota held processes back for 0.50 s in 10.0 s"),
        (replace(QUIET, swapped_mib=20.0), "swapping", "20 MiB were swapped"),
        (replace(QUIET, thermal_events=3), "overheated", "slowed down 3 times"),
    ],
)
def test_each_disturbance_is_said(after: Counters, kind: str, message: str) -> None:
    (doubt,) = disturbances(QUIET, after, 10.0, 2)
    assert doubt.kind == kind
    assert message in doubt.sentence


def test_a_quiet_machine_is_not_doubted() -> None:
    assert disturbances(QUIET, replace(QUIET, stolen_s=0.1, throttled_s=0.05, swapped_mib=0.5), 10.0, 2) == ()


def test_counters_are_read_from_the_kernels_files(tmp_path: Path) -> None:
    for name, text in {
        "proc/stat": "cpu  1 2 3 4 5 6 7 250 0 0\n",
        "proc/vmstat": "pgpgin 9\npswpin 256\npswpout 256\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_throttled 2\nthrottled_usec 1500000\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "4\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert read_counters(tmp_path) == Counters(stolen_s=2.5, throttled_s=1.5, swapped_mib=2.0, thermal_events=4)
    assert read_counters(tmp_path / "nothing") == QUIET

"""CPU and memory go to the right account: on a made-up machine to the tick, on this one within bounds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.measure.machine import sampler as device
from harness.measure.machine.machine_class import PART
from harness.measure.machine.sampler import ResourceSampler

TICKS = os.sysconf("SC_CLK_TCK")
NEVER_S = 1e6
"""An interval that does not end in a test: the sampler looks on entering and on leaving."""
HOLD = (
    "import os\nblock = bytearray(96 << 20)\nfor at in range(0, len(block), 4096): block[at] = 1\n"
    "print(os.getpid(), flush=True)\ninput()"
)


def _started(code: str) -> tuple[subprocess.Popen[bytes], bytes]:
    """A Python process and its first line, which says that it is where the test wants it."""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    return child, child.stdout.readline()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


class Machine:
    """A /proc of our own, whose CPU seconds a test sets, and a clock that a test moves."""

    def __init__(self, proc: Path) -> None:
        self.now_s = 100.0
        self._proc = proc
        self.boot(busy_s=0.0)

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    def boot(self, busy_s: float) -> None:
        """CPU seconds of the whole machine: half in user mode, the rest in system, interrupts and steal."""
        user, part = round(busy_s * TICKS / 2), round(busy_s * TICKS / 8)
        idle = 987654  # belongs to nobody
        self._write("stat", f"cpu  {user} {part} {part} {idle} {idle} {part} 0 {part} 0 0\ncpu0 1 2 3 4\n")

    def process(self, pid: int, parent: int, cpu_s: float, pss_kib: int = 0) -> None:
        ticks = round(cpu_s * TICKS / 2)
        before, after = "0 " * 9, " 0" * 30  # 52 fields: proc(5)
        name = "a name) of \udcff bytes"
        self._write(f"{pid}/stat", f"{pid} ({name}) S {parent} {before}{ticks} {ticks} 7 7 20 0 1 0 5{after}\n")
        self._write(f"{pid}/smaps_rollup", f"Rss: 999999 kB\nPss: {pss_kib} kB\n")

    def end(self, pid: int) -> None:
        shutil.rmtree(self._proc / str(pid))

    def _write(self, name: str, text: str) -> None:
        path = self._proc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_name(f".{path.name}")  # the sampler's thread must not see half of it
        whole.write_text(text, encoding="utf-8", errors="surrogateescape")
        whole.replace(path)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The sampler sees this machine alone, with four cores."""
    made = Machine(tmp_path / "proc")
    monkeypatch.setattr(device, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "proc"))
    monkeypatch.setattr(device, "time", made)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    return made


def test_every_cpu_second_is_charged_to_the_account_it_belongs_to(machine: Machine) -> None:
    engine, its_child, harness, load_process, stranger = 50, 51, os.getpid(), 61, 71
    machine.boot(busy_s=1000.0)
    for pid, parent in ((engine, harness), (its_child, engine), (harness, 1), (load_process, harness), (stranger, 1)):
        machine.process(pid, parent, cpu_s=10.0)
    with ResourceSampler(lambda: (engine,), interval_s=NEVER_S) as sampler:
        machine.now_s += 8.0
        machine.boot(busy_s=1000.0 + 20.0)
        machine.process(engine, harness, cpu_s=10.0 + 4.0, pss_kib=1024)
        machine.process(its_child, engine, cpu_s=10.0 + 2.0, pss_kib=2048)
        machine.process(harness, 1, cpu_s=10.0 + 1.0)
        machine.process(load_process, harness, cpu_s=10.0 + 3.0)
        machine.process(stranger, 1, cpu_s=10.0 + 7.0)
    whole = sampler.use(100_000_000_000, 108_000_000_000, client_cpu_s=3.0)
    assert (whole.window_s, whole.cores, whole.client_s) == (8.0, 4, 3.0)
    assert (whole.engine_s, whole.harness_s, whole.other_s) == (6.0, 4.0, 10.0)
    assert (whole.peak_memory_bytes, whole.memory_kind) == (3 << 20, "PSS")
    assert whole.frac(whole.other_s) == 10.0 / 32.0
    quarter = sampler.use(102_000_000_000, 104_000_000_000, client_cpu_s=0.5)
    assert (quarter.engine_s, quarter.harness_s, quarter.other_s) == (1.5, 1.0, 2.5)
    shares = {name: values for name, values in sampler.telemetry().items() if name.startswith("cpu_frac")}
    assert shares == {"cpu_frac_engine": [6 / 32], "cpu_frac_client": [4 / 32], "cpu_frac_other": [10 / 32]}


def test_on_a_part_of_a_machine_only_what_its_cores_do_counts(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PART, "2/2")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {2, 3})

    def stat(*busy_s: int) -> str:
        rows = (f"cpu{cpu} {TICKS * each} 0 0 9 9 0 0 0 7 7" for cpu, each in enumerate(busy_s))
        return "\n".join((f"cpu  {TICKS * sum(busy_s)} 0 0 9 9 0 0 0 7 7", *rows, "intr 1 2\n"))

    (tmp_path / "proc" / "stat").write_text(stat(10, 10, 10, 10))
    machine.process(50, 1, cpu_s=10.0)
    with ResourceSampler(lambda: (50,), interval_s=NEVER_S) as sampler:
        machine.now_s += 8.0
        (tmp_path / "proc" / "stat").write_text(stat(18, 18, 13, 12))
        machine.process(50, 1, cpu_s=10.0 + 4.0)
    use = sampler.use(100_000_000_000, 108_000_000_000, client_cpu_s=0.0)
    assert (use.cores, use.engine_s, use.other_s) == (2, 4.0, 1.0)
    assert "CPU energy unavailable: the counters are of the whole machine, this is a part of it" in use.unavailable


def test_a_process_that_was_seen_and_ended_keeps_what_it_used(machine: Machine) -> None:
    machine.process(50, 1, cpu_s=3.0)
    with ResourceSampler(lambda: (50,), interval_s=0.001) as sampler:
        machine.now_s += 1.0
        machine.process(50, 1, cpu_s=3.0 + 2.5)
        _wait_for_a_sample(sampler)
        machine.end(50)
        machine.now_s += 1.0
    assert sampler.use(99_000_000_000, 103_000_000_000, client_cpu_s=0.0).engine_s == 2.5


def _wait_for_a_sample(sampler: ResourceSampler) -> None:
    """Until the sampling thread has looked once more, from beginning to end."""
    seen = len(sampler.telemetry()["t_ns"])
    while len(sampler.telemetry()["t_ns"]) < seen + 2:
        pass


@pytest.mark.heavy
def test_memory_of_the_whole_tree_is_counted() -> None:
    parent, grandchild = _started(
        f"import subprocess, sys\nchild = subprocess.Popen([sys.executable, '-c', {HOLD!r}], stdin=subprocess.PIPE)\n"
        "child.wait()"
    )
    try:
        with ResourceSampler(lambda: (parent.pid,)) as sampler:
            now_ns = time.monotonic_ns()
        use = sampler.use(now_ns, now_ns + 1, client_cpu_s=0.0)
    finally:
        os.kill(int(grandchild), signal.SIGKILL)
        _end(parent)
    assert use.peak_memory_bytes is not None
    assert 96 << 20 < use.peak_memory_bytes < 256 << 20


def test_rss_stands_in_where_pss_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_pss_bytes", lambda pid: None)
    with ResourceSampler(lambda: (os.getpid(),)) as sampler:
        pass
    use = sampler.use(0, 1, client_cpu_s=0.0)
    assert use.memory_kind == "RSS"
    assert use.peak_memory_bytes is not None
    assert use.peak_memory_bytes > 1 << 20


def test_an_attached_endpoint_has_no_engine_numbers() -> None:
    with ResourceSampler(lambda: ()) as sampler:
        pass
    use = sampler.use(0, 1, client_cpu_s=0.0)
    assert use.engine_s is None
    assert use.peak_memory_bytes is None

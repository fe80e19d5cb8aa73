"""The sampler on real processes: CPU and memory go to the right account."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from harness.measure.machine import sampler as device
from harness.measure.machine.sampler import ResourceSampler

BURN = "import time\nend = time.monotonic() + 30\nprint('on', flush=True)\nwhile time.monotonic() < end: pass"
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


def test_a_busy_engine_is_charged_to_the_engine_and_not_to_others() -> None:
    child, _ = _started(BURN)
    try:
        with ResourceSampler(lambda: (child.pid,), interval_s=0.2) as sampler:
            begin_ns = time.monotonic_ns()
            time.sleep(1.0)
            end_ns = time.monotonic_ns()
        use = sampler.use(begin_ns, end_ns, client_cpu_s=0.0)
    finally:
        _end(child)
    assert use.engine_s is not None
    assert use.engine_s > 0.1  # the machine may be shared by many others
    assert use.harness_s < use.engine_s
    assert use.window_s == pytest.approx(1.0, rel=0.5)
    assert use.other_s <= use.window_s * use.cores


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


def test_a_process_that_ends_keeps_what_it_used() -> None:
    child, _ = _started(
        "import time\nend = time.process_time() + 0.6\nprint('on', flush=True)\nwhile time.process_time() < end: pass"
    )
    with ResourceSampler(lambda: (child.pid,), interval_s=0.02) as sampler:
        begin_ns = time.monotonic_ns()
        child.wait()
        time.sleep(0.1)
        end_ns = time.monotonic_ns()
    _end(child)
    use = sampler.use(begin_ns, end_ns, client_cpu_s=0.0)
    assert use.engine_s is not None
    assert use.engine_s > 0.1

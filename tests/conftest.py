"""What holds for every test run: Ctrl-C works in child processes, no proxy stands before loopback, idle threads sleep,
long files begin first, CI ends in time on a slow machine, and a reason for skipping is printed once."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from engines.processes.no_proxy import keep_direct
from tests.left_out import summary
from tests.quick import GUARD, is_heavy_place, left_out

LONGEST = "tests/kernels/test_build.py"
"""Sanitizer builds, minutes of one core: begun last, they would run alone at the end. After it come the files with
heavy tests, and the many quick ones fill the time until the last of those ends."""
LAST_HEAVY = ("tests/kernels/cuda/", "tests/kernels/ptx/")
"""Of the files with heavy tests those that begin last: what they prove only changes with the kernels for GPUs."""
HEAVY_UNTIL = float(os.environ.get("DYNO_HEAVY_UNTIL", "inf"))
"""Unix seconds after which no heavy test begins, by .ci/run: a slow machine ends in time and names what is missing."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a script; children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests run beside each other on few cores: threads that wait for a core by busy loops take the others' time (on a busy
# machine twelve times the CPU was measured). An OpenMP library reads both when it is loaded; children inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

settings.register_profile("dyno", deadline=None)  # a busy machine is no finding
settings.load_profile("dyno")
keep_direct()  # a developer's proxy must not see the emulators


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--quick", action="store_true", help="only what needs nothing but this process (tests/quick.py)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick"):
        GUARD.install()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if config.getoption("--quick") and is_heavy_place(collection_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    if (
        collector.config.getoption("--quick")
        and isinstance(collector, pytest.Module)
        and is_heavy_place(collector.path)
    ):
        collector.collect = list  # type: ignore[method-assign]  # named on the command line, so not ignored
    with GUARD.on():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    with GUARD.on():
        return (yield)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    heavy = left_out(items)
    if config.getoption("--quick") and heavy:
        config.hook.pytest_deselected(items=heavy)
        items[:] = [item for item in items if item not in set(heavy)]
    heavy_files = {item.path for item in heavy}
    items.sort(
        key=lambda item: (
            not item.nodeid.startswith(LONGEST),
            item.path not in heavy_files,
            item.nodeid.startswith(LAST_HEAVY),
        )
    )


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    if time.time() > HEAVY_UNTIL and item.get_closest_marker("heavy"):
        pytest.skip("the time that CI gives heavy tests is up")


def pytest_collection_finish() -> None:
    """Garbage is searched for, a tenth of a run's time, among what tests make, not among modules, tests and sources."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """pytest's own list has a line for every place that skips; here it must not push the failures out of sight."""
    skipped = terminalreporter.stats.get("skipped", [])
    is_quick = config.getoption("--quick")
    if skipped or is_quick:
        terminalreporter.section("left out")
    for line in summary(str(report.longrepr[2]) for report in skipped):
        terminalreporter.write_line(line)
    if is_quick:
        terminalreporter.write_line(
            "     and every test that starts a process, builds or loads native code or loads a model: make test"
        )

"""Several load hosts, stood for by worker processes on loopback: one schedule, one clock, and what goes wrong."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.errors import EnvironmentFault, MeasurementInvalid, UsageError
from harness.load.child_process import child_env
from harness.load.driver import LoadResult, drive
from harness.load.hosts import coordinator
from harness.load.hosts.coordinator import LoadHosts, RemoteProcesses
from harness.load.hosts.message_auth import SECRET_VARIABLE, Seal
from harness.load.hosts.same_code import edition
from harness.load.plan import LoadPlan
from harness.load.web_ui.launch import WebUi
from tests.harness.load.odd_server import echo, odd_server
from tests.harness.load.plans import plan_of, run_load
from tests.waiting import eventually

pytestmark = pytest.mark.heavy

PACKAGE = Path(__file__).parents[4]
OTHER_EDITION = """
import sys
from harness.load.hosts import same_code
same_code.edition = lambda: "0.0.9 (load 0badc0de)"
from harness.load.hosts.worker import main
main(sys.argv[1:])
"""


def _plan(url: str, **fields: Any) -> LoadPlan:
    values = {"users": 4, "warmup_requests": 6, "requests": 41, "max_duration_s": 60.0, "processes": 2}
    return plan_of(url, **{**values, **fields})


def _open(n: int, gap_ms: float) -> dict[str, Any]:
    return {"offsets_ns": tuple(int(k * gap_ms * 1e6) for k in range(n)), "window_s": n * gap_ms / 1e3}


class _Workers:
    """Worker processes that join as soon as the hub's port is known."""

    def __init__(self, count: int, folder: Path, secret: str = "") -> None:
        self.count = count
        self.folder = folder
        self.secret = secret
        self.processes: list[subprocess.Popen[str]] = []
        self.announced: list[str] = []
        self.outputs: list[str] = []
        self.start = ["-m", "harness.load.hosts.worker"]
        self.is_time_up = False
        self.hours = 0

    def monotonic_ns(self) -> int:
        """For the hub's wait: an hour later at every look once a worker was refused or none will come."""
        self.hours += self.is_time_up
        return time.monotonic_ns() + self.hours * 3600 * 10**9

    def receive(self, text: str) -> None:
        self.announced.append(text)
        self.is_time_up |= "was refused" in text or self.count == 0
        if "dyno load-worker --master" in text:
            host, port = text.rsplit(" ", 1)[1].split(":")
            argv = [sys.executable, "-P", *self.start, host, port, "60"]
            env = {**child_env(), SECRET_VARIABLE: self.secret, "TMPDIR": str(self.folder)}
            env["PYTHONPATH"] = str(PACKAGE)
            self.processes = [
                subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, text=True) for _ in range(self.count)
            ]

    def end(self) -> None:
        for process in self.processes:
            if self.is_time_up:
                process.wait(60)
            if process.poll() is None:
                process.kill()
            self.outputs.append(process.communicate()[1])


@contextmanager
def _hosts(expected: int, workers: _Workers, wait_s: float = 60.0) -> Iterator[LoadHosts]:
    try:
        with LoadHosts(expected, "127.0.0.1:0", wait_s, announce=workers.receive) as hosts:
            yield hosts
    finally:
        workers.end()


def _drive(plan: LoadPlan, folder: Path, hosts: LoadHosts) -> LoadResult:
    return run_load(plan, folder, open_processes=hosts.open)


def test_two_hosts_send_one_schedule_and_share_one_closed_loop(tmp_path: Path) -> None:
    """Open loop: every request once, alternating between the hosts, on this clock, and on the live page. Then, with the
    same workers, a closed loop: each request number once, whichever host sent it."""
    workers = _Workers(2, tmp_path)
    with odd_server(echo) as url, _hosts(2, workers) as hosts, WebUi(0) as web_ui:
        plan = _plan(url, **_open(60, 20.0))
        web_ui.watch(tmp_path / "open" / "load", plan, "two hosts")
        result = _drive(plan, tmp_path / "open", hosts)
        eventually(lambda: _shown_on(web_ui.url) == 66, "every request on the page")
        measured = [record for record in result.records if not record.is_warmup]
        assert [record.seq for record in measured] == list(range(60))
        assert {record.outcome for record in measured} == {"ok"}
        assert {record.user % 2 for record in measured} == {0, 1}
        for record in measured:
            assert record.intended_ns == result.begin_ns + record.seq * 20_000_000, "on this clock, to the nanosecond"
            assert record.sent_ns >= record.intended_ns
        assert sum(record.is_warmup for record in result.records) == 6
        assert len(result.notes) == 2
        assert all("clock offset" in note and "known to" in note for note in result.notes)
        assert result.processes == 2
        assert min(result.client_busy_s) > 0
        assert result.client_cpu_s == pytest.approx(sum(result.client_busy_s)), "they run on this machine"

        closed = _drive(_plan(url), tmp_path / "closed", hosts)
        assert sorted(record.seq for record in closed.records if not record.is_warmup) == list(range(41))
        assert sum(record.is_warmup for record in closed.records) == 6
        hosts.__exit__(None, None, None)
        assert [process.wait(30) for process in workers.processes] == [0, 0]
    assert all("the run is over" in output for output in workers.outputs), "told, not left to find out by silence"


def _shown_on(url: str) -> int:
    """Requests on the live page; it looks every half second."""
    with urllib.request.urlopen(f"{url}/stats/requests", timeout=20) as answer:
        return int(json.load(answer)["stats"][-1]["num_requests"])


def test_a_host_that_dies_in_the_middle_voids_the_load_and_is_named(tmp_path: Path) -> None:
    workers = _Workers(2, tmp_path)
    with odd_server(echo) as url, _hosts(2, workers, wait_s=20) as hosts:
        victim: list[psutil.Process] = []

        def kill() -> None:
            victim.extend(psutil.Process(workers.processes[0].pid).children(recursive=True))
            workers.processes[0].send_signal(signal.SIGKILL)

        with pytest.raises(MeasurementInvalid, match=r"load worker .* is gone in the middle of the load"):
            drive(
                _plan(url, **_open(2000, 20.0)),
                tmp_path,
                should_stop=lambda: None,
                on_progress=lambda done: kill() if done and not victim else None,
                open_processes=hosts.open,
            )
        psutil.wait_procs(victim, timeout=20)
        assert not [process for process in victim if process.is_running()]
        hosts._wait_s = 1.0
        with pytest.raises(EnvironmentFault, match=r"of 2 load workers 1 came to 127.0.0.1.*dyno load-worker --master"):
            _drive(_plan(url, **_open(20, 20.0)), tmp_path / "next", hosts)


def test_a_host_that_was_cut_off_for_a_while_comes_back_by_itself(tmp_path: Path) -> None:
    """A stopped process stands in for a pulled cable: the hub gives the worker up, hears it again, and uses it."""
    workers = _Workers(1, tmp_path)
    with odd_server(echo) as url, _hosts(1, workers) as hosts:
        workers.processes[0].send_signal(signal.SIGSTOP)
        _listen_until(hosts, lambda: not hosts.workers)
        workers.processes[0].send_signal(signal.SIGCONT)
        result = _drive(_plan(url, requests=10), tmp_path / "load", hosts)
    assert sum(not record.is_warmup for record in result.records) == 10


def _listen_until(hosts: LoadHosts, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        hosts.listen(0.1)


def test_a_host_with_another_load_generator_is_refused_and_told_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = _Workers(1, tmp_path)
    monkeypatch.setattr(coordinator, "time", workers)
    workers.start = ["-c", OTHER_EDITION]
    why = r"of 1 load workers 0 came.* was refused: it runs dynamometer 0.0.9 \(load 0badc0de\), this host runs "
    with pytest.raises(EnvironmentFault, match=why), _hosts(1, workers):
        pass
    assert workers.processes[0].returncode == 2
    assert edition() in workers.outputs[0]


def test_the_edition_tells_any_change_of_the_load_generator(tmp_path: Path) -> None:
    same, changed = tmp_path / "same", tmp_path / "changed"
    for folder in (same, changed):
        shutil.copytree(PACKAGE / "harness" / "load", folder, ignore=shutil.ignore_patterns("__pycache__"))
    with (changed / "plan.py").open("a") as plan:
        plan.write("# a line more\n")
    assert edition(same) == edition()
    assert edition(changed) != edition()


def test_an_address_that_cannot_be_listened_at_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "s")
    with socket.create_server(("127.0.0.2", 0)) as taken:
        in_use = f"127.0.0.2:{taken.getsockname()[1]}"
        for address, why in ((in_use, "Address already in use"), ("192.0.2.1:0", "Cannot assign requested address")):
            with pytest.raises(EnvironmentFault) as refused:
                LoadHosts(1, address, 30.0, announce=print).__enter__()
            assert str(refused.value) == f"--bind {address}: {why}; name another address"


def test_what_workers_connect_to_is_never_the_address_that_means_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "s")
    nobody = _Workers(0, tmp_path)
    monkeypatch.setattr(coordinator, "time", nobody)
    with pytest.raises(EnvironmentFault, match="of 1 load workers 0 came"):
        LoadHosts(1, "0.0.0.0:0", 60.0, announce=nobody.receive).__enter__()
    assert f"--master {socket.gethostname()}:" in nobody.announced[0]


def test_a_host_that_never_comes_and_one_with_another_secret_are_one_sentence(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv(SECRET_VARIABLE, "right")
    workers = _Workers(1, tmp_path, secret="wrong")
    monkeypatch.setattr(coordinator, "time", workers)
    refused = rf"of 1 load workers 0 came.* was refused: {SECRET_VARIABLE} is not the same on both hosts"
    with pytest.raises(EnvironmentFault, match=refused), _hosts(1, workers):
        pass
    assert workers.processes[0].returncode == 2, "it was refused, and said so"
    assert f"refused this worker: {SECRET_VARIABLE} is not the same" in workers.outputs[0]
    assert "joined" not in workers.outputs[0]
    monkeypatch.delenv(SECRET_VARIABLE)
    with pytest.raises(UsageError, match=rf"can be reached by other machines.*set {SECRET_VARIABLE}"):
        LoadHosts(1, "0.0.0.0:5557", 1.0, announce=print).__enter__()
    with pytest.raises(UsageError, match="expected HOST:PORT"):
        LoadHosts(1, "5557", 1.0, announce=print)
    assert not [p for p in psutil.Process().children(recursive=True) if "harness.load" in " ".join(p.cmdline())]


def test_seals_refuse_forgeries_replays_and_reflections() -> None:
    master, worker = Seal("s", "master", "a", "b"), Seal("s", "worker", "a", "b")
    message = master.wrap("dyno-go", {"begin_ns": 7})
    assert worker.unwrap("dyno-go", message) == {"begin_ns": 7}
    with pytest.raises(ValueError, match="before"):
        worker.unwrap("dyno-go", message)
    forged = {**master.wrap("dyno-go", {"begin_ns": 8}), "body": '{"begin_ns":9}'}
    other_secret = Seal("t", "master", "a", "b").wrap("dyno-go", {})
    other_connection = Seal("s", "master", "a", "c").wrap("dyno-go", {})
    reflected = worker.wrap("dyno-go", {})
    for each in (forged, other_secret, other_connection, reflected, {"body": "{}"}, None, []):
        with pytest.raises(ValueError):
            worker.unwrap("dyno-go", each)
    with pytest.raises(ValueError):
        worker.unwrap("dyno-stop", master.wrap("dyno-go", {}))


class _StillHosts:
    """Clocks as a test says, in the place of the hub's."""

    def __init__(self, readings: list[tuple[int, int]]) -> None:
        self.workers = {"host_" + "a" * 32: {"host": "host", "boot": "elsewhere", "cores": 1}}
        self.expected = 1
        self._readings = iter(readings)
        self.sent: list[tuple[str, Any]] = []

    def clocks(self, workers: list[str]) -> dict[str, tuple[int, int]]:
        return {workers[0]: next(self._readings)}

    def send(self, to: str, do: str, value: Any) -> None:
        self.sent.append((do, value))

    def name_of(self, worker: str) -> str:
        return "host"


def _remote(tmp_path: Path, *readings_ms: tuple[float, float]) -> tuple[RemoteProcesses, _StillHosts]:
    hosts = _StillHosts([(int(offset * 1e6), int(half * 1e6)) for offset, half in readings_ms])
    return RemoteProcesses(hosts, _plan("http://x"), tmp_path, 1), hosts  # type: ignore[arg-type]


def test_another_hosts_clock_is_brought_onto_ours_and_its_doubt_is_told(tmp_path: Path) -> None:
    exact, hosts = _remote(tmp_path, (5000.0, 0.5), (5000.4, 0.5))
    assert exact.settle() > 0
    exact.go(10_000_000_000)
    assert hosts.sent == [("go", {"begin_ns": 15_000_000_000})]
    exact.finish()
    assert exact.shift_ns(1) == -5_000_000_000
    assert exact.clock_doubts() == ()
    assert exact.notes() == ("load worker host: clock offset 5000.000 ms, known to 0.500 ms, moved 0.000 ms",)
    assert exact.local_busy_s() == 0.0

    vague, _ = _remote(tmp_path, (0.0, 3.0))
    vague.settle()
    assert (
        "known to 3.000 ms; its sends may be that far from the schedule (limit 2 ms)"
        in vague.clock_doubts()[0].sentence
    )

    drifting, _ = _remote(tmp_path, (0.0, 0.5), (9.0, 0.5))
    drifting.settle()
    drifting.finish()
    assert "moved 8.000 ms" in drifting.clock_doubts()[0].sentence

    hopeless, _ = _remote(tmp_path, (0.0, 11.0))
    with pytest.raises(MeasurementInvalid, match=r"known to 11.0 ms only .*limit 10 ms"):
        hopeless.settle()


def test_another_machine_cannot_reach_this_ones_loopback() -> None:
    hosts = LoadHosts(1, "127.0.0.1:0", 1.0, announce=print)
    hosts.workers = {"w": {"host": "far", "boot": "another", "cores": 4}}
    hosts.require_reach("http://bench-7:8080")
    with pytest.raises(EnvironmentFault, match=r"loopback, load worker far is another machine"):
        hosts.require_reach("http://127.0.0.1:8080")

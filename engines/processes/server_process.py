"""A server as a child process: started with a log file, watched until ready, and ended whatever happens."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from engines.errors import LaunchFailed, NotReady, OutOfMemory
from engines.processes import supervisor
from engines.processes.http_look import http_status
from engines.processes.out_of_memory import oom_kills, shows_out_of_memory
from engines.processes.temp_folders import hold
from engines.processes.waiting import Waiting

T = TypeVar("T")

POLL_S = 0.02
LOG_TAIL_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What to run: arguments, where its output goes (appended), extra environment, variables of this process that it is
    to start `without`, a private temporary folder (made at the start, given to it as TMPDIR, removed at the end), and
    what is run `last`, after kill -9 of this process too."""

    argv: Sequence[str]
    log_path: Path
    env: Mapping[str, str] = field(default_factory=dict)
    without: Sequence[str] = ()
    cwd: Path | None = None
    temp_dir: Path | None = None
    last: Sequence[str] = ()


class ServerProcess:
    """A running server in its own session; a context manager that leaves no process behind.

    It is watched by supervisor.py: when this process dies, even by SIGKILL, the server and everything it started
    are killed at once. Not thread-safe except for `pids`, `exit_code` and `log_tail`.
    """

    def __init__(self, command: Command) -> None:
        self.command = command
        self._oom_kills = oom_kills()
        self._exit_code: int | None = None
        self._reports = b""
        self._temp_lock: int | None = None
        self._supervisor = self._start()
        self.pid = self._read_pid()

    def _start(self) -> subprocess.Popen[bytes]:
        command = self.command
        command.log_path.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name not in command.without}
        env = {**kept, **command.env}
        if command.temp_dir:
            self._temp_lock = hold(command.temp_dir)
            env["TMPDIR"] = str(command.temp_dir)
        temp_dir = str(command.temp_dir.resolve()) if command.temp_dir else ""
        argv = [sys.executable, "-I", "-S", supervisor.__file__, str(os.getpid()), temp_dir]
        argv += [*command.last, "--", *command.argv]
        with command.log_path.open("ab") as log:
            self._log_start = log.tell()  # an earlier launch may have written to it, and its words are not this one's
            process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                cwd=command.cwd,
                start_new_session=True,
                bufsize=0,
                pass_fds=() if self._temp_lock is None else (self._temp_lock,),  # held while any of the server lives
            )
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def _read_pid(self) -> int:
        deadline = time.monotonic() + 30.0
        while b"\n" not in self._reports:
            self._read_reports(0.1)
            if self._exit_code is not None or time.monotonic() > deadline:
                self.stop(grace_s=0)
                raise LaunchFailed(f"cannot start {self.command.argv[0]!r}{self._tail_for_message()}")
        return int(self._reports.split()[1])

    def _read_reports(self, timeout_s: float) -> None:
        """Read the supervisor's messages; sets the exit code when the server has ended."""
        out = self._supervisor.stdout
        if self._exit_code is not None or out is None or out.closed:
            return
        ready, _, _ = select.select([out], [], [], timeout_s)
        if not ready:
            return
        try:
            data = os.read(out.fileno(), 4096)
        except BlockingIOError:  # another thread read it first
            return
        self._reports += data
        ended = re.search(rb"ended (-?\d+)\n", self._reports)
        if ended:
            self._exit_code = int(ended.group(1))
        elif not data:  # the supervisor itself was killed; the kernel then kills the server (PDEATHSIG)
            self._exit_code = -9

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pids(self) -> tuple[int, ...]:
        """The server's process id, then all below it; empty once it has ended."""
        return () if self.exit_code() is not None else (self.pid, *supervisor.descendants(self.pid))

    def exit_code(self) -> int | None:
        """None while it runs; else its status, negative for a signal."""
        self._read_reports(0.0)
        return self._exit_code

    def log_tail(self, lines: int = LOG_TAIL_LINES) -> str:
        """The last lines that it wrote into its log."""
        return log_tail(self.command.log_path, lines, self._log_start)

    def ended_error(self) -> LaunchFailed:
        """Why it ended, as an error: OutOfMemory where the log, or the kernel's count of OOM kills, reports it."""
        code = self.exit_code()
        how = f"ended by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        tail = self.log_tail()
        was_oom_killed = code in (-9, 137) and oom_kills() > self._oom_kills
        if was_oom_killed or shows_out_of_memory(tail):
            return OutOfMemory(f"the server ran out of memory ({how}){self._tail_for_message()}")
        return LaunchFailed(f"the server {how}{self._tail_for_message()}")

    def wait_for(self, check: Callable[[], T | None], timeout_s: float, what: str) -> T:
        """The first value of `check()` that is not None. Raises LaunchFailed or OutOfMemory as soon as the process has
        ended, NotReady after `timeout_s`."""
        waiting = Waiting(timeout_s)
        while True:
            value = check()
            if value is not None:
                return value
            if self.exit_code() is not None:
                raise self.ended_error()
            if waiting.is_over:
                raise NotReady(
                    f"the server had no {what} after {timeout_s:.3g} s; allow more time (ready_timeout_s of the "
                    f"scenario), or read {self.command.log_path}{self._tail_for_message()}"
                )
            waiting.pause(POLL_S, f"the server has no {what} yet; its log is {self.command.log_path}")

    def wait_ready(self, url: str, timeout_s: float) -> None:
        """Return when GET `url` answers 200. Raises LaunchFailed, OutOfMemory, NotReady."""
        self.wait_for(lambda: True if http_status(url) == 200 else None, timeout_s, f"answer 200 at {url}")

    def stop(self, grace_s: float = 10.0) -> None:
        """SIGTERM, up to `grace_s` for a clean end, then SIGKILL to it and everything below. Safe to call twice."""
        if self.exit_code() is None and grace_s > 0:
            self._command(b"T")
            deadline = time.monotonic() + grace_s
            while self.exit_code() is None and time.monotonic() < deadline:
                self._read_reports(0.05)
        if self.exit_code() is None:
            self._command(b"K")
        if self._supervisor.stdin:
            self._supervisor.stdin.close()
        self._supervisor.wait(timeout=30.0)
        while self.exit_code() is None:
            self._read_reports(0.05)
        if self._supervisor.stdout:
            self._supervisor.stdout.close()
        if self.command.temp_dir:
            shutil.rmtree(self.command.temp_dir, ignore_errors=True)
        if self._temp_lock is not None:
            os.close(self._temp_lock)
            self._temp_lock = None

    def _command(self, letter: bytes) -> None:
        try:
            if self._supervisor.stdin:
                self._supervisor.stdin.write(letter)
        except (BrokenPipeError, ValueError):
            pass  # it has just ended by itself

    def _tail_for_message(self) -> str:
        tail = self.log_tail()
        path = self.command.log_path
        return f"; its log {path} ends:\n{tail}" if tail else f"; its log {path} is empty"


def log_tail(path: Path, lines: int = LOG_TAIL_LINES, start: int = 0) -> str:
    """The last `lines` lines of a text file from byte `start` on (at most 64 KiB of it); '' when it does not exist."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - 65536))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that was free a moment ago; another process may take it (servers of ours bind port 0 themselves)."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])

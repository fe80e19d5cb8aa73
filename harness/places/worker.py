"""A question put to this machine, in a process that a cluster's worker starts, watches and ends.

A worker of a cluster has threads, signal handlers and variables of the engine that placed it, so a trial is not run in
it. Its process is killed by the kernel when the worker dies, by the worker when the daemon above it dies, and is
interrupted when the worker is; its engine ends with it, by the supervisor.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from engines.processes.child_environment import import_variables
from engines.processes.server_process import log_tail
from engines.processes.temp_folders import owned_folder
from harness.places.brought import receive
from harness.places.requests import Verb

POLL_S = 0.2
END_S = 15.0
"""After an interruption, until the trial's process is killed: its engine gets 10 s for a clean end."""


class DaemonEnded(RuntimeError):
    """The daemon above this worker ended; nobody waits for the answer any more."""


def ask_here(
    verb: Verb,
    request: str,
    is_stopped: Callable[[], bool] = lambda: False,
    started: int | None = None,
    part: str = "",
    begun: Callable[[subprocess.Popen[bytes]], None] = lambda child: None,
) -> tuple[bytes, str]:
    """The reply and '', or nothing and the sentence why this machine refuses. Raises RuntimeError where the process
    ended without either or is stopped, DaemonEnded. The process has the variables that `started`, a process of the
    cluster (None: this one), was started with, and of a split machine the cores and GPUs of `part`, 'i/N';
    `begun` is handed it, so that it can be killed from outside."""
    if verb == "receive":  # a process for each piece would take a hundred times as long
        return receive(request)
    with owned_folder("place") as folder:
        reply, log = folder / "reply", folder / "log"
        program = [sys.executable, "-P", "-m", "harness.places.at_place", verb, str(reply), str(os.getpid())]
        with log.open("wb") as errors:
            child = subprocess.Popen(
                [*program, part] if part else program,
                stdin=subprocess.PIPE,
                stdout=errors,
                stderr=errors,
                env=_environment(folder, started or os.getpid()),
                cwd=folder,
            )
            try:
                begun(child)
                _watch(child, request, is_stopped)
            finally:
                _end(child)
        if child.returncode == 0:
            return reply.read_bytes(), ""
        refused = reply.with_suffix(".refused")
        if refused.exists():
            return b"", refused.read_text(encoding="utf-8")
        raise RuntimeError(f"{verb} ended with status {child.returncode}; its log ends:\n{log_tail(log)}")


def _watch(child: subprocess.Popen[bytes], request: str, is_stopped: Callable[[], bool]) -> None:
    daemon = os.getppid()
    assert child.stdin is not None
    try:
        child.stdin.write(request.encode())
        child.stdin.close()
    except BrokenPipeError:
        pass  # it ended at once; its log shows why
    while child.poll() is None:
        time.sleep(POLL_S)
        if os.getppid() != daemon:
            child.kill()
            raise DaemonEnded("the daemon of this place ended")
        if is_stopped():
            return


def _end(child: subprocess.Popen[bytes]) -> None:
    """Interrupt what still runs, then kill it; returns when it has ended."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGINT)
    try:
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _environment(folder: Path, started: int) -> dict[str, str]:
    """The environment with which the daemon was started: a worker's own has what its engine set for a task, such as one
    OpenMP thread and no GPU."""
    begun = Path(f"/proc/{started}/environ").read_bytes().decode(errors="surrogateescape")
    env = dict(line.split("=", 1) for line in begun.split("\0") if "=" in line)
    for name, value in import_variables().items():
        env[name] = (
            os.pathsep.join(filter(None, (value, env.get(name, "")))) if name in ("PYTHONPATH", "PATH") else value
        )
    return env

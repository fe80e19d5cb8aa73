"""The supervisor process above one server: ends the whole process group when its owner dies, even by kill -9.

Run by server_process.py as `python -I -S supervisor.py <owner pid> <temp dir> last... -- argv...`; standard library
only, so that it starts in some 20 ms. It makes itself the reaper of every orphan below it (PR_SET_CHILD_SUBREAPER), so
a grandchild that left the process group or its session is still found. Control comes as bytes on standard input: 'T' =
SIGTERM to the server, 'K' = kill everything, end of file = the owner is gone, kill everything. Standard output gets
'pid N' once, then 'ended STATUS' (a negative STATUS is a signal). When the server ends, for whatever reason, everything
it left behind is killed, the command `last` is run (it removes what is no process of this machine's: a container), and
the temporary folder and what the server left in shared memory are removed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
OWNER_CHECK_S = 0.5  # a forked sibling may hold our pipe open after the owner's death; then the parent id tells
KILL_DEADLINE_S = 4.0  # promise: nothing is alive 5 s after the owner's death
SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - the kernel's own mount
LAST_DEADLINE_S = 15.0
LEFT_BEHIND = ("vllm_", "psm_", "sem.mp-", "sem.loky-", "nccl-", "torch_")
"""Beginnings of names in shared memory that servers leave there: vLLM's ranks even after a clean end (and its caches
beside a GPU's), Python's multiprocessing, NCCL and torch after kill -9. Only files that one of the server's own
processes has mapped are removed."""
NAMED_BY_PROCESS = ("__KMP_REGISTERED_LIB_", "torch_")
"""Beginnings of names whose next part is the id of the process that made them: Intel's OpenMP registers itself so where
it is loaded and unmaps the page at once, torch closes what it has handed over. Only those of the server's own processes
are removed."""


def dies_with(parent: int) -> bool:
    """Whether this process now ends by SIGKILL when `parent` does; False when `parent` had ended before the kernel was
    asked."""
    set_process_option(PR_SET_PDEATHSIG, signal.SIGKILL)
    return os.getppid() == parent


def set_process_option(option: int, value: int) -> None:
    """prctl(option, value). Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def descendants(pid: int) -> tuple[int, ...]:
    """Process ids below `pid`, parents before children; `pid` itself is not among them. Reads /proc only."""
    found, waiting = [], [pid]
    children = _children_by_scan() if not os.path.exists(f"/proc/{os.getpid()}/task/{os.getpid()}/children") else None
    while waiting:
        parent = waiting.pop(0)
        below = children.get(parent, []) if children is not None else list(_children_of(parent))
        found += below
        waiting += below
    return tuple(found)


def _children_of(pid: int) -> Iterator[int]:
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return
    for task in tasks:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children") as listing:
            yield from map(int, listing.read().split())


def _children_by_scan() -> dict[int, list[int]]:
    """Parent -> children for kernels without /proc/<pid>/task/<tid>/children."""
    children: dict[int, list[int]] = {}
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as stat:
            parent = int(stat.read().rpartition(b")")[2].split()[1])  # bytes: a process name may be no UTF-8
            children.setdefault(parent, []).append(int(entry))
    return children


def mapped_shared_memory(pids: Iterable[int]) -> set[str]:
    """Files in shared memory of the names in LEFT_BEHIND that one of these processes has mapped, under whatever name:
    a semaphore is mapped under that of its making."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/maps") as maps:
            inodes |= {int(line.split(maxsplit=5)[4]) for line in maps if SHARED_MEMORY in line}
    with contextlib.suppress(OSError), os.scandir(SHARED_MEMORY) as files:
        return {file.path for file in files if file.name.startswith(LEFT_BEHIND) and file.inode() in inodes}
    return set()


class Remains:
    """What the server's processes have in shared memory: `files` that one of them has mapped, and whatever is named
    after one of `pids`."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.pids: set[int] = set()
        self._seen: set[str] = set()
        self._new: set[str] = set()

    def glance(self) -> None:
        """Look if names are there that were not there at the last two glances: whoever made them may end unseen. A
        listing takes microseconds, the maps of all processes milliseconds; a name may be there before it is mapped."""
        try:
            names = {name for name in os.listdir(SHARED_MEMORY) if name.startswith(LEFT_BEHIND)}
        except OSError:
            return
        if not names <= self._seen:
            self.look()
        self._seen, self._new = names & (self._seen | self._new), names

    def look(self) -> None:
        """Remember what is there now, while the processes live."""
        pids = descendants(os.getpid())
        self.pids.update(pids)
        self.files |= mapped_shared_memory(pids)

    def remove(self) -> None:
        """Once the processes have ended."""
        with contextlib.suppress(OSError), os.scandir(SHARED_MEMORY) as files:
            self.files |= {file.path for file in files if maker_of(file.name) in self.pids}
        for path in self.files:
            with contextlib.suppress(OSError):
                os.unlink(path)


def maker_of(name: str) -> int:
    """The id of the process that a file in shared memory is named after, 0 where it is named after none."""
    begin = next((begin for begin in NAMED_BY_PROCESS if name.startswith(begin)), "")
    number = name.removeprefix(begin).partition("_")[0] if begin else ""
    return int(number) if number.isdecimal() else 0


def kill_everything_below(leader: int, remains: Remains) -> None:
    """SIGKILL to the leader's process group and to every descendant of this process, until none is left."""
    deadline = time.monotonic() + KILL_DEADLINE_S
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)
    while time.monotonic() < deadline:
        for pid in descendants(os.getpid()):
            remains.pids.add(pid)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)


def run_last(argv: list[str]) -> None:
    """Run the command to its end, its output in the log; at most LAST_DEADLINE_S."""
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    try:
        pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=[nothing, (os.POSIX_SPAWN_DUP2, 2, 1)])
    except OSError as error:
        os.write(2, f"cannot start {argv[0]!r}: {error}\n".encode())
        return
    deadline = time.monotonic() + LAST_DEADLINE_S
    while time.monotonic() < deadline and not os.waitpid(pid, os.WNOHANG)[0]:
        time.sleep(0.01)


def start(argv: list[str]) -> int:
    """Process id of the server, started in its own session; it dies with this process."""
    me = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        if not dies_with(me):
            os._exit(127)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(2, 1)
        os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell
    except BaseException as error:
        os.write(2, f"cannot start {argv[0]!r}: {error}\n".encode())
    os._exit(127)


def reap(server: int, remains: Remains) -> int | None:
    """The server's status once it has ended (negative: signal), else None; reaps adopted orphans on the way."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return 0
        if pid == 0:
            return None
        remains.pids.add(pid)
        if pid == server:
            return os.waitstatus_to_exitcode(status)


def watch(server: int, owner: int, wakeup: int, remains: Remains) -> int:
    """Serve the control pipe until the server has ended or must end; returns its status. `remains` learns what the
    server has in shared memory: now and then, and before an end that was asked for."""
    while True:
        status = reap(server, remains)
        if status is not None:
            return status
        remains.glance()
        ready, _, _ = select.select([0, wakeup], [], [], OWNER_CHECK_S)
        if wakeup in ready:
            os.read(wakeup, 4096)
        command = os.read(0, 1) if 0 in ready else b"-"
        if command == b"T":
            remains.look()
            with contextlib.suppress(ProcessLookupError):
                os.kill(server, signal.SIGTERM)
        elif command in (b"K", b"") or os.getppid() != owner:
            return -signal.SIGKILL


def main() -> None:
    owner, temp_dir, split = int(sys.argv[1]), sys.argv[2], sys.argv.index("--")
    last, argv = sys.argv[3:split], sys.argv[split + 1 :]
    wakeup, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)  # the owner speaks by the pipe; a stray signal only wakes the loop
    set_process_option(PR_SET_CHILD_SUBREAPER, 1)
    set_process_option(PR_SET_PDEATHSIG, signal.SIGUSR1)
    if os.getppid() != owner:
        return
    server = start(argv)
    with contextlib.suppress(OSError):
        os.write(1, f"pid {server}\n".encode())
    remains = Remains()
    status = watch(server, owner, wakeup, remains)
    remains.look()
    kill_everything_below(server, remains)
    if last:
        run_last(last)
    remains.remove()
    if temp_dir:
        shutil.rmtree(temp_dir, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.write(1, f"ended {status}\n".encode())


if __name__ == "__main__":
    main()

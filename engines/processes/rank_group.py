"""The rank processes of a tensor-parallel group: started by one worker, instructed line by line, ended together.

Rank 0 is the worker itself. The others run a function `follow(rank, messages)` that mirrors what rank 0 does. When one
of them ends, the worker ends too (the front then starts a new one); when the worker ends, even by kill -9, so do they.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from engines.processes.supervisor import dies_with

Message = dict[str, Any]
FOLLOW = "follow"
"""The word on a following rank's command line, between its parent and its number."""
EXIT_LOST_RANK = 70
_STOP_GRACE_S = 10.0


class RankGroup:
    """Ranks 1 to size-1, started; each runs `module`, which calls `follow_rank_0`. Used by one thread."""

    def __init__(self, module: str, size: int, env: Mapping[str, str]) -> None:
        self._closing = threading.Event()
        self._ranks = [_start(module, rank, env) for rank in range(1, size)]
        for rank, process in enumerate(self._ranks, start=1):
            threading.Thread(target=self._watch, args=(rank, process), daemon=True).start()

    def _watch(self, rank: int, process: subprocess.Popen[str]) -> None:
        code = process.wait()
        if not self._closing.is_set():
            # The main thread hangs in a collective call that will never complete: nothing but ending the process helps.
            print(f"rank {rank} of the tensor-parallel group ended with {code}; its worker ends too", file=sys.stderr)
            sys.stderr.flush()
            os._exit(EXIT_LOST_RANK)

    def send(self, message: Message) -> None:
        """Send every other rank the same message."""
        line = json.dumps(message, separators=(",", ":")) + "\n"
        for process in self._ranks:
            assert process.stdin is not None
            try:
                process.stdin.write(line)
                process.stdin.flush()
            except BrokenPipeError:
                threading.Event().wait()  # that rank is gone; its watcher is about to end this process

    @property
    def pids(self) -> Sequence[int]:
        return [process.pid for process in self._ranks]

    def close(self) -> None:
        """End the ranks: by the end of their input, else by SIGKILL."""
        self._closing.set()
        for process in self._ranks:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._ranks:
            try:
                process.wait(_STOP_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(module: str, rank: int, env: Mapping[str, str]) -> subprocess.Popen[str]:
    argv = [sys.executable, "-u", "-m", module, str(os.getpid()), FOLLOW, str(rank)]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=sys.stderr, text=True, env={**os.environ, **env})


def follow_rank_0(follow: Callable[[int, Iterator[Message]], None]) -> None:
    """A following rank's whole life: the module that RankGroup names calls this when it is run as a program."""
    parent, _, rank = sys.argv[1:]
    if not dies_with(int(parent)):
        return
    for number in (signal.SIGINT, signal.SIGTERM):  # the worker decides when
        signal.signal(number, signal.SIG_IGN)
    follow(int(rank), _messages())


def _messages() -> Iterator[Message]:
    """What rank 0 sends, until it closes or is gone."""
    for line in sys.stdin:
        yield json.loads(line)

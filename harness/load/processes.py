"""The load processes of this host: started, listened to, and ended; and their messages from any host.

Locust lives in those processes only; this file never imports it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

from harness.errors import EnvironmentFault, MeasurementInvalid
from harness.load.child_process import begin_child, end_child
from harness.load.plan import BAD_LOCUSTFILE_STATUS, DISK_FULL_STATUS, LoadPlan
from harness.records import Doubt

GO_DELAY_NS = 100_000_000
"""The window opens this long after the signal is sent, so that every process has it in time on a loaded machine too."""


class AnyProcesses(Protocol):
    """Load processes, wherever they are."""

    count: int
    warm: set[int]
    ended: set[int]
    done: dict[int, int]
    failed: dict[int, int]
    busy_s: dict[int, float]
    pools: dict[int, tuple[int, int, int]]
    doubts: list[Doubt]

    def settle(self) -> int: ...
    def go(self, begin_ns: int) -> None: ...
    def finish(self) -> None: ...
    def listen(self, wait_s: float) -> None: ...
    def check(self) -> None: ...
    def shift_ns(self, part: int) -> int: ...
    def notes(self) -> tuple[str, ...]: ...
    def clock_doubts(self) -> tuple[Doubt, ...]: ...
    def local_busy_s(self) -> float: ...


class ProcessWords:
    """The messages of `count` load processes so far, by part: warm, done, failed,
    ended, their pools and CPU in the window."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.warm: set[int] = set()
        self.ended: set[int] = set()
        self.done: dict[int, int] = {}
        self.failed: dict[int, int] = {}
        self.busy_s: dict[int, float] = {}
        self.pools: dict[int, tuple[int, int, int]] = {}
        self.doubts: list[Doubt] = []

    def settle(self) -> int:
        """Ns from now at which the window may open."""
        return GO_DELAY_NS

    def finish(self) -> None:
        """The load is over."""

    def shift_ns(self, part: int) -> int:
        """What to add to a time of that part to have it on this process's clock."""
        return 0

    def notes(self) -> tuple[str, ...]:
        """The trial's record of where the load came from."""
        return ()

    def clock_doubts(self) -> tuple[Doubt, ...]:
        """Reasons to distrust the moments at which requests left."""
        return ()

    def local_busy_s(self) -> float:
        """CPU seconds in the window of those that run on this machine."""
        return sum(self.busy_s.values())


class LoadProcesses(ProcessWords):
    """The load processes of some parts (all by default), each in a separate process group that it leads; leaving the
    context kills what still runs."""

    def __init__(self, plan: LoadPlan, folder: Path, parts: Sequence[int] | None = None) -> None:
        super().__init__(plan.processes)
        self._parts = range(plan.processes) if parts is None else parts
        self._folder = folder
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._selector = selectors.DefaultSelector()
        self._buffers: dict[int, bytes] = {}

    def state(self) -> dict[str, Any]:
        """All messages so far, JSON-able."""
        return {
            "warm": sorted(self.warm), "ended": sorted(self.ended), "done": self.done, "failed": self.failed,
            "busy_s": self.busy_s, "pools": self.pools,
        }  # fmt: skip

    def __enter__(self) -> LoadProcesses:
        try:
            for part in self._parts:
                self._start(part)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children.values():
            end_child(child)
        self._selector.close()

    def _start(self, part: int) -> None:
        arguments = [str(self._folder / "plan.json"), str(self._folder), str(part), str(os.getpid())]
        with self._log(part).open("wb") as log:
            child = begin_child("harness.load.client.locustfile", arguments, log)
        self._children[part] = child
        assert child.stdout is not None
        self._selector.register(child.stdout, selectors.EVENT_READ, part)

    def _log(self, part: int) -> Path:
        return self._folder / f"process-{part}.log"

    def go(self, begin_ns: int) -> None:
        """Open the measured window at `begin_ns` in every process."""
        for child in self._children.values():
            assert child.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # a dead process is reported by `check`
                child.stdin.write(f"go {begin_ns}\n".encode())
                child.stdin.flush()

    def listen(self, wait_s: float) -> None:
        """Read the processes' messages, for at most `wait_s`."""
        for key, _ in self._selector.select(wait_s):
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
            part = int(key.data)
            data = os.read(pipe.fileno(), 1 << 16)
            if not data:
                self._selector.unregister(pipe)
                continue
            *lines, rest = (self._buffers.get(part, b"") + data).split(b"\n")
            self._buffers[part] = rest
            for line in lines:
                self._receive(part, line.decode("ascii", "replace"))

    def _receive(self, part: int, line: str) -> None:
        word, _, value = line.partition(" ")
        if word == "warm":
            self.warm.add(part)
        elif word == "done":
            self.done[part] = int(value)
        elif word == "failed":
            self.failed[part] = int(value)
        elif word == "end":
            self.ended.add(part)
            self.busy_s[part] = float(value)
        elif word == "pool":
            in_flight, peak, waited = (int(number) for number in value.split())
            self.pools[part] = (in_flight, peak, waited)
        elif word == "doubt":
            self.doubts.append(Doubt(**json.loads(value)))

    def check(self) -> None:
        """Raise MeasurementInvalid when a process ended before its work was done."""
        for part, child in self._children.items():
            code = child.poll()
            if code is not None and part not in self.ended:
                self.listen(0)  # its last words may still be in the pipe
                if code == DISK_FULL_STATUS:
                    raise EnvironmentFault(
                        f"{self._folder}: the disk filled up while load process {part} wrote its records; free some "
                        "space and run the same command again"
                    )
                if code == BAD_LOCUSTFILE_STATUS:
                    raise MeasurementInvalid(self._last_words(part, 1))
                if part not in self.ended:
                    raise MeasurementInvalid(
                        f"load process {part} ended early with exit status {code}; nothing measured by it can be "
                        f"trusted. Its last words: {self._last_words(part)}"
                    )

    def _last_words(self, part: int, count: int = 5) -> str:
        lines = self._log(part).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " | ".join(lines[-count:]) or f"none (see {self._log(part)})"

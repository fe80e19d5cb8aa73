"""A program that answers in lines of JSON and may fail, hang or talk too much: its replies, or its last words."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
ENDS_S = 30
"""How long a program may take to end once it has nothing to do."""


class Child:
    """One Python script; lines that do not begin a JSON object are skipped. Ended at the latest after `limit_s`."""

    def __init__(self, script: Path, arguments: list[str], limit_s: float) -> None:
        self.limit_s, self._words, self._is_late = limit_s, tempfile.TemporaryFile("w+"), False  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._words, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        self._timer = threading.Timer(limit_s, self._end)
        self._timer.start()

    def _end(self) -> None:
        self._is_late = True
        self._process.kill()

    def send(self, **values: Any) -> None:
        """One line of JSON to the program."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(values), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            """What it had to say follows from replies()."""

    def replies(self) -> Iterator[dict[str, Any]]:
        """What it answers until it ends. Raises RuntimeError with its last words if it ends badly or too late."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                yield json.loads(line)
        status = self._process.wait()
        if self._is_late:
            raise RuntimeError(f"did not end within {self.limit_s:.0f} s")
        if status:
            self._words.seek(0)
            words = self._words.read().strip().splitlines()
            raise RuntimeError(words[-1] if words else f"ended with status {status}")

    def close(self) -> None:
        """Lets it end, or ends it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(timeout=ENDS_S)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._timer.cancel()
        self._process.stdout.close()
        self._words.close()


@contextmanager
def child(script: Path, arguments: list[str], limit_s: float) -> Iterator[Child]:
    """A running program; ended on the way out, whatever happens."""
    started = Child(script, arguments, limit_s)
    try:
        yield started
    finally:
        started.close()


class Budget:
    """Seconds for everything; 0: as many as it takes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began = time.monotonic()

    @property
    def left_s(self) -> float:
        """At most an hour: nothing here should take longer."""
        return min(3600.0, self.seconds - (time.monotonic() - self._began)) if self.seconds else 3600.0

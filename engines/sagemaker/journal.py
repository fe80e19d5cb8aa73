"""The journal of AWS resources, written before each one is created, so that a clean-up knows what to delete.

One file per launch, one JSON line per event, flushed to the disk. A file disappears when everything it names is gone.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.cache_folder import cache_root

TAG = "dynamometer:launch"
EXPIRES_TAG = "dynamometer:expires"
"""UTC seconds since 1970 after which nobody can still be using it."""
NAME_PREFIX = "dyno-"
OUT_OF_SIGHT_S = 7 * 3600.0
"""Longer than a guardian lets anything live (6 h), by an hour for clocks that differ."""
KEPT = "kept"
KINDS = ("endpoint", "endpoint-config", "model", "s3-prefix")
"""In the order in which they must be deleted."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Resource:
    """One thing in AWS. `name` of an s3-prefix is s3://bucket/prefix/."""

    kind: str
    name: str


def journal_folder() -> Path:
    """The folder of the journals: $DYNO_CACHE/sagemaker, else under ~/.cache/dynamometer."""
    return cache_root() / "sagemaker"


class Journal:
    """The journal of one launch; the launch and its guardian both append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def begin(cls, launch_id: str, region: str) -> Journal:
        """A new journal, owned by this process."""
        journal = cls(journal_folder() / f"{launch_id}.jsonl")
        journal.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        journal._append(
            {
                "event": "begin", "launch": launch_id, "region": region, "pid": os.getpid(),
                "start": _start(os.getpid()), "host": _host(), "at_s": time.time(),
            }
        )  # fmt: skip
        return journal

    def will_create(self, resource: Resource) -> None:
        """Note it, on the disk, before asking for it."""
        self._append({"event": "create", "kind": resource.kind, "name": resource.name})

    def deleted(self, resource: Resource) -> None:
        """Note that it is gone; the file goes with the last one, see `close`."""
        self._append({"event": "deleted", "kind": resource.kind, "name": resource.name})

    def note(self, event: str, why: str) -> None:
        """Anything else worth reading afterwards."""
        self._append({"event": event, "why": why})

    def remaining(self) -> tuple[Resource, ...]:
        """What may still exist, in the order in which it must be deleted."""
        left: dict[Resource, None] = {}
        for line in self.lines():
            if line["event"] == "create":
                left[Resource(kind=line["kind"], name=line["name"])] = None
            elif line["event"] == "deleted":
                left.pop(Resource(kind=line["kind"], name=line["name"]), None)
        return tuple(sorted(left, key=lambda resource: KINDS.index(resource.kind)))

    def expired(self) -> str:
        """Why the guardian ended it; '' when it did not."""
        return next((str(line["why"]) for line in self.lines() if line["event"] == "expired"), "")

    def is_kept(self) -> bool:
        """Whether what it names was left running on purpose."""
        return any(line["event"] == KEPT for line in self.lines())

    @property
    def region(self) -> str:
        """The region of everything in it."""
        return next((str(line["region"]) for line in self.lines() if line["event"] == "begin"), "")

    def is_owned(self) -> bool:
        """Whether the process that wrote it still runs (its start time distinguishes it from a later one of that
        number).

        A process of another host or container that shares this folder cannot be seen: it counts as running until
        OUT_OF_SIGHT_S have passed, so that a clean-up here does not take its endpoint away.
        """
        begin = next((line for line in self.lines() if line["event"] == "begin"), None)
        if begin is None:
            return False
        if begin.get("host", _host()) != _host():
            return bool(time.time() - float(begin["at_s"]) < OUT_OF_SIGHT_S)
        start: str = begin["start"]
        return _start(begin["pid"]) == start != ""

    def close(self) -> None:
        """Remove the file if nothing is left of what it names."""
        if not self.remaining():
            self.path.unlink(missing_ok=True)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Its events; a line that a crash cut short is skipped (what it announced was never asked for)."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        for line in text.splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def _append(self, event: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())


def journals() -> tuple[Journal, ...]:
    """Every journal on this machine, oldest first."""
    return tuple(Journal(path) for path in sorted(journal_folder().glob("*.jsonl")))


def _host() -> str:
    """Where process numbers mean the same: host name and namespace of process numbers (containers have their own; it
    is 'pid:[4026531836]' on every host itself, and stays so over a restart)."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}"


def _start(pid: int) -> str:
    """When a process began, in ticks since boot; '' when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""

"""A cluster whose machines are split: each part is a node, NODE#i, with a share of the cores and GPUs (lease.py)."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Self

from harness.places.cluster import Cluster, Task
from harness.places.requests import Verb


class Split:
    """`whole` with each of its machines split into `count` parts; `only` are the machines that were found to
    be as fast so, None: all, and none was checked."""

    def __init__(self, whole: Cluster, count: int, only: frozenset[str] | None = None) -> None:
        self.whole, self.count, self.only = whole, count, only

    def __enter__(self) -> Self:
        self.whole.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.whole.__exit__(kind, error, trace)

    def nodes(self) -> frozenset[str]:
        """Every part of every machine."""
        nodes = self.whole.nodes() if self.only is None else self.whole.nodes() & self.only
        return frozenset(part for node in nodes for part in self.parts(node))

    def parts(self, node: str) -> tuple[str, ...]:
        """The parts of one machine."""
        return tuple(f"{node}#{index}" for index in range(1, self.count + 1))

    def ask(self, node: str, verb: Verb, request: str, part: str = "") -> Task:
        """Put a question to a part; `part` is in the node's name."""
        whole, _, index = node.rpartition("#")
        return self.whole.ask(whole, verb, request, f"{index}/{self.count}")

    def wait(self, tasks: Collection[Task], timeout_s: float) -> Task | None:
        """As of the whole."""
        return self.whole.wait(tasks, timeout_s)

    def answer(self, task: Task) -> bytes:
        """As of the whole."""
        return self.whole.answer(task)

    def cancel(self, task: Task, *, is_killed: bool = False) -> None:
        """As of the whole."""
        self.whole.cancel(task, is_killed=is_killed)


def machine_of(part: str) -> str:
    """The node whose part it is; of a whole machine its own name."""
    return part.partition("#")[0]

"""The interface to an engine of distributed computing: what a search needs of one, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable
from types import TracebackType
from typing import Protocol, Self

from harness.places.requests import Verb

Task = Hashable
"""A question under way, as the engine names it."""
LOSSES = 3
"""So many questions of one kind to a node may be lost until it is left out."""


def short(node: str) -> str:
    """A node's name as people read it: an address whole, of a long hash its beginning; its part stays."""
    machine, mark, part = node.partition("#")
    is_hash = len(machine) >= 32 and ":" not in machine
    return f"{machine[:8] if is_hash else machine}{mark}{part}"


def parts_of(nodes: Iterable[str], count: int) -> list[str]:
    """The nodes as which machines are used: NODE#i/N for each of N parts of a machine, its own node where N is 1."""
    return [f"{node}#{index}/{count}" if count > 1 else node for node in nodes for index in range(1, count + 1)]


def machine_of(node: str) -> str:
    """The node of the whole machine."""
    return node.partition("#")[0]


def part_of(node: str) -> str:
    """'i/N', or '' where the node is a whole machine."""
    return node.partition("#")[2]


def share_of(node: str) -> float:
    """Of the resource `machine`: one N-th of a little less than 1, rounded down as finely as Ray counts. Dask adds
    and subtracts floats: N must fit although their sum drifts, and the whole machine after them."""
    count = int(part_of(node).partition("/")[2] or 1)
    return 9_999 // count / 10_000


class Lost(Exception):
    """A question that was never answered: its node, daemon or worker ended. The message is the engine's."""


class Refused(Exception):
    """A place answered that it cannot; the message is its sentence."""


class Cluster(Protocol):
    """A connection to machines that an engine of distributed computing watches; leaving its context closes it.

    No question is ever asked a second time by the engine itself. Methods raise EnvironmentFault when the connection is
    lost. `split` is the number of parts as which each machine is used.
    """

    split: int

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def nodes(self) -> frozenset[str]:
        """Names of the nodes that are alive and offer a machine, `parts_of` them where machines are split."""
        ...

    def ask(self, node: str, verb: Verb, request: str) -> Task:
        """Put a question to a node; returns at once. A trial takes its machine, or its part of one, other questions
        nothing."""
        ...

    def wait(self, tasks: Collection[Task], timeout_s: float) -> Task | None:
        """One of `tasks` that ended; None where none does in time."""
        ...

    def answer(self, task: Task) -> bytes:
        """What an ended task brought. Raises Lost, Refused."""
        ...

    def cancel(self, task: Task, *, is_killed: bool = False) -> None:
        """Interrupt a question, or kill what answers it; questions to other parts of the machine are left alone."""
        ...

"""The interface to an engine of distributed computing: what a search needs of one, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from types import TracebackType
from typing import Protocol, Self

from harness.places.requests import Verb

Task = Hashable
"""A question under way, as the engine names it."""
LOSSES = 3
"""So many questions of one kind to a node may be lost until it is left out."""


def short(node: str) -> str:
    """A node's name as people read it: an address whole, of a long hash its beginning."""
    return node if len(node) < 32 else node[:8]


def share_of(part: str) -> float:
    """Of the resource `machine`: 1, of a part 'i/N' one N-th, rounded down as finely as Ray counts, so that N fit."""
    return 1 if not part else 10_000 // int(part.partition("/")[2]) / 10_000


class Lost(Exception):
    """A question that was never answered: its node, daemon or worker ended. The message is the engine's."""


class Refused(Exception):
    """A place answered that it cannot; the message is its sentence."""


class Cluster(Protocol):
    """A connection to machines that an engine of distributed computing watches; leaving its context closes it.

    No question is ever asked a second time by the engine itself. Methods raise EnvironmentFault when the connection is
    lost.
    """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def nodes(self) -> frozenset[str]:
        """Names of the nodes that are alive and offer a machine."""
        ...

    def ask(self, node: str, verb: Verb, request: str, part: str = "") -> Task:
        """Put a question to a node, or to a part 'i/N' of its machine; returns at once. A trial takes the whole machine
        or that part, other questions nothing."""
        ...

    def wait(self, tasks: Collection[Task], timeout_s: float) -> Task | None:
        """One of `tasks` that ended; None where none does in time."""
        ...

    def answer(self, task: Task) -> bytes:
        """What an ended task brought. Raises Lost, Refused."""
        ...

    def cancel(self, task: Task, *, is_killed: bool = False) -> None:
        """Interrupt a question, or kill its worker."""
        ...

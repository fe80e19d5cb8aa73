"""The survey of a cluster: which machines it has, of which classes, and which class a search takes."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from harness.errors import EnvironmentFault, UsageError
from harness.measure.machine.machine_class import differences
from harness.places.cluster import LOSSES, Cluster, Lost, Refused, Task
from harness.places.requests import Described
from harness.store.codec import from_json

ANSWER_S = 120.0
"""Until a place that does not describe itself is left out; a first worker takes a second or two to start, and a minute
was seen where ten processes waited for each core."""
LOOK_S = 2.0
"""Between two looks at which nodes are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A node of the cluster: how its machine describes itself, or `why` it did not. `losses` questions to it were lost,
    0 where it answered."""

    node: str
    described: Described | None = None
    why: str = ""
    losses: int = 0

    @property
    def machine_id(self) -> str:
        """'' where it did not answer."""
        return self.described.machine.machine_id if self.described else ""


def survey(
    cluster: Cluster,
    timeout_s: float = ANSWER_S,
    now: Callable[[], float] = time.monotonic,
    *,
    waits: bool = False,
) -> tuple[Found, ...]:
    """Every node of the cluster, by name, also those that join meanwhile. One whose question is lost is asked again
    while it is listed; where all that were asked have left again, others are waited for. Raises EnvironmentFault where
    it has none that offers a machine and does not wait."""
    if not waits and not cluster.nodes():
        raise EnvironmentFault(
            "the cluster has no node that offers a machine; start each of Ray's with --resources '{\"machine\": 1}', "
            "each worker of Dask's with --resources machine=1"
        )
    waiting: dict[Task, str] = {}
    found: dict[str, Found] = {}
    task: Task | None = None
    until = now() + timeout_s
    while (left_s := until - now()) > 0:
        nodes = cluster.nodes()
        free = nodes - {*waiting.values()}
        new, lost = free - found.keys(), {node for node in free & found.keys() if 0 < found[node].losses < LOSSES}
        again = lost if task is None else ()  # not at once, which would soon be LOSSES times
        waiting |= {cluster.ask(node, "describe", "null"): node for node in (*new, *again)}
        if not waiting and not lost and not _have_all_left(found, nodes):
            break
        if (task := cluster.wait(list(waiting), min(left_s, LOOK_S))) is not None:
            node = waiting.pop(task)
            found[node] = _described(cluster, task, node, found[node].losses if node in found else 0)
    for task, node in waiting.items():
        cluster.cancel(task, is_killed=True)
        found[node] = Found(node=node, why=f"no answer within {timeout_s:g} s")
    return tuple(found[node] for node in sorted(found))


def _have_all_left(found: Mapping[str, Found], nodes: Set[str]) -> bool:
    return all(each.described is None for each in found.values()) and not found.keys() & nodes


def _described(cluster: Cluster, task: Task, node: str, losses: int) -> Found:
    try:
        return Found(node=node, described=from_json(Described, json.loads(cluster.answer(task))))
    except Refused as error:
        return Found(node=node, why=str(error))
    except Lost as error:
        return Found(node=node, why=str(error), losses=losses + 1)


def chosen_class(found: Sequence[Found], asked: str | None) -> Described:
    """A machine of the class to search on: the one that was asked for, else that of most machines. Raises UsageError
    where there is no such class or no largest one, EnvironmentFault where no machine answered."""
    known = {each.described.machine.machine_id: each.described for each in found if each.described is not None}
    if not known:
        why = "; ".join({each.why: 0 for each in found}) or "all left it"
        raise EnvironmentFault(f"no machine of the cluster answered: {why}")
    counts = Counter(each.machine.machine_class for each in known.values())
    most = max(counts.values())
    largest = [name for name, count in counts.items() if count == most]
    name = asked or largest[0]
    if name not in counts or (asked is None and len(largest) > 1):
        what = f"no machine is of class {asked}" if asked else "no class has most of the machines"
        listed = ", ".join(f"{each} ({count} of {len(known)})" for each, count in counts.most_common())
        raise UsageError(f"{what}; choose one by --machines CLASS: {listed}{_how_they_differ(list(known.values()))}")
    return next(each for each in known.values() if each.machine.machine_class == name)


def _how_they_differ(known: Sequence[Described]) -> str:
    """'' or how the first two classes differ."""
    first = known[0].machine
    other = next((each.machine for each in known if each.machine.machine_class != first.machine_class), None)
    if other is None:
        return ""
    return f" ({first.machine_class} and {other.machine_class}: {differences(first.facts, other.facts)})"

"""The order in which a container's server takes waiting requests, and what it does to latencies."""

from __future__ import annotations

from engines.api import QueueOrder, djl_queue_order
from harness.properties.containers import Container

WORDS: dict[str, str] = {
    "fifo": "first in, first out",
    "djl-fifo": "first in, first out",
    "heap": "the newest waiting request first",
}


def queue_order(container: Container) -> QueueOrder:
    """The order of that container's server; our own is first in, first out."""
    return "fifo" if container.is_own else djl_queue_order(container.version)


def order_notes(measured: str, container: Container, *, has_lists: bool = False) -> list[str]:
    """Lines for a file's reader: by which order it was measured, and what another one changes there. `measured` is ''
    where the measured server is not ours, or the run is older than this fact. `has_lists`: a request may have held
    several inputs, which are one job by DJL's rules and a job each by ours."""
    there = queue_order(container)
    served = f"This version serves {WORDS[there]} ({'seen on 0.36.0' if _is_seen(container) else 'read in its source'})"
    if is_measured_order(measured, container, has_lists=has_lists):
        return [] if container.is_own else [f"{served}, and so it was measured."]
    if container.is_own:
        ours = "This server takes waiting requests first in, first out; it was measured as DJL Serving takes them,"
        how = "the newest first" if measured == "heap" else "a list of inputs as one job"
        return [ours, f"{how}: measure it here before relying on a latency."] if measured in WORDS else []
    if WORDS.get(measured) == WORDS[there]:
        effect = "Where lists wait, the queue holds more and a batch is larger than measured: no latency is promised."
        return [
            f"{served}, a list of inputs as one job; it was measured with a job for each input.",
            effect,
            _to(container),
        ]
    was = (
        f"it was measured with {WORDS[measured]}" if measured in WORDS else "the order it was measured by is not known"
    )
    effect = "a P50 lower and a P99 many times higher" if there == "heap" else "a P50 higher and a P99 far lower"
    return [
        f"{served}; {was}.",
        f"Where requests wait, expect {effect} than measured: neither is promised.",
        _to(container),
    ]


def is_measured_order(measured: str, container: Container, *, has_lists: bool) -> bool:
    """Whether that container takes requests as they were taken when measured: where none is a list, both orders of
    first in, first out are one."""
    there = queue_order(container)
    return measured == there or (not has_lists and measured in WORDS and WORDS[measured] == WORDS[there])


def _to(container: Container) -> str:
    return "To measure by its rules, name it in the scenario: recommend: {container: " + container.name + "}."


def _is_seen(container: Container) -> bool:
    return container.version == (0, 36, 0)

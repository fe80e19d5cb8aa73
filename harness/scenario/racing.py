"""Workloads and goals by which a trial can be raced, which is to end it early when it surely loses."""

from __future__ import annotations

from collections.abc import Sequence

from harness.scenario.goals import Objective
from harness.scenario.load_kinds import ClosedLoad, Load

RACED = ("latency_p50_ms", "latency_mean_ms", "throughput_rps")
"""Objectives that blocks of requests compare. A p90, p99 or goodput needs an interval of that difference, the
largest rate, memory and cost are known at the end of a trial only: none of them is raced."""


def why_not_raced(objectives: Sequence[Objective], load: Load, locustfile: str | None) -> tuple[str, object] | None:
    """None where trials can be raced, else (what is expected, what is written)."""
    first, is_closed = objectives[0], isinstance(load, ClosedLoad)
    raced = RACED if is_closed else RACED[:2]
    needs = (
        (len(objectives) == 1, "one objective", ", ".join(each.name for each in objectives)),
        (not load.levels, "one level of load", "several"),
        (first.name in raced, f"{', '.join(raced[:-1])} or {raced[-1]} as the objective", first.name),
        (locustfile is None, "requests that dyno makes itself", "locustfile"),
    )
    return next(((what, got) for is_there, what, got in needs if not is_there), None)

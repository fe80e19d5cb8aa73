"""Workloads and goals by which a trial can be raced, which is to end it early when it surely loses."""

from __future__ import annotations

from collections.abc import Sequence

from harness.scenario.conversations import Conversations
from harness.scenario.geometric_mean import AnyObjective
from harness.scenario.load_kinds import ClosedLoad, Slo
from harness.scenario.load_list import AnyLoad

LATENCIES = ("latency_p50_ms", "latency_mean_ms", "latency_p90_ms", "latency_p95_ms", "latency_p99_ms")
"""Objectives that requests of any load compare while it runs. The largest rate, memory and cost are known at the end of
a trial only; of several objectives, one that is worse does not rule a candidate out while another may be better. A
geometric mean is known when the last of its windows is: what one window lost, another may win back."""


def why_not_raced(
    objectives: Sequence[AnyObjective],
    load: AnyLoad,
    locustfile: str | None,
    slo: Slo | None,
    conversations: Conversations | None = None,
) -> tuple[str, object] | None:
    """None where trials can be raced, else (what is expected, what is written)."""
    first = objectives[0]
    raced = LATENCIES + _rates(load, slo)
    needs = (
        (len(objectives) == 1, "one objective", ", ".join(each.name for each in objectives)),
        (not load.levels, "one level of load", "several"),
        (first.name in raced, f"{', '.join(raced[:-1])} or {raced[-1]} as the objective", first.name),
        (
            conversations is None or conversations.history == "recorded",
            "history: recorded, since own answers make each candidate's requests its own",
            f"history: {conversations.history}" if conversations else "",
        ),
        (locustfile is None, "requests that dyno makes itself", "locustfile"),
    )
    return next(((what, got) for is_there, what, got in needs if not is_there), None)


def _rates(load: AnyLoad, slo: Slo | None) -> tuple[str, ...]:
    """Throughput where the load waits for answers; the share of good requests where their latency alone decides that,
    since token times are read after the load; and their rate where the schedule sets how many there are."""
    is_closed = isinstance(load, ClosedLoad)
    is_read_at_once = slo is not None and slo.latency_ms is not None and not slo.needs_stream
    goodput = ("goodput_frac",) if is_closed else ("goodput_frac", "goodput_rps")
    return (("throughput_rps",) if is_closed else ()) + (goodput if is_read_at_once else ())

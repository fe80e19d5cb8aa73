"""The limit that held a load back, named from what the server published, with the numbers that name it.

A rule names a limit only where its own numbers show it; where none does, no limit is named. Every threshold is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.measure.doubts import measured
from harness.measure.engine_metrics.counted import counted
from harness.measure.engine_metrics.scrapes import EngineMetrics, Scrape, increase, series
from harness.records import LimitKind, NamedLimit, RequestRecord, TrialSummary
from harness.units import NS_PER_S

PREEMPTED_FRAC, PREEMPTED_MIN = 0.05, 3
"""As many requests, put back for want of KV cache, are no accident of one long answer."""
KV_FULL_FRAC = 0.90
"""A cache from which the next block may be missing."""
OFTEN_FRAC = 0.60
"""In so many of the scrapes something waited. With one server half busy, by random arrivals, it does in 25 %."""
QUEUE_FRAC = 0.50
"""So much of the time at the server was spent waiting."""
PREFILL_FRAC = 0.60
"""So much of the time in the engine went into prompts. Of an answer as long as its prompt it is a few per cent."""
MIN_SCRAPES = 5
"""Fewer are no measure of how often something waited."""
REFUSED_FRAC = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """One load as the rules see it: its scrapes within the window and around it, and its measured requests; `begin_ns`
    and `end_ns` are the window's. `client` is '' or why the load generator was the bottleneck."""

    inside: Sequence[Scrape]
    around: Sequence[Scrape]
    requests: Sequence[RequestRecord]
    done: int
    client: str


def limits_of(
    metrics: EngineMetrics, records: Sequence[RequestRecord], window_ns: tuple[int, int], client: str = ""
) -> tuple[NamedLimit, ...]:
    """The limits that the numbers name, the most telling first; empty where they name none."""
    chosen = measured(records)
    begin_ns = window_ns[0]
    end_ns = max((record.intended_ns for record in chosen), default=window_ns[1])  # after it users run dry
    around = metrics.around(begin_ns, end_ns)
    first_ns, last_ns = (around[0].at_ns, around[-1].at_ns) if around else (0, 0)
    load = Load(
        inside=metrics.within(begin_ns, end_ns),
        around=around,
        requests=chosen,
        done=sum(first_ns < record.done_ns <= last_ns and record.outcome == "ok" for record in records),
        client=client,
    )
    cache = _kv_cache(load)
    # A request that waits for the cache looks like one that waits for the engine: where it is full only refusals count.
    queue = _refused(load) or ("" if cache else _waited(load))
    found: tuple[tuple[LimitKind, str], ...] = (
        ("kv_cache", cache), ("queue", queue), ("prefill", _prefill(load)), ("client", client),
    )  # fmt: skip
    return tuple(NamedLimit(kind=kind, sentence=sentence) for kind, sentence in found if sentence)


def with_limits(
    summary: TrialSummary,
    metrics: EngineMetrics,
    records: Sequence[RequestRecord],
    window_ns: tuple[int, int],
    client: str,
) -> TrialSummary:
    """The summary with the server's counters as metrics, the limits that its numbers name, and why it has none."""
    missing = {"engine metrics": metrics.unavailable} if metrics.unavailable else {}
    return replace(
        summary,
        metrics={**summary.metrics, **counted(metrics, records, window_ns)},
        limits=limits_of(metrics, records, window_ns, client),
        unavailable={**summary.unavailable, **missing},
    )


def _kv_cache(load: Load) -> str:
    preempted = increase(load.around, "preemptions") or 0.0
    kv = series(load.inside, "kv_frac")
    most = f"; up to {max(kv):.0%} of it was in use" if kv else ""
    if preempted >= max(PREEMPTED_MIN, PREEMPTED_FRAC * load.done):
        return (
            f"KV cache full: {preempted:.0f} preemptions for {load.done} requests{_share(preempted, load.done)}{most}"
        )
    if len(load.inside) < MIN_SCRAPES:
        return ""
    short = [scrape for scrape in load.inside if _waits(scrape) and _is_full(scrape)]
    if len(short) < OFTEN_FRAC * len(load.inside):
        return ""
    return (
        f"KV cache full: in {len(short)} of {len(load.inside)} scrapes requests waited while at least "
        f"{KV_FULL_FRAC:.0%} of it was in use"
    )


def _refused(load: Load) -> str:
    refused = sum(record.outcome == "rejected" for record in load.requests)
    if refused <= REFUSED_FRAC * len(load.requests):
        return ""
    waiting = series(load.inside, "waiting")
    most = f"; up to {max(waiting):.0f} waited there" if waiting else ""
    share = _share(refused, len(load.requests))
    return f"queue before the engine: {refused} of {len(load.requests)} requests{share} were refused{most}"


def _waited(load: Load) -> str:
    seen = [scrape for scrape in load.inside if "waiting" in scrape.values and not _is_full(scrape)]
    if seen:
        return _by_gauges(seen)
    return "" if series(load.inside, "waiting") else _by_counters(load)


def _by_gauges(seen: Sequence[Scrape]) -> str:
    """Requests that waited and ran, on average: by Little's law their shares are those of the time at the server."""
    waited = sum(_waits(scrape) for scrape in seen)
    if len(seen) < MIN_SCRAPES or waited < OFTEN_FRAC * len(seen):
        return ""
    waiting = sum(scrape.values["waiting"] for scrape in seen) / len(seen)
    running = [scrape.values["running"] for scrape in seen if "running" in scrape.values]
    if not running:
        return ""
    mean = sum(running) / len(running)
    share = waiting / (waiting + mean)
    if share < QUEUE_FRAC:
        return ""
    return (
        f"queue before the engine: requests waited in {waited} of {len(seen)} scrapes, on average {waiting:.3g} waited "
        f"and {mean:.3g} ran, so waiting was {share:.0%} of their time"
    )


def _by_counters(load: Load) -> str:
    """For a server that publishes how long requests waited, and not how many do."""
    waited_s, count = increase(load.around, "queue_s"), increase(load.around, "queue_count")
    good = [record for record in load.requests if record.outcome == "ok"]
    if not waited_s or not count or not good:
        return ""
    mean_s = waited_s / count
    latency_s = sum(record.done_ns - record.sent_ns for record in good) / len(good) / NS_PER_S
    if mean_s < QUEUE_FRAC * latency_s:
        return ""
    return (
        f"queue before the engine: {count:.0f} requests waited {mean_s:.3g} s on average, "
        f"{min(1.0, mean_s / latency_s):.0%} of the {latency_s:.3g} s from send to answer"
    )


def _prefill(load: Load) -> str:
    """Where something ran most of the time: a server that is idle between requests is not held back by prompts."""
    seen = [scrape.values["running"] for scrape in load.inside if "running" in scrape.values]
    busy = sum(running >= 1 for running in seen)
    if len(seen) < MIN_SCRAPES or busy < OFTEN_FRAC * len(seen) or load.done < MIN_SCRAPES:
        return ""
    prefill_s, decode_s = increase(load.around, "prefill_s"), increase(load.around, "decode_s")
    if prefill_s is None or decode_s is None or prefill_s + decode_s <= 0:
        return ""
    share = prefill_s / (prefill_s + decode_s)
    if share < PREFILL_FRAC:
        return ""
    return (
        f"prefill bound: {share:.0%} of the {prefill_s + decode_s:.3g} s that requests spent in the engine went into "
        f"their prompts; something ran in {busy} of {len(seen)} scrapes"
    )


def _waits(scrape: Scrape) -> bool:
    return scrape.values.get("waiting", 0.0) >= 1


def _is_full(scrape: Scrape) -> bool:
    return scrape.values.get("kv_frac", 0.0) >= KV_FULL_FRAC


def _share(part: float, whole: int) -> str:
    return f" ({part / whole:.0%})" if whole else ""

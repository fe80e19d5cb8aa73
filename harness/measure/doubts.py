"""Doubts about a measurement: each a kind and one sentence with its numbers; and the verdict on the load client.

Thresholds are stated here (and in steady_state.py) and nowhere else. `doubts_of` only doubts; `client_verdict` voids.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.measure.asked_lengths import cached_prompts, input_lengths, long_answers, short_answers, uncounted
from harness.measure.machine.sampler import ResourceUse
from harness.measure.overload import overload
from harness.measure.schedule import late_turns, was_sent
from harness.measure.statistics.estimators import smallest_n
from harness.measure.statistics.steady_state import SMALLEST_N, unsteadiness
from harness.measure.tokens import more_pieces
from harness.records import Doubt, DoubtKind, RequestRecord
from harness.units import NS_PER_MS, ms_from_ns

OTHER_CPU_FRAC = 0.10
"""CPU of unrelated processes above this share of the machine: the engine did not have the machine it was given."""
CLIENT_CPU_FRAC = 0.20
"""CPU of the load generator above this share of the machine: on one host, it took that from the engine."""
CLIENT_SATURATED_FRAC = 0.90
"""A load process runs on one core (one event loop). Above this share of its core, latency is its own queue."""
CLIENT_BESIDE_S = 0.01
"""CPU of a load process at the edges of its window (about 3 ms were seen): no share of the load, though it is all of a
window of milliseconds."""
CLIENT_BUSY_FRAC = 0.70
"""Doubt begins earlier: queueing delay grows as 1/(1 - share)."""
LAG_FRAC = 0.10
LAG_MIN_MS = 2.0
"""Requests leave late by more than 2 ms, and 10 % of the median latency, at the 99th percentile: the client lags."""
VOID_LAG_FRAC = 0.50
VOID_LAG_MIN_MS = 10.0
"""Late by more than 10 ms, and half of the median time from send to answer: the tail is the client's own."""
VOID_DELIVERED_FRAC = 0.97
"""Less of the asked rate than this left in time, and the last request more than VOID_LAG_MIN_MS late (a window of
milliseconds ends late by a scheduler's whim): the engine was not loaded as the result would claim."""
STALL_MS = 50.0
"""One pause of the client this long, and as long as the median latency, is reported even where p99 hides it."""
WAITED_FRAC = 0.01
"""Requests held back by max_in_flight, without the engine being overloaded."""
MIN_WINDOW_S = 2.0
"""In a shorter window one scheduling hiccup of 100 ms is already 5 %."""


def measured(records: Sequence[RequestRecord]) -> list[RequestRecord]:
    """The records without warm-up, by intended send."""
    return sorted((record for record in records if not record.is_warmup), key=lambda record: record.intended_ns)


def crashed(crashes: int) -> list[Doubt]:
    """Workers that crashed and were started again: their requests waited, and were answered all the same or failed."""
    if not crashes:
        return []
    times = "once" if crashes == 1 else f"{crashes} times"
    sentence = (
        f"a worker crashed {times}: what it had in flight was asked again or failed; logs/<trial>/server.log has why"
    )
    return [Doubt(kind="worker_crashes", sentence=sentence)]


def client_verdict(
    records: Sequence[RequestRecord],
    use: ResourceUse,
    *,
    is_open_loop: bool = False,
    max_in_flight: int = 0,
    waited: int = 0,
) -> str | None:
    """None, or the sentence that voids the trial: the load generator was the bottleneck, not the engine.

    Void when the load processes used more than 90 % of the cores they can use (one each); in an open loop, when
    requests left later than 10 ms and half the median service time at the 99th percentile, when less than 97 % of the
    asked rate left in time, or when `waited` requests, more than 1 %, found `max_in_flight` outstanding though the
    engine kept up. Lag of an engine that is overloaded (see overload.py) is the engine's, and is named in `doubts_of`.
    A closed loop that is late sends less, which its own latency and throughput show: it is doubted, not void.
    """
    chosen = measured(records)
    if not chosen or use.window_s <= 0:
        return None
    if saturated := _saturated(use):
        return saturated
    if waited:
        return None if overload(chosen) else _bounded(len(chosen), max_in_flight, waited)
    return (_behind(chosen, use) or None) if is_open_loop else None


def _saturated(use: ResourceUse) -> str:
    share = use.client_s / (use.window_s * use.client_processes)
    beside_s = CLIENT_BESIDE_S * use.client_processes
    if use.client_s - beside_s <= CLIENT_SATURATED_FRAC * use.window_s * use.client_processes:
        return ""
    return (
        f"the load generator used {share:.0%} of its {use.client_processes} core(s) "
        f"(limit {CLIENT_SATURATED_FRAC:.0%}), so it was the bottleneck; "
        "use fewer users, longer answers or more load processes"
    )


def _bounded(n: int, max_in_flight: int, waited: int) -> str:
    if waited <= WAITED_FRAC * n:
        return ""
    return (
        f"{waited} of {n} requests were held back because max_in_flight = {max_in_flight} were outstanding, though the "
        "engine kept up; raise workload.load.max_in_flight"
    )


def _behind(chosen: Sequence[RequestRecord], use: ResourceUse) -> str:
    """The client sent too late, or too little; whose fault that was decides the advice."""
    sent = [record for record in chosen if was_sent(record)]
    if not sent:
        return ""
    lag_ms = _lag_ms(sent, 0.99)
    service_ms = float(np.median([ms_from_ns(record.done_ns - record.sent_ns) for record in sent]))
    others = use.frac(use.other_s)
    advice = "lower the rate, set workload.load.processes higher, or load from another machine"
    if others > OTHER_CPU_FRAC:
        advice = f"other processes used {others:.0%} of this machine's CPU: stop them, or {advice}"
    if lag_ms > max(VOID_LAG_MIN_MS, VOID_LAG_FRAC * service_ms):
        return (
            f"requests left up to {lag_ms:.1f} ms late (99th percentile) at a median service time of "
            f"{service_ms:.1f} ms, so the client was a large part of the tail; {advice}"
        )
    first_ns, last_ns = sent[0].intended_ns, sent[-1].intended_ns
    late_ns = max(0, max(record.sent_ns for record in sent) - last_ns)
    delivered = (last_ns - first_ns) / max(1, last_ns - first_ns + late_ns)
    if len(sent) > 1 and delivered < VOID_DELIVERED_FRAC and ms_from_ns(late_ns) > VOID_LAG_MIN_MS:
        return (
            f"only {delivered:.1%} of the asked rate left the client (limit {VOID_DELIVERED_FRAC:.0%}), "
            f"so the engine was loaded less than the result suggests; {advice}"
        )
    return ""


def _lag_ms(chosen: Sequence[RequestRecord], q: float) -> float:
    return float(np.quantile([ms_from_ns(record.sent_ns - record.intended_ns) for record in chosen], q))


def doubts_of(
    records: Sequence[RequestRecord], use: ResourceUse, *, is_open_loop: bool = False, shares_prefixes: bool = False
) -> tuple[Doubt, ...]:
    """Every reason to doubt the numbers made from these records; empty when there is none. `shares_prefixes`: inputs
    share their beginnings on purpose, so that what a cache had of them is the load."""
    chosen = measured(records)
    found: tuple[tuple[DoubtKind, str], ...] = (
        ("few_samples", _few_samples(chosen)),
        ("short_window", _short_window(use)),
        ("failed_requests", _failures(chosen)),
        ("other_cpu", _other_cpu(use)),
        ("client_cpu", _client_cpu(use)),
        ("overload", overload(chosen) if is_open_loop else ""),
        ("late_sends", _lag(chosen)),
        ("client_pause", _stall(chosen)),
        _unsteady(chosen, is_open_loop),
        ("token_counts", _token_counts(chosen) or uncounted(chosen) or more_pieces(chosen)),
        ("short_answers", short_answers(chosen)),
        ("long_answers", long_answers(chosen)),
        ("input_lengths", input_lengths(chosen)),
        ("late_turns", late_turns(chosen)),
        ("cached_prompts", "" if shares_prefixes else cached_prompts(chosen)),
    )
    return (*(Doubt(kind=kind, sentence=sentence) for kind, sentence in found if sentence), *use.disturbances)


def _few_samples(chosen: Sequence[RequestRecord]) -> str:
    n, needed = sum(record.outcome == "ok" for record in chosen), smallest_n(0.99)
    if n >= needed:
        return ""
    steady = "" if n >= SMALLEST_N else f"; {SMALLEST_N} are needed to distinguish a steady state from a drift"
    answered = f"{n} answered request{'s' * (n != 1)}"
    return f"{answered}: a 95 % interval for p99 needs {needed}, so latency_p99_ms has no upper bound{steady}"


def _short_window(use: ResourceUse) -> str:
    if use.window_s >= MIN_WINDOW_S:
        return ""
    return f"measured for {use.window_s:.2f} s only; under {MIN_WINDOW_S:g} s one hiccup moves every number"


def _failures(chosen: Sequence[RequestRecord]) -> str:
    failed = [record for record in chosen if record.outcome != "ok"]
    if not failed:
        return ""
    counts = {name: sum(record.outcome == name for record in failed) for name in {r.outcome for r in failed}}
    parts = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    example = next((record.error for record in failed if record.error), "")
    return f"{len(failed)} of {len(chosen)} requests failed ({parts})" + (
        f", for instance: {example}" if example else ""
    )


def _other_cpu(use: ResourceUse) -> str:
    share = use.frac(use.other_s)
    if share <= OTHER_CPU_FRAC or use.engine_s is None:  # an attached engine may be the other process
        return ""
    return f"other processes used {share:.0%} of the machine's CPU while measuring (limit {OTHER_CPU_FRAC:.0%})"


def _client_cpu(use: ResourceUse) -> str:
    if use.window_s <= 0:
        return ""
    share, own = use.frac(use.client_s), use.client_s / (use.window_s * use.client_processes)
    if share > CLIENT_CPU_FRAC:
        return f"the load generator took {share:.0%} of the machine's CPU from the engine (limit {CLIENT_CPU_FRAC:.0%})"
    if own > CLIENT_BUSY_FRAC:
        return f"the load generator used {own:.0%} of its core(s); its own queueing is part of every latency"
    return ""


def _lag(chosen: Sequence[RequestRecord]) -> str:
    if not chosen:
        return ""
    lag_ms = _lag_ms(chosen, 0.99)
    median_ms = float(np.median([ms_from_ns(record.latency_ns) for record in chosen]))
    if lag_ms <= max(LAG_MIN_MS, LAG_FRAC * median_ms):
        return ""
    return f"requests left up to {lag_ms:.1f} ms late (99th percentile) at a median latency of {median_ms:.1f} ms"


def _stall(chosen: Sequence[RequestRecord]) -> str:
    """A pause that the 99th percentile of the lag does not show."""
    if not chosen:
        return ""
    worst = max(chosen, key=lambda record: record.sent_ns - record.intended_ns)
    lag_ms, p99_ms = ms_from_ns(worst.sent_ns - worst.intended_ns), _lag_ms(chosen, 0.99)
    median_ms = float(np.median([ms_from_ns(record.latency_ns) for record in chosen]))
    is_reported = p99_ms > max(LAG_MIN_MS, LAG_FRAC * median_ms)
    if is_reported or lag_ms <= max(STALL_MS, median_ms):
        return ""
    at_s = (worst.intended_ns - chosen[0].intended_ns) / (1e3 * NS_PER_MS)
    return f"the load generator paused for {lag_ms:.0f} ms, {at_s:.1f} s into the window; latency_max_ms holds it"


def _unsteady(chosen: Sequence[RequestRecord], is_open_loop: bool) -> tuple[DoubtKind, str]:
    """Not for schedules whose rate changes by design: there the latency must follow."""
    ok = [record for record in chosen if record.outcome == "ok"]
    if len(ok) < SMALLEST_N or (is_open_loop and _changes_by_design(chosen)):
        return "drift", ""
    found = unsteadiness([ms_from_ns(record.latency_ns) for record in ok])
    if found is None:
        return "drift", ""
    early, late = f"median latency {found.early:.3g} ms in the first", f"{found.late:.3g} ms"
    if found.kind == "warmup":
        too_short = f"the warm-up was too short: {early} twelfth of the window, {late} after it; raise warmup_requests"
        return "short_warmup", too_short
    return "drift", f"not a steady state: {early} half, {late} in the second"


def _changes_by_design(chosen: Sequence[RequestRecord]) -> bool:
    """Intended sends in the two halves of the time differ by more than four standard deviations of a Poisson count."""
    middle_ns = (chosen[0].intended_ns + chosen[-1].intended_ns) / 2
    early = sum(record.intended_ns < middle_ns for record in chosen)
    return bool(abs(2 * early - len(chosen)) > 4 * np.sqrt(len(chosen)))


def _token_counts(chosen: Sequence[RequestRecord]) -> str:
    ok = [record for record in chosen if record.outcome == "ok"]
    for side, what in (("output", "a token count"), ("input", "a count of their prompt's tokens")):
        missing = sum(getattr(record, f"{side}_tokens") is None for record in ok)
        if 0 < missing < len(ok):
            return f"{missing} of {len(ok)} answers came without {what}; {side}_tokens_per_s is too low"
    return ""

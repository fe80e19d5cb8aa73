"""Summarizing a trial: raw request records in, a TrialSummary of metrics with intervals out.

What is counted. Latency: from intended send to last byte, of measured requests that were answered; a timed-out request
counts with the time it waited (a lower bound), so a hanging server is not forgiven; refused and failed requests are in
error_frac, not in latency. Throughput: good answers from the opening of the window to the last intended send - the time
in which every user had work; the tail, in which users run dry one by one, would make any engine look slower. In an open
loop it begins with the first answer: until then nothing can have come back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.measure.asked_lengths import cache_metrics, short_metric
from harness.measure.doubts import doubts_of, measured
from harness.measure.machine.sampler import ResourceUse
from harness.measure.schedule import connect_metrics, schedule_metrics
from harness.measure.statistics.estimators import mean, percentile, rate, share
from harness.measure.tokens import meets, token_metrics
from harness.records import Metric, RequestRecord, TrialSummary
from harness.units import NS_PER_S, mib_from_bytes, ms_from_ns

_PERCENTILES = (
    ("latency_p50_ms", 0.5), ("latency_p90_ms", 0.9), ("latency_p95_ms", 0.95), ("latency_p99_ms", 0.99),
    ("latency_p999_ms", 0.999),
)  # fmt: skip


def summarize(
    records: Sequence[RequestRecord],
    begin_ns: int,
    end_ns: int,
    use: ResourceUse,
    *,
    load_s: float,
    slo: Mapping[str, float] | None = None,
    asked_rps: float | None = None,
    is_open_loop: bool = False,
    unlimited_hit_frac: float | None = None,
) -> TrialSummary:
    """The summary of one load. Latency and throughput are absent when no request was answered.

    `slo` holds the thresholds of one request (any of latency_ms, ttft_ms, tpot_ms, itl_ms); without it there is no
    goodput. `asked_rps` is the rate of the schedule, `is_open_loop` whether there was one. `unlimited_hit_frac` is what
    a prefix cache without bound would have of the inputs, where they share their beginnings on purpose.
    """
    chosen = measured(records)
    # Requests of one round of users meet in the same batches; arrivals of an open loop know no rounds.
    block = 1 if is_open_loop else len({record.user for record in chosen})
    window = None if is_open_loop else (begin_ns, end_ns)
    metrics: dict[str, Metric] = {}
    metrics.update(_latency(chosen, block))
    metrics.update(token_metrics(chosen, block))
    metrics.update(_throughput(chosen, window, block))
    if slo:
        metrics.update(_goodput(chosen, window, block, dict(slo)))
    if is_open_loop:
        metrics.update(schedule_metrics(chosen, begin_ns, asked_rps))
    metrics.update(connect_metrics(records))
    metrics.update(_errors(chosen))
    metrics.update(short_metric(chosen))
    metrics.update(cache_metrics(chosen, unlimited_hit_frac))
    metrics.update(_resources(use))
    metrics.update(_energy(chosen, use))
    metrics["load_s"] = Metric(value=load_s, unit="s", estimator="one launch, start to ready", n=1)
    doubts = doubts_of(records, use, is_open_loop=is_open_loop, shares_prefixes=unlimited_hit_frac is not None)
    return TrialSummary(metrics=metrics).doubted(doubts)


def _latency(chosen: Sequence[RequestRecord], block: int) -> dict[str, Metric]:
    timed = [record for record in chosen if record.outcome in ("ok", "timed_out")]
    if not timed:
        return {}
    samples = [record.latency_ns for record in timed]
    metrics = {name: percentile(samples, q, block=block) for name, q in _PERCENTILES}
    metrics["latency_mean_ms"] = mean(samples, block=block)
    metrics["latency_max_ms"] = Metric(
        value=ms_from_ns(max(samples)), unit="ms", estimator="largest sample", n=len(samples)
    )
    late = sum(record.outcome == "timed_out" for record in timed)
    if late:
        note = f"{late} timed out, counted with the time they waited"
        metrics = {name: _noted(metric, note) for name, metric in metrics.items()}
    return metrics


Window = tuple[int, int] | None
"""Opening and end of a closed loop's window (ns); None: open loop."""


def _throughput(chosen: Sequence[RequestRecord], window: Window, block: int) -> dict[str, Metric]:
    good = [record for record in chosen if record.outcome == "ok"]
    if not good:
        return {}
    amounts: dict[str, tuple[str, list[float]]] = {
        "throughput_rps": ("requests/s", [1.0] * len(good)),
        "throughput_inputs_per_s": ("inputs/s", [float(len(record.prompt_ids)) for record in good]),
    }
    amounts.update(_token_amounts(good))
    rates = {**_rates(chosen, good, window, block, amounts), **_per_user(good, block)}
    own = sum(record.counted_by == "tokenizer" for record in good)
    if own and "output_tokens_per_s" in rates:
        note = f"{own} of {len(good)} answers counted by the served model's tokenizer, since the server gave no count"
        rates["output_tokens_per_s"] = _noted(rates["output_tokens_per_s"], note)
    return rates


def _token_amounts(good: Sequence[RequestRecord]) -> dict[str, tuple[str, list[float]]]:
    """Tokens of each good answer, for the rates that something counted: output, input, and both."""
    counted = {
        side: [float(getattr(record, f"{side}_tokens") or 0) for record in good]
        for side in ("output", "input")
        if any(getattr(record, f"{side}_tokens") is not None for record in good)
    }
    if len(counted) == 2:
        counted["total"] = [sum(both) for both in zip(*counted.values(), strict=True)]
    return {f"{side}_tokens_per_s": ("tokens/s", tokens) for side, tokens in counted.items()}


def _per_user(good: Sequence[RequestRecord], block: int) -> dict[str, Metric]:
    """The rate at which one user gets the tokens of an answer, waiting included."""
    timed = [(record.output_tokens, record.latency_ns) for record in good if record.latency_ns > 0]
    each = [tokens * NS_PER_S / latency_ns for tokens, latency_ns in timed if tokens]
    if not each:
        return {}
    metric = mean(each, unit="tokens/s", scale=1.0, block=block)
    estimator = f"output tokens over latency of an answer, {metric.estimator}"
    return {"output_tokens_per_s_per_user": replace(metric, estimator=estimator)}


def _goodput(chosen: Sequence[RequestRecord], window: Window, block: int, slo: dict[str, float]) -> dict[str, Metric]:
    """Failed requests are in the share: shedding load is no way to a better goodput."""
    if not chosen:
        return {}
    met = [record for record in chosen if meets(record, slo)]
    bounds = ", ".join(f"{name} <= {bound:g}" for name, bound in slo.items())
    is_met = [meets(record, slo) for record in chosen]
    metrics = {"goodput_frac": share(is_met, estimator=f"share of all measured requests with {bounds}")}
    if met:
        metrics.update(_rates(chosen, met, window, block, {"goodput_rps": ("requests/s", [1.0] * len(met))}))
    else:
        nothing = f"no request met {bounds}"
        metrics["goodput_rps"] = Metric(value=0.0, unit="requests/s", estimator=nothing, n=len(chosen))
    return metrics


def _rates(
    chosen: Sequence[RequestRecord],
    counted: Sequence[RequestRecord],
    window: Window,
    block: int,
    amounts: Mapping[str, tuple[str, list[float]]],
) -> dict[str, Metric]:
    """Amounts of the counted requests per second, while load was offered; nothing where an open loop had one answer."""
    done = [record.done_ns for record in counted]
    busy_until_ns = max(record.intended_ns for record in chosen)
    inside = sum(at_ns <= busy_until_ns for at_ns in done)
    note = ""
    if window is None:
        answered = [record.done_ns for record in chosen if record.outcome == "ok"]
        if inside <= MIN_INSIDE:
            busy_until_ns = max(answered)
            note = "so few answers came while the schedule ran that the time after it is included"
        if busy_until_ns <= min(answered):
            return {}
        window = (min(answered) + 1, busy_until_ns)
    elif inside >= len({record.user for record in chosen}):
        window = (window[0], busy_until_ns)
    else:  # With hardly more requests than users nobody ever came back: then the whole window is all there is.
        window = (window[0], max(done))
        note = "fewer than two requests per user: the tail, in which users run dry, is included and lowers it"
    metrics = {name: rate(done, each, window, unit=unit, block=block) for name, (unit, each) in amounts.items()}
    return {name: _noted(metric, note) for name, metric in metrics.items()}


MIN_INSIDE = 10
"""Completions while the schedule still ran; with fewer the drain after it is part of the rate."""


def _errors(chosen: Sequence[RequestRecord]) -> dict[str, Metric]:
    if not chosen:
        return {}
    failed = [record.outcome != "ok" for record in chosen]
    return {"error_frac": share(failed, estimator="share of measured requests without a good answer")}


def _resources(use: ResourceUse) -> dict[str, Metric]:
    metrics: dict[str, Metric] = {}
    if use.peak_memory_bytes is not None:
        metrics["peak_memory_mib"] = Metric(
            value=mib_from_bytes(use.peak_memory_bytes),
            unit="MiB",
            estimator=f"largest sampled sum of {use.memory_kind} over the engine's process tree",
            n=use.samples,
        )
    shares = {"cpu_frac_client": use.client_s, "cpu_frac_other": use.other_s}
    if use.engine_s is not None:
        shares["cpu_frac_engine"] = use.engine_s
    note = "" if use.engine_s is not None else "the engine is among the others if it runs on this machine"
    for name, cpu_s in shares.items():
        metrics[name] = Metric(
            value=use.frac(cpu_s),
            unit="frac",
            estimator=f"CPU seconds over window times {use.cores} cores",
            n=use.samples,
            note=note if name == "cpu_frac_other" else "",
        )
    return metrics


def _energy(chosen: Sequence[RequestRecord], use: ResourceUse) -> dict[str, Metric]:
    """GPU telemetry and energy, each only where this machine lets us read it."""
    rows = (
        ("gpu_memory_mib", use.gpu_memory_mib, "MiB", "largest sample, all GPUs and processes together"),
        ("gpu_util_frac", use.gpu_util_frac, "frac", "mean over the window of the busiest GPU's share of time"),
        ("gpu_power_w", use.gpu_power_w, "W", "mean of sampled power over the window, all GPUs together"),
        ("energy_j", use.energy_j, "J", f"difference of the energy counters of {use.energy_of} over the window"),
    )
    metrics = {
        name: Metric(value=value, unit=unit, estimator=estimator, n=use.samples)
        for name, value, unit, estimator in rows
        if value is not None
    }
    good = [record for record in chosen if record.outcome == "ok"]
    tokens = sum(record.output_tokens or 0 for record in good)
    for name, count in (("energy_j_per_request", len(good)), ("energy_j_per_output_token", tokens)):
        if use.energy_j is not None and count:
            estimator = f"energy of {use.energy_of} over the window, idle power included, over {count}"
            metrics[name] = Metric(value=use.energy_j / count, unit="J", estimator=estimator, n=count)
    return metrics


def _noted(metric: Metric, note: str) -> Metric:
    return replace(metric, note="; ".join(part for part in (metric.note, note) if part))

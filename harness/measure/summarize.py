"""Raw records in, a TrialSummary out: every number recomputable from what the run folder holds.

What is counted. Latency: from intended send to last byte, of measured requests that were answered; a timed-out request
counts with the time it waited (a lower bound), so a hanging server is not forgiven; refused and failed requests are in
error_frac, not in latency. Throughput: good answers from the opening of the window to the last intended send - the time
in which every user had work; the tail, in which users run dry one by one, would make any engine look slower.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.measure.device import ResourceUse
from harness.measure.stats import mean, percentile, rate, wilson_interval
from harness.measure.validity import distrust, measured
from harness.records import Metric, RequestRecord, TrialSummary
from harness.units import mib_from_bytes, ms_from_ns

_PERCENTILES = (("latency_p50_ms", 0.5), ("latency_p90_ms", 0.9), ("latency_p99_ms", 0.99))


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
) -> TrialSummary:
    """The summary of one load. Latency and throughput are absent when no request was answered.

    `slo` holds the thresholds of one request (any of latency_ms, ttft_ms, tpot_ms, itl_ms); without it there is no
    goodput. `asked_rps` is the rate of the schedule, `is_open_loop` whether there was one.
    """
    chosen = measured(records)
    metrics: dict[str, Metric] = {}
    metrics.update(_latency(chosen))
    metrics.update(_first_token(chosen))
    metrics.update(_throughput(chosen, begin_ns, end_ns))
    metrics.update(_errors(chosen))
    metrics.update(_resources(use))
    metrics["load_s"] = Metric(value=load_s, unit="s", estimator="one launch, start to ready", n=1)
    return TrialSummary(metrics=metrics, distrust=distrust(records, use))


def _latency(chosen: Sequence[RequestRecord]) -> dict[str, Metric]:
    timed = [record for record in chosen if record.outcome in ("ok", "timed_out")]
    if not timed:
        return {}
    samples = [record.latency_ns for record in timed]
    users = len({record.user for record in chosen})
    metrics = {name: percentile(samples, q, block=users) for name, q in _PERCENTILES}
    metrics["latency_mean_ms"] = mean(samples, block=users)
    metrics["latency_max_ms"] = Metric(
        value=ms_from_ns(max(samples)), unit="ms", estimator="largest sample", n=len(samples)
    )
    late = sum(record.outcome == "timed_out" for record in timed)
    if late:
        note = f"{late} timed out, counted with the time they waited"
        metrics = {name: _noted(metric, note) for name, metric in metrics.items()}
    return metrics


def _first_token(chosen: Sequence[RequestRecord]) -> dict[str, Metric]:
    waits = [r.first_token_ns - r.intended_ns for r in chosen if r.outcome == "ok" and r.first_token_ns is not None]
    if not waits:
        return {}
    users = len({record.user for record in chosen})
    return {
        "ttft_p50_ms": percentile(waits, 0.5, block=users),
        "ttft_p99_ms": percentile(waits, 0.99, block=users),
    }


def _throughput(chosen: Sequence[RequestRecord], begin_ns: int, end_ns: int) -> dict[str, Metric]:
    good = [record for record in chosen if record.outcome == "ok"]
    if not good:
        return {}
    users = len({record.user for record in chosen})
    busy_until_ns = max(record.intended_ns for record in chosen)
    # With hardly more requests than users nobody ever came back: then the whole window is all there is.
    has_rounds = sum(record.done_ns <= busy_until_ns for record in good) >= users
    window = (begin_ns, busy_until_ns if has_rounds else end_ns)
    done = [record.done_ns for record in good]
    amounts: dict[str, tuple[str, list[float]]] = {
        "throughput_rps": ("requests/s", [1.0] * len(good)),
        "throughput_inputs_per_s": ("inputs/s", [float(len(record.prompt_ids)) for record in good]),
    }
    if any(record.output_tokens is not None for record in good):
        amounts["output_tokens_per_s"] = ("tokens/s", [float(record.output_tokens or 0) for record in good])
    metrics = {name: rate(done, each, window, unit=unit, block=users) for name, (unit, each) in amounts.items()}
    if not has_rounds:
        note = "fewer than two requests per user: the tail, in which users run dry, is included and lowers it"
        metrics = {name: _noted(metric, note) for name, metric in metrics.items()}
    return metrics


def _errors(chosen: Sequence[RequestRecord]) -> dict[str, Metric]:
    if not chosen:
        return {}
    failed = sum(record.outcome != "ok" for record in chosen)
    low, high = wilson_interval(failed, len(chosen))
    return {
        "error_frac": Metric(
            value=failed / len(chosen),
            unit="frac",
            estimator="share of measured requests without a good answer, Wilson interval",
            n=len(chosen),
            low=low,
            high=high,
        )
    }


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


def _noted(metric: Metric, note: str) -> Metric:
    return Metric(
        value=metric.value,
        unit=metric.unit,
        estimator=metric.estimator,
        n=metric.n,
        low=metric.low,
        high=metric.high,
        note="; ".join(part for part in (metric.note, note) if part),
    )

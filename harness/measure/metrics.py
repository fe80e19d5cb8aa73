"""The names of everything a trial says: one row each. Ratios are 0..1; throughput counts good answers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.records import Metric, Trial

Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """What a metric means. `direction` is the better one; `source` says which part of the trial holds it."""

    name: str
    unit: str
    direction: Direction
    help: str
    source: Literal["load", "quality"] = "load"


_LOAD = (
    ("latency_p50_ms", "ms", "minimize", "median latency of a request, from intended send to last byte"),
    ("latency_p90_ms", "ms", "minimize", "90th percentile of the latency"),
    ("latency_p95_ms", "ms", "minimize", "95th percentile of the latency; bounded above only from 72 requests on"),
    ("latency_p99_ms", "ms", "minimize", "99th percentile of the latency; bounded above only from 368 requests on"),
    (
        "latency_p999_ms",
        "ms",
        "minimize",
        "99.9th percentile of the latency; bounded above only from 3,688 requests on",
    ),
    ("latency_mean_ms", "ms", "minimize", "mean latency of a request"),
    ("latency_max_ms", "ms", "minimize", "longest latency seen"),
    ("ttft_p50_ms", "ms", "minimize", "median time from intended send to the first token; streaming only"),
    ("ttft_p90_ms", "ms", "minimize", "90th percentile of the time to the first token; streaming only"),
    ("ttft_p99_ms", "ms", "minimize", "99th percentile of the time to the first token; streaming only"),
    ("itl_p50_ms", "ms", "minimize", "median gap between the tokens of an answer; streaming only"),
    ("itl_p99_ms", "ms", "minimize", "99th percentile of the gap between the tokens of an answer; streaming only"),
    ("tpot_p50_ms", "ms", "minimize", "median time per output token after the first, one per answer; streaming only"),
    ("tpot_p99_ms", "ms", "minimize", "99th percentile of the time per output token after the first; streaming only"),
    ("throughput_rps", "requests/s", "maximize", "good answers per second while every user was busy"),
    ("throughput_inputs_per_s", "inputs/s", "maximize", "prompts answered per second; a request may carry several"),
    ("output_tokens_per_s", "tokens/s", "maximize", "generated tokens per second, where the server counts them"),
    ("goodput_rps", "requests/s", "maximize", "answers per second that met every threshold of workload.slo"),
    ("goodput_frac", "frac", "maximize", "share of all measured requests, failed ones included, that met workload.slo"),
    ("max_rate_rps", "requests/s", "maximize", "largest rate that met the SLO; load kind max_rate only"),
    ("rate_asked_rps", "requests/s", "maximize", "rate the schedule asked for; open loop only"),
    ("rate_delivered_rps", "requests/s", "maximize", "rate at which requests really left the client; open loop only"),
    ("lag_p50_ms", "ms", "minimize", "median delay of a request's send behind the schedule; open loop only"),
    ("lag_p99_ms", "ms", "minimize", "99th percentile of a request's send behind the schedule; open loop only"),
    ("connect_p99_ms", "ms", "minimize", "99th percentile of the time to open a connection, where any was opened"),
    ("error_frac", "frac", "minimize", "share of measured requests that got no good answer"),
    ("peak_memory_mib", "MiB", "minimize", "largest memory of the engine's process tree"),
    ("cpu_frac_engine", "frac", "minimize", "share of the machine's CPU the engine used while measured"),
    ("cpu_frac_client", "frac", "minimize", "share of the machine's CPU the load generator used while measured"),
    ("cpu_frac_other", "frac", "minimize", "share of the machine's CPU anything else used while measured"),
    ("gpu_memory_mib", "MiB", "minimize", "largest memory in use on the GPUs of this machine, all processes"),
    ("gpu_util_frac", "frac", "maximize", "share of time a kernel ran on the busiest GPU, mean over the window"),
    ("gpu_power_w", "W", "minimize", "mean electric power of the GPUs of this machine together"),
    ("energy_j", "J", "minimize", "energy of CPU packages and GPUs in the measured window, where both can be read"),
    ("energy_j_per_request", "J", "minimize", "that energy per good answer"),
    ("energy_j_per_output_token", "J", "minimize", "that energy per generated token"),
    ("cost_usd_per_1k_prompts", "USD/1000 prompts", "minimize", "price of the instance per 1,000 prompts answered"),
    ("cost_usd_per_mtok", "USD/Mtok", "minimize", "price of the instance per million generated tokens"),
    ("load_s", "s", "minimize", "seconds from launch to ready"),
)
_QUALITY = (
    ("exact_match_frac", "frac", "maximize", "share of answers equal to the task's reference"),
    ("reference_match_frac", "frac", "maximize", "share of answers equal to the fp32 reference engine's"),
    ("token_agreement_frac", "frac", "maximize", "mean common prefix with the fp32 reference, in words"),
    ("chrf", "frac", "maximize", "chrF2 against the task's reference, on the long tasks"),
    ("rouge_l", "frac", "maximize", "mean ROUGE-L F1 against the task's reference, on the long tasks"),
    ("nonfinite_frac", "frac", "minimize", "share of answers that are missing, empty or from non-finite scores"),
)


def _rows() -> dict[str, MetricRow]:
    rows: dict[str, MetricRow] = {}
    for source, table in (("load", _LOAD), ("quality", _QUALITY)):
        for name, unit, direction, text in table:
            rows[name] = MetricRow(name=name, unit=unit, direction=direction, help=text, source=source)  # type: ignore[arg-type]
    return rows


METRICS: dict[str, MetricRow] = _rows()
"""Metric name -> row, in the order a report prints them. `exact_match_frac.<task>` shares its base name's row."""


def metric_row(name: str) -> MetricRow | None:
    """The row of a metric name, also of 'exact_match_frac.<task>'; None when there is no such metric."""
    base, dot, _ = name.partition(".")
    return METRICS.get(base) if not dot or base == "exact_match_frac" else None


def metric_of(trial: Trial, name: str) -> Metric | None:
    """The metric of a trial, from its load or its quality; None when the trial did not get that far."""
    if trial.summary is not None and name in trial.summary.metrics:
        return trial.summary.metrics[name]
    if trial.quality is not None:
        return trial.quality.metrics.get(name)
    return None

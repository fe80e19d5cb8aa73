"""The table of metrics of a trial, one row each: name, meaning, unit and where a reader sees it.

Ratios are 0..1; throughput counts good answers only.
"""

from __future__ import annotations

from harness.measure.levels import LEVEL_MARK, level_in
from harness.measure.metric_def import MetricDef, View
from harness.records import Metric, Trial

_DEFS = (
    MetricDef(
        "latency_p50_ms",
        "ms",
        "minimize",
        "median latency of a request, from intended send to last byte",
        short="P50",
        column=0,
        shown_in=("answer", "brief", "engines", "compared", "deployed", "probe", "file"),
    ),
    MetricDef(
        "latency_p90_ms",
        "ms",
        "minimize",
        "90th percentile of the latency",
        short="P90",
        column=0,
        shown_in=("answer", "brief", "engines", "deployed", "file"),
    ),
    MetricDef(
        "latency_p95_ms", "ms", "minimize", "95th percentile of the latency; bounded above only from 72 requests on"
    ),
    MetricDef(
        "latency_p99_ms",
        "ms",
        "minimize",
        "99th percentile of the latency; bounded above only from 368 requests on",
        short="P99",
        column=0,
        shown_in=("answer", "brief", "engines", "compared", "deployed", "probe", "file"),
    ),
    MetricDef(
        "latency_p999_ms", "ms", "minimize", "99.9th percentile of the latency; bounded above from 3,688 requests on"
    ),
    MetricDef("latency_mean_ms", "ms", "minimize", "mean latency of a request"),
    MetricDef("latency_max_ms", "ms", "minimize", "longest latency seen"),
    MetricDef(
        "throughput_rps",
        "requests/s",
        "maximize",
        "good answers per second while every user was busy",
        heading="Requests/s",
        column=2,
        shown_in=("answer", "brief", "engines", "compared", "probe", "file"),
    ),
    MetricDef(
        "throughput_inputs_per_s",
        "inputs/s",
        "maximize",
        "prompts answered per second; a request may carry several",
        title="Throughput",
        shown_in=("deployed",),
    ),
    MetricDef(
        "goodput_rps",
        "requests/s",
        "maximize",
        "answers per second that met every threshold of workload.slo",
        column=2,
        shown_in=("answer", "aside"),
    ),
    MetricDef(
        "goodput_frac",
        "frac",
        "maximize",
        "share of all measured requests, failed ones included, that met workload.slo",
        title="Within the SLO",
        heading="Within SLO",
        column=3,
        shown_in=("probe",),
    ),
    MetricDef(
        "max_rate_rps",
        "requests/s",
        "maximize",
        "largest rate that met the SLO; load kind max_rate only",
        title="Largest rate",
        column=2,
    ),
    MetricDef(
        "load_level",
        "users or requests/s",
        "maximize",
        "users, or requests per second, of the sweep's level whose numbers stand here; load with several levels only",
        short="measured at",
        heading="Load level",
        column=2,
        shown_in=("answer", "file"),
    ),
    MetricDef(
        "geometric_mean",
        "1",
        "maximize",
        "geometric mean of the objective's figures, those to minimize as 1/value; with that objective only",
        column=2,
        shown_in=("answer", "brief", "engines", "compared", "file"),
    ),
    MetricDef(
        "rate_asked_rps",
        "requests/s",
        "maximize",
        "rate the schedule asked for; open loop only",
        heading="Asked (requests/s)",
        column=4,
    ),
    MetricDef(
        "rate_delivered_rps",
        "requests/s",
        "maximize",
        "rate at which requests really left the client; open loop only",
        heading="Delivered (requests/s)",
        column=4,
        shown_in=("probe",),
    ),
    MetricDef("lag_p50_ms", "ms", "minimize", "median delay of a request's send behind the schedule; open loop only"),
    MetricDef(
        "lag_p99_ms",
        "ms",
        "minimize",
        "99th percentile of a request's send behind the schedule; open loop only",
        column=6,
    ),
    MetricDef(
        "output_tokens_per_s",
        "tokens/s",
        "maximize",
        "generated tokens per second, where the server counts them",
        title="Output",
        heading="Tokens/s",
        column=5,
        shown_in=("deployed",),
    ),
    MetricDef(
        "input_tokens_per_s", "tokens/s", "maximize", "input tokens of good answers per second, where they are counted"
    ),
    MetricDef(
        "total_tokens_per_s", "tokens/s", "maximize", "input and generated tokens per second, where both are counted"
    ),
    MetricDef(
        "output_tokens_per_s_per_user",
        "tokens/s",
        "maximize",
        "generated tokens of an answer over its latency, mean: what one user sees",
        title="Output per user",
    ),
    MetricDef(
        "ttft_p50_ms",
        "ms",
        "minimize",
        "median time from intended send to the first token; streaming only",
        column=3,
        shown_in=("answer", "aside", "deployed"),
    ),
    MetricDef("ttft_mean_ms", "ms", "minimize", "mean time to the first token; streaming only"),
    MetricDef("ttft_p90_ms", "ms", "minimize", "90th percentile of the time to the first token; streaming only"),
    MetricDef("ttft_p95_ms", "ms", "minimize", "95th percentile of the time to the first token; streaming only"),
    MetricDef(
        "ttft_p99_ms", "ms", "minimize", "99th percentile of the time to the first token; streaming only", column=5
    ),
    MetricDef(
        "ttfo_p50_ms",
        "ms",
        "minimize",
        "median time to the first token that is not reasoning; streaming only",
        column=4,
        refines="ttft_p50_ms",
        shown_in=("answer",),
    ),
    MetricDef("ttfo_p90_ms", "ms", "minimize", "90th percentile of the time to the first token that is not reasoning"),
    MetricDef("ttfo_p95_ms", "ms", "minimize", "95th percentile of the time to the first token that is not reasoning"),
    MetricDef("ttfo_p99_ms", "ms", "minimize", "99th percentile of the time to the first token that is not reasoning"),
    MetricDef("itl_p50_ms", "ms", "minimize", "median gap between the tokens of an answer; streaming only", column=4),
    MetricDef("itl_mean_ms", "ms", "minimize", "mean gap between the tokens of an answer; streaming only"),
    MetricDef("itl_p95_ms", "ms", "minimize", "95th percentile of the gap between tokens; streaming only"),
    MetricDef("itl_p99_ms", "ms", "minimize", "99th percentile of the gap between tokens; streaming only", column=5),
    MetricDef(
        "tpot_p50_ms",
        "ms",
        "minimize",
        "median time per output token after the first, one per answer; streaming only",
        column=5,
        shown_in=("aside",),
    ),
    MetricDef("tpot_mean_ms", "ms", "minimize", "mean time per output token after the first; streaming only"),
    MetricDef("tpot_p95_ms", "ms", "minimize", "95th percentile of the time per output token; streaming only"),
    MetricDef(
        "tpot_p99_ms", "ms", "minimize", "99th percentile of the time per output token after the first; streaming only"
    ),
    MetricDef(
        "connect_p99_ms", "ms", "minimize", "99th percentile of the time to open a connection, where any was opened"
    ),
    MetricDef(
        "error_frac",
        "frac",
        "minimize",
        "share of measured requests that got no good answer",
        title="Errors",
        column=3,
        shown_in=("answer", "aside", "deployed", "probe"),
    ),
    MetricDef(
        "slip_p50_ms", "ms", "minimize", "median time that later turns of conversations are due behind the trace"
    ),
    MetricDef("slip_p99_ms", "ms", "minimize", "99th percentile of that slip", column=4, shown_in=("answer", "aside")),
    MetricDef(
        "slip_late_frac", "frac", "minimize", "share of later turns that are due behind the trace", title="Late turns"
    ),
    MetricDef(
        "short_answers_frac",
        "frac",
        "minimize",
        "share of answers shorter than the fixed output length asked for",
        title="Answers too short",
    ),
    MetricDef(
        "cached_input_frac",
        "frac",
        "maximize",
        "share of the input tokens that a prefix cache had, by the server's own count",
        shown_in=("aside",),
    ),
    MetricDef(
        "cached_input_unlimited_frac", "frac", "maximize", "the same of a prefix cache without bound, by a trace"
    ),
    MetricDef(
        "cached_input_lru_frac", "frac", "maximize", "the same of one as large as the server's, by a trace's blocks"
    ),
    MetricDef(
        "prefix_hit_frac",
        "frac",
        "maximize",
        "share of prompt tokens that a prefix cache had, by the counters on the server's metrics page",
    ),
    MetricDef(
        "draft_accepted_frac", "frac", "maximize", "share of drafted speculative tokens that the server accepted"
    ),
    MetricDef(
        "preemptions_per_request",
        "preemptions/request",
        "minimize",
        "times that the server put a request back for want of KV cache, per request answered",
    ),
    MetricDef(
        "weights_read_frac", "frac", "maximize", "weights that steps read at least, of this machine's memory bandwidth"
    ),
    MetricDef(
        "peak_memory_mib",
        "MiB",
        "minimize",
        "largest memory of the engine's process tree",
        column=4,
        shown_in=("answer", "engines", "aside", "file"),
    ),
    MetricDef("cpu_frac_engine", "frac", "minimize", "share of the machine's CPU the engine used while measured"),
    MetricDef(
        "cpu_frac_client", "frac", "minimize", "share of the machine's CPU the load generator used while measured"
    ),
    MetricDef("cpu_frac_other", "frac", "minimize", "share of the machine's CPU anything else used while measured"),
    MetricDef(
        "gpu_memory_mib",
        "MiB",
        "minimize",
        "largest memory in use on the GPUs of this machine, all processes",
        column=4,
    ),
    MetricDef(
        "gpu_util_frac", "frac", "maximize", "share of time a kernel ran on the busiest GPU, mean over the window"
    ),
    MetricDef("gpu_power_w", "W", "minimize", "mean electric power of the GPUs of this machine together", column=6),
    MetricDef(
        "energy_j", "J", "minimize", "energy of CPU packages and GPUs in the measured window, where both can be read"
    ),
    MetricDef("energy_j_per_request", "J", "minimize", "that energy per good answer", title="Energy per request"),
    MetricDef(
        "energy_j_per_output_token",
        "J",
        "minimize",
        "that energy per generated token",
        title="Energy per output token",
        heading="Energy per token (J)",
        column=6,
    ),
    MetricDef(
        "cost_usd_per_1k_prompts",
        "USD/1000 prompts",
        "minimize",
        "price of the instance per 1,000 prompts answered",
        title="Cost of 1,000 prompts",
        heading="USD per 1,000 prompts",
        column=4,
        shown_in=("deployed",),
    ),
    MetricDef(
        "cost_usd_per_mtok",
        "USD/Mtok",
        "minimize",
        "price of the instance per million generated tokens",
        title="Cost of a million tokens",
        heading="USD per million tokens",
        column=5,
        shown_in=("deployed",),
    ),
    MetricDef("load_s", "s", "minimize", "seconds from launch to ready", title="Start", shown_in=("engines", "aside")),
    MetricDef(
        "exact_match_frac",
        "frac",
        "maximize",
        "share of answers equal to the task's reference",
        source="quality",
        shown_in=("aside",),
    ),
    MetricDef(
        "reference_match_frac",
        "frac",
        "maximize",
        "share of answers equal to the reference's (fp32, or a server)",
        source="quality",
    ),
    MetricDef(
        "token_agreement_frac", "frac", "maximize", "mean common prefix with the reference, in words", source="quality"
    ),
    MetricDef(
        "logprob_drop_nats",
        "nats",
        "minimize",
        "how much less likely the answers' tokens are under the reference than its own answers', per token",
        source="quality",
    ),
    MetricDef(
        "chrf",
        "frac",
        "maximize",
        "chrF2 against the task's reference, on the long tasks",
        source="quality",
        title="chrF",
    ),
    MetricDef(
        "rouge_l",
        "frac",
        "maximize",
        "mean ROUGE-L F1 against the task's reference, on the long tasks",
        source="quality",
        title="ROUGE-L",
    ),
    MetricDef(
        "nonfinite_frac",
        "frac",
        "minimize",
        "share of answers that are missing, empty or from non-finite scores",
        source="quality",
        title="Non-finite answers",
    ),
)

METRICS: dict[str, MetricDef] = {row.name: row for row in _DEFS}
"""Metric name -> row, in the order a report prints them. `exact_match_frac.<task>` shares its base name's row."""


def metrics_in(view: View) -> tuple[MetricDef, ...]:
    """The metrics that are shown in `view`, in order."""
    return tuple(row for row in _DEFS if view in row.shown_in)


def adds_detail(trial: Trial, row: MetricDef) -> bool:
    """Whether a trial has this metric, and it differs from the one that it refines."""
    metric, other = metric_of(trial, row.name), metric_of(trial, row.refines)
    return metric is not None and (other is None or metric.value != other.value)


def metric_row(name: str) -> MetricDef | None:
    """The row of a metric name, also of 'exact_match_frac.<task>' and, of a load's metrics, of one level of a sweep
    ('latency_p99_ms@users=16'); None when there is no such metric."""
    plain, mark, _ = name.partition(LEVEL_MARK)
    base, dot, _ = plain.partition(".")
    row = METRICS.get(base) if not dot or base == "exact_match_frac" else None
    if row is None or not mark:
        return row
    return row if row.source == "load" and level_in(name) is not None else None


def metric_of(trial: Trial, name: str) -> Metric | None:
    """The metric of a trial, from its load or its quality; None when the trial did not get that far."""
    if trial.summary is not None and name in trial.summary.metrics:
        return trial.summary.metrics[name]
    if trial.quality is not None:
        return trial.quality.metrics.get(name)
    return None

"""Trials of old runs, brought up to today's record format when they are read.

The only place that reads sentences of ours: those of stored runs, which nobody rewords any more. What is written today
carries its facts in fields and passes through unchanged.
"""

from __future__ import annotations

import re
from typing import Any

from harness.records import DoubtKind, IntervalMethod

_KINDS: tuple[tuple[str, DoubtKind], ...] = (
    (r"\d+ answered requests?: a 95 % interval for p99 needs", "few_samples"),
    (r"measured for ", "short_window"),
    (r"\d+ of \d+ requests failed \(", "failed_requests"),
    (r"other processes used ", "other_cpu"),
    (r"the load generator (took|used) ", "client_cpu"),
    (r"rate exceeds capacity", "overload"),
    (r"requests left ", "late_sends"),
    (r"the load generator paused ", "client_pause"),
    (r"not a steady state", "drift"),
    (r"the warm-up was too short", "short_warmup"),
    (r"\d+ of \d+ answers came without a token count", "token_counts"),
    (r"the hypervisor gave ", "stolen_cpu"),
    (r"the container's CPU quota held ", "cpu_quota"),
    (r"\d+ MiB were swapped ", "swapping"),
    (r"the CPU was slowed down ", "overheated"),
    (r"\d+ of \d+ requests were due while max_in_flight", "held_back"),
    (r"\d+ exceptions left the locustfile's tasks", "task_errors"),
    (r"users whose task did not end ", "cut_off"),
    (r"latency and throughput pool ", "mixed_requests"),
    (r"load worker ", "worker_clock"),
)
"""How each sentence of distrust began, up to commit c252706."""
_METHODS: tuple[tuple[str, IntervalMethod], ...] = (
    ("order-statistic interval", "order_statistic"),
    ("Wilson interval", "wilson"),
    ("block bootstrap", "block_bootstrap"),
    ("the interval is the final bracket", "bracket"),
)
"""What an estimator of then held of the way its interval was found."""
_CONVERTED = r"(converted|exported) model (?P<folder>.+), ready in "
"""How the note began that names the folder of a converted model."""
_REPETITION = r"repetition (?P<round>\d+): a finalist measured again"
"""The note of a trial in a round of the finalists."""
_NOT_LAUNCHED = "not launched: "
"""How the reason of a candidate that was skipped began; its outcome was 'infeasible'."""


def upgraded(trial: dict[str, Any]) -> dict[str, Any]:
    """The stored fields of a trial with the facts that older versions kept in their wording."""
    summary = trial.get("summary")
    if isinstance(summary, dict) and isinstance(summary.get("distrust"), list) and "distrust_kinds" not in summary:
        kinds = [_kind(str(sentence)) for sentence in summary["distrust"]]
        trial = {**trial, "summary": {**summary, "distrust_kinds": kinds}}
    for part in ("summary", "quality"):
        held = trial.get(part)
        if isinstance(held, dict) and isinstance(held.get("metrics"), dict):
            metrics = {name: _with_method(metric) for name, metric in held["metrics"].items()}
            trial = {**trial, part: {**held, "metrics": metrics}}
    if trial.get("outcome") == "infeasible" and str(trial.get("reason", "")).startswith(_NOT_LAUNCHED):
        trial = {**trial, "outcome": "skipped"}
    if isinstance(trial.get("notes"), list) and "repetition" not in trial:
        rounds = (re.match(_REPETITION, str(note)) for note in trial["notes"])
        trial = {**trial, "repetition": next((int(match["round"]) for match in rounds if match), 0)}
    notes = trial.get("notes")
    if isinstance(notes, list) and "converted_dir" not in trial:
        found = (re.match(_CONVERTED, str(note)) for note in notes)
        trial = {**trial, "converted_dir": next((match["folder"] for match in found if match), "")}
    return trial


def _with_method(metric: Any) -> Any:
    if not isinstance(metric, dict) or "method" in metric:
        return metric
    estimator = str(metric.get("estimator", ""))
    return {**metric, "method": next((method for words, method in _METHODS if words in estimator), "none")}


def _kind(sentence: str) -> DoubtKind:
    return next((kind for beginning, kind in _KINDS if re.match(beginning, sentence)), "unclassified")

"""Names of axes, metrics and trials as a figure or table says them."""

from __future__ import annotations

from engines.setting import AXES
from harness.measure.metrics import metric_of
from harness.records import Trial
from harness.report.figures.style import plain
from harness.wording import label, quantity

_AXES = {axis.name: axis.title for axis in AXES}
_HOVER = (("P50", "latency_p50_ms"), ("P99", "latency_p99_ms"), ("throughput", "throughput_rps"))


def axis_title(name: str) -> str:
    """'batch_size' -> 'batch size'."""
    return _AXES.get(name, name.replace("_", " "))


def value_word(value: object) -> str:
    """An axis value as the scenario writes it; 'auto' for none."""
    if value is None:
        return "auto"
    return str(value).lower() if isinstance(value, bool) else str(value)


def metric_title(name: str, unit: str) -> str:
    """'latency_p50_ms' -> 'Latency P50 (ms)', 'throughput_rps' -> 'Throughput (requests/s)'."""
    base, _, task = name.partition(".")
    told = _METRIC_TITLES.get(base)
    if told is None:
        words = base.removesuffix("_ms").removesuffix("_rps").removesuffix("_mib").removesuffix("_w").removesuffix("_j")
        told = " ".join(_METRIC_WORDS.get(word, word) for word in words.split("_") if word != "frac")
        told = told[:1].upper() + told[1:]
    shown = f" ({unit})" if unit not in ("", "frac", "1") else " (%)" if unit == "frac" else ""
    return told + (f", {task}" if task else "") + shown


_METRIC_TITLES = {
    "throughput_inputs_per_s": "Throughput",
    "output_tokens_per_s": "Output",
    "goodput_frac": "Within the SLO",
    "max_rate_rps": "Largest rate",
    "error_frac": "Errors",
    "load_s": "Start",
    "chrf": "chrF",
    "rouge_l": "ROUGE-L",
    "nonfinite_frac": "Non-finite answers",
    "energy_j_per_request": "Energy per request",
    "energy_j_per_output_token": "Energy per output token",
    "cost_usd_per_1k_prompts": "Cost of 1,000 prompts",
    "cost_usd_per_mtok": "Cost of a million tokens",
}
_METRIC_WORDS = {
    "p50": "P50",
    "p90": "P90",
    "p95": "P95",
    "p99": "P99",
    "p999": "P99.9",
    "ttft": "first token",
    "itl": "between tokens",
    "tpot": "per output token",
    "gpu": "GPU",
    "cpu": "CPU",
    "util": "utilisation",
}


def hover(trial: Trial) -> str:
    """What a point says under the mouse."""
    numbers = [f"{name} {quantity(metric)}" for name, key in _HOVER if (metric := metric_of(trial, key)) is not None]
    broken = [plain(f"broke: {violation}") for violation in trial.violations]
    return "<br>".join([f"<b>{plain(label(trial.candidate))}</b>", *numbers, *broken, plain(trial.trial_id)])


def part_shown(shown: int, total: int, things: str, which: str) -> str:
    """'16 of 40 candidates shown: WHICH; the result table has every one', or '' when nothing is left out."""
    return f"{shown} of {total} {things} shown: {which}; the result table has every one." if shown < total else ""

"""Bytes of weights that a trial's steps read in a second, beside what this machine's memory gives."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from engines.errors import ModelInvalid
from engines.models.memory import VALUE_BYTES, step_bytes
from harness.measure.engine_metrics.bandwidth import BEYOND_CACHE, NAME, with_weights_read
from harness.measure.machine.machine_class import part_cpus
from harness.measure.machine.memory_roof import cache_bytes, memory_roof
from harness.records import Trial, TrialSummary
from harness.trial.window import Window


def with_memory_reads(summary: TrialSummary, trial: Trial, window: Window, folder: Path | None) -> TrialSummary:
    """The summary with the share of the memory's bandwidth, or why it is not known; as it is where nobody looked at the
    server's metrics, or where caches may hold the weights. `folder` is the served model's. Measures this machine's
    memory, once, after the engine has ended."""
    if summary.limits is None:
        return summary
    caches, size = cache_bytes(), _size(folder, "fp32")
    if caches is not None and size is not None and size < BEYOND_CACHE * caches:
        return summary
    missing, size = _why_not(trial, window, folder), _size(folder, trial.effective_dtype)
    if not missing and size is None:
        missing = f"what a step reads of these weights in {trial.effective_dtype!r} is not known"
    roof = memory_roof() if not missing else None
    if size is None or roof is None:
        missing = missing or "the size of this machine's caches cannot be read"
        return replace(summary, unavailable={**summary.unavailable, NAME: missing})
    window_ns = (window.result.begin_ns, window.result.end_ns)
    return with_weights_read(summary, window.engine_metrics, window.result.records, window_ns, size, roof)


def _why_not(trial: Trial, window: Window, folder: Path | None) -> str:
    if folder is None:
        return "what the server serves is not known here"
    if window.use.engine_s is None:
        return "the engine does not run on this machine"
    if part_cpus():
        return "no bandwidth is measured on a part of a machine, beside which others read"
    if trial.candidate.device != "cpu":
        return "no bandwidth is measured of a GPU"
    return ""


def _size(folder: Path | None, effective_dtype: str) -> float | None:
    """Bytes of weights in a step; `effective_dtype` is the engine's own word, such as 'int8_float32' or 'fp32'."""
    word = re.match(r"[a-z]+\d+", effective_dtype.replace("bfloat", "bf").replace("float", "fp"))
    if folder is None or word is None or word[0] not in VALUE_BYTES:
        return None
    try:
        return step_bytes(folder, word[0])
    except ModelInvalid:
        return None

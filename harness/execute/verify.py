"""Starting a server from a written serving.properties, and measuring again whether it delivers what was promised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.execute.trial import TrialRunner
from harness.records import Metric, Trial

VERIFIED_METRICS = ("latency_p50_ms", "throughput_inputs_per_s")
"""What the second measurement must reproduce; the tail is too noisy at a tuner's sample sizes to be a promise."""

REPRODUCIBLE_FRAC = 0.10
"""Two trials of one configuration differ by more than sampling: the machine drifts between them. A second value
counts as reproduced within this fraction even when both intervals are narrower (10-15 % were seen between repeated
runs of one engine on a shared 2-core machine)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The second measurement, and whether it agrees with the first."""

    trial: Trial
    is_inside: bool
    sentence: str


def verify_file(
    runner: TrialRunner, promised: Trial, properties_path: Path, number: int, progress: Callable[[str], None]
) -> Verification:
    """Measure the server started from `properties_path` against what `promised` recorded."""
    progress(f"starting the server from {properties_path}")
    trial = runner.run_file(promised.candidate, properties_path, number)
    if trial.outcome != "ok":
        return Verification(trial=trial, is_inside=False, sentence=f"not reproduced: {trial.outcome}: {trial.reason}")
    parts = [_compare(name, promised, trial) for name in VERIFIED_METRICS]
    if trial.violations:
        parts.append((False, "it broke a constraint: " + "; ".join(trial.violations)))
    is_inside = all(is_good for is_good, _ in parts)
    verdict = "reproduced" if is_inside else "not reproduced"
    return Verification(
        trial=trial, is_inside=is_inside, sentence=f"{verdict}: " + "; ".join(text for _, text in parts)
    )


def _compare(name: str, promised: Trial, again: Trial) -> tuple[bool, str]:
    first, second = _metric(promised, name), _metric(again, name)
    low = min(first.low if first.low is not None else first.value, first.value * (1 - REPRODUCIBLE_FRAC))
    high = max(first.high if first.high is not None else first.value, first.value * (1 + REPRODUCIBLE_FRAC))
    overlaps = (second.low or second.value) <= high and (second.high or second.value) >= low
    word = "inside" if overlaps else "outside"
    return overlaps, f"{name} {second.value:.4g} {second.unit}, {word} [{low:.4g}, {high:.4g}]"


def _metric(trial: Trial, name: str) -> Metric:
    if trial.summary is None:
        raise ValueError(f"trial {trial.trial_id} has no summary; only a finished trial can be verified")
    return trial.summary.metrics[name]

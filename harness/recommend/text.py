"""The recommendation as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.properties import parse_properties
from harness.measure.metrics import metric_of
from harness.recommend.containers import image_tag, parse_container
from harness.recommend.label import claim, label
from harness.recommend.lint import Finding
from harness.recommend.serving_properties import PROPERTIES
from harness.records import Recommendation

REGISTRY = "763104351884.dkr.ecr.us-east-1.amazonaws.com"
"""Where AWS publishes djl-inference images for most regions; others differ, see the SDK's image table."""

SHOWN = (
    ("P50", "latency_p50_ms"),
    ("P90", "latency_p90_ms"),
    ("P99", "latency_p99_ms"),
    ("throughput", "throughput_rps"),
    ("errors", "error_frac"),
    ("peak memory", "peak_memory_mib"),
)


def as_text(recommendation: Recommendation) -> str:
    """Several lines: the choice, its numbers, its margin, and why each other candidate lost."""
    trial = recommendation.trial
    word = "Recommendation (a tie, the cheapest of it)" if recommendation.is_tie else "Recommendation"
    lines = [f"{word}: {label(trial.candidate)}", f"  trial {trial.trial_id} of {recommendation.run_dir}"]
    numbers = [f"{name} {claim(metric)}" for name, key in SHOWN if (metric := metric_of(trial, key)) is not None]
    lines.append(f"  {'   '.join(numbers)}")
    if trial.quality is not None:
        lines.append(f"  data quality {trial.quality.verdict}: {trial.quality.reason}")
    lines.append(f"  {recommendation.margin}")
    if recommendation.losses:
        lines.append("Why the others lost:")
        lines.extend(f"  {label(loss.candidate)} ({loss.trial_id}): {loss.why}" for loss in recommendation.losses)
    return "\n".join(lines)


def findings_text(path: Path, findings: Sequence[Finding]) -> str:
    """'FILE:LINE: severity: key: message' per finding, or one line that says the file is clean."""
    if not findings:
        return f"{path}: clean"
    return "\n".join(
        f"{path}:{finding.line}: {finding.severity}: {f'{finding.key}: ' if finding.key else ''}{finding.message}"
        for finding in findings
    )


def next_command(container: str, folder: Path) -> str:
    """What to type next: serve the file in `folder` here, or start the image it was written for."""
    target = parse_container(container)
    path = folder / PROPERTIES
    if target.is_own:
        has_model = "option.model_id" in parse_properties(path.read_text(encoding="ascii"))
        return f"dyno serve --properties {path}{'' if has_model else ' --model-dir MODEL_FOLDER'} --port 8080"
    return (
        f"docker run --rm -p 8080:8080 -v {folder.resolve()}:/opt/ml/model {REGISTRY}/djl-inference:{image_tag(target)}"
    )

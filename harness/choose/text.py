"""The recommendation as a person reads it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from engines.errors import EngineError
from engines.models.aws_region import configured_region
from engines.sagemaker.catalogue import image_uri, regions
from engines.serving_properties.java_text import parse_properties
from harness.measure.metrics import metric_of
from harness.properties.containers import image_tag, parse_container
from harness.properties.lint.records import Finding
from harness.properties.render import PROPERTIES
from harness.records import Recommendation
from harness.wording import claim, label

EXAMPLE_REGION = "us-east-1"
"""Named, and said to be an example, where no region is configured that has these images."""

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
    image, note = _image(image_tag(target))
    return f"docker run --rm -p 8080:8080 -v {shlex.quote(str(folder.resolve()))}:/opt/ml/model {image}{note}"


def _image(tag: str) -> tuple[str, str]:
    """AWS's image in the user's region; else in the example's, and a shell comment that says so."""
    with suppress(EngineError):
        region = configured_region()
        if region in regions():
            return image_uri(tag, region), ""
    return image_uri(tag, EXAMPLE_REGION), f"  # {EXAMPLE_REGION} is an example: set AWS_REGION for yours"

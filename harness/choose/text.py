"""The recommendation as text for a person to read."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from engines.api import START_FILE
from engines.errors import EngineError
from engines.models.download.aws_region import configured_region
from engines.sagemaker.catalogue import image_uri, regions
from engines.serving_properties.java_text import parse_properties
from harness.measure.metrics import adds_detail, metric_of, metrics_in
from harness.properties.containers import image_tag, parse_container
from harness.properties.lint.records import Finding
from harness.properties.render import PROPERTIES
from harness.recommendation import Loss, Recommendation
from harness.wording import claim, label

EXAMPLE_REGION = "us-east-1"
"""Marked as an example where no region is configured that has these images."""

WIDTH = 100
"""Columns of the answer, a page's and most terminals'; names and paths are never broken."""


def as_text(recommendation: Recommendation, most_losses: int | None = None) -> str:
    """Several lines: the choice, its numbers, its margin, and why the others lost (the first `most_losses` of them)."""
    trial = recommendation.trial
    word = "Recommendation (a tie)" if recommendation.is_tie else "Recommendation"
    facts = [("gain", recommendation.gain)] if recommendation.gain else []
    facts += [
        (row.short, claim(metric))
        for row in metrics_in("answer")
        if adds_detail(trial, row) and (metric := metric_of(trial, row.name)) is not None
    ]
    if trial.quality is not None:
        facts.append(("data quality", f"{trial.quality.verdict}: {trial.quality.reason}"))
    facts += [("margin", recommendation.margin), ("trial", trial.trial_id), ("run", str(recommendation.run_dir))]
    unmeasured = trial.quality is None or trial.quality.verdict == "Unknown"
    lines = [f"{word}: {label(trial.candidate)}{' (quality not measured)' if unmeasured else ''}"]
    width = max(len(name) for name, _ in facts) + 2
    lines += [wrapped(f"  {name:{width}}", text) for name, text in facts]
    return "\n".join([*lines, *_losses(recommendation.losses, most_losses)])


def _losses(losses: Sequence[Loss], most: int | None) -> list[str]:
    shown = losses[:most]
    lines = ["Why the others lost:"] if shown else []
    for loss in shown:
        lines += [wrapped("  ", f"{label(loss.candidate)} ({loss.trial_id}):"), wrapped("    ", loss.why)]
    if len(shown) < len(losses):
        lines.append(f"  and {len(losses) - len(shown)} more, which `dyno report` lists")
    return lines


def wrapped(head: str, text: str) -> str:
    """`head` and `text` in lines of at most WIDTH columns, the later ones indented below the text."""
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def findings_text(path: Path, findings: Sequence[Finding]) -> str:
    """'FILE:LINE: severity: key: message' per finding, or one line where the file is clean."""
    if not findings:
        return f"{path}: clean"
    return "\n".join(
        f"{path}:{finding.line}: {finding.severity}: {f'{finding.key}: ' if finding.key else ''}{finding.message}"
        for finding in findings
    )


def next_command(container: str, folder: Path, variables: Mapping[str, str] | None = None) -> str:
    """What to type next: serve the file in `folder` here, or start the image it was written for, with `variables`."""
    target = parse_container(container)
    path = folder / PROPERTIES
    if (folder / START_FILE).is_file() and not path.exists():
        return f"dyno serve {shlex.quote(str(folder))}"
    if target.is_own:
        has_model = "option.model_id" in parse_properties(path.read_text(encoding="ascii"))
        return f"dyno serve --properties {folder}{'' if has_model else ' --model-dir MODEL_FOLDER'}"
    image, note = image_here(image_tag(target))
    given = "".join(f" -e {shlex.quote(f'{name}={value}')}" for name, value in (variables or {}).items())
    return f"docker run --rm -p 8080:8080{given} -v {shlex.quote(str(folder.resolve()))}:/opt/ml/model {image}{note}"


def image_here(tag: str) -> tuple[str, str]:
    """AWS's image in the user's region; else in the example's, and a shell comment that explains this."""
    with suppress(EngineError):
        region = configured_region()
        if region in regions():
            return image_uri(tag, region), ""
    return image_uri(tag, EXAMPLE_REGION), f"  # {EXAMPLE_REGION} is an example: set AWS_REGION for yours"

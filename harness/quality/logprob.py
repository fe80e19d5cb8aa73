"""The log-probability that answers lose under the reference, where no prompt has a right answer.

Per answer: the mean over its tokens of (log P of the reference's first choice at that place, less log P of the token),
teacher-forced on the candidate's answer, less the same of the reference's own answer. A greedy reference loses nothing
against itself, and an answer that left it at a tie loses nothing either, whatever follows: so an engine that
computes the same scores 0, whatever its texts, and noise between contexts does not enter.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.records import Metric, QualityVerdict

MIN_PROMPTS = 8
"""Fewer give no interval that could be trusted; answers that are all equal need none."""
POWER_Z = 1.2816
"""Standard errors in the margin at which a loss of twice the margin is rejected in 90 of 100 runs."""
COLLAPSED_NATS = 2.0
"""Tokens this much less likely than the first choice are not a loss of precision but a fault."""
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class LogprobDrops:
    """Prompt id -> nats per token that its answer loses; `under` names who judged. `unavailable`: why there are none,
    '' where there are. `left_out`: prompts whose tokens are not known."""

    nats: Mapping[str, float]
    under: str
    unavailable: str = ""
    left_out: int = 0


def drop_metric(drops: LogprobDrops) -> Metric:
    """The mean over prompts with its percentile bootstrap interval (95 %, prompts resampled, 2,000 times, seeded); no
    interval below MIN_PROMPTS."""
    values = np.array(list(drops.nats.values()))
    mean, n = float(values.mean()), len(values)
    low = high = None
    if n >= MIN_PROMPTS and np.isfinite(values).all():
        picks = np.random.default_rng(0).integers(n, size=(_RESAMPLES, n))
        low, high = (float(bound) for bound in np.quantile(values[picks].mean(axis=1), (0.025, 0.975)))
    return Metric(
        value=mean,
        unit="nats",
        estimator=f"mean over prompts of the mean over tokens, under {drops.under}, bootstrap over prompts",
        method="bootstrap",
        n=n,
        low=low,
        high=high,
    )


def drop_verdict(drops: LogprobDrops, margin: float) -> tuple[QualityVerdict, str, str]:
    """The verdict on the mean loss, what was found, and what is outside the margin ('' where nothing is). 'Unknown':
    inside it, but the prompts are too few to reject a loss of twice the margin in nine of ten runs."""
    metric = drop_metric(drops)
    loss = f"answers lose {metric.value:.4f} nats a token"
    found = f"{loss} under {drops.under}{_interval(metric)}"
    if drops.left_out:
        found += f", {drops.left_out} prompts left out whose tokens are not known"
    values = np.array(list(drops.nats.values()))
    if not np.isfinite(values).all() or metric.value > COLLAPSED_NATS:
        return "Broken", f"log-probability collapsed: {found}", ""
    if metric.value > margin:
        return "Degraded", found, f"{loss}, allowed {margin:g}"
    error = 0.0 if not values.any() else math.inf
    if error and metric.n >= MIN_PROMPTS:
        error = float(values.std(ddof=1)) / math.sqrt(metric.n)
    if error * POWER_Z > margin:
        few = f"{metric.n} prompts are too few for a verdict at the margin of {margin:g}"
        return "Unknown", f"{few}: {found}; raise quality.prompts", ""
    return "Normal", f"{found}, allowed {margin:g}", ""


def _interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return f" ({metric.n} prompts)"
    return f" (95 % interval {metric.low:.4f} to {metric.high:.4f}, {metric.n} prompts)"

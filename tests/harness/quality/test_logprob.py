"""The log-probability verdict: when it is given, what it says, and how often it is right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from harness.quality.equivalence import QualityRule, has_right_answers, judge
from harness.quality.logprob import LogprobDrops, drop_metric
from harness.records import Prompt
from tests.harness.quality.logprob_power import PLANTED, PROMPTS, Toy, verdict_of

RULE = QualityRule(max_exact_match_drop=0.02, min_reference_match=0.0, max_logprob_drop=0.05)


def _drops(nats: Sequence[float], unavailable: str = "") -> LogprobDrops:
    return LogprobDrops(
        nats={f"p{n}": each for n, each in enumerate(nats)}, under="transformers fp32", unavailable=unavailable
    )


def _judged(drops: LogprobDrops, changed: int = 5) -> tuple[str, str]:
    """The verdict on 20 prompts without right answers, `changed` of which were answered otherwise."""
    prompts = [Prompt(prompt_id=f"p{n}", task="t", text="x", reference=None) for n in range(20)]
    right = {prompt.prompt_id: f"answer {prompt.prompt_id}" for prompt in prompts}
    ours = {**right, **{f"p{n}": "another one" for n in range(changed)}}
    report = judge(prompts, ours, right, RULE, drops=drops)
    return report.verdict, report.reason


def test_the_same_engine_is_normal_and_twice_the_margin_is_rejected() -> None:
    alarms = sum(verdict_of(Toy(seed).losses(1e-6, PROMPTS, seed)) != "Normal" for seed in range(20))
    toy = Toy(0)
    noise = toy.noise_that_loses(PLANTED)
    rejected = sum(verdict_of(toy.losses(noise, PROMPTS, 1000 + run)) == "Degraded" for run in range(40))

    assert alarms <= 1
    assert rejected >= 36


@pytest.mark.parametrize(
    ("nats", "verdict", "words"),
    [
        ([0.0] * 20, "Normal", "answers lose 0.0000 nats a token under transformers fp32"),
        ([0.04] * 20, "Normal", "allowed 0.05; 15 of 20 answers equal"),
        ([0.06] * 20, "Degraded", "answers lose 0.0600 nats a token, allowed 0.05"),
        ([0.0] * 18 + [0.4, 0.4], "Normal", "95 % interval"),
        ([0.0] * 19 + [0.98], "Unknown", "20 prompts are too few for a verdict at the margin of 0.05"),
        ([3.0] * 20, "Broken", "log-probability collapsed"),
        ([0.0] * 19 + [float("nan")], "Broken", "log-probability collapsed"),
        ([0.01] * 7, "Unknown", "7 prompts are too few for a verdict"),
    ],
)
def test_the_verdict_and_its_words(nats: list[float], verdict: str, words: str) -> None:
    found, reason = _judged(_drops(nats))

    assert found == verdict
    assert words in reason


def test_without_log_probabilities_equality_decides_and_the_reason_is_given() -> None:
    verdict, reason = _judged(_drops([], unavailable="the server gives no token ids"))

    assert verdict == "Degraded"
    assert "log-probability unavailable: the server gives no token ids" in reason


def test_the_interval_resamples_prompts() -> None:
    values = np.random.default_rng(3).exponential(0.05, 400)
    metric = drop_metric(_drops([float(each) for each in values]))
    half = 1.96 * float(values.std(ddof=1)) / 20

    assert metric.low is not None
    assert metric.high is not None
    assert metric.low == pytest.approx(metric.value - half, rel=0.1)
    assert metric.high == pytest.approx(metric.value + half, rel=0.1)
    assert drop_metric(_drops([0.1] * 7)).low is None


def test_right_answers_decide_where_the_reference_has_some() -> None:
    prompts = [Prompt(prompt_id=f"p{n}", task="t", text="x", reference="yes") for n in range(20)]

    assert has_right_answers(prompts, {"p0": "yes", "p1": "yes", **{f"p{n}": "no" for n in range(2, 20)}})
    assert not has_right_answers(prompts, {f"p{n}": "no" for n in range(20)})
    assert not has_right_answers([], {})

"""Verdicts: what is Normal, Degraded, Broken or Unknown, and what the reason says."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from harness.quality.equivalence import QualityRule, judge
from harness.records import Prompt, QualityReport

LONG = " ".join(f"word{n}" for n in range(30))
RULE = QualityRule(max_exact_match_drop=0.02, min_reference_match=0.0)


def _prompts(n: int = 100, *, graded: bool = True) -> tuple[Prompt, ...]:
    """Half short dates, half long rewrites."""
    prompts = []
    for at in range(n):
        task, wanted = ("date", f"2001-01-{at:02d}") if at % 2 else ("rewrite", f"{LONG} {at}")
        prompts.append(
            Prompt(prompt_id=f"{task}-{at}", task=task, text=f"do {at}", reference=wanted if graded else None)
        )
    return tuple(prompts)


def _right(prompts: tuple[Prompt, ...]) -> dict[str, str]:
    return {prompt.prompt_id: prompt.reference or f"answer to {prompt.text}" for prompt in prompts}


def _judge(changed: Mapping[str, str], rule: QualityRule = RULE, *, graded: bool = True) -> QualityReport:
    prompts = _prompts(graded=graded)
    right = _right(prompts)
    return judge(prompts, {**right, **changed}, right, rule)


def _wrong(n: int) -> dict[str, str]:
    return {prompt.prompt_id: f"wrong {LONG}" for prompt in _prompts()[:n]}


def test_equal_answers_are_normal_with_intervals_that_admit_doubt() -> None:
    report = _judge({})
    assert report.verdict == "Normal"
    match = report.metrics["exact_match_frac"]
    assert (match.value, match.n, match.high) == (1.0, 100, 1.0)
    assert match.low is not None
    assert 0.95 < match.low < 1.0
    assert report.metrics["token_agreement_frac"].value == 1.0
    assert report.metrics["nonfinite_frac"].value == 0.0


@pytest.mark.parametrize(("wrong", "verdict"), [(2, "Normal"), (3, "Degraded"), (49, "Degraded"), (51, "Broken")])
def test_the_margin_is_where_it_is_said_to_be(wrong: int, verdict: str) -> None:
    report = _judge(_wrong(wrong))
    assert report.verdict == verdict
    assert f"{100 - wrong} of 100 exact against 100 in fp32 ({wrong} lost, 0 won, McNemar p" in report.reason


def test_the_margin_is_against_fp32_and_not_against_perfection() -> None:
    prompts = _prompts()
    fp32 = {**_right(prompts), **_wrong(40)}
    assert judge(prompts, fp32, fp32, RULE).verdict == "Normal"


def test_too_few_answers_equal_to_the_reference_are_degraded() -> None:
    prompts = _prompts()
    fp32 = {prompt.prompt_id: f"never right {prompt.prompt_id}" for prompt in prompts}
    answers = {**fp32, **_wrong(30)}
    rule = QualityRule(max_exact_match_drop=0.02, min_reference_match=0.8)
    report = judge(prompts, answers, fp32, rule)
    assert report.verdict == "Degraded"
    assert "0.700 equal the fp32 reference's, at least 0.8 asked" in report.reason


def test_a_served_reference_is_not_called_fp32() -> None:
    prompts = _prompts()
    served = QualityRule(max_exact_match_drop=0.02, min_reference_match=0.0, is_reference_served=True)
    right, none = _right(prompts), {prompt.prompt_id: "never right" for prompt in prompts}
    cases = [(right, right), (right, {}), (right, none), (none, none), ({**right, **_wrong(30)}, right)]
    for answers, reference in cases:
        report = judge(prompts, answers, reference, served)
        assert "the served reference" in report.reason
        assert "fp32" not in str(report)
        assert "served" not in str(judge(prompts, answers, reference, RULE))


def test_nonfinite_scores_are_broken_even_when_every_answer_is_right() -> None:
    prompts = _prompts()
    report = judge(prompts, _right(prompts), _right(prompts), RULE, nonfinite={prompts[0].prompt_id})
    assert report.verdict == "Broken"
    assert "1 of 100 answers came from non-finite scores" in report.reason
    assert report.metrics["nonfinite_frac"].value == 0.01


def test_empty_answers_are_degraded_when_few_and_broken_when_many() -> None:
    ids = [prompt.prompt_id for prompt in _prompts()]
    assert _judge(dict.fromkeys(ids[:2], "")).verdict == "Degraded"
    assert _judge(dict.fromkeys(ids[:6], " ")).verdict == "Broken"


def test_a_prompt_that_got_no_answer_counts_as_wrong_and_empty() -> None:
    prompts = _prompts()
    right = _right(prompts)
    del right[prompts[0].prompt_id]
    report = judge(prompts, right, _right(prompts), RULE)
    assert report.verdict == "Degraded"
    assert report.metrics["exact_match_frac"].value == 0.99
    assert report.metrics["nonfinite_frac"].value == 0.01


def test_an_empty_answer_is_fine_where_fp32_says_nothing_too() -> None:
    prompts = _prompts(graded=False)
    silent = dict.fromkeys((prompt.prompt_id for prompt in prompts), "")
    assert judge(prompts, silent, silent, RULE).verdict == "Normal"


def test_without_task_references_equality_with_fp32_stands_in() -> None:
    assert _judge({}, graded=False).verdict == "Normal"
    report = _judge({"date-1": "x", "date-3": "x", "date-5": "x"}, graded=False)
    assert report.verdict == "Degraded"
    assert "no task references" in report.reason
    assert "exact_match_frac" not in report.metrics
    assert _judge(_wrong(100), graded=False).verdict == "Broken"


def test_a_reference_that_is_hardly_ever_right_cannot_excuse_wrong_answers() -> None:
    """Random weights: exact match is 0 for fp32 and for garbage alike, so its drop says nothing."""
    prompts = _prompts()
    fp32 = {prompt.prompt_id: f"babble {prompt.prompt_id} and more" for prompt in prompts}
    assert judge(prompts, fp32, fp32, RULE).verdict == "Normal"
    report = judge(prompts, {**fp32, **_wrong(10)}, fp32, RULE)
    assert report.verdict == "Degraded"
    assert "fp32 itself has 0 of 100 right" in report.reason
    assert judge(prompts, _wrong(100), fp32, RULE).verdict == "Broken"


def test_without_fp32_answers_it_is_unknown_but_still_scored() -> None:
    prompts = _prompts()
    report = judge(prompts, _right(prompts), {}, RULE)
    assert report.verdict == "Unknown"
    assert report.metrics["exact_match_frac"].value == 1.0
    assert "reference_match_frac" not in report.metrics


def test_nothing_to_check_is_unknown() -> None:
    assert judge((), {}, {}, RULE).verdict == "Unknown"


def test_long_text_scores_cover_only_the_long_task_and_say_so() -> None:
    prompts = _prompts()
    dates_wrong = {prompt.prompt_id: "x" for prompt in prompts if prompt.task == "date"}
    report = judge(prompts, {**_right(prompts), **dates_wrong}, _right(prompts), RULE)
    assert report.metrics["rouge_l"].value == 1.0
    assert "tasks rewrite" in report.metrics["rouge_l"].estimator
    assert report.metrics["chrf"].n == 50
    assert report.metrics["exact_match_frac.date"].value == 0.0
    assert report.metrics["exact_match_frac.rewrite"].value == 1.0

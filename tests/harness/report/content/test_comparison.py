"""Runs side by side: matched by candidate, differences with intervals that cover, no verdict."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from harness.measure.metrics import metric_of
from harness.measure.statistics.estimators import percentile
from harness.records import Metric, Trial
from harness.report.content.comparison import (
    Comparison,
    Difference,
    compare,
    difference,
    difference_text,
    sections,
)
from harness.report.content.run_summary import story_of
from harness.wording import quantity
from tests.harness.choose.runs import candidate, failed, metric, run_of, trial


def test_a_difference_without_noise_is_the_ratio() -> None:
    found = difference(metric(100.0, 100.0, 100.0), metric(110.0, 110.0, 110.0))
    assert found is not None
    assert (found.value_frac, found.low_frac, found.high_frac) == pytest.approx((0.1, 0.1, 0.1))


def test_a_missing_end_leaves_no_interval_and_a_missing_value_no_difference() -> None:
    assert "no interval" in difference_text(difference(metric(100.0, None, None), metric(110.0, 100.0, 120.0)))
    assert difference_text(difference(None, metric(1.0))) == "–"
    assert difference_text(difference(metric(0.0), metric(1.0))) == "–"


def test_a_percentile_that_is_only_a_lower_bound_is_compared_with_nothing() -> None:
    bound, known = metric(100.0, 90.0, None), metric(110.0, 100.0, 120.0)
    assert difference(bound, known) is None
    assert difference(known, bound) is None


def test_the_interval_of_a_difference_covers_the_true_one() -> None:
    """400 pairs of medians of lognormal samples 5 % apart: about 95 % cover; below 92 % would be a mistake."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(400):
        one = percentile(list(rng.lognormal(3.0, 0.3, 200)), 0.5, scale=1.0)
        other = percentile(list(1.05 * rng.lognormal(3.0, 0.3, 200)), 0.5, scale=1.0)
        found = difference(one, other)
        assert found is not None
        assert found.low_frac is not None
        assert found.high_frac is not None
        covered += found.low_frac <= 0.05 <= found.high_frac
    assert covered >= 0.92 * 400


def test_candidates_are_matched_and_what_only_one_run_has_says_so() -> None:
    one = run_of(trial(1, candidate(), (61.0, 60.0, 62.0)), trial(2, candidate("t5"), (20.0, 19.0, 21.0)))
    other = run_of(trial(1, candidate(), (65.0, 64.0, 66.0)), failed(2, candidate("onnxruntime")))
    made = compare([story_of(one), story_of(other)])
    table = next(section for section in sections(made) if section.title == "Latency P50 (ms)")
    rows = {row[0].text.split()[0]: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["transformers"][:2] == ["61.0", "65.0"]
    assert rows["transformers"][2].startswith("+6.6 % [")
    assert rows["t5"] == ["20.0", "not run", "–"]
    assert "onnxruntime" not in rows
    assert next(row[0].text.split()[0] for row in table.rows) == "t5", "what a run recommends comes first"


def test_what_differs_about_the_runs_is_named_and_nothing_else() -> None:
    one = run_of(trial(1, candidate(), (61.0, 60.0, 62.0)))
    other = run_of(trial(1, candidate(), (61.0, 60.0, 62.0)), constraints={"quality": "Any"})
    facts = sections(compare([story_of(one), story_of(other)]))[-1]
    assert [row[0].text for row in facts.rows] == ["scenario: constraints"]
    same = sections(compare([story_of(one), story_of(one)]))[-1]
    assert same.rows == ()
    assert "the same" in same.paragraphs[0]


def test_no_verdict_is_given() -> None:
    """Runs, candidates, a value and its interval; a field more would be an opinion, which is the gate's to have."""
    assert [field.name for field in fields(Comparison)] == ["stories", "candidates"]
    assert [field.name for field in fields(Difference)] == ["value_frac", "low_frac", "high_frac"]


def test_the_answer_of_a_run_pools_the_repetitions_of_its_choice() -> None:
    one = run_of(trial(1, candidate(), (60.0, 59.0, 61.0)), trial(2, candidate(), (64.0, 63.0, 65.0)))
    story = story_of(one)
    assert story.choice is not None
    pooled = story.choice.chosen.metric("latency_p50_ms")
    assert pooled is not None
    message = sections(compare([story, story]))[0].rows[0][2].text
    assert message.startswith(f"P50 {quantity(pooled)}")
    assert all(quantity(metric) not in message for metric in (_p50(one.trials[0]), _p50(one.trials[1])))


def test_a_run_against_itself_is_called_the_same_run(tmp_path: Path) -> None:
    one = story_of(run_of(trial(1, candidate(), (61.0, 60.0, 62.0))))
    moved = replace(one, run=replace(one.run, root=tmp_path))
    assert "A and C are the same run." in sections(compare([one, moved, one]))[0].notes
    assert not any("same run" in note for note in sections(compare([one, moved]))[0].notes)


def _p50(one: Trial) -> Metric:
    found = metric_of(one, "latency_p50_ms")
    assert found is not None
    return found

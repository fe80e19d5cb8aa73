"""The metric table and how a trial's number is found."""

from __future__ import annotations

from harness.measure.metrics import METRICS, adds_detail, metric_of, metric_row
from harness.records import Candidate, Metric, QualityReport, Trial, TrialSummary


def _metric(value: float) -> Metric:
    return Metric(value=value, unit="ms", estimator="given", n=1)


def test_every_row_has_a_unit_a_direction_and_a_sentence() -> None:
    for name, row in METRICS.items():
        assert row.name == name
        assert row.unit
        assert row.better in ("minimize", "maximize")
        assert len(row.help) > 10


def test_exact_match_per_task_shares_its_row_and_other_dots_do_not() -> None:
    row = metric_row("exact_match_frac.date")
    assert row is not None
    assert row.name == "exact_match_frac"
    assert metric_row("chrf.date") is None
    assert metric_row("latency_p51_ms") is None


def test_metric_of_looks_in_load_and_quality() -> None:
    trial = Trial(
        trial_id="t",
        number=0,
        candidate=Candidate(block=0, engine="fake"),
        outcome="ok",
        summary=TrialSummary(metrics={"latency_p50_ms": _metric(3.0)}),
        quality=QualityReport(verdict="Normal", reason="", metrics={"chrf": _metric(0.9)}),
    )
    assert metric_of(trial, "latency_p50_ms") == _metric(3.0)
    assert metric_of(trial, "chrf") == _metric(0.9)
    assert metric_of(trial, "rouge_l") is None
    assert metric_of(Trial(trial_id="t", number=0, candidate=trial.candidate, outcome="crashed"), "chrf") is None


def test_a_metric_that_refines_another_says_more_only_where_it_differs() -> None:
    def trial(**values: float) -> Trial:
        metrics = {name: _metric(value) for name, value in values.items()}
        return Trial(
            trial_id="t", number=0, candidate=Candidate(block=0, engine="fake"), outcome="ok",
            summary=TrialSummary(metrics=metrics),
        )  # fmt: skip

    row = METRICS["ttfo_p50_ms"]
    assert adds_detail(trial(ttft_p50_ms=3.0, ttfo_p50_ms=9.0), row)
    assert not adds_detail(trial(ttft_p50_ms=3.0, ttfo_p50_ms=3.0), row)
    assert not adds_detail(trial(ttft_p50_ms=3.0), row)
    assert adds_detail(trial(ttft_p50_ms=3.0), METRICS["ttft_p50_ms"])

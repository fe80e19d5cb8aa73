"""Quality is judged once per numeric path, and only where the launched engine is the same."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from engines.api import EngineFacts
from harness.quality.inheritance import inherited, judged_before, numeric_path
from harness.records import Candidate, QualityReport, Trial

FACTS = EngineFacts(effective_dtype="int8 (dynamic)", versions={"onnxruntime": "1.27"}, load_s=1.0)
DYNAMIC = {"batch_size": ("int8",), "options.spinning": ()}


def _candidate(**axes: Any) -> Candidate:
    return Candidate(**{"block": 0, "engine": "onnxruntime", "dtype": "int8", **axes})


def _trial(candidate: Candidate, **fields: Any) -> Trial:
    report = QualityReport(verdict="Normal", reason="64 of 64 answers equal", metrics={})
    given = {"quality": report, "effective_dtype": FACTS.effective_dtype, "versions": FACTS.versions, **fields}
    return Trial(trial_id="t0001-abc", number=1, candidate=candidate, outcome=given.pop("outcome", "ok"), **given)


@pytest.mark.parametrize(
    "axes",
    [{"workers": 2}, {"max_batch_delay_ms": 5}, {"job_queue_size": 10}, {"options": {"spinning": False}}],
)
def test_scheduling_alone_leaves_the_path(axes: dict[str, Any]) -> None:
    assert numeric_path(_candidate(**axes), DYNAMIC) == numeric_path(_candidate(), DYNAMIC)


@pytest.mark.parametrize(
    "axes",
    [
        {"dtype": "fp32"},
        {"batch_size": 4},
        {"engine": "openvino"},
        {"python": "auto"},
        {"device": "cuda"},
        {"rolling_batch": "auto"},
        {"tensor_parallel_degree": 2},
        {"options": {"nobody_declared_this": 1}},
    ],
)
def test_what_may_change_answers_is_another_path(axes: dict[str, Any]) -> None:
    """Also an option that nobody declared."""
    assert numeric_path(_candidate(**axes), DYNAMIC) != numeric_path(_candidate(), DYNAMIC)


def test_a_declaration_holds_for_its_dtypes_alone() -> None:
    one, four = _candidate(dtype="fp32"), _candidate(dtype="fp32", batch_size=4)
    assert numeric_path(one, DYNAMIC) == numeric_path(four, DYNAMIC)


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "crashed"},
        {"quality": None},
        {"quality": QualityReport(verdict="Broken", reason="9 of 64 answers missing or empty", metrics={})},
        {"quality": QualityReport(verdict="Normal", reason="", metrics={}, inherited_from="t0000-abc")},
    ],
)
def test_what_was_not_judged_itself_is_passed_on_by_nobody(fields: dict[str, Any]) -> None:
    wanted = _candidate(workers=2)
    assert judged_before(wanted, [_trial(_candidate())], DYNAMIC) is not None
    assert judged_before(wanted, [_trial(_candidate(), **fields)], DYNAMIC) is None


def test_the_report_names_its_origin() -> None:
    report = inherited(_trial(_candidate()), FACTS)
    assert report is not None
    assert report.inherited_from == "t0001-abc"
    assert report.reason == "inherited from t0001-abc, which computes the same answers: 64 of 64 answers equal"


@pytest.mark.parametrize("facts", [{"effective_dtype": "fp32"}, {"versions": {"onnxruntime": "1.28"}}])
def test_another_engine_than_the_one_judged_is_judged_itself(facts: dict[str, Any]) -> None:
    assert inherited(_trial(_candidate()), replace(FACTS, **facts)) is None

"""The published row is shown for its own model only, with what it leaves out."""

from __future__ import annotations

from harness.report.content.published_row import published_text
from tests.harness.choose.runs import run_of


def test_the_row_stands_beside_its_own_model() -> None:
    run = run_of(resolved={"model": {"kind": "hub", "value": "google/flan-t5-xxl"}})
    text = published_text(run)
    assert "327.39 | 331.01 | 612.73 | Normal" in text
    assert "not published: number of samples" in text


def test_another_model_has_no_published_row() -> None:
    assert "none for flan-t5-bench" in published_text(run_of())

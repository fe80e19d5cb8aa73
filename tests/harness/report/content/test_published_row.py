"""The published row is shown for its own model only, with what it leaves out."""

from __future__ import annotations

from harness.report.content.published_row import published, published_text
from tests.harness.choose.runs import run_of


def test_the_row_stands_beside_its_own_model() -> None:
    run = run_of(resolved={"model": {"kind": "hub", "value": "google/flan-t5-xxl"}})
    text = published_text(run)
    assert " | ".join(published()["row"].values()) in text
    assert "327.39 | 331.01 | 612.73 | Normal" in text
    assert published()["not_published"][0] == "number of samples"
    assert all(each in text for each in published()["not_published"])


def test_what_is_derived_follows_from_the_row() -> None:
    p50, p90, p99 = (float(published()["row"][f"P{q} (ms)"]) for q in (50, 90, 99))
    batch = float(published()["row"]["Batch size"])
    for number in (f"{batch / (p50 / 1e3):.2f} prompts/s", f"{p99 / p50:.2f} times P50", f"P90 {p90 / p50:.3f} times"):
        assert number in published()["derived"]


def test_another_model_has_no_published_row() -> None:
    assert "none for flan-t5-bench" in published_text(run_of())

"""Rules files: what is accepted, and the sentence each mistake is told with."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ScenarioError
from harness.gate.rules import DEFAULT_BUDGETS, Rules
from harness.gate.rules_file import load_rules
from harness.measure.metrics import METRICS


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str) -> str:
    with pytest.raises(ScenarioError) as caught:
        load_rules(written(tmp_path, text))
    return str(caught.value).replace(str(tmp_path), "")


def test_without_a_file_the_defaults_hold_and_name_real_metrics() -> None:
    rules = load_rules(None)
    assert set(rules.budgets()) == set(DEFAULT_BUDGETS)
    assert set(DEFAULT_BUDGETS) <= set(METRICS)
    assert (rules.false_alarm, rules.false_pass) == (0.01, 0.05)


def test_a_file_adds_to_the_defaults_replaces_and_ignores(tmp_path: Path) -> None:
    text = """
metrics:
  latency_p50_ms: {max_increase_frac: 0.05, max_increase: 2}
  load_s: {max_increase: 5}
  peak_memory_mib: {ignore: true}
  exact_match_frac.dates: {max_decrease: 0.03}
false_alarm: 0.005
candidates: common
spread: {assumed_frac: 0.1}
"""
    rules = load_rules(written(tmp_path, text))
    budgets = rules.budgets()
    assert (budgets["latency_p50_ms"].relative, budgets["latency_p50_ms"].absolute) == (0.05, 2.0)
    assert "peak_memory_mib" not in budgets
    assert {"load_s", "exact_match_frac.dates", "error_frac"} <= set(budgets)
    assert (rules.false_alarm, rules.candidates, rules.spread.assumed_frac) == (0.005, "common", 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metrics:\n  latency_p5_ms: {max_increase: 1}\n", "rules.yaml:2: metrics.latency_p5_ms: expected a metric"),
        ("metrics:\n  throughput_rps:\n    max_increase_frac: 0.1\n",
         "/rules.yaml:3: metrics.throughput_rps.max_increase_frac: expected max_decrease_frac"),
        ("metrics:\n  error_frac: {max_incr: 1}\n", "did you mean 'max_increase'?"),
        ("metrics:\n  error_frac: {}\n", "/rules.yaml:2: metrics.error_frac: expected a limit"),
        ("metrics:\n  error_frac: {ignore: true, max_increase: 1}\n", "got 'ignore and a limit'"),
        ("metrics:\n  error_frac: 0.05\n", "expected a budget such as {max_increase_frac: 0.05}, got 0.05"),
        ("metrics:\n  error_frac: {max_increase: -1}\n", "rules.yaml:2: metrics.error_frac.max_increase: expected a"),
        ("metrics:\n  error_frac: {max_increase: '1'}\n", "write it without quotes"),
        ("metrics:\n  exact_match_frac: {max_decrease_frac: 3}\n", "expected a number <= 1, got 3"),
        ("metrics: 3\n", "/rules.yaml:1: metrics: expected 'metric: budget' lines, got 3"),
        ("false_alarms: 0.1\n", "rules.yaml:1: false_alarms: expected a known key"),
        ("\nfalse_alarm: 0.7\n", "/rules.yaml:2: false_alarm: expected a number < 0.5, got 0.7"),
        ("candidates: most\n", "/rules.yaml:1: candidates: expected 'all' or 'common', got 'most'"),
        ("spread: {flor_frac: 1}\n", "did you mean 'floor_frac'?"),
        ("", "/rules.yaml:1: expected rules such as 'metrics:', got an empty file"),
        ("- a\n", "/rules.yaml:1: expected 'key: value' lines"),
        ("false_alarm: 0.1\nfalse_alarm: 0.2\n", "/rules.yaml:2: false_alarm: expected every key once"),
        ("metrics: [\n", "not valid YAML"),
    ],
)  # fmt: skip
def test_each_mistake_is_told_with_file_line_and_what_was_expected(tmp_path: Path, text: str, message: str) -> None:
    assert message in refusal(tmp_path, text)


def test_every_mistake_is_told_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    lines = refusal(
        tmp_path, "metrics:\n  nope: {max_increase: 1}\n  load_s: {max_decrease: 1}\nextra: 1\n"
    ).splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4"]


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path) -> None:
    written(tmp_path, "false_alarm: 0.1\n")
    with pytest.raises(ScenarioError, match="did you mean"):
        load_rules(tmp_path / "rule.yaml")


def test_rules_built_in_code_refuse_what_a_file_may_not_say() -> None:
    with pytest.raises(ValueError, match="max_decrease"):
        Rules.model_validate({"metrics": {"throughput_rps": {"max_increase": 1.0}}})

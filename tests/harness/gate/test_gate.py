"""Stored runs in, a verdict out: the cases a CI meets."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.errors import EnvironmentFault
from harness.gate.gate import _settle, gate
from harness.gate.outputs import as_markdown
from harness.gate.rules import DEFAULT_BUDGETS, Rules
from harness.gate.terminal import print_result
from harness.gate.verdict import GateResult, Judged, More
from harness.records import Trial
from harness.store.pairs import PAIRS_JSON, Pairs
from harness.store.reader import Run
from tests.harness.gate.runs import POINT, a_run

SAME = (10.0, 10.1, 9.95, 10.05, 9.9, 10.0)
RULES = Rules.model_validate({"metrics": {"latency_p99_ms": {"max_increase_frac": 0.15}}})


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return a_run(tmp_path_factory.mktemp("before"), SAME, seed=1)


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return a_run(tmp_path_factory.mktemp("after"), SAME, seed=2)


def judged(result: GateResult, metric: str) -> Judged:
    return next(each for each in result.judged if each.comparison.metric == metric)


def test_the_same_engine_passes(before: Run, after: Run) -> None:
    result = gate([before], after, RULES)
    assert (result.verdict, result.exit_code) == ("pass", 0), result.headline
    assert judged(result, "exact_match_frac").comparison.evidence is not None


def test_ten_percent_slower_is_regressed_with_the_change_in_the_interval(tmp_path: Path, before: Run) -> None:
    slower = [1.1 * value for value in SAME]
    result = gate([before], a_run(tmp_path, slower, seed=2), RULES)
    assert (result.verdict, result.exit_code) == ("regressed", 1)
    p50 = judged(result, "latency_p50_ms")
    assert p50.low is not None
    assert p50.high is not None
    assert 0.02 < p50.low < 0.1 < p50.high
    assert p50.p is not None
    assert p50.level is not None
    assert p50.p < p50.level
    assert judged(result, "throughput_rps").change == pytest.approx(-0.09, abs=0.02)


def test_a_faster_engine_passes_and_is_called_better(tmp_path: Path, before: Run) -> None:
    faster = [0.8 * value for value in SAME]
    result = gate([before], a_run(tmp_path, faster, seed=2), RULES)
    assert result.verdict == "pass"
    assert judged(result, "latency_p50_ms").is_better


def test_one_launch_of_each_cannot_tell_and_says_how_many_more(tmp_path: Path) -> None:
    result = gate([a_run(tmp_path, (10.0,), seed=1)], a_run(tmp_path, (10.0,), seed=2), RULES)
    assert (result.verdict, result.exit_code) == ("cannot tell", 4)
    p50 = judged(result, "latency_p50_ms")
    assert p50.more is not None
    assert p50.more.launches is not None
    assert p50.more.launches >= 1
    assert p50.more.requests == 200 * p50.more.launches
    assert "assumed 5 %" in p50.reason
    assert "more" in result.headline


def test_a_p99_from_too_few_requests_says_how_many_it_needs(tmp_path: Path) -> None:
    result = gate([a_run(tmp_path, SAME, n=20, seed=1)], a_run(tmp_path, SAME, n=20, seed=2), RULES)
    assert "120 requests in the baseline, latency_p99_ms needs 368: 248 more" in judged(result, "latency_p99_ms").reason
    bare = judged(result, "latency_p99_ms").comparison
    assert (bare.baseline, bare.candidate) == (None, None), "no bare P99 of 120 requests is printed"
    assert judged(result, "latency_p50_ms").comparison.baseline is not None


def test_of_several_candidates_each_reason_in_markdown_names_its_own(tmp_path: Path) -> None:
    other = replace(POINT, workers=2)
    sides = [a_run(tmp_path, SAME, n=20, seed=seed, points=(POINT, other)) for seed in (1, 2)]
    output = as_markdown(gate([sides[0]], sides[1], RULES))
    reasons = [line for line in output.splitlines() if "latency_p99_ms needs 368" in line]
    assert len(reasons) == 2
    assert [", 2 workers, " in line.split("**: latency_p99_ms: cannot tell")[0] for line in reasons] == [False, True]


def test_on_80_columns_the_name_of_a_metric_is_in_one_piece(before: Run, after: Run) -> None:
    console = Console(width=80, file=io.StringIO(), no_color=True)
    print_result(gate([before], after, RULES), console)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    for name in ("latency_p50_ms", "latency_p99_ms", "throughput_rps", "peak_memory_mib", "exact_match_frac"):
        assert f"{name} " in output


def test_the_change_lies_at_the_limit_no_amount_of_data_is_promised(tmp_path: Path, before: Run) -> None:
    rules = Rules.model_validate({"metrics": {"exact_match_frac": {"max_decrease": 0.05}}})
    after = a_run(tmp_path, SAME, seed=2, wrong=1)
    found = judged(gate([before], after, rules), "exact_match_frac")
    assert found.verdict == "cannot tell"
    assert found.more is not None
    assert found.more.requests is None
    assert "widen the budget" in found.reason


def test_wrong_answers_regress_and_equal_answers_need_no_statistics(tmp_path: Path, before: Run) -> None:
    worse = gate([before], a_run(tmp_path, SAME, seed=2, wrong=12), RULES)
    assert judged(worse, "exact_match_frac").verdict == "regressed"
    same = judged(gate([before], a_run(tmp_path, SAME, seed=3), RULES), "exact_match_frac")
    assert (same.low, same.high) == (0.0, 0.0)
    assert "every answer is the same" in same.reason


def test_errors_are_compared_as_shares(tmp_path: Path, before: Run) -> None:
    result = gate([before], a_run(tmp_path, SAME, seed=2, errors=20), RULES)
    found = judged(result, "error_frac")
    assert found.verdict == "regressed"
    assert found.change == pytest.approx(0.1)
    assert "0 of 1200 before, 120 of 1200 now" in found.reason


def test_a_candidate_that_fails_now_is_regressed(tmp_path: Path, before: Run) -> None:
    result = gate([before], a_run(tmp_path, (1.0,), outcome="crashed"), RULES)
    assert result.verdict == "regressed"
    assert [finding.verdict for finding in result.findings] == ["regressed"]
    assert "new failure: 1 of 1 launches ended crashed" in result.findings[0].reason
    assert "it fell over" in result.findings[0].reason


def test_a_failure_on_both_sides_is_a_note_and_nothing_to_judge_cannot_pass(tmp_path: Path) -> None:
    broken = [a_run(tmp_path, (1.0,), outcome="crashed") for _ in range(2)]
    result = gate([broken[0]], broken[1], RULES)
    assert (result.verdict, result.findings[0].verdict) == ("cannot tell", "note")


def test_a_client_limited_launch_is_no_failure_of_the_engine(tmp_path: Path, before: Run) -> None:
    result = gate([before], a_run(tmp_path, (1.0,), outcome="client_limited"), RULES)
    assert (result.verdict, result.findings[0].verdict) == ("cannot tell", "cannot tell")


def test_a_candidate_that_was_not_measured_cannot_pass_unless_the_rules_say_so(tmp_path: Path, before: Run) -> None:
    empty = a_run(tmp_path, ())
    result = gate([before], empty, RULES)
    assert result.verdict == "cannot tell"
    assert "candidates: common" in result.findings[0].reason
    common = Rules.model_validate({"candidates": "common"})
    assert gate([before], empty, common).findings[0].verdict == "note"


@pytest.mark.parametrize(
    ("fact", "value"),
    [("cpu_model", "Other CPU"), ("cores_usable", 4), ("governor", "powersave"), ("cpu_flags", ["avx2"])],
)
def test_another_machine_is_refused_with_what_differs(tmp_path: Path, before: Run, fact: str, value: object) -> None:
    after = a_run(tmp_path, SAME, seed=2, machine={fact: value})
    result = gate([before], after, RULES)
    assert (result.verdict, result.exit_code, result.judged) == ("cannot tell", 4, ())
    assert any(fact in refusal for refusal in result.refusals)
    allowed = gate([before], after, RULES, allows_different_machine=True)
    assert allowed.verdict == "pass"
    assert "about the pair (machine, code)" in allowed.notes[0]


def test_a_newer_kernel_is_told_and_not_refused(tmp_path: Path, before: Run) -> None:
    after = a_run(tmp_path, SAME, seed=2, machine={"kernel": "Linux 6.6", "memory_mib": 8010})
    result = gate([before], after, RULES)
    assert result.verdict == "pass"
    assert "kernel: baseline Linux 6.1, candidate Linux 6.6" in result.notes
    assert not any("memory_mib" in note for note in result.notes)


def test_another_question_is_refused_even_when_machines_may_differ(tmp_path: Path, before: Run) -> None:
    after = a_run(tmp_path, SAME, scenario={"workload": {"load": {"kind": "closed", "users": 9}}})
    result = gate([before], after, RULES, allows_different_machine=True)
    assert result.verdict == "cannot tell"
    assert any("workload.load" in refusal for refusal in result.refusals)


def test_the_same_model_in_another_checkout_is_the_same_question(tmp_path: Path, before: Run) -> None:
    moved = {"resolved": {"prompts_path": "/elsewhere/tasks.jsonl", "model": {"kind": "path", "value": "/n/m"}}}
    result = gate([before], a_run(tmp_path, SAME, seed=2, scenario=moved), RULES)
    assert result.refusals == ()


def test_three_baseline_runs_widen_the_interval_by_the_spread_between_sittings(tmp_path: Path) -> None:
    sittings = [a_run(tmp_path, [x * factor for x in SAME], seed=at) for at, factor in enumerate((0.94, 1.0, 1.06))]
    now = a_run(tmp_path, [1.06 * x for x in SAME], seed=9)
    one, many = gate([sittings[1]], now, RULES), gate(sittings, now, RULES)
    assert judged(one, "latency_p50_ms").verdict == "regressed"
    assert judged(many, "latency_p50_ms").verdict == "cannot tell"


def test_a_trial_that_computes_in_another_dtype_is_told(before: Run, after: Run) -> None:
    from dataclasses import replace

    def with_dtype(trial: Trial, dtype: str) -> Trial:
        return replace(trial, effective_dtype=dtype, versions={"fake": dtype})

    before = replace(before, trials=tuple(with_dtype(t, "bf16") for t in before.trials))
    after = replace(after, trials=tuple(with_dtype(t, "fp32") for t in after.trials))
    assert any("computed in bf16 before, in fp32 now" in note for note in gate([before], after, RULES).notes)


def test_half_a_pair_counts_on_neither_side(tmp_path: Path) -> None:
    """The candidate's second launch is missing: what the baseline's partner measured must not move the estimate."""
    before, after = a_run(tmp_path, (10.0, 100.0), seed=1), a_run(tmp_path, (10.0,), seed=2)
    ids = tuple((trial.trial_id, trial.trial_id) for trial in before.trials)
    stored = Pairs(baseline=before.root.name, share=1.0, trial_ids=ids)
    (after.root / PAIRS_JSON).write_text(stored.as_text())
    p50 = judged(gate([before], after, RULES), "latency_p50_ms")
    assert p50.comparison.baseline == pytest.approx(10.0, rel=0.03)
    assert p50.change == pytest.approx(0.0, abs=0.03)
    assert p50.comparison.launches_baseline == p50.comparison.launches_candidate == 1


def test_a_baseline_without_a_usable_launch_cannot_tell(tmp_path: Path, before: Run) -> None:
    result = gate([a_run(tmp_path, (1.0,), outcome="client_limited")], before, RULES)
    assert [finding.verdict for finding in result.findings] == ["cannot tell"]
    assert "no usable launch in the baseline (client_limited)" in result.findings[0].reason


def test_a_metric_that_the_rules_name_and_no_run_has_is_not_passed_over(before: Run, after: Run) -> None:
    rules = Rules.model_validate({"metrics": {"goodput_rps": {"max_decrease_frac": 0.05}}})
    assert rules.asked() == ("goodput_rps",)
    result = gate([before], after, rules)
    assert (result.verdict, result.exit_code) == ("cannot tell", 4)
    (finding,) = result.findings
    assert finding.reason.startswith("the rules judge goodput_rps, and neither run has it; measure it, or take it out")


def test_a_default_metric_that_no_run_has_is_no_matter(before: Run, after: Run) -> None:
    result = gate([before], after, RULES)
    assert "ttft_p50_ms" not in {each.comparison.metric for each in result.judged}
    assert result.findings == ()


def test_rules_that_leave_nothing_to_compare_are_said(before: Run, after: Run) -> None:
    rules = Rules.model_validate({"metrics": {name: {"ignore": True} for name in DEFAULT_BUDGETS}})
    result = gate([before], after, rules)
    assert result.exit_code == 4
    assert result.headline == ("cannot tell: the rules leave no metric that both runs have; name one under 'metrics:'")


def test_damaged_raw_records_are_one_sentence(tmp_path: Path) -> None:
    runs = a_run(tmp_path, SAME, seed=1), a_run(tmp_path, SAME, seed=2)
    path = next((runs[1].root / "requests").glob("*.parquet"))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(
        EnvironmentFault, match=rf"{path.name}: cannot be read \(.*\); restore it or run the scenario again"
    ):
        gate([runs[0]], runs[1], RULES)


def test_the_headline_counts_what_no_amount_would_settle(tmp_path: Path) -> None:
    result = gate([a_run(tmp_path, (10.0,), seed=1)], a_run(tmp_path, (10.0,), seed=2), RULES)
    hopeless = sum(each.more is not None and each.more.requests is None for each in result.judged)
    message = f"{hopeless} at the limit of the budget, where more data would not help"
    assert (message in result.headline) == (hopeless > 0)
    at_limit = replace(result.judged[0], verdict="cannot tell", more=More(launches=None, requests=None, noun="x"))
    settled = replace(at_limit, more=More(launches=2, requests=90, noun="requests"))
    assert _settle([at_limit]) == "; 1 at the limit of the budget, where more data would not help"
    assert _settle([at_limit, settled]).endswith(
        "; about 2 more launches of each side, 90 more requests would settle the rest"
    )
    assert _settle([settled]) == "; about 2 more launches of each side, 90 more requests would settle it"

"""A sweep: several levels of load in one launch, which one a trial is judged by, and what a goal at a level means."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from harness.choose.goals import Goals, Limit, Objective, goals_of
from harness.errors import ScenarioError
from harness.gate.launches import launches
from harness.level import Level
from harness.load.schedule.estimate import load_requests, load_s, load_text
from harness.measure.levels import at_level
from harness.measure.metrics import metric_row
from harness.records import Candidate, Doubt, Metric, TrialSummary
from harness.report.content.levels import is_sweep, knee
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from harness.trial.sweep import Measured, asked_levels, own_index, why_broken, with_levels
from tests.harness.store.trials import a_manifest

SCENARIO = """
name: s
workload:
  load: {kind: closed, users: [4, 1, 2]}
  warmup_requests: 2
  requests: 12
  max_duration_s: 3
quality: {prompts: 2}
space: [{engine: fake}]
objectives: [{metric: latency_p50_ms, goal: minimize, at: {users: 2}}]
constraints:
  latency_p90_ms: {max: 5000, at: {users: 4}}
  throughput_rps@users=1: {min: 0.1}
"""
USERS = tuple(Level("users", users) for users in (1, 2, 4))


def metric(value: float, unit: str = "ms") -> Metric:
    return Metric(value=value, unit=unit, estimator="e", n=100)


def measured(rates: list[float], waits: list[float], errors: float = 0.0) -> list[Measured]:
    return [
        Measured(
            level=level,
            summary=TrialSummary(
                metrics={"throughput_rps": metric(rate), "latency_p99_ms": metric(wait), "error_frac": metric(errors)}
            ).doubted([Doubt(kind="drift", sentence=f"drift {level}")]),
            why="" if wait <= 100 else "too slow",
        )
        for level, rate, wait in zip(USERS, rates, waits, strict=True)
    ]


def goals(objective: str, *, is_minimized: bool, **bounds: float) -> Goals:
    return Goals(
        objectives=(Objective(metric=objective, is_minimized=is_minimized),),
        limits=tuple(
            Limit(metric=name.replace("_at_", "@users="), low=None, high=high) for name, high in bounds.items()
        ),
        quality="any",
    )


def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO)
    return path


@pytest.mark.parametrize(
    ("objective", "is_minimized", "rates", "waits", "own"),
    [
        ("throughput_rps", False, [10, 30, 20], [50, 90, 95], 1),  # the largest rate, not the last level
        ("throughput_rps", False, [10, 20, 30], [50, 90, 150], 1),  # the largest that held
        ("throughput_rps", False, [10, 20, 30], [150, 190, 250], 0),  # none held: the first
        ("load_level", False, [30, 20, 10], [50, 60, 90], 2),  # the most users that held
        ("latency_p99_ms@users=4", True, [10, 20, 30], [50, 90, 150], 2),  # the level it names, held or not
        ("exact_match_frac", False, [10, 20, 30], [50, 90, 150], 1),  # no level matters: the last that held
    ],
)
def test_a_trial_is_judged_by_the_level_that_its_first_objective_means(
    objective: str, is_minimized: bool, rates: list[float], waits: list[float], own: int
) -> None:
    assert own_index(goals(objective, is_minimized=is_minimized), measured(rates, waits)) == own


def test_only_constraints_on_no_level_decide_whether_a_level_holds() -> None:
    numbers = measured([10, 20, 30], [50, 90, 150])[1].summary.metrics
    wanted = goals("throughput_rps", is_minimized=False, latency_p99_ms_at_4=1.0, cost_usd_per_mtok=1.0)
    assert why_broken(wanted, numbers) == ""
    assert "latency_p99_ms 90 ms" in why_broken(goals("throughput_rps", is_minimized=False, latency_p99_ms=80), numbers)
    failed = measured([1, 2, 3], [1, 2, 3], errors=0.5)[0].summary.metrics
    assert "error_frac" in why_broken(wanted, failed)
    assert why_broken(goals("throughput_rps", is_minimized=False, error_frac=0.6), failed) == ""


def test_numbers_and_doubts_of_levels_that_goals_name_are_the_trials_too() -> None:
    wanted = goals("throughput_rps", is_minimized=False, latency_p99_ms_at_4=1.0)
    assert asked_levels(wanted) == {USERS[2]: {"latency_p99_ms"}}
    summary = with_levels(wanted, measured([10, 20, 30], [50, 90, 150]), 1)
    assert summary.metrics["latency_p99_ms"].value == 90
    assert summary.metrics["latency_p99_ms@users=4"].value == 150
    assert summary.metrics["load_level"].value == 2
    assert summary.distrust == ("drift users=2", "at 4 users: drift users=4")


def test_the_name_of_a_level_is_part_of_a_metrics_name() -> None:
    assert at_level("latency_p99_ms", Level("rate_rps", 2.5)) == "latency_p99_ms@rate_rps=2.5"
    assert metric_row("latency_p99_ms@rate_rps=2.5") is metric_row("latency_p99_ms") is not None
    for wrong in (
        "latency_p99_ms@users=0",
        "latency_p99_ms@users=x",
        "latency_p99_ms@",
        "exact_match_frac@users=4",
        "x@users=4",
    ):
        assert metric_row(wrong) is None


def test_a_sweep_is_planned_as_the_sum_of_its_levels(tmp_path: Path) -> None:
    workload = load_scenario(scenario(tmp_path)).workload
    assert workload.load.levels == USERS
    assert (load_s(workload), load_requests(workload)) == (9, 36)
    assert load_text(workload).startswith("sweep over 1, 2 and 4, one after the other in one launch; the last: closed")
    named = [one.metric for one in goals_of(load_scenario(tmp_path / "s.yaml")).limits]
    assert named == ["latency_p90_ms@users=4", "throughput_rps@users=1"]


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[4, 1, 2]", "[4]", "users: expected one number, or a list of two and more, got [4]"),
        ("[4, 1, 2]", "[4, 4]", "users: expected every value once"),
        ("[4, 1, 2]", "[0, 4]", "users.0: expected"),
        ("[4, 1, 2]", "4", "expected a level of workload.load (it has none"),
        ("at: {users: 2}", "at: {users: 3}", "it has users=1, users=2, users=4), got 'latency_p50_ms@users=3'"),
        ("at: {users: 2}", "at: {rate_rps: 2}", "got 'latency_p50_ms@rate_rps=2'"),
        ("at: {users: 2}", "at: {}", "expected one level of the load"),
        (", at: {users: 2}", "", "write at: {users: 4}, or maximize throughput_rps"),
        ("users=1:", "users=x:", "expected a metric name, got 'throughput_rps@users=x'"),
    ],
)
def test_what_a_sweep_cannot_have_is_refused_with_its_line(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(SCENARIO.replace(old, new))
    with pytest.raises(ScenarioError) as refused:
        load_scenario(path)
    assert sentence in str(refused.value)


@pytest.mark.heavy
def test_every_level_of_a_known_engine_is_measured_in_one_launch_and_kept(tmp_path: Path) -> None:
    """20 ms of service, one at a time: 4 users wait four times as long as 1, and the rate stays at 50/s."""
    path = scenario(tmp_path)
    new_run = partial(RunWriter.create, tmp_path / "results", a_manifest())
    with Bench.open(resolve(load_scenario(path), path), new_run, progress=Lines(print)) as bench:
        trial = bench.run(Candidate(block=0, engine="fake", options={"service_ms": 20}), 1)
        layout = bench.writer.layout
    assert trial.outcome == "ok", trial.reason
    assert trial.summary is not None
    assert is_sweep(trial)
    assert [(probe.users, probe.is_own) for probe in trial.probes] == [(1, False), (2, True), (4, False)]
    found = {users: trial.summary.metrics[f"latency_p50_ms@users={users}"].value for users in (1, 2, 4)}
    assert found[1] < found[2] < found[4]
    assert trial.summary.metrics["latency_p50_ms"].value == found[2]
    assert "latency_p90_ms@users=4" in trial.summary.metrics
    for name in (trial.trial_id, f"{trial.trial_id}.probe1", f"{trial.trial_id}.probe3"):
        records = pd.read_parquet(layout.requests(name))
        assert len(records[~records.is_warmup]) == 12
    assert knee(trial.probes) in trial.probes
    gated = launches(layout.root, [trial], "latency_p50_ms@users=4")
    assert gated[0].value == pytest.approx(found[4], rel=0.05)
    assert gated[0].level == Level("users", 4)
    assert launches(layout.root, [trial], "latency_p50_ms")[0].level == Level("users", 2)

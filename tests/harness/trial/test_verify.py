"""Reproduced or not: the second value against the range the first measurements span."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from engines.foreign_servers.djl.served import FolderServer
from harness.properties.containers import Container
from harness.properties.write import Written
from harness.records import Candidate, Doubt, Metric, Probe, Trial, TrialOutcome, TrialSummary
from harness.scenario.schema import Scenario
from harness.trial.bench import Bench
from harness.trial.verify import VERIFIED_METRICS, Verification, verify_written, why_not_started

CANDIDATE = Candidate(block=0, engine="fake")
SCENARIO = Scenario.model_validate({"name": "s", "space": [{"engine": "fake"}]})
LIST = Scenario.model_validate(
    {
        "name": "s",
        "space": [{"engine": "fake"}],
        "workload": {"load": [{"name": "a", "kind": "closed"}, {"name": "b", "kind": "closed"}]},
        "objectives": [
            {"metric": "latency_mean_ms", "goal": "minimize", "at": {"load": "a"}},
            {"metric": "latency_mean_ms", "goal": "minimize", "at": {"load": "b"}},
            {"metric": "latency_p99_ms", "goal": "minimize", "at": {"load": "b"}},
        ],
    }
)


def _trial(value: float, outcome: TrialOutcome = "ok", violations: tuple[str, ...] = ()) -> Trial:
    metrics = {
        name: Metric(value=value, unit="ms", estimator="made up", n=100, low=value * 0.98, high=value * 1.02)
        for name in VERIFIED_METRICS
    }
    return Trial(
        trial_id="t0001",
        number=1,
        candidate=CANDIDATE,
        outcome=outcome,
        reason="" if outcome == "ok" else "it fell over",
        summary=TrialSummary(metrics=metrics),
        violations=violations,
    )


class _Bench:
    def __init__(self, again: Trial, scenario: Scenario = SCENARIO) -> None:
        self.again = again
        self.inputs = SimpleNamespace(scenario=scenario)

    def run_file(self, properties_path: Path, candidate: Candidate, number: int) -> Trial:
        return self.again

    def run_folder(
        self, server: FolderServer, container: Container, folder: Path, promised: Trial, number: int
    ) -> Trial:
        assert (container.version, folder) == ((0, 36, 0), Path("model"))
        return self.again


def _verify(promised: list[Trial], again: Trial, scenario: Scenario = SCENARIO) -> Verification:
    written = Written(container="dynamometer-0.1", paths=(Path("serving.properties"),), warnings=())
    return verify_written(cast(Bench, _Bench(again, scenario)), promised, written, 2, lambda text: None)


@pytest.mark.parametrize(("second", "is_inside"), [(100, True), (114, True), (87, True), (140, False), (60, False)])
def test_a_second_value_counts_as_reproduced_within_the_drift_allowance(second: float, is_inside: bool) -> None:
    found = _verify([_trial(100)], _trial(second))
    assert found.is_inside is is_inside
    assert f"{second:.4g} ms" in found.sentence
    assert ("inside" if is_inside else "outside") in found.sentence


@pytest.mark.parametrize(
    ("latency_ms", "rate", "verdict"),
    [(60, 100, "reproduced or better"), (100, 140, "reproduced or better"), (60, 60, "not reproduced"),
     (140, 140, "not reproduced"), (60, 140, "reproduced or better")],
)  # fmt: skip
def test_a_second_measurement_that_is_better_breaks_no_promise(latency_ms: float, rate: float, verdict: str) -> None:
    again = _trial(latency_ms)
    assert again.summary is not None
    rates = _trial(rate).summary
    assert rates is not None
    name = "throughput_inputs_per_s"
    metrics = {**again.summary.metrics, name: rates.metrics[name]}
    found = _verify([_trial(100)], replace(again, summary=replace(again.summary, metrics=metrics)))
    assert found.is_inside is (verdict != "not reproduced")
    assert found.sentence.startswith(f"{verdict}: ")
    assert ("better than [85, 115]" in found.sentence) is (latency_ms < 80 or rate > 120)


def test_a_value_just_outside_whose_interval_meets_is_not_called_inside() -> None:
    found = _verify([_trial(100)], _trial(116))
    assert found.is_inside
    assert found.sentence.startswith("reproduced: latency_p50_ms 116 ms, its interval [113.7, 118.3] meets [85, 115]")


def test_repetitions_widen_what_was_promised() -> None:
    assert _verify([_trial(100), _trial(140)], _trial(125)).is_inside
    assert not _verify([_trial(100), _trial(140)], _trial(190)).is_inside


def test_every_load_that_an_objective_names_is_measured_again_but_for_tails() -> None:
    names = [f"{name}@load={load}" for name in ("latency_p50_ms", "throughput_rps", "latency_mean_ms") for load in "ab"]
    metric = Metric(value=100, unit="ms", estimator="made up", n=100)
    probes = tuple(
        Probe(number=n, load=load, is_own=n == 1, is_held=True, reason="", values={}) for n, load in enumerate("ab", 1)
    )
    summary = TrialSummary(metrics=dict.fromkeys([*names, "latency_p99_ms@load=b"], metric))
    first = replace(_trial(100), probes=probes, summary=summary)
    slower = {**summary.metrics, "latency_mean_ms@load=b": replace(metric, value=200)}
    found = _verify([first], replace(first, summary=replace(summary, metrics=slower)), LIST)
    assert not found.is_inside
    assert "latency_mean_ms@load=b 200 ms, outside [85, 115]" in found.sentence
    assert "latency_mean_ms@load=a 100 ms, inside" in found.sentence
    assert "p99" not in found.sentence


def test_a_server_that_fails_is_not_reproduced() -> None:
    found = _verify([_trial(100)], _trial(100, outcome="crashed"))
    assert not found.is_inside
    assert found.sentence == "not reproduced: crashed: it fell over"


def test_a_constraint_broken_the_second_time_is_not_reproduced() -> None:
    found = _verify([_trial(100)], _trial(100, violations=("error_frac 0.2, expected at most 0",)))
    assert not found.is_inside
    assert "error_frac 0.2" in found.sentence


def _disturbed(trial: Trial, sentence: str) -> Trial:
    assert trial.summary is not None
    return replace(trial, summary=trial.summary.doubted([Doubt(kind="other_cpu", sentence=sentence)]))


def test_what_disturbed_the_machine_is_said_where_it_was_not_reproduced() -> None:
    busy = "other processes used 34% of the machine's CPU while measuring (limit 10%)"
    advice = f"{busy}: quiet the machine and run `dyno recommend --verify`"
    assert _verify([_trial(100)], _disturbed(_trial(140), busy)).sentence.endswith(f"; {advice}")
    assert _verify([_disturbed(_trial(100), busy)], _trial(140)).sentence.endswith(f"; {advice}")
    assert busy not in _verify([_trial(100)], _disturbed(_trial(100), busy)).sentence


def test_a_server_that_answers_nothing_the_second_time_is_not_reproduced() -> None:
    silent = replace(_trial(100), summary=TrialSummary(metrics={}))
    found = _verify([_trial(100)], silent)
    assert not found.is_inside
    assert "latency_p50_ms was not measured this time" in found.sentence


def test_a_number_that_nobody_promised_is_nothing_to_reproduce() -> None:
    """One answer of an open loop has a latency and no rate."""
    first = _trial(100)
    assert first.summary is not None
    first = replace(first, summary=TrialSummary(metrics={"latency_p50_ms": first.summary.metrics["latency_p50_ms"]}))
    assert _verify([first], _trial(100)).is_inside


def test_a_container_s_folder_is_started_whole_and_by_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "harness.trial.verify.server_for",
        lambda version, engine, python, command: FolderServer(sentence="by a stand-in"),
    )
    written = Written(container="0.36.0", paths=(Path("model/serving.properties"),), warnings=())
    lines: list[str] = []
    found = verify_written(cast(Bench, _Bench(_trial(100))), [_trial(100)], written, 2, lines.append)
    assert found.is_inside
    assert found.sentence.endswith(" (started by a stand-in)")
    assert lines == ["starting model by a stand-in"]


@pytest.mark.parametrize(
    ("engine", "container", "why"),
    [
        ("t5", "0.36.0", ""),
        ("vllm", "dynamometer-0.1", ""),
        ("vllm", "0.36.0-lmi20", "as its own rolling batch, which nothing here can start"),
        ("sagemaker", "0.36.0", "an endpoint was measured"),
        ("attach", "dynamometer-0.1", "its server is configured elsewhere"),
    ],
)
def test_what_nothing_here_can_start_is_not_verified_and_has_a_reason(engine: str, container: str, why: str) -> None:
    reason = why_not_started(Candidate(block=0, engine=engine), container)
    assert why in reason
    assert bool(reason) == bool(why)

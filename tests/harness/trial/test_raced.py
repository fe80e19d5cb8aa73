"""Trials of the fake engine that race: one that surely loses ends early and is recorded as such."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from harness.choose.goals import Limit
from harness.load.so_far import Checks
from harness.measure.machine.sampler import ResourceUse
from harness.records import Candidate, Doubt, DoubtKind, Metric, RequestRecord, Trial, TrialSummary
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve
from harness.store.reader import read_run
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.progress import Lines
from harness.trial.raced import Racing, as_bound
from harness.trial.surely_broken import surely_broken
from harness.tune.racing import Terms, seen, terms_for
from tests.harness.store.trials import a_manifest

SCENARIO = """
name: r
workload: {load: {kind: closed, users: 2}, warmup_requests: 2, requests: 200}
quality: {prompts: 2}
space: [{engine: fake, options: {service_ms: [10, 20]}}]
objectives: [{metric: %s, goal: %s}]
constraints: {error_frac: {max: 0.1}}
search: {trials: 2, confirm: {finalists: 1}}
"""


@contextmanager
def _bench(tmp_path: Path, metric: str, goal: str) -> Iterator[Bench]:
    path = tmp_path / "r.yaml"
    path.write_text(SCENARIO % (metric, goal))
    new_run = partial(RunWriter.create, tmp_path / "results", a_manifest())
    with Bench.open(resolve(load_scenario(path), path), new_run, progress=Lines(lambda text: None)) as bench:
        yield bench


def _raced(bench: Bench, service_ms: float, best: Trial | None = None, **options: float) -> Trial:
    """A trial of the fake engine, stored; raced against `best` where there is one."""
    done = () if best is None else (best,)
    terms = terms_for("fake", done, bench.inputs.scenario)
    candidate = Candidate(block=0, engine="fake", options={"service_ms": service_ms, **options})
    trial = bench.run(candidate, 1 + len(done), terms=terms)
    trial = replace(trial, machine_class="")  # that of the made-up manifest is another
    bench.writer.append_trial(trial)
    return trial


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("metric", "goal"),
    [("latency_p50_ms", "minimize"), ("latency_p90_ms", "minimize"), ("throughput_rps", "maximize")],
)
def test_a_trial_that_surely_loses_ends_early_with_its_evidence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, goal: str
) -> None:
    """Whatever else this machine does: with ten busy processes a core, 40 ms instead of 10 was no sure loss."""
    monkeypatch.setattr("harness.trial.raced.doubts_of", lambda *about, **more: ())
    with _bench(tmp_path, metric, goal) as bench:
        best = _raced(bench, 10)
        lost = _raced(bench, 120, best)
        assert (best.outcome, lost.outcome) == ("ok", "ended_early")
        race = lost.race
        assert race is not None
        assert race.against == best.trial_id
        assert 0.1 < race.at_least_frac <= race.worse_frac < 20
        assert race.blocks >= (6 if race.is_probe else 8)
        assert race.requests < 200
        assert lost.summary is not None
        bound = lost.summary.metrics[metric]
        assert (bound.method, bound.n) == ("race", race.requests)
        assert (bound.high if goal == "minimize" else bound.low) is None
        assert "latency_p99_ms" not in lost.summary.metrics
        assert "probed" in lost.notes[-1]
        assert not lost.is_feasible
        assert read_run(bench.writer.layout.root).trials == (best, lost)


@pytest.mark.heavy
def test_a_trial_that_surely_breaks_a_constraint_ends_early_and_is_not_feasible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.trial.raced.doubts_of", lambda *about, **more: ())
    with _bench(tmp_path, "latency_p50_ms", "minimize") as bench:
        broken = _raced(bench, 10, _raced(bench, 10), error_frac=0.6)
        assert (broken.outcome, broken.race) == ("ended_early", None)
        assert broken.violations == (broken.reason,)
        assert broken.reason.startswith("error_frac surely above 0.1: ")
        assert broken.reason.endswith(" requests failed, and 200 were planned")
        assert broken.summary is not None
        assert broken.summary.metrics["error_frac"].n < 200
        assert not broken.is_feasible


@pytest.mark.heavy
def test_a_trial_that_is_as_good_runs_to_its_end(tmp_path: Path) -> None:
    with _bench(tmp_path, "latency_p50_ms", "minimize") as bench:
        best = _raced(bench, 10)
        other = _raced(bench, 10.3, best)
        assert (other.outcome, other.race) == ("ok", None)
        assert other.summary is not None
        assert other.summary.metrics["latency_p50_ms"].n == 200


def _record(seq: int, wait_ms: int, lag_ms: int = 0) -> RequestRecord:
    begin_ns = seq * 100_000_000
    return RequestRecord(
        seq=seq,
        user=0,
        prompt_ids=(),
        intended_ns=begin_ns,
        sent_ns=begin_ns + lag_ms * 1_000_000,
        first_token_ns=None,
        done_ns=begin_ns + wait_ms * 1_000_000,
        outcome="ok",
        status_code=200,
        input_tokens=None,
        output_tokens=None,
        output_ids=(),
        is_warmup=False,
    )


def _use(begin_ns: int, other_s: float = 0.0, disturbances: tuple[Doubt, ...] = ()) -> ResourceUse:
    return ResourceUse(
        window_s=1.0, cores=2, engine_s=1.0, harness_s=0.1, client_s=0.1, other_s=other_s, peak_memory_bytes=1,
        memory_kind="PSS", samples=5, disturbances=disturbances,
    )  # fmt: skip


def _checks(use: Callable[[int], ResourceUse] = _use) -> tuple[Racing, Checks]:
    """The race of a trial against one that answered 100 requests in 10 ms each."""
    terms = Terms(
        against="t1", metric="latency_p50_ms", against_value=10.0, margin_frac=0.1, margin_why="luck",
        checks=(50, 100), level=0.01,
        round_requests=1,
    )  # fmt: skip
    best = seen([_record(seq, 10 + seq % 3) for seq in range(100)], 0)
    racing = Racing(terms=terms, best=best)
    return racing, racing.checks(use, 100, is_open_loop=False)


OUTSIDE = {
    "other_cpu", "client_cpu", "late_sends", "client_pause", "drift", "short_warmup", "stolen_cpu", "cpu_quota",
    "swapping", "overheated",
}  # fmt: skip
"""What happens to a trial; few answers, a short window or what it was sent is no disturbance."""
SLOW_30 = [_record(seq, 30) for seq in range(250)]
SLOW = [_record(seq, 30 + seq % 5) for seq in range(100)]


def test_a_check_ends_what_is_surely_worse() -> None:
    racing, checks = _checks()
    why = checks.why_over(0, SLOW[:50], 0)
    assert racing.race is not None
    assert why.startswith("latency_p50_ms at least ")
    assert " worse than t1, and 10 % may be the luck of two launches" in why


@pytest.mark.parametrize("kind", sorted(get_args(DoubtKind)))
def test_a_disturbance_from_outside_ends_nothing_and_what_the_trial_is_itself_spares_it_not(
    kind: DoubtKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is a constraint that is surely broken."""
    is_outside = kind in OUTSIDE
    monkeypatch.setattr("harness.trial.raced.doubts_of", lambda *about, **more: (Doubt(kind=kind, sentence="s"),))
    racing, checks = _checks()
    assert (checks.why_over(0, SLOW[:50], 0) == "") == is_outside
    assert (racing.race is None) == is_outside
    assert racing.spared.endswith("): s") == is_outside
    bound, _ = _checks()
    bound.limits = (_limit("latency_p99_ms", 5.0),)
    quick = [_record(seq, 10 + seq % 3) for seq in range(50)]
    assert (bound.checks(_use, 100, is_open_loop=False).why_over(0, quick, 0) == "") == is_outside
    assert (bound.broken == "") == is_outside


@pytest.mark.parametrize("kind", ["stolen_cpu", "swapping"])
def test_a_machine_that_is_disturbed_ends_nothing(kind: DoubtKind) -> None:
    racing, checks = _checks(partial(_use, disturbances=(Doubt(kind=kind, sentence="s"),)))
    assert checks.why_over(0, SLOW[:50], 0) == ""
    assert racing.race is None


def test_other_processes_and_a_late_client_end_nothing() -> None:
    racing, checks = _checks(partial(_use, other_s=1.0))
    assert checks.why_over(0, SLOW[:50], 0) == ""
    assert racing.spared.startswith("not ended early at check 1, though it had lost (latency_p50_ms at least ")
    assert "): other processes used 50% of the machine" in racing.spared
    late = [replace(record, sent_ns=record.intended_ns + 20_000_000) for record in SLOW]
    quiet, checks = _checks()
    assert checks.why_over(1, late, 0) == ""
    assert (racing.race, quiet.race) == (None, None)


def _limit(metric: str, high: float) -> Limit:
    return Limit(metric=metric, low=None, high=high)


@pytest.mark.parametrize(
    ("metric", "high", "why"),
    [
        ("latency_p50_ms", 25.0, "surely above 25: 60 requests took longer, and 100 were planned"),
        ("latency_p99_ms", 33.5, "surely above 33.5: 12 requests took longer, and 100 were planned"),
        ("latency_mean_ms", 19.0, "surely above 19: 60 answers took 1920 ms together, and 100 were planned"),
        ("error_frac", 0.01, ""),
        ("latency_p50_ms", 32.0, ""),
        ("latency_mean_ms", 19.3, ""),
        ("peak_memory_mib", 1.0, ""),
    ],
)
def test_a_constraint_is_surely_broken_only_where_no_answer_could_mend_it(metric: str, high: float, why: str) -> None:
    found = surely_broken((_limit(metric, high),), SLOW[:60], 100)
    assert found == (f"{metric} {why}" if why else "")


def test_a_surely_broken_constraint_ends_a_trial_that_may_still_win_its_race() -> None:
    racing, _ = _checks()
    racing.limits = (_limit("error_frac", 0.02), _limit("latency_p99_ms", 11.0))
    checks = racing.checks(_use, 100, is_open_loop=False)
    quick = [_record(seq, 10 + seq % 3) for seq in range(50)]
    assert (
        checks.why_over(0, quick[:6], 0)
        == "latency_p99_ms surely above 11: 2 requests took longer, and 100 were planned"
    )
    failing = [replace(record, outcome="server_error") if record.seq < 3 else record for record in quick]
    assert checks.why_over(0, failing, 0) == "error_frac surely above 0.02: 3 requests failed, and 100 were planned"
    assert racing.race is None


def test_the_quantile_of_all_requests_is_above_what_is_surely_broken() -> None:
    """Whatever the other requests bring, and however many there are at most."""
    for q, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
        for planned in (7, 100, 101, 250):
            slow = next(
                n
                for n in range(1, planned + 1)
                if surely_broken((_limit(f"latency_{name}_ms", 20.0),), SLOW_30[:n], planned)
            )
            for total in range(slow, planned + 1):
                assert np.quantile([30.0] * slow + [1.0] * (total - slow), q) > 20


def test_of_a_trial_that_ended_early_remain_a_bound_and_what_is_not_biased() -> None:
    racing, checks = _checks()
    checks.why_over(0, SLOW[:50], 0)
    assert racing.race is not None
    plain = Metric(value=1.0, unit="ms", estimator="e", n=50)
    names = ("latency_p50_ms", "latency_p99_ms", "throughput_rps", "error_frac", "peak_memory_mib")
    summary = TrialSummary(metrics=dict.fromkeys(names, plain)).doubted(
        [Doubt(kind="few_samples", sentence="few"), Doubt(kind="token_counts", sentence="tokens")]
    )
    bound = as_bound(summary, racing.race)
    assert list(bound.metrics) == ["latency_p50_ms", "error_frac", "peak_memory_mib"]
    metric = bound.metrics["latency_p50_ms"]
    assert metric.low is not None
    assert 11 < metric.low < metric.value < 35
    assert metric.high is None
    assert bound.distrust == ("tokens",)

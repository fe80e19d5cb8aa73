"""A list of loads: several kinds in one launch, goals that name one, and the geometric mean over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pandas as pd
import pytest

from harness.choose.goals import goals_of
from harness.clock import FakeClock
from harness.errors import ScenarioError
from harness.gate.launches import launches
from harness.level import Level
from harness.load.driver import LoadResult
from harness.load.schedule.estimate import load_requests, load_s, load_text
from harness.measure.engine_metrics.scrapes import EngineMetrics
from harness.measure.levels import at_level, level_in
from harness.records import Candidate, Metric, RequestRecord, Trial, TrialSummary
from harness.report.content.levels import is_list, is_sweep
from harness.scenario.load import load_scenario
from harness.scenario.resolve import resolve, resolved_from_dict
from harness.store.writer import RunWriter
from harness.trial.bench import Bench
from harness.trial.inputs import TrialInputs
from harness.trial.progress import Lines
from harness.trial.reference import Reference
from harness.trial.run import TrialRunner
from harness.trial.sweep import Measured, asked_levels, own_index, why_broken, with_levels
from harness.trial.window import Loaded, Window, probe_of, why_void
from tests.harness.measure.records import request, use
from tests.harness.store.trials import a_manifest

SCENARIO = """
name: s
workload:
  load:
    - {name: chat, kind: closed, users: 2}
    - {name: burst, kind: poisson, rate_rps: 20, max_in_flight: 8}
    - {name: steady, kind: constant, rate_rps: 10}
  warmup_requests: 2
  requests: 20
  max_duration_s: 4
quality: {prompts: 2}
space: [{engine: fake}]
objectives:
  - geometric_mean:
      - {metric: throughput_rps, goal: maximize, at: {load: burst}}
      - {metric: latency_p50_ms, goal: minimize, at: {load: chat}}
constraints:
  error_frac: {max: 0}
  lag_p99_ms: {max: 500}
  latency_p90_ms: {max: 5000, at: {load: steady}}
"""
CHAT, BURST, STEADY = (Level("load", name=name) for name in ("chat", "burst", "steady"))


def written(tmp_path: Path, old: str = "", new: str = "") -> Path:
    path = tmp_path / "s.yaml"
    assert old in SCENARIO
    path.write_text(SCENARIO.replace(old, new) if old else SCENARIO)
    return path


def metric(value: float) -> Metric:
    return Metric(value=value, unit="x", estimator="e", n=100)


def window(records: Sequence[RequestRecord] = (), too_many_errors: str = "") -> Window:
    result = LoadResult(
        records=tuple(records), outputs={}, begin_ns=0, end_ns=10**9, client_cpu_s=0.0, too_many_errors=too_many_errors
    )
    summary = TrialSummary(metrics={"error_frac": metric(0)})
    return Window(result=result, use=use(), telemetry={}, engine_metrics=EngineMetrics(), summary=summary)


def a_trial(candidate: Candidate, summary: TrialSummary | None = None) -> Trial:
    return Trial(trial_id="t", number=1, candidate=candidate, outcome="ok", summary=summary)


def test_loads_are_levels_by_their_names() -> None:
    assert at_level("latency_p99_ms", BURST) == "latency_p99_ms@load=burst"
    assert level_in("latency_p99_ms@load=burst") == BURST
    assert level_in("latency_p99_ms@load=Burst") is None
    assert (str(BURST), BURST.text) == ("load=burst", "load burst")


def test_a_list_is_planned_as_the_sum_of_its_loads_and_read_back_as_it_was(tmp_path: Path) -> None:
    path = written(tmp_path)
    scenario = load_scenario(path)
    workload = scenario.workload
    assert workload.load.levels == (CHAT, BURST, STEADY)
    assert (load_s(workload), load_requests(workload)) == (4 + 1 + 2, 60)
    assert load_text(workload).startswith("3 loads, one after the other in one launch: chat (closed loop, 2 users")
    resolved = resolve(scenario, path)
    assert resolved_from_dict(resolved.as_dict()).scenario == scenario


def test_a_constraint_on_no_load_holds_for_each_that_can_have_it(tmp_path: Path) -> None:
    goals = goals_of(load_scenario(written(tmp_path)))
    assert [limit.metric for limit in goals.limits] == [
        "error_frac@load=chat", "error_frac@load=burst", "error_frac@load=steady", "lag_p99_ms@load=burst",
        "lag_p99_ms@load=steady", "latency_p90_ms@load=steady",
    ]  # fmt: skip
    assert goals.objectives[0].judged == ("throughput_rps@load=burst", "latency_p50_ms@load=chat")


def test_a_load_is_held_against_its_own_constraints_and_judged_by_the_first_figure(tmp_path: Path) -> None:
    goals = goals_of(load_scenario(written(tmp_path)))
    numbers = {"throughput_rps": metric(9), "latency_p50_ms": metric(3), "latency_p90_ms": metric(6000)}
    summary = TrialSummary(metrics={**numbers, "error_frac": metric(0), "lag_p99_ms": metric(1)})
    assert "latency_p90_ms" in why_broken(goals, summary.metrics, STEADY)
    assert why_broken(goals, summary.metrics, BURST) == ""
    measured = [Measured(level=level, summary=summary, why="") for level in (CHAT, BURST, STEADY)]
    assert own_index(goals, measured) == 1
    found = with_levels(goals, measured, 1).metrics
    assert {"latency_p50_ms@load=chat", "lag_p99_ms@load=steady", "throughput_rps@load=burst"} <= set(found)
    assert "load_level" not in found


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("name: burst, ", "", "expected a name beside every load of a list, got 'load 2 without'; write {name"),
        ("name: burst", "name: chat", "expected every name of a load once, got 'chat'"),
        ("name: burst", "name: 'a@b'", "name: expected up to 40 lower-case letters, digits, dashes and underscores"),
        ("users: 2}", "users: [2, 4]}", "expected one number of users or one rate_rps in a list of loads, got [2, 4]"),
        ("kind: constant, rate_rps: 10}", "kind: trace, path: t.csv}", "expected kinds of one window in a list of"),
        ("rate_rps: 10}", "rate_rps: 10, speed: 2}", "got 'speed'; known: name, kind, max_in_flight, processes"),
        ("at: {load: burst}", "at: {load: bust}", "it has load=chat, load=burst, load=steady), got 'throughput_rps@"),
        ("at: {load: burst}", "at: {load: burst, users: 2}", "expected one level of the load: {users: ...}, {rate_rps"),
        (", at: {load: burst}", "", "expected at: a load beside the objective throughput_rps, because"),
        ("lag_p99_ms: {max: 500}", "lag_p99_ms@load=chat: {max: 500}", "expected an open loop such as poisson"),
        ("error_frac: {max: 0}", "load_level: {min: 2}", "expected several levels in workload.load.users or rate_rps"),
        ("quality: {prompts: 2}", "search: {race: true}", "expected one level of load beside search.race: true"),
        (
            "lag_p99_ms: {max: 500}", "exact_match_frac: {min: 0, at: {load: chat}}",
            "expected a metric that every level or load has, beside at, got 'exact_match_frac'; remove at: a",
        ),
        ("lag_p99_ms: {max: 500}", "load_level: {min: 0, at: {load: chat}}", "beside at, got 'load_level'; remove at"),
        (
            "lag_p99_ms: {max: 500}", "cost_usd_per_mtok: {max: 1}",
            "expected metrics that every load of a list has, got 'cost_usd_per_mtok'; it would be that of one load",
        ),
        ("lag_p99_ms: {max: 500}", "cost_usd_per_mtok: {max: 1, at: {load: chat}}", "every load of a list has, got"),
        ("lag_p99_ms: {max: 500}", "weights_read_frac: {min: 0}", "every load of a list has, got 'weights_read_frac'"),
    ],
)  # fmt: skip
def test_what_a_list_of_loads_cannot_have_is_refused_with_its_line(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    with pytest.raises(ScenarioError) as refused:
        load_scenario(written(tmp_path, old, new))
    assert sentence in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("throughput_rps, goal: maximize", "exact_match_frac, goal: maximize", "expected metrics of the load in"),
        ("throughput_rps, goal: maximize", "throughput_rps, goal: minimize", "expected goal: maximize for"),
        ("throughput_rps, goal: maximize", "error_frac, goal: minimize", "write it as a constraint instead, such as"),
        ("throughput_rps, goal: maximize", "geometric_mean, goal: maximize", "write geometric_mean: [{metric: ..."),
        ("latency_p50_ms, goal: minimize, at: {load: chat}", "throughput_rps@load=burst, goal: maximize", "once in"),
        ("      - {metric: latency_p50_ms, goal: minimize, at: {load: chat}}\n", "", "expected two metrics or more in"),
        ("error_frac: {max: 0}", "geometric_mean: {min: 1, at: {load: chat}}", "at, got 'geometric_mean'; remove at"),
        ("  - geometric_mean:", "  - at: {load: chat}\n    geometric_mean:", "got 'at'; known: geometric_mean, goal"),
    ],
)  # fmt: skip
def test_a_mean_that_cannot_be_is_refused_with_its_line(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    with pytest.raises(ScenarioError) as refused:
        load_scenario(written(tmp_path, old, new))
    assert sentence in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_mean_over_one_sweep_names_a_level_for_each_metric_and_is_not_raced(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    text = (
        "name: s\nworkload: {load: {users: [1, 4]}}\nspace: [{engine: fake}]\nobjectives:\n  - geometric_mean:\n"
        "    - {metric: throughput_rps, goal: maximize, at: {users: 1}}\n"
        "    - {metric: throughput_rps, goal: maximize, at: {users: 4}}\n"
    )
    path.write_text(text)
    assert load_scenario(path).goal_names == ("throughput_rps@users=1", "throughput_rps@users=4")
    path.write_text(text.replace(", at: {users: 4}", ""))
    with pytest.raises(ScenarioError, match=r"a level beside throughput_rps in geometric_mean.*write at: \{users: 4\}"):
        load_scenario(path)
    alone = text.replace("users: [1, 4]", "users: 4").replace(", at: {users: 1}", "").replace(", at: {users: 4}", "")
    path.write_text(alone.replace("throughput_rps", "total_tokens_per_s", 1))
    assert (why := load_scenario(path).why_not_raced) is not None
    assert why[1] == "geometric_mean"


def test_a_name_beside_a_single_load_and_a_mean_that_nobody_defines_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    text = "name: s\nworkload: {load: {users: 4}}\nspace: [{engine: fake}]\n"
    path.write_text(text.replace("users: 4", "name: chat, users: 4"))
    with pytest.raises(ScenarioError, match="expected a name only in a list of loads, got 'chat'; remove name"):
        load_scenario(path)
    path.write_text(text + "constraints: {geometric_mean: {min: 1}}\n")
    with pytest.raises(ScenarioError, match="expected an objective geometric_mean, whose metrics have levels"):
        load_scenario(path)


def test_every_load_that_a_goal_names_can_make_the_trial_void_and_no_other(tmp_path: Path) -> None:
    asked = asked_levels(
        goals_of(load_scenario(written(tmp_path, "  error_frac: {max: 0}\n  lag_p99_ms: {max: 500}\n")))
    )
    assert set(asked) == {CHAT, BURST, STEADY}
    own, other = window(), window(too_many_errors="ended early: 9 of 20 requests failed")
    probes = tuple(probe_of(n, level, "", own, is_own=n == 2) for n, level in enumerate((CHAT, BURST, STEADY), 1))
    loaded = Loaded(window=own, probes=probes, others={1: other, 3: own})
    assert why_void(loaded.judged(asked)) == ["at load chat: ended early: 9 of 20 requests failed"]
    assert why_void(loaded.judged({STEADY})) == []
    assert why_void(replace(loaded, window=other).judged({})) == ["at load burst: ended early: 9 of 20 requests failed"]
    assert why_void(Loaded(window=other).judged({})) == ["ended early: 9 of 20 requests failed"]


def test_answers_too_short_at_a_later_load_make_the_trial_void() -> None:
    short = window(records=[request(n, n * 10.0, 5.0, asked_tokens=16, output_tokens=2) for n in range(20)])
    probes = tuple(probe_of(n, level, "", short, is_own=n == 1) for n, level in enumerate((CHAT, BURST), 1))
    (why,) = why_void(Loaded(window=window(), probes=probes, others={2: short}).judged({BURST}))
    assert why.startswith("at load burst: 20 of 20 answers (100%) are shorter")


@pytest.mark.parametrize("is_search", [False, True])
def test_prompts_that_an_earlier_load_or_probe_sent_are_doubted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_search: bool
) -> None:
    path = written(tmp_path)
    if is_search:
        load = "{kind: max_rate, low_rps: 5, high_rps: 80, slo: {latency_p50_ms: {max: 250}}}"
        path.write_text(f"name: s\nworkload: {{load: {load}}}\nspace: [{{engine: fake}}]\n")
    scenario = load_scenario(path)
    sent = [request(n, n * 10.0, 5.0, prompt_ids=(f"p{n}",)) for n in range(20)]
    again = [replace(one, sent_ns=one.sent_ns + 10**9) for one in sent]
    fresh = [replace(one, prompt_ids=(f"q{one.seq}",)) for one in again]
    trial = a_trial(Candidate(block=0, engine="vllm", options={"enable_prefix_caching": True}))
    inputs = SimpleNamespace(
        scenario=scenario, hosts=None, prompts=(), quality_prompts=(), reference_dir=None, model_dir=tmp_path
    )
    writer = cast(RunWriter, SimpleNamespace(layout=None))
    reference = Reference(answers={}, source="nobody")
    runner = TrialRunner(cast(TrialInputs, inputs), writer, FakeClock(), Lines(print), reference)
    for second, expected in ((fresh, []), (again, ["20 of 40 measured requests repeated prompts"])):
        loaded = Loaded(window=window(records=sent), others={2: window(records=second)})
        found = [doubt.sentence.partition(" that")[0] for doubt in runner._doubted(trial, loaded).doubts]
        assert found == expected
    monkeypatch.setattr(runner._loads, "as_they_begin", lambda records: {f"q{n}": f"p{n}" for n in range(20)})
    alike = Loaded(window=window(records=sent), others={2: window(records=fresh)})
    assert len(runner._doubted(trial, alike).doubts) == 1, "texts of the corpus that begin alike"


def test_the_gate_knows_by_which_load_a_trial_was_judged(tmp_path: Path) -> None:
    names = ("throughput_rps", "throughput_rps@load=chat", "cost_usd_per_mtok", "geometric_mean")
    trial = a_trial(Candidate(block=0, engine="fake"), TrialSummary(metrics=dict.fromkeys(names, metric(5))))
    probes = tuple(probe_of(n, level, "", window(), is_own=n == 2) for n, level in enumerate((CHAT, BURST), 1))
    trial = replace(trial, probes=probes)
    assert [launches(tmp_path, [trial], name)[0].level for name in names] == [BURST, CHAT, BURST, None]


@pytest.mark.heavy
def test_every_load_of_a_known_engine_is_measured_in_one_launch_and_kept_by_its_name(tmp_path: Path) -> None:
    """20 ms of service, one at a time: 2 users get 50/s and wait 40 ms, and 10 requests/s are all answered."""
    path = written(tmp_path)
    new_run = partial(RunWriter.create, tmp_path / "results", a_manifest())
    with Bench.open(resolve(load_scenario(path), path), new_run, progress=Lines(print)) as bench:
        trial = bench.run(Candidate(block=0, engine="fake", options={"service_ms": 20}), 1)
        layout = bench.writer.layout
    assert trial.outcome in ("ok", "client_limited"), trial.reason  # a busy machine voids it, with its numbers
    assert trial.summary is not None
    assert is_list(trial)
    assert not is_sweep(trial)
    assert [(probe.load, probe.is_own) for probe in trial.probes] == [
        ("chat", False),
        ("burst", True),
        ("steady", False),
    ]
    found = trial.summary.metrics
    assert found["throughput_rps"] == found["throughput_rps@load=burst"]
    parts = found["throughput_rps@load=burst"].value, found["latency_p50_ms@load=chat"].value
    assert found["geometric_mean"].value == pytest.approx((parts[0] / parts[1]) ** 0.5)
    assert found["latency_p50_ms@load=chat"].value >= 20
    sent: list[str] = []
    for name, level in (("", "load=burst"), (".probe1", "load=chat"), (".probe3", "load=steady")):
        records = pd.read_parquet(layout.requests(f"{trial.trial_id}{name}"))
        assert set(records.level) == {level}
        assert len(records[~records.is_warmup]) == 20
        sent += [prompt for ids in records[~records.is_warmup].prompt_ids for prompt in ids]
    assert len(set(sent)) == len(sent) == 60
